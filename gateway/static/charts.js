// Throughput, times and queue of the last 15 minutes, by version.

import { h, patch } from "./dom.js";
import { count, milliseconds, rate } from "./format.js";
import { colourClass, dash, versionTag } from "./marks.js";
import uPlot from "./vendor/uplot-1.6.32/uPlot.esm.js";

const AT_LEAST_S = 120; // shown, also when little is known yet
const HEIGHT = 150;
const TICKS_S = [15, 30, 60, 120, 180, 300, 600];
const ticksOf = (format) => (chart, values) => values.map(format);
const plain = (n) => (n >= 1000 ? count(n) : String(Number(n.toPrecision(3))));

// read: of a version's part of a sample, or of the sample itself
const CHARTS = [
  { key: "rate", title: "Answers per second", read: (version) => version.rate, say: rate },
  { key: "queue", title: "Requests in the queue", read: (sample) => sample.queue, say: count, isOfAll: true },
  { key: "p50", title: "Median time to the answer (p50), ms", read: (version) => version.p50_ms, say: milliseconds },
  {
    key: "p99",
    title: "What one in a hundred exceeds (p99), ms",
    read: (version) => version.p99_ms,
    say: milliseconds,
  },
];

/** Fills the section, and gives what brings it up to date. */
export function makeCharts(section) {
  const table = h("div", { class: "scroll figures-card" });
  const figures = CHARTS.map(({ key, title }) =>
    h("figure", { class: `chart ${key}` }, h("figcaption", {}, title), h("div", { class: "plot", role: "img" })),
  );
  section.append(h("h2", { id: "charts-title" }, "The last 15 minutes"), table, h("div", { class: "plots" }, figures));
  const plots = figures.map((figure) => figure.querySelector(".plot"));
  const shown = { samples: [], at: null, charts: [], key: "" };
  const point = (index) => {
    shown.at = index;
    patch(table, versionTable(shown));
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (shown.key = ""));
  new ResizeObserver(() =>
    shown.charts.forEach((chart, i) => chart.setSize({ width: plots[i].clientWidth, height: HEIGHT })),
  ).observe(section);
  return (samples) => {
    if (section.hidden || (samples === shown.samples && shown.key)) return;
    shown.samples = samples;
    draw(shown, plots, point);
    patch(table, versionTable(shown));
  };
}

function namesIn(samples) {
  return [...new Set(samples.flatMap((sample) => Object.keys(sample.versions)))].sort();
}

function draw(shown, plots, point) {
  const names = namesIn(shown.samples);
  const key = JSON.stringify(names);
  if (key !== shown.key) {
    for (const chart of shown.charts) chart.destroy();
    shown.charts = CHARTS.map((one, i) => new uPlot(optionsOf(one, names, plots[i], point), [[]], plots[i]));
    shown.key = key;
  }
  const times = shown.samples.map((sample) => sample.at);
  shown.charts.forEach((chart, i) => {
    chart.setData([times, ...seriesOf(CHARTS[i], names, shown.samples)]);
    plots[i].setAttribute("aria-label", inWords(CHARTS[i], shown.samples.at(-1)));
  });
}

function seriesOf({ read, isOfAll }, names, samples) {
  if (isOfAll) return [samples.map(read)];
  return names.map((name) => samples.map((sample) => (sample.versions[name] ? read(sample.versions[name]) : null)));
}

function optionsOf({ isOfAll }, names, plot, point) {
  const style = getComputedStyle(plot);
  const colour = (name) => style.getPropertyValue(name).trim();
  const lines = isOfAll
    ? [{ stroke: colour("--quiet"), dash: [] }]
    : names.map((name) => ({ stroke: colour(`--${colourClass(name)}`), dash: dash(name) }));
  const axis = {
    stroke: colour("--quiet"),
    font: "12px system-ui, sans-serif",
    grid: { stroke: colour("--rule"), width: 1 },
    ticks: { show: false },
  };
  return {
    width: plot.clientWidth || 300,
    height: HEIGHT,
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, sync: { key: "pool" }, points: { size: 6 }, y: false },
    hooks: { setCursor: [(chart) => point(chart.cursor.idx ?? null)] },
    scales: {
      x: { range: (chart, from, to) => [Math.min(from ?? 0, (to ?? 0) - AT_LEAST_S), to ?? 0] },
      y: { range: (chart, from, to) => [0, Math.max(1, (to ?? 0) * 1.1)] },
    },
    axes: [
      { ...axis, size: 28, space: 60, incrs: TICKS_S, values: ticksOf(clock) },
      { ...axis, size: 46, space: 36, values: ticksOf(plain) },
    ],
    series: [{}, ...lines.map((line) => ({ ...line, width: 1.75, spanGaps: false, points: { show: false } }))],
  };
}

function clock(at) {
  return new Date(at * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
}

function inWords({ title, read, say, isOfAll }, sample) {
  if (!sample) return `${title}: nothing yet`;
  const parts = isOfAll
    ? [say(read(sample))]
    : Object.entries(sample.versions).map(([name, one]) => `${name} ${say(read(one))}`);
  return `${title}, over the last 15 minutes. Now: ${parts.join(", ") || "nothing"}`;
}

const NOTHING = { rate: 0, p50_ms: null, p99_ms: null, errors: 0 };
const COLUMNS = ["Version", "answers", "p50", "p99", "errors"];

/** What the charts' lines stand for, with their figures now or where the pointer is. */
function versionTable({ samples, at }) {
  const names = namesIn(samples);
  if (!names.length) return h("p", { class: "empty" }, "Nobody has asked anything in the last 15 minutes.");
  const sample = samples[at] ?? samples.at(-1);
  const when = samples[at] ? `at ${new Date(sample.at * 1000).toLocaleTimeString("en-GB")}` : "now";
  const heads = COLUMNS.map((text) => h("th", { scope: "col" }, text));
  return h(
    "table",
    { class: "figures" },
    h("caption", {}, `By version, ${when}`),
    h("thead", {}, h("tr", {}, heads)),
    h(
      "tbody",
      {},
      names.map((name) => versionRow(name, sample.versions[name] ?? NOTHING)),
    ),
  );
}

function versionRow(name, { rate: answers, p50_ms: p50, p99_ms: p99, errors }) {
  const figures = [rate(answers), milliseconds(p50), milliseconds(p99), errors ? rate(errors) : "none"];
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, versionTag(name)),
    figures.map((text) => h("td", {}, text)),
  );
}
