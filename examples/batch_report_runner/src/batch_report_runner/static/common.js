// What the pages share. Text goes into the page by textContent only: no name of a lead can become markup.
export const byId = (id) => document.getElementById(id);

export async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error?.message ?? `the server answered ${response.status}`);
  return answer;
}

export function cell(row, text, kind) {
  const made = row.insertCell();
  if (text instanceof Node) made.append(text);
  else made.textContent = text ?? "";
  if (kind) made.className = kind;
  return made;
}

export function link(href, text) {
  const made = document.createElement("a");
  made.href = href;
  made.textContent = text;
  return made;
}

export function tell(id, text) {
  const place = byId(id);
  place.textContent = text ?? "";
  place.hidden = !text;
}

export const span = (seconds) => seconds == null ? "…" : seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
