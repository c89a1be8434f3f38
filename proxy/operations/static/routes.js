// The routes: how much, how fast, and what fails by whose fault. Readable with fifty of them.

import { replaceLegend } from "./charts.js";
import { byId, CAUSES, element, inputById, keep, limited, milliseconds, number, sayNone, tableRow } from "./dom.js";

const FEW = 10;
const NO_ROUTE = "no route";

/** @type {readonly RouteState[]} */
let routes = [];

const choose = limited("routes-all", "routes", () => showRoutes());

/** @param {ProxyState} state */
export function receiveRoutes(state) {
  routes = state.routes;
  byId("routes-controls").hidden = routes.length < 4;
  showRoutes();
}

/** @param {RouteState} route */
const titleOf = (route) => route.hosts[0] ?? (route.name === "-" ? NO_ROUTE : route.name);

/** @param {RouteState} route */
const failed = (route) => Object.values(route.recent.failures).reduce((sum, count) => sum + count, 0);

/** @type {Record<string, (one: RouteState, other: RouteState) => number>} */
const ORDERS = {
  trouble: (one, other) => failed(other) - failed(one) || other.recent.count - one.recent.count,
  busy: (one, other) => other.recent.count - one.recent.count,
  slow: (one, other) => (other.recent.p95_ms ?? -1) - (one.recent.p95_ms ?? -1),
  name: (one, other) => titleOf(one).localeCompare(titleOf(other)),
};

function showRoutes() {
  const wanted = inputById("routes-filter").value.trim().toLowerCase();
  const found = routes.filter((route) => !wanted
    || [...route.hosts, route.name, route.credential ?? "", route.target ?? ""].join(" ").toLowerCase().includes(wanted));
  found.sort(ORDERS[inputById("routes-sort").value] ?? ORDERS["name"]);
  keep(byId("routes"), choose(found, FEW, 6), (route) => `${route.name} ${route.target}`, routeRow);
  sayNone("routes-none", found.length ? "" : routes.length ? "No route has that in it." : "There are no routes.");
  const causes = Object.entries(CAUSES).filter(([cause]) => routes.some((route) => route.recent.failures[/** @type {Cause} */ (cause)]));
  replaceLegend("cause-legend", causes.map(([cause, name]) => [`by-${cause}`, name]));
}

/**
 * @param {RouteState} route
 * @returns {HTMLElement}
 */
function routeRow(route) {
  const { credential, target, hosts, recent, counts } = route;
  const summary = element("summary", "", element("span", "name", titleOf(route)));
  if (credential !== null) summary.append(element("span", "scope", `${credential} · ${target}`));
  const more = element("details", "", summary);
  const list = element("dl", "facts");
  /** @param {string} name @param {string} text */
  const fact = (name, text) => list.append(element("div", name === "Hosts" ? "whole" : "", element("dt", "", name), element("dd", "", text)));
  if (hosts.length > 1) fact("Hosts", hosts.join(", "));
  fact("Gateway and API alone, median", milliseconds(recent.upstream_p50_ms));
  const statuses = Object.entries(recent.statuses).map(([status, count]) => `${status} ${count}×`);
  if (statuses.length) fact("Error statuses passed on", statuses.join(", "));
  const since = Object.entries(counts).map(([name, count]) => `${name} ${count.toLocaleString("en")}`);
  fact("Since the start", since.join(", ") || "no request yet");
  more.append(list);
  return tableRow(more,
    ["Requests", number(recent.count), "figure"],
    ["Median", milliseconds(recent.p50_ms), "figure"],
    ["Slowest 5 %", milliseconds(recent.p95_ms), "figure"],
    ["Errors", causeList(recent), "causes"]);
}

/**
 * @param {ActivityState} recent
 * @returns {HTMLElement | string}
 */
function causeList({ failures, count }) {
  const all = Object.values(failures).reduce((sum, one) => sum + one, 0);
  if (all === 0) return count ? element("span", "none", "none") : "–";
  const list = element("ul", "counts");
  list.setAttribute("role", "list");
  for (const [cause, name] of Object.entries(CAUSES)) {
    const number_ = failures[/** @type {Cause} */ (cause)];
    if (!number_) continue;
    const item = element("li", "", `${name} ${number(number_)}`);
    item.style.setProperty("--swatch", `var(--by-${cause})`);
    list.append(item);
  }
  return list;
}

byId("routes-filter").addEventListener("input", showRoutes);
byId("routes-sort").addEventListener("change", showRoutes);
