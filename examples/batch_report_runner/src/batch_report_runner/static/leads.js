import { ask, byId, cell, span, tell } from "./common.js";

const MOST = 1000;
const chosen = new Set();
let cursor = "", total = 0, quoted = null, latest = 0;

const filter = () => new URLSearchParams(new FormData(byId("filters")));

function show() {
  byId("count").textContent = chosen.size;
  byId("preview").disabled = chosen.size === 0 || chosen.size > MOST;
  byId("note").textContent = chosen.size > MOST ? `At most ${MOST} leads fit one batch.` : "";
  quoted = null;
  byId("quote").hidden = true;
  tell("problem", "");
}

function add(lead) {
  const row = byId("rows").insertRow();
  const box = document.createElement("input");
  box.type = "checkbox";
  box.checked = chosen.has(lead.lead_id);
  box.setAttribute("aria-label", lead.name);
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(lead.lead_id);
    else chosen.delete(lead.lead_id);
    show();
  });
  cell(row, box);
  cell(row, lead.name);
  cell(row, lead.company, "wide");
  cell(row, lead.status);
  cell(row, lead.tier);
  cell(row, lead.score, "wide number");
  cell(row, lead.provider ?? "–", "wide");
  cell(row, lead.created_at.slice(0, 10), "wide");
}

async function load(fresh) {
  const mine = ++latest;
  const query = filter();
  query.set("limit", "50");
  query.set("cursor", fresh ? "" : cursor);
  try {
    const page = await ask(`/api/leads?${query}`);
    if (mine !== latest) return;
    if (fresh) byId("rows").replaceChildren();
    page.items.forEach(add);
    total = page.total;
    cursor = page.next_cursor ?? "";
    byId("total").textContent = total;
    byId("more").hidden = !cursor;
  } catch (error) { tell("problem", error.message); }
}

async function selectAll() {
  const query = filter();
  query.set("limit", String(MOST));
  const page = await ask(`/api/leads?${query}`);
  chosen.clear();
  page.items.forEach((lead) => chosen.add(lead.lead_id));
  check(true);
  show();
  if (page.total > MOST) byId("note").textContent = `The first ${MOST} of ${page.total}: more do not fit one batch.`;
}

const check = (on) => byId("rows").querySelectorAll("input").forEach((box) => { box.checked = on; });

async function preview() {
  const asked = { lead_ids: [...chosen], template_version: byId("template").value };
  try {
    const quote = await ask("/api/batch/preview", asked);
    show();
    quoted = { ...asked, accepted_cost: quote.total_cost };
    const money = (amount) => `${amount} ${quote.currency}`;
    byId("q-count").textContent = quote.lead_count;
    byId("q-total").textContent = money(quote.total_cost);
    byId("q-average").textContent = quote.average_cost;
    byId("q-range").textContent = `${quote.cost_low} – ${quote.cost_high}`;
    byId("q-discount").textContent = `${quote.discount_pct} %`;
    byId("q-duration").textContent = span(quote.duration_seconds);
    byId("q-budget").textContent = `${quote.spent_today} of today's ${money(quote.budget)} are spent.`;
    byId("q-breakdown").replaceChildren();
    for (const part of quote.breakdown) {
      const row = byId("q-breakdown").insertRow();
      cell(row, part.provider);
      cell(row, part.leads, "number");
      cell(row, part.cost, "number");
    }
    tell("q-warning", quote.warning);
    byId("start").disabled = !quote.can_start;
    byId("quote").hidden = false;
  } catch (error) { tell("problem", error.message); }
}

async function start() {
  byId("start").disabled = true;
  try {
    const { batch_id } = await ask("/api/batch/start", quoted);
    location.assign(`/batches/${batch_id}`);
  } catch (error) {
    tell("problem", error.message);
    byId("start").disabled = false;
  }
}

byId("filters").addEventListener("change", () => load(true));
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("more").addEventListener("click", () => load(false));
byId("all").addEventListener("click", () => selectAll().catch((error) => tell("problem", error.message)));
byId("none").addEventListener("click", () => { chosen.clear(); check(false); show(); });
byId("template").addEventListener("change", show);
byId("preview").addEventListener("click", preview);
byId("start").addEventListener("click", start);
show();
load(true);
