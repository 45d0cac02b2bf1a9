// The dashboard's charts: lines by uPlot over the history that the database keeps, read again when a step has gone by.
"use strict";

(function () {
  const box = document.querySelector("[data-charts]");
  const zones = document.querySelector("[data-zones]");
  const charts = [];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let readAt = 0;

  // Times are UTC, as on all pages, each with the reader's own below it where that is another; 24 hours, never 12.
  const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
  function clock(at, timeZone, seconds) {
    const parts = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone };
    return new Date(at * 1000).toLocaleTimeString("en-GB", seconds ? { ...parts, second: "2-digit" } : parts);
  }
  function isElsewhere(at) { return clock(at, "UTC") !== clock(at, here); }
  function tick(at) { return isElsewhere(at) ? `${clock(at, "UTC")}\n${clock(at, here)}` : clock(at, "UTC"); }
  function exactly(at) {
    if (at === null || at === undefined) return "–";
    return `${clock(at, "UTC", true)} UTC` + (isElsewhere(at) ? `, ${clock(at, here, true)} here` : "");
  }

  function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

  function draw(place, data) {
    const labels = place.dataset.labels.split("|");
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
    const series = labels.map((label, index) => ({ label, stroke: colour(`--series-${index + 1}`), width: 1.5, spanGaps: false, points: { show: true, size: 4, filter: alone } }));
    const options = {
      width: place.clientWidth, height: 200, scales: { y: { range: (_, low, high) => [0, Math.max(high, 1)] } },
      tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
      axes: [{ ...axis, size: isElsewhere(data[0][0]) ? 56 : 40, space: 60, values: (_, ticks) => ticks.map(tick) }, { ...axis, size: 60 }],
      series: [{ label: "time", value: (_, at) => exactly(at) }, ...series],
    };
    return new uPlot(options, data, place);
  }

  // Which points have no neighbour, so that no line shows them.
  function alone(plot, index) {
    const found = plot.data[index];
    const has = (at) => found[at] !== null && found[at] !== undefined;
    return [...found.keys()].filter((at) => has(at) && !has(at - 1) && !has(at + 1));
  }

  function rowsOf(place, lines) { return [lines.at, ...place.dataset.chart.split(" ").map((name) => lines[name])]; }

  async function read() {
    readAt = Date.now();
    const answer = await fetch(box.dataset.charts, { headers: { accept: "application/json" } });
    if (!answer.ok) return;
    const lines = await answer.json();
    for (const place of box.querySelectorAll("[data-chart]")) {
      const found = charts.find((chart) => chart.place === place);
      if (found) found.plot.setData(rowsOf(place, lines));
      else charts.push({ place, plot: draw(place, rowsOf(place, lines)) });
    }
    if (isElsewhere(lines.at[0])) zones.textContent = `Times of the charts are UTC, below them those of ${here}.`;
    box.dataset.points = lines.at.length;
  }

  function redraw() {
    for (const chart of charts) {
      const data = chart.plot.data;
      chart.plot.destroy();
      chart.plot = draw(chart.place, data);
    }
  }

  read();
  dark.addEventListener("change", redraw);
  new ResizeObserver(() => {
    for (const chart of charts) chart.plot.setSize({ width: chart.place.clientWidth, height: 200 });
  }).observe(box);
  document.addEventListener("commandbus:snapshot", () => {
    if (Date.now() - readAt >= 1000 * Number(box.dataset.step)) read();
  });
})();
