import { addToHistory, setHistory } from "./chart.js";
import { ask, byId, cell, link, span, tell } from "./common.js";

const id = byId("batch").dataset.id;
const OPEN = ["PENDING", "PROCESSING"];
const PAGE = 50, LOOK_EVERY = 3000;
let cursor = "", pause = 500, nextLook = 0;

function showProgress(state) {
  byId("status").textContent = state.status;
  byId("status").dataset.status = state.status;
  byId("bar").value = state.percentage;
  byId("processed").textContent = `${state.processed} of ${state.total}`;
  for (const name of ["succeeded", "failed", "cancelled"]) byId(name).textContent = state[name];
  byId("elapsed").textContent = span(state.elapsed_seconds);
  byId("remaining").textContent = span(state.remaining_seconds);
  byId("rate").textContent = state.leads_per_second;
  byId("current").textContent = state.current_lead ? `Now: ${state.current_lead}` : "";
  byId("cancel").hidden = !OPEN.includes(state.status);
  byId("errors").hidden = state.failed + state.cancelled === 0;
  byId("latest").hidden = state.latest_errors.length === 0;
  byId("latest-list").replaceChildren(...state.latest_errors.map((error) => {
    const line = document.createElement("li");
    line.textContent = `Lead ${error.lead_id}: ${error.error_code}, ${error.error_message} (${error.attempts} attempts)`;
    return line;
  }));
}

async function refresh() {
  const state = await ask(`/api/batch/${id}/status`);
  showProgress(state);
  byId("cost").textContent = state.actual_cost == null ? `${state.quoted_cost} quoted` : Number(state.actual_cost).toFixed(2);
  tell("problem", state.error);
  return state;
}

function leadRow(lead) {
  const row = document.createElement("tr");
  cell(row, lead.name || lead.lead_id);
  cell(row, lead.status);
  cell(row, lead.attempts, "number wide");
  cell(row, lead.error_code, "wide");
  const report = lead.report_url ? link(lead.report_url, "Open") : "–";
  if (report instanceof Node) { report.target = "_blank"; report.rel = "noopener"; }
  cell(row, report);
  return row;
}

// The first leads, as many as are shown, in one exchange of the rows; or those that follow them.
async function loadLeads(fresh, count = PAGE) {
  const asked = byId("show").value;
  const query = new URLSearchParams({ status: asked, cursor: fresh ? "" : cursor, limit: String(count) });
  const page = await ask(`/api/batch/${id}/leads?${query}`);
  if (asked !== byId("show").value) return; // another choice was made meanwhile, and has its own answer
  const rows = page.items.map(leadRow);
  if (fresh) byId("rows").replaceChildren(...rows);
  else byId("rows").append(...rows);
  cursor = page.next_cursor ?? "";
  byId("more").hidden = !cursor;
}

// What runs changes the leads that are shown. They are asked for every few seconds, and not while somebody is about to use a row.
async function followLeads() {
  const shown = byId("rows");
  if (Date.now() < nextLook || shown.matches(":hover, :focus-within") || shown.rows.length > 1000) return;
  nextLook = Date.now() + LOOK_EVERY;
  try { await loadLeads(true, Math.max(PAGE, shown.rows.length)); } catch (error) { tell("problem", error.message); }
}

// A socket that breaks is opened anew, with a new token, after a pause that grows.
async function watch() {
  let state;
  try {
    state = await refresh();
  } catch (error) {
    tell("problem", error.message);
    return again();
  }
  await loadLeads(true);
  setHistory(await ask(`/api/batch/${id}/history`), state.total);
  if (!OPEN.includes(state.status)) {
    byId("live").textContent = "";
    return;
  }
  let ended = false;
  const socket = new WebSocket(state.websocket_url);
  socket.addEventListener("open", () => { byId("live").textContent = "live"; pause = 500; });
  socket.addEventListener("message", (event) => {
    const news = JSON.parse(event.data);
    if (!("percentage" in news)) return;
    showProgress(news);
    addToHistory(news);
    followLeads();
    ended = !OPEN.includes(news.status);
  });
  socket.addEventListener("close", () => ended ? watch() : again());
}

function again() {
  byId("live").textContent = "reconnecting…";
  setTimeout(watch, pause);
  pause = Math.min(pause * 2, 10000);
}

byId("cancel").addEventListener("click", async () => {
  byId("cancel").disabled = true;
  try { await ask(`/api/batch/${id}/cancel`, {}); } catch (error) { tell("problem", error.message); }
});
byId("show").addEventListener("change", () => loadLeads(true));
byId("more").addEventListener("click", () => loadLeads(false));
watch();
