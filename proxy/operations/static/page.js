// Shows what /api/events says. Everything that comes from elsewhere becomes text, never markup.

const CLASSES = ["2xx", "3xx", "4xx", "5xx", "aborted", "1xx", "other"];
const QUANTILES = [["p99", "slowest 1 %"], ["p95", "slowest 5 %"], ["p50", "median"]];
const SAMPLES = 150;
const ROWS = 200;
const NAMES = { "-": "no route" };

const byId = (id) => document.getElementById(id);

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function swatched(name, colour, text) {
  const made = element(name, { textContent: text });
  made.style.setProperty("--swatch", `var(--${colour})`);
  return made;
}

const classVariable = (name) => (/^\d/.test(name) ? `c${name}` : name);

function duration(seconds) {
  const s = Math.max(0, seconds);
  if (s < 90) return `${Math.floor(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}

function milliseconds(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

const number = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");

// The state.

let state = null;
let received = 0;

function show(fresh) {
  state = fresh;
  received = performance.now();
  const workers = fresh.workers === 1 ? "" : ` · ${fresh.workers} workers`;
  byId("about").textContent = `${fresh.version} · watched for ${duration(fresh.at - fresh.started_at)}${workers}`;
  const ready = byId("ready");
  const verdict = fresh.ready ? "ready" : "not ready";
  const words = fresh.missing.length ? `${verdict}: ${fresh.missing.join(" ")}` : verdict;
  if (ready.textContent !== words) ready.textContent = words;
  ready.className = `pill ${fresh.ready ? (fresh.missing.length ? "" : "ok") : "bad"}`;
  showFigures(fresh);
  drawRates(fresh.samples);
  drawLatencies(fresh.samples);
  replaceWhenChanged("routes", fresh.routes, routeCard, "There are no routes.");
  replaceWhenChanged("errors", fresh.errors, errorItem, "None since the start.");
  replaceWhenChanged("certificates", fresh.certificates.map((one) => ({ ...one, days_left: Math.floor(one.days_left) })),
    certificateCard, "Nothing is known of certificates.");
  showTokens();
}

function showFigures({ samples, open }) {
  const last = samples.at(-1);
  const count = (sample, wanted = () => true) =>
    Object.entries(sample.classes).reduce((sum, [name, n]) => sum + (wanted(name) ? n : 0), 0);
  const all = samples.reduce((sum, sample) => sum + count(sample), 0);
  const failed = samples.reduce((sum, sample) => sum + count(sample, (name) => name === "5xx" || name === "aborted"), 0);
  byId("rate").textContent = last ? number(count(last) / last.seconds) : "–";
  byId("median").textContent = milliseconds(samples.findLast((sample) => sample.p50_ms !== null)?.p50_ms);
  byId("failed").textContent = all ? `${number(failed)} (${number((100 * failed) / all)} %)` : "0";
  byId("open").textContent = `${number(open.clients + open.tunnels)} in · ${number(open.upstreams)} out`;
}

function replaceWhenChanged(id, items, make, none) {
  const place = byId(id);
  const key = JSON.stringify(items);
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  place.replaceChildren(...(items.length ? items.map(make) : [element("p", { className: "empty", textContent: none })]));
}

function card(title, ...children) {
  return element("div", { className: "card" }, element("h3", { textContent: title }), ...children);
}

const line = (text, className = "") => element("p", { textContent: text, className });

// What to do, with the commands in it, which stand in backquotes.
function advice(text, className = "") {
  const parts = text.split("`").map((part, index) => (index % 2 ? element("code", { textContent: part }) : part));
  return element("p", { className }, ...parts);
}

function routeCard({ name, hosts, credential, target, counts }) {
  const made = card(hosts.length ? hosts.join(", ") : (NAMES[name] ?? name));
  if (credential !== null) made.append(line(`${credential} · ${target}`));
  const list = element("ul", { className: "counts" });
  for (const one of CLASSES) {
    if (counts[one]) list.append(swatched("li", classVariable(one), `${one} ${counts[one].toLocaleString("en")}`));
  }
  made.append(list.childElementCount ? list : line("no exchange yet"));
  return made;
}

function certificateCard({ kind, name, proof, not_after_at: end, days_left: days }) {
  const titles = { interception_ca: "Interception CA", client_certificate: `${name}, client certificate`, listener: `Listener ${name}` };
  const title = titles[kind] ?? name;
  const made = card(title, line(proof, "proof"));
  const ends = new Date(end * 1000).toISOString().slice(0, 10);
  const words = days < 0 ? "has ended" : `${days} day${days === 1 ? "" : "s"} left`;
  const pill = element("span", { className: `pill ${days < 7 ? "bad" : days < 30 ? "" : "ok"}`, textContent: words });
  made.append(element("p", {}, pill, ` until ${ends}`));
  return made;
}

function errorItem({ at, count, status, error, code, client, method, what, title, cause, fix }) {
  const request = [method, what].filter(Boolean).join(" ") || "an unreadable request";
  const often = count > 1 ? `${count.toLocaleString("en")} times since the start, last at` : "at";
  const made = element("div", { className: "error" },
    element("strong", { className: statusClass(status), textContent: status ? String(status) : "TLS" }), ` ${title}`,
    line(`${often} ${clock(at)} · ${request} · from ${client} · ${[error, code].filter(Boolean).join(" ")}`, "where"));
  if (cause !== null) made.append(advice(cause));
  if (fix !== null) made.append(advice(fix, "fix"));
  return made;
}

// Tokens move between two states, so they are drawn every second.

function showSharing({ sharing }) {
  const place = byId("sharing");
  place.hidden = sharing === null;
  if (sharing === null) return;
  place.className = sharing.shared ? "" : "bad";
  place.textContent = sharing.shared
    ? "Shared with other replicas."
    : `Each replica is on its own since ${clock(sharing.alone_since_at)}: the token cache ${sharing.reason}. No request fails for it.`;
}

function showTokens() {
  showSharing(state);
  const place = byId("tokens");
  const later = (performance.now() - received) / 1000;
  const key = JSON.stringify(state.tokens.map(({ credential, target, code, failures }) => [credential, target, code, failures]));
  if (place.dataset.key !== key) {
    place.dataset.key = key;
    place.replaceChildren(...state.tokens.map(tokenCard));
    if (!state.tokens.length) place.append(element("p", { className: "empty", textContent: "No route asks for one." }));
  }
  state.tokens.forEach((token, index) => moveToken(place.children[index], token, later));
}

function tokenCard({ credential, target, cause, fix, code, failures }) {
  const bar = element("div", { className: "bar", role: "img" }, element("i"), element("b"));
  const made = card(credential, line(target), bar, line("", "life"));
  if (failures) made.append(line(`${failures} failed request${failures === 1 ? "" : "s"} in a row${code ? `: ${code}` : ""}`, "bad"));
  if (cause) made.append(line(cause, "bad"));
  if (fix) made.append(advice(fix, "bad"));
  return made;
}

function moveToken(place, token, later) {
  const bar = place.querySelector(".bar");
  const words = place.querySelector(".life");
  if (token.age_s === null) {
    bar.hidden = true;
    words.textContent = token.failures ? "no token" : "no token yet: it comes with the first request";
    return;
  }
  const age = token.age_s + later;
  const left = token.expires_in_s - later;
  const refresh = token.refresh_in_s - later;
  const life = age + left;
  bar.hidden = false;
  bar.className = `bar ${left <= 0 ? "expired" : refresh <= 0 ? "stale" : ""}`;
  bar.firstChild.style.width = `${Math.min(100, (100 * age) / life)}%`;
  bar.lastChild.style.left = `${Math.min(100, (100 * (age + refresh)) / life)}%`;
  const next = refresh > 0 ? `refresh in about ${duration(refresh)}` : "refresh due";
  words.textContent = left > 0
    ? `${duration(age)} old · ${next} · expires in ${duration(left)}`
    : `expired ${duration(-left)} ago`;
  bar.ariaLabel = words.textContent;
}

// Charts.

function niceTop(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 5, 7, 10].map((step) => step * power).find((step) => step >= value);
}

function drawRates(samples) {
  const chart = byId("rate-chart");
  const rates = samples.map((sample) => CLASSES.map((name) => (sample.classes[name] ?? 0) / sample.seconds));
  const top = niceTop(Math.max(0, ...rates.map((row) => row.reduce((sum, rate) => sum + rate, 0))));
  chart.setAttribute("viewBox", `0 0 ${SAMPLES} 100`);
  const bars = [];
  const seen = new Set();
  rates.forEach((row, index) => {
    let y = 100;
    row.forEach((rate, which) => {
      if (!rate) return;
      const height = (100 * rate) / top;
      y -= height;
      seen.add(CLASSES[which]);
      bars.push(shape("rect", { x: SAMPLES - rates.length + index + 0.1, y, width: 0.8, height,
        fill: `var(--${classVariable(CLASSES[which])})` }));
    });
  });
  chart.replaceChildren(...bars);
  chart.setAttribute("aria-label", `Requests a second in the last five minutes, at most ${top}`);
  byId("rate-top").textContent = number(top);
  const legend = CLASSES.filter((name) => seen.has(name));
  replaceLegend("class-legend", legend.map((name) => [classVariable(name), name]));
}

function drawLatencies(samples) {
  const chart = byId("latency-chart");
  const top = niceTop(Math.max(0, ...samples.map((sample) => sample.p99_ms ?? 0)));
  chart.setAttribute("viewBox", `0 0 ${SAMPLES} 100`);
  const lines = [];
  for (const [name] of QUANTILES) {
    for (const run of runs(samples.map((sample) => sample[`${name}_ms`]))) {
      const points = run.map(([index, ms]) => `${SAMPLES - samples.length + index + 0.5},${100 - (100 * ms) / top}`);
      // A lone sample is a line of no length, which would not be seen.
      if (points.length === 1) points.push(points[0].replace(/^[\d.]+/, (x) => String(Number(x) + 0.6)));
      lines.push(shape("polyline", { points: points.join(" "), stroke: `var(--${name})` }));
    }
  }
  chart.replaceChildren(...lines);
  chart.setAttribute("aria-label", `Durations in the last five minutes, at most ${milliseconds(top)}`);
  byId("latency-top").textContent = milliseconds(top);
  replaceLegend("latency-legend", QUANTILES);
}

function runs(values) {
  const found = [];
  let open = null;
  values.forEach((value, index) => {
    if (value === null) open = null;
    else if (open) open.push([index, value]);
    else found.push((open = [[index, value]]));
  });
  return found;
}

function replaceLegend(id, entries) {
  const place = byId(id);
  const key = JSON.stringify(entries);
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  place.replaceChildren(...entries.map(([colour, text]) => swatched("li", colour, text)));
}

// The live tail.

let exchanges = [];
let paused = false;

function statusClass(status) {
  if (status === null) return "aborted";
  return status >= 100 && status < 600 ? `s${Math.floor(status / 100)}xx` : "other";
}

function isFailure({ status, outcome }) {
  return outcome !== "ok" || status === null || status >= 400;
}

function exchangeRow(one) {
  const span = (className, text) => element("span", { className, textContent: text });
  const more = [];
  if (one.outcome !== "ok") more.push(one.outcome);
  if (one.code !== null) more.push(one.code);
  if (one.token_age_s !== null) more.push(`token ${duration(one.token_age_s)} old`);
  more.push(one.mode);
  return element("div", { className: "exchange" },
    span("time", new Date(one.time).toLocaleTimeString("en-GB")),
    span(`status ${statusClass(one.status)}`, one.status ?? "–"),
    span("duration", milliseconds(one.duration_ms)),
    span("method", one.method ?? "–"),
    span("what", `${one.authority ?? ""}${one.path ?? ""}` || "an unreadable request"),
    span("more", more.join(" · ")));
}

function isWanted(one) {
  if (byId("failures-only").checked && !isFailure(one)) return false;
  const wanted = byId("filter").value.trim().toLowerCase();
  return !wanted || Object.values(one).join(" ").toLowerCase().includes(wanted);
}

function showExchanges() {
  const rows = exchanges.filter(isWanted).reverse().map(exchangeRow);
  if (!rows.length) rows.push(element("p", { className: "exchange empty", textContent: "Nothing yet." }));
  byId("exchanges").replaceChildren(...rows);
}

byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Go on" : "Pause";
  if (!paused) showExchanges();
});
byId("failures-only").addEventListener("change", showExchanges);
byId("filter").addEventListener("input", showExchanges);

// The connection. The browser makes it anew by itself; the server then begins with what it remembers.

const events = new EventSource("api/events");
let begins = true;
events.addEventListener("open", () => {
  byId("lost").hidden = true;
  begins = true;
});
events.addEventListener("error", () => {
  byId("lost").hidden = false;
});
events.addEventListener("state", (event) => show(JSON.parse(event.data)));
events.addEventListener("exchanges", (event) => {
  const fresh = JSON.parse(event.data);
  exchanges = [...(begins ? [] : exchanges), ...fresh].slice(-ROWS);
  begins = false;
  if (!paused) showExchanges();
});
showExchanges();
setInterval(() => {
  if (state) showTokens();
}, 1000);
