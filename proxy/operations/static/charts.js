// The figures and the two charts of the last five minutes.

import { byId, milliseconds, number, shape, swatched } from "./dom.js";

const CLASSES = ["2xx", "3xx", "4xx", "5xx", "aborted", "1xx", "other"];
/** @type {[QuantileName, string][]} */
const QUANTILES = [["p99", "slowest 1 %"], ["p95", "slowest 5 %"], ["p50", "median"]];
const SAMPLES = 150;

/** @param {string} name */
const classVariable = (name) => (/^\d/.test(name) ? `c${name}` : name);

/** @param {ProxyState} state */
export function showFigures({ samples, open }) {
  const last = samples.at(-1);
  /** @param {SampleState} sample @param {(name: string) => boolean} wanted */
  const count = (sample, wanted = () => true) =>
    Object.entries(sample.classes).reduce((sum, [name, n]) => sum + (wanted(name) ? n : 0), 0);
  const all = samples.reduce((sum, sample) => sum + count(sample), 0);
  const failed = samples.reduce((sum, sample) => sum + count(sample, (name) => name === "5xx" || name === "aborted"), 0);
  byId("rate").textContent = last ? number(count(last) / last.seconds) : "–";
  byId("median").textContent = milliseconds(samples.findLast((sample) => sample.p50_ms !== null)?.p50_ms);
  byId("failed").textContent = all ? `${number(failed)} (${number((100 * failed) / all)} %)` : "0";
  byId("open").textContent = `${number(open.clients + open.tunnels)} in · ${number(open.upstreams)} out`;
  drawRates(samples);
  drawLatencies(samples);
}

/** @param {number} value */
function niceTop(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 5, 7, 10].map((step) => step * power).find((step) => step >= value) ?? 10 * power;
}

/** @param {readonly SampleState[]} samples */
function drawRates(samples) {
  const chart = byId("rate-chart");
  const rates = samples.map((sample) => CLASSES.map((name) => (sample.classes[name] ?? 0) / sample.seconds));
  const top = niceTop(Math.max(0, ...rates.map((row) => row.reduce((sum, rate) => sum + rate, 0))));
  chart.setAttribute("viewBox", `0 0 ${SAMPLES} 100`);
  /** @type {SVGElement[]} */
  const bars = [];
  /** @type {Set<string>} */
  const seen = new Set();
  rates.forEach((row, index) => {
    let y = 100;
    CLASSES.forEach((name, which) => {
      const rate = row[which];
      if (!rate) return;
      const height = (100 * rate) / top;
      y -= height;
      seen.add(name);
      bars.push(shape("rect", { x: SAMPLES - rates.length + index + 0.1, y, width: 0.8, height, fill: `var(--${classVariable(name)})` }));
    });
  });
  chart.replaceChildren(...bars);
  chart.setAttribute("aria-label", `Requests a second in the last five minutes, at most ${top}`);
  byId("rate-top").textContent = number(top);
  replaceLegend("class-legend", CLASSES.filter((name) => seen.has(name)).map((name) => [classVariable(name), name]));
}

/** @param {readonly SampleState[]} samples */
function drawLatencies(samples) {
  const chart = byId("latency-chart");
  const top = niceTop(Math.max(0, ...samples.map((sample) => sample.p99_ms ?? 0)));
  chart.setAttribute("viewBox", `0 0 ${SAMPLES} 100`);
  /** @type {SVGElement[]} */
  const lines = [];
  for (const [name] of QUANTILES) {
    for (const run of runs(samples.map((sample) => sample[`${name}_ms`]))) {
      const points = run.map(([index, ms]) => `${SAMPLES - samples.length + index + 0.5},${100 - (100 * ms) / top}`);
      // A lone sample is a line of no length, which would not be seen.
      const [only] = points;
      if (points.length === 1 && only !== undefined) points.push(only.replace(/^[\d.]+/, (x) => String(Number(x) + 0.6)));
      lines.push(shape("polyline", { points: points.join(" "), stroke: `var(--${name})` }));
    }
  }
  chart.replaceChildren(...lines);
  chart.setAttribute("aria-label", `Durations in the last five minutes, at most ${milliseconds(top)}`);
  byId("latency-top").textContent = milliseconds(top);
  replaceLegend("latency-legend", QUANTILES);
}

/**
 * @param {readonly (number | null)[]} values
 * @returns {[number, number][][]}
 */
function runs(values) {
  /** @type {[number, number][][]} */
  const found = [];
  /** @type {[number, number][] | null} */
  let open = null;
  values.forEach((value, index) => {
    if (value === null) open = null;
    else if (open) open.push([index, value]);
    else found.push((open = [[index, value]]));
  });
  return found;
}

/**
 * @param {string} id
 * @param {readonly [string, string][] | string[][]} entries
 */
export function replaceLegend(id, entries) {
  const place = byId(id);
  const key = JSON.stringify(entries);
  if (place.dataset["key"] === key) return;
  place.dataset["key"] = key;
  place.replaceChildren(...entries.map(([colour, text]) => swatched(colour ?? "", text ?? "")));
}
