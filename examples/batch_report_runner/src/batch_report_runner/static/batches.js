import { ask, byId, cell, link } from "./common.js";

const batches = await ask("/api/batches");
byId("empty").hidden = batches.length > 0;
for (const batch of batches) {
  const row = byId("rows").insertRow();
  cell(row, link(`/batches/${batch.batch_id}`, batch.created_at.slice(0, 16).replace("T", " ")));
  const badge = document.createElement("span");
  badge.className = "badge";
  badge.dataset.status = batch.status;
  badge.textContent = batch.status.replaceAll("_", " ");
  cell(row, badge);
  cell(row, batch.lead_count, "number");
  cell(row, batch.quoted_cost, "number");
  cell(row, batch.actual_cost == null ? "–" : Number(batch.actual_cost).toFixed(2), "number wide");
}
