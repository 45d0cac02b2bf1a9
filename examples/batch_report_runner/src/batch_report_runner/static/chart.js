// How a batch went on, as a picture: leads over time, those that succeeded and those that failed.
import { byId, span } from "./common.js";

const NS = "http://www.w3.org/2000/svg";
const HEIGHT = 160, LEFT = 40, RIGHT = 12, TOP = 10, BOTTOM = 22;
let samples = [], total = 1;

function shape(name, attributes, text) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function draw() {
  const place = byId("chart"), width = Math.max(place.clientWidth, 200);
  const last = samples.at(-1), end = Math.max(last?.seconds ?? 0, 1);
  const x = (seconds) => LEFT + (width - LEFT - RIGHT) * Math.min(seconds / end, 1);
  const y = (leads) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * leads / total;
  const line = (name) => samples.map((at) => `${x(at.seconds).toFixed(1)},${y(at[name]).toFixed(1)}`).join(" ");
  const base = HEIGHT - BOTTOM;
  const parts = [0, total / 2, total].filter(Number.isInteger).flatMap((leads) => [
    shape("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(leads), y2: y(leads) }),
    shape("text", { x: LEFT - 6, y: y(leads) + 4, "text-anchor": "end" }, leads),
  ]);
  parts.push(
    shape("text", { x: LEFT, y: HEIGHT - 6 }, "0 s"),
    shape("text", { x: width - RIGHT, y: HEIGHT - 6, "text-anchor": "end" }, span(end)),
    shape("polygon", { class: "succeeded area", points: `${LEFT},${base} ${line("succeeded")} ${x(end)},${base}` }),
    shape("polyline", { class: "succeeded line", points: line("succeeded") }),
    shape("polyline", { class: "failed line", points: line("failed") }),
  );
  place.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  place.setAttribute("aria-label", `after ${span(end)} ${last?.succeeded ?? 0} of ${total} leads succeeded and ${last?.failed ?? 0} failed`);
  place.replaceChildren(...parts);
}

export function setHistory(history, leads) {
  samples = [{ seconds: 0, succeeded: 0, failed: 0 }, ...history];
  total = Math.max(leads, 1);
  byId("course").hidden = history.length === 0;
  draw();
}

export function addToHistory(state) {
  if (state.elapsed_seconds <= (samples.at(-1)?.seconds ?? -1)) return;
  samples.push({ seconds: state.elapsed_seconds, succeeded: state.succeeded, failed: state.failed });
  byId("course").hidden = false;
  draw();
}

addEventListener("resize", draw);
