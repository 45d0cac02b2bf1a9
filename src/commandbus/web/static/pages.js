// Copying ids and command lines, and choosing rows of a list. Without it the pages show and do the same.
"use strict";

(function () {
  function showCopies(root) {
    if (!navigator.clipboard) return;
    for (const button of root.querySelectorAll("[data-copy]")) button.hidden = false;
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    await navigator.clipboard.writeText(button.dataset.copy);
    button.classList.add("is-copied");
    setTimeout(() => button.classList.remove("is-copied"), 1500);
  });

  function follow(form) {
    const every = form.querySelector("[data-select-all]");
    const told = form.querySelector("[data-selected]");
    const matching = form.querySelector("[data-all-matching]");
    const boxes = [...form.querySelectorAll("input[name=command_id]")];
    const buttons = [...form.querySelectorAll("button[name=action]")];
    every.hidden = false;

    function tell() {
      const count = boxes.filter((box) => box.checked).length;
      const isAll = Boolean(matching && matching.checked);
      every.checked = count === boxes.length;
      every.indeterminate = count > 0 && count < boxes.length;
      for (const box of [every, ...boxes]) box.disabled = isAll;
      for (const button of buttons) button.disabled = count === 0 && !isAll;
      told.textContent = isAll ? "All that match are chosen" : count ? `${count} chosen` : "Choose all on this page";
    }

    form.addEventListener("change", (event) => {
      if (event.target === every) for (const box of boxes) box.checked = every.checked;
      tell();
    });
    window.addEventListener("pageshow", tell);
    tell();
  }

  showCopies(document);
  for (const form of document.querySelectorAll("[data-selection]")) follow(form);
  document.addEventListener("htmx:load", (event) => showCopies(event.detail.elt));
})();
