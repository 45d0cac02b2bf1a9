// Behaviour of the application's forms: sliders and numbers that belong together, copying, one sending at a time.
"use strict";

(function () {
  document.addEventListener("input", (event) => {
    const slider = event.target.closest("[data-pair]");
    if (slider) document.getElementById(slider.dataset.pair).value = slider.value;
    else if (event.target.id) {
      const partner = document.querySelector(`[data-pair="${CSS.escape(event.target.id)}"]`);
      if (partner) partner.value = event.target.value;
    }
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });

  function showCopying() {
    if (!navigator.clipboard) return;
    for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
  }

  function showCustom(form) {
    const chosen = form.querySelector("[name=mix]:checked");
    form.querySelector("[data-custom]").hidden = !chosen || chosen.value !== "custom";
  }

  for (const form of document.querySelectorAll("[data-sending]")) {
    showCustom(form);
    form.addEventListener("change", () => showCustom(form));
    form.addEventListener("submit", () => {
      const button = form.querySelector("button.primary");
      button.disabled = true;
      button.textContent = "Sending…";
    });
  }

  document.documentElement.classList.add("scripted");
  document.addEventListener("htmx:load", showCopying);
  showCopying();
})();
