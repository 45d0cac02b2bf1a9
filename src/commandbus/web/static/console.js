// Behaviour of every page: local times, dialogs, tokens for htmx, live updates that can be paused. Plain on purpose.
"use strict";

(function () {
  const SILENCE = 10_000; // ms without a snapshot after which the page says that it is not up to date

  function showLocalTimes(root) {
    for (const element of root.querySelectorAll("time[data-local]")) {
      const when = new Date(element.dateTime);
      element.removeAttribute("data-local");
      element.title = `${when.toLocaleString(undefined, { dateStyle: "full", timeStyle: "medium", hourCycle: "h23" })} here`;
      if (when.getTimezoneOffset() === 0) continue; // the reader's time is UTC
      const local = document.createElement("span");
      local.className = "local";
      const day = when.getDate() === when.getUTCDate() ? {} : { weekday: "short" }; // another day than in UTC
      const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZoneName: "short" };
      local.textContent = when.toLocaleTimeString(undefined, { ...day, ...clock });
      element.append(" ", local);
    }
  }

  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-dialog]");
    if (opener) document.getElementById(opener.dataset.dialog).showModal();
    const closer = event.target.closest("[data-close]");
    if (closer) closer.closest("dialog").close();
  });

  document.addEventListener("htmx:configRequest", (event) => {
    event.detail.headers["X-CSRF-Token"] = document.querySelector("meta[name=csrf-token]").content;
  });
  document.addEventListener("htmx:load", (event) => showLocalTimes(event.detail.elt));

  // What is swapped for its newer self stays where the reader has scrolled it.
  const places = new Map();
  document.addEventListener("htmx:beforeSwap", (event) => {
    for (const table of event.detail.target.querySelectorAll(".table[id]")) places.set(table.id, table.scrollLeft);
  });
  document.addEventListener("htmx:afterSwap", () => {
    for (const [id, left] of places) {
      const table = document.getElementById(id);
      if (table) table.scrollLeft = left;
    }
    places.clear();
  });

  // --- live: one stream; each snapshot is an event on the document, unless the reader has paused
  const button = document.querySelector("[data-live-pause]");
  const address = document.body.dataset.liveEvents;
  let stream = null;
  let silence = 0;

  function say(state, text) {
    button.classList.toggle("is-live", state === "live");
    button.classList.toggle("is-lost", state === "lost");
    button.querySelector("[data-live-state]").textContent = text;
    button.setAttribute("aria-pressed", String(state === "paused"));
    document.documentElement.dataset.live = state;
  }

  function heard(event) {
    clearTimeout(silence);
    silence = setTimeout(() => say("lost", "no news"), SILENCE);
    say("live", "live");
    document.dispatchEvent(new CustomEvent("commandbus:snapshot", { detail: JSON.parse(event.data) }));
  }

  function start() {
    stream = new EventSource(address);
    stream.addEventListener("snapshot", heard);
    stream.addEventListener("error", () => say("lost", "no connection"));
  }

  function stop() {
    clearTimeout(silence);
    if (stream) stream.close();
    stream = null;
    say("paused", "paused");
  }

  function isPaused() { return localStorage.getItem("commandbus-paused") === "yes"; }

  function toggle() {
    localStorage.setItem("commandbus-paused", isPaused() ? "no" : "yes");
    if (isPaused()) stop(); else start();
  }

  showLocalTimes(document);
  if (button && address) {
    button.hidden = false;
    button.addEventListener("click", toggle);
    window.addEventListener("pagehide", () => stream && stream.close());
    if (isPaused()) stop(); else start();
  }
})();
