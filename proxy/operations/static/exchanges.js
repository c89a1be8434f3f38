// The live exchanges, and the story of each: its steps with their times.

import { advice, byId, bytes, causeChip, duration, element, explainCommand, inputById, milliseconds, sayNone, statusClass } from "./dom.js";

const ROWS = 200;

/** @type {{ one: ExchangeState, node: HTMLElement, text: string }[]} newest first */
let rows = [];
/** @type {ExchangeState[]} */
let waiting = [];
let paused = false;
// A story that is being read must not move away: while one is open, the list stands still.
let heldByStory = false;
let dropped = false;

/** Forgets everything: the server begins again with what it remembers. */
export function beginAgain() {
  dropped = true;
}

/** @param {readonly ExchangeState[]} fresh the oldest first */
export function receiveExchanges(fresh) {
  if (dropped) waiting = [];
  waiting.push(...fresh);
  waiting = waiting.slice(-ROWS);
  if (!paused) showWaiting();
}

function showWaiting() {
  const list = byId("exchanges");
  if (dropped && waiting.length) {
    rows = [];
    list.replaceChildren();
    dropped = false;
  }
  const made = waiting.map((one) => ({ one, node: exchangeItem(one), text: Object.values(one).join(" ").toLowerCase() })).reverse();
  waiting = [];
  list.prepend(...made.map((row) => row.node));
  rows = [...made, ...rows];
  for (const row of rows.splice(ROWS)) row.node.remove();
  filterRows();
}

function filterRows() {
  const failures = inputById("failures-only").checked;
  const wanted = inputById("filter").value.trim().toLowerCase();
  let any = false;
  for (const { one, node, text } of rows) {
    node.hidden = (failures && !isFailure(one)) || (wanted !== "" && !text.includes(wanted));
    any ||= !node.hidden;
  }
  sayNone("exchanges-none", any ? "" : rows.length ? "No request has that in it." : "Nothing yet.");
  const buttons = visibleButtons();
  if (!buttons.some((button) => button.tabIndex === 0)) for (const first of buttons.slice(0, 1)) first.tabIndex = 0;
}

/** @returns {HTMLButtonElement[]} */
function visibleButtons() {
  return [...byId("exchanges").querySelectorAll("li:not([hidden]) > button")].map((one) => /** @type {HTMLButtonElement} */ (one));
}

/** @param {ExchangeState} one */
function isFailure({ status, outcome }) {
  return outcome !== "ok" || status === null || status >= 400;
}

/**
 * @param {ExchangeState} one
 * @returns {HTMLElement}
 */
function exchangeItem(one) {
  const more = [];
  if (one.outcome !== "ok") more.push(one.outcome);
  if (one.code !== null) more.push(one.code);
  if (one.client_name !== null) more.push(one.client_name);
  if (one.token_age_s !== null) more.push(`token ${duration(one.token_age_s)} old`);
  more.push(one.mode);
  const button = element("button", "exchange",
    element("span", "time", new Date(one.time).toLocaleTimeString("en-GB")), " ",
    element("span", `status ${statusClass(one.status)}`, one.status === null ? "–" : String(one.status)), " ",
    element("span", "duration", milliseconds(one.duration_ms)), " ",
    element("span", "method", one.method ?? "–"), " ",
    element("span", "what", `${one.authority ?? ""}${one.path ?? ""}` || "an unreadable request"), " ",
    element("span", "more", more.join(" · ")));
  button.type = "button";
  button.tabIndex = -1;
  button.setAttribute("aria-expanded", "false");
  const item = element("li", "", button);
  button.addEventListener("click", () => toggle(button, item, one));
  return item;
}

/**
 * @param {HTMLButtonElement} button
 * @param {HTMLElement} item
 * @param {ExchangeState} one
 */
function toggle(button, item, one) {
  const open = button.getAttribute("aria-expanded") === "false";
  button.setAttribute("aria-expanded", String(open));
  if (open) item.append(story(one));
  else item.lastElementChild?.remove();
  rove(button);
  const anyOpen = byId("exchanges").querySelector("[aria-expanded=true]") !== null;
  if (anyOpen && !paused) {
    heldByStory = true;
    setPaused(true);
  } else if (!anyOpen && heldByStory) setPaused(false);
}

// A request's own story.

/** @typedef {{ name: string, note: string, ms: number | null, from: number | null }} Step */

/**
 * @param {ExchangeState} one
 * @returns {HTMLElement}
 */
function story(one) {
  const made = element("div", "story");
  made.setAttribute("role", "group");
  made.setAttribute("aria-label", "Steps of this request");
  if (one.by !== undefined) made.append(...reason(one, one.by));
  if (wentOn(one)) made.append(element("ol", "steps", ...stepsOf(one).map((step) => stepItem(step, one.duration_ms))));
  else made.append(element("p", "hint", "It went no further than this proxy."));
  if (one.steps === undefined && one.upstream_ms !== null) {
    made.append(advice("With `tracing.endpoint` configured, name, token, connection and content have times of their own.", "hint"));
  }
  made.append(factsOf(one));
  return made;
}

/**
 * @param {ExchangeState} one
 * @param {Cause} by
 * @returns {HTMLElement[]}
 */
function reason(one, by) {
  const passedOn = one.title === undefined;
  const words = passedOn
    ? one.outcome === "ok" ? `The response came from the upstream with status ${one.status}.` : "The exchange was cut before its end."
    : `${one.title}.`;
  const found = [element("p", "what", element("strong", "", words))];
  if (one.cause) found.push(advice(one.cause));
  if (one.fix) found.push(advice(one.fix, "step", element("b", "", "Next: ")));
  const about = element("p", "about", causeChip(by));
  if (one.explain) about.append(explainCommand(one.explain));
  found.push(about);
  return found;
}

/**
 * Whether anything was done towards the upstream.
 * @param {ExchangeState} one
 * @returns {boolean}
 */
function wentOn(one) {
  return one.upstream_ms !== null || one.token_age_s !== null || one.name_ms !== null || one.outcome === "ok" || Boolean(one.steps?.sends);
}

/**
 * @param {ExchangeState} one
 * @returns {Step[]}
 */
function stepsOf(one) {
  const { steps, upstream_ms: upstream, duration_ms: total } = one;
  const name = steps?.name ?? null;
  const token = steps?.token ?? null;
  const nameMs = name?.[1] ?? one.name_ms;
  const sent = steps?.sent_ms ?? null;
  const reached = upstream !== null || one.token_age_s !== null;
  /** @type {Step[]} */
  const found = [
    { name: "Name", ms: nameMs, from: name?.[0] ?? (nameMs === null ? null : 0),
      note: nameMs === null ? (one.reused ? "not needed: the connection was kept" : "not looked up, or known already") : "looked up" },
    { name: "Token", ms: token?.[1] ?? null, from: token?.[0] ?? null,
      note: one.token_age_s === null ? "none sent" : token === null ? `at hand, ${duration(one.token_age_s)} old` : "waited for" },
    { name: "Connection, TLS", ms: null, from: null,
      note: one.reused ? "kept from an earlier request" : reached ? "opened for this request" : "none" },
  ];
  const connection = found[2];
  if (sent !== null && connection !== undefined) {
    const waited = Math.max((name?.[0] ?? 0) + (name?.[1] ?? 0), (token?.[0] ?? 0) + (token?.[1] ?? 0));
    connection.ms = Math.max(0, sent - waited);
    connection.from = waited;
  }
  found.push({ name: "Upstream", ms: upstream, from: sent ?? (upstream === null ? null : Math.max(0, total - upstream)),
    note: upstream === null ? "no response" : "from the request’s head to the response’s" });
  const rest = Math.max(0, total - (sent ?? nameMs ?? 0) - (upstream ?? 0));
  found.push(sent === null
    ? { name: "Everything else", ms: rest, from: null, note: one.reused ? "reading, writing, content" : "connection, TLS, reading, writing, content" }
    : { name: "Content", ms: rest, from: total - rest, note: "the response until its last byte" });
  return found;
}

/**
 * @param {Step} step
 * @param {number} total
 * @returns {HTMLElement}
 */
function stepItem({ name, note, ms, from }, total) {
  const bar = element("span", "track");
  if (ms !== null && total > 0) {
    const mark = bar.appendChild(element("i"));
    const width = Math.min(100, (100 * ms) / total);
    mark.style.width = `${width.toFixed(1)}%`;
    mark.style.left = `${Math.min(100 - width, (100 * (from ?? 0)) / total).toFixed(1)}%`;
  }
  return element("li", "", element("span", "name", name), bar, element("span", "ms", ms === null ? "–" : milliseconds(ms)), element("span", "note", note));
}

/**
 * @param {ExchangeState} one
 * @returns {HTMLElement}
 */
function factsOf(one) {
  const list = element("dl", "facts");
  /** @param {string} name @param {string | null | undefined} text */
  const fact = (name, text) => {
    if (text) list.append(element("div", "", element("dt", "", name), element("dd", "", text)));
  };
  fact("Took", milliseconds(one.duration_ms));
  fact("Client", one.client_name === null ? one.client : `${one.client_name}, ${one.client}`);
  fact("Came as", one.mode);
  fact("Versions", versionsOf(one));
  fact("Route", one.route);
  fact("Identity", one.credential);
  fact("Signed in with", one.proof);
  fact("Content", `${bytes(one.received_bytes)} up, ${bytes(one.sent_bytes)} down`);
  fact("Sent", one.steps && one.steps.sends > 1 ? `${one.steps.sends} times` : null);
  return list;
}

/**
 * @param {ExchangeState} one
 * @returns {string | null}
 */
function versionsOf(one) {
  if (!one.http_version) return null;
  const client = `HTTP/${one.http_version} from the client`;
  return one.upstream_http_version ? `${client}, HTTP/${one.upstream_http_version} to the upstream` : client;
}

// By hand and by keyboard.

/** @param {boolean} wanted */
function setPaused(wanted) {
  paused = wanted;
  if (!paused) heldByStory = false;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Resume" : "Pause";
  if (!paused) showWaiting();
}

/** @param {HTMLButtonElement} button */
function rove(button) {
  for (const other of visibleButtons()) other.tabIndex = other === button ? 0 : -1;
}

byId("pause").addEventListener("click", () => setPaused(!paused));
byId("failures-only").addEventListener("change", filterRows);
byId("filter").addEventListener("input", filterRows);
byId("exchanges").addEventListener("keydown", (event) => {
  const buttons = visibleButtons();
  const at = buttons.findIndex((button) => button === document.activeElement);
  /** @type {Record<string, number>} */
  const moves = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 };
  const to = buttons[moves[event.key] ?? -1];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  rove(to);
  to.focus();
});
