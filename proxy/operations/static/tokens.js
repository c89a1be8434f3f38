// Tokens as timelines through their refresh. They move between two states of the proxy, so they are drawn every second.

import { byId, clock, duration, element, explainCommand, keep, limited } from "./dom.js";

const FEW = 6;
const EARLIER = 2;

/** @type {ProxyState | null} */
let state = null;
let received = 0;

const choose = limited("tokens-all", "tokens", () => showTokens());

/** @param {ProxyState} fresh */
export function receiveTokens(fresh) {
  state = fresh;
  received = performance.now();
  showSharing(fresh);
  showTokens();
}

/** @param {ProxyState} fresh */
function showSharing({ sharing }) {
  const place = byId("sharing");
  place.hidden = sharing === null;
  if (sharing === null) return;
  place.className = sharing.shared ? "hint" : "";
  place.textContent = sharing.shared
    ? "Shared with other replicas."
    : `Each replica is on its own since ${clock(sharing.alone_since_at ?? 0)}: the token cache ${sharing.reason}. No request fails for it.`;
}

/**
 * The worse, the smaller.
 * @param {TokenState} token
 * @returns {number}
 */
function rank(token) {
  if (!token.usable) return token.failures || token.without_s !== null ? 0 : 2;
  return token.failures ? 1 : 3;
}

/** Draws every token as it is at this moment. */
export function showTokens() {
  if (state === null) return;
  const sorted = [...state.tokens].sort((one, other) => rank(one) - rank(other));
  const few = choose(sorted, FEW, 3);
  const place = byId("tokens");
  const fixed = few.map(({ credential, target, proof, code, failures }) => ({ credential, target, proof, code, failures }));
  keep(place, fixed, (one) => `${one.credential} ${one.target}`, tokenCard);
  const now = state.at + (performance.now() - received) / 1000;
  few.forEach((token, index) => moveToken(/** @type {HTMLElement} */ (place.children[index]), token, now));
  if (few.length === 0 && !place.childElementCount) place.append(element("li", "empty", "No route asks for one."));
}

/**
 * @param {Pick<TokenState, "credential" | "target" | "proof" | "code" | "failures">} token
 * @returns {HTMLElement}
 */
function tokenCard({ credential, target, proof, code, failures }) {
  const lane = element("div", "lane");
  lane.setAttribute("role", "img");
  const made = element("li", "card token",
    element("div", "title", element("h3", "", credential), element("span", "pill")),
    element("p", "scope", target), lane, element("dl", "moments"));
  if (failures) {
    const failed = element("p", "failed", `${failures} failed request${failures === 1 ? "" : "s"} in a row`);
    if (code) failed.append(" · ", explainCommand(code));
    made.append(failed);
  }
  if (proof && !failures) made.append(element("p", "proof", `obtained with ${proof}`));
  return made;
}

/**
 * @param {TokenState} token
 * @param {number} now Unix seconds by the proxy's clock
 * @returns {{ className: string, words: string }}
 */
function verdict(token, now) {
  const life = token.lives.at(-1);
  if (token.age_s === null || life === undefined || life.replaced_at !== null) {
    return token.failures || token.without_s !== null
      ? { className: "bad", words: "no token" }
      : { className: "", words: "comes with the first request" };
  }
  if (now >= life.usable_until_at) return { className: "bad", words: "no longer usable" };
  if (token.failures) return { className: "warn", words: "cannot be renewed" };
  if (now >= life.refresh_at) return { className: "warn", words: "refresh due" };
  return { className: "ok", words: "fresh" };
}

/**
 * @param {HTMLElement} card
 * @param {TokenState} token
 * @param {number} now
 */
function moveToken(card, token, now) {
  const { className, words } = verdict(token, now);
  const pill = /** @type {HTMLElement} */ (card.querySelector(".pill"));
  pill.className = `pill ${className}`;
  if (pill.textContent !== words) pill.textContent = words;
  const moments = momentsOf(token, now);
  const list = /** @type {HTMLElement} */ (card.querySelector(".moments"));
  keep(list, moments, (one) => one.name, ({ name, text }) => element("div", "", element("dt", "", name), element("dd", "", text)));
  list.hidden = moments.length === 0;
  const lane = /** @type {HTMLElement} */ (card.querySelector(".lane"));
  drawLane(lane, token, now);
  lane.setAttribute("aria-label", [`Timeline: ${words}`, ...moments.map((one) => `${one.name} ${one.text}`)].join(", "));
}

/**
 * @param {TokenState} token
 * @param {number} now
 * @returns {{ name: string, text: string }[]}
 */
function momentsOf(token, now) {
  const life = token.lives.at(-1);
  const moments = [];
  const retry = token.retry_in_s - (now - (state?.at ?? now));
  if (life !== undefined && life.replaced_at === null) {
    moments.push({ name: "Obtained", text: `${clock(life.obtained_at)}, ${duration(now - life.obtained_at)} ago` });
    moments.push({ name: "Refresh", text: `${clock(life.refresh_at)}, ${ahead(life.refresh_at - now)}` });
    moments.push({ name: "Usable until", text: `${clock(life.usable_until_at)}, ${ahead(life.usable_until_at - now)}` });
  }
  if (token.without_s !== null) {
    const since = (state?.at ?? now) - token.without_s;
    moments.push({ name: "Without since", text: `${clock(since)}, ${duration(now - since)}` });
  }
  if (token.failures) moments.push({ name: "Next attempt", text: retry > 0 ? `in ${duration(retry + 1)}` : "with the next request" });
  return moments;
}

/**
 * @param {number} seconds
 * @returns {string}
 */
const ahead = (seconds) => (seconds > 0 ? `in ${duration(seconds)}` : `${duration(-seconds)} ago`);

/**
 * @param {HTMLElement} lane
 * @param {TokenState} token
 * @param {number} now
 */
function drawLane(lane, token, now) {
  const lives = token.lives.slice(-1 - EARLIER);
  const last = lives.at(-1);
  lane.hidden = last === undefined && token.outages.length === 0;
  if (lane.hidden) return;
  const life = last === undefined ? 300 : last.expires_at - last.obtained_at;
  // With a little room beyond now, where now is the end of what there is to draw.
  const end = Math.max(last?.expires_at ?? now, now + life * 0.04);
  const begin = Math.max(Math.min(lives[0]?.obtained_at ?? now, token.outages.at(-1)?.since_at ?? now), end - 4 * life);
  /** @type {{ className: string, from: number, to: number }[]} */
  const spans = [];
  for (const one of lives) {
    if (one.replaced_at !== null) spans.push({ className: "past", from: one.obtained_at, to: Math.min(one.replaced_at, one.usable_until_at) });
    else {
      spans.push({ className: "fresh", from: one.obtained_at, to: Math.min(one.refresh_at, one.usable_until_at) });
      spans.push({ className: "stale", from: Math.min(one.refresh_at, one.usable_until_at), to: one.usable_until_at });
    }
  }
  for (const one of token.outages) spans.push({ className: "gap", from: one.since_at, to: one.until_at ?? now });
  const share = (/** @type {number} */ at) => (100 * Math.min(Math.max(at - begin, 0), end - begin)) / (end - begin);
  const wanted = spans.map((one) => ({ ...one, from: share(one.from), to: share(one.to) })).filter((one) => one.to > one.from);
  wanted.push({ className: "now", from: share(now), to: share(now) });
  while (lane.childElementCount > wanted.length) lane.lastElementChild?.remove();
  wanted.forEach(({ className, from, to }, index) => {
    const span = /** @type {HTMLElement} */ (lane.children[index] ?? lane.appendChild(element("i")));
    span.className = className;
    span.style.left = `${from.toFixed(2)}%`;
    span.style.width = className === "now" ? "" : `${(to - from).toFixed(2)}%`;
  });
}
