// Who uses which identity, how long certificates live, and the proxy's own errors since the start.

import { advice, byId, causeChip, clock, day, element, explainCommand, keep, limited, number, sayNone, statusClass, tableRow } from "./dom.js";

const FEW = 8;
const YEAR_DAYS = 365;

/** @type {readonly ClientState[]} */
let clients = [];

const choose = limited("clients-all", "clients", () => showClients());

/** @param {ProxyState} state */
export function receiveClients(state) {
  clients = state.clients;
  byId("clients-note").hidden = clients.some((one) => one.configured);
  showClients();
}

function showClients() {
  const sorted = [...clients].sort((one, other) => Number(other.configured) - Number(one.configured) || other.count - one.count);
  keep(byId("clients"), choose(sorted, FEW, 4), (one) => `${one.configured} ${one.name}`, clientRow);
  sayNone("clients-none", clients.length ? "" : "Nobody has come yet.");
}

/**
 * @param {ClientState} client
 * @returns {HTMLElement}
 */
function clientRow({ name, configured, known_by: signs, may_use: may, address, count, failed, at, identities, routes }) {
  const head = element("div", "", element("span", "name", name === "unix" ? "a Unix socket" : name));
  const about = [];
  if (configured) {
    if (signs.length) about.push(`known by ${signs.join(", ")}`);
    about.push(may.length ? `may use ${may.join(", ")}` : "may use every route");
    if (address !== null && address !== name) about.push(`last from ${address}`);
  } else {
    about.push("not a configured client");
    const used = Object.keys(routes);
    if (used.length) about.push(`used ${used.slice(0, 3).join(", ")}${used.length > 3 ? ` and ${used.length - 3} more` : ""}`);
  }
  head.append(element("span", "scope", about.join(" · ")));
  const shares = Object.entries(identities).sort(([, one], [, other]) => other - one);
  return tableRow(head,
    ["Identity", shares.map(([credential]) => credential).join(", ") || "none yet", "identities"],
    ["Requests", number(count), "figure"],
    ["Errors", number(failed), "figure"],
    ["Last", at === null ? "–" : clock(at), "figure"]);
}

// Certificates.

/** @param {ProxyState} state */
export function showCertificates({ certificates }) {
  /** @type {Map<string, CertificateState & { names: string[] }>} */
  const groups = new Map();
  for (const one of certificates) {
    // One certificate may prove several credentials.
    const key = one.kind === "credential" ? `${one.proof} ${one.not_after_at}` : `${one.kind} ${one.name} ${one.proof}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, { ...one, days_left: Math.floor(one.days_left), names: [one.name] });
    else group.names.push(one.name);
  }
  const sorted = [...groups.values()].sort((one, other) => one.not_after_at - other.not_after_at);
  keep(byId("certificates"), sorted, (one) => `${one.kind} ${one.names.join()} ${one.proof}`, certificateItem);
  if (!sorted.length && !byId("certificates").childElementCount) byId("certificates").append(element("li", "empty", "Nothing is known of certificates."));
}

/**
 * @param {CertificateState & { names: string[] }} certificate
 * @returns {HTMLElement}
 */
function certificateItem({ kind, names, proof, not_before_at: begins, not_after_at: ends, days_left: days }) {
  /** @type {Record<string, string>} */
  const titles = { interception_ca: "Interception CA", client_certificate: `${names}, client certificate`, listener: `Listener ${names}` };
  const words = days < 0 ? "has ended" : `${days} day${days === 1 ? "" : "s"} left`;
  const className = days < 7 ? "bad" : days < 30 ? "warn" : "ok";
  const life = begins === null ? Math.max(days, YEAR_DAYS) : (ends - begins) / 86400;
  const bar = element("div", `life ${className}`, element("i"));
  /** @type {HTMLElement} */ (bar.firstElementChild).style.width = `${Math.max(0, Math.min(100, (100 * days) / life)).toFixed(1)}%`;
  const shown = names.length > 3 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", ");
  const made = element("li", "", element("div", "who", element("h3", "", titles[kind] ?? shown)), bar,
    element("p", "when", element("span", `pill ${className}`, words), ` until ${day(ends)}`));
  if (proof) made.firstElementChild?.append(element("p", "proof", proof));
  return made;
}

// Errors.

/** @param {ProxyState} state */
export function showErrors({ errors }) {
  keep(byId("errors"), errors, (one) => `${one.status} ${one.error} ${one.code}`, errorItem);
  if (!errors.length && !byId("errors").childElementCount) byId("errors").append(element("p", "empty", "None since the start."));
}

/**
 * @param {ErrorState} error
 * @returns {HTMLElement}
 */
function errorItem({ at, count, status, error, code, by, client, method, what, title, cause, fix }) {
  const request = [method, what].filter(Boolean).join(" ") || "an unreadable request";
  const often = count > 1 ? `${count.toLocaleString("en")} times since the start, last at` : "at";
  const more = element("details", "error", element("summary", "",
    element("strong", statusClass(status), status ? String(status) : "TLS"), ` ${title} `,
    element("span", "where", `${often} ${clock(at)}`)));
  if (by !== null) more.append(element("p", "about", causeChip(by), explainCommand(code || error)));
  more.append(element("p", "where", `${request} · from ${client} · ${[error, code].filter(Boolean).join(" ")}`));
  if (cause !== null) more.append(advice(cause));
  if (fix !== null) more.append(advice(fix, "fix", element("b", "", "Next: ")));
  return more;
}
