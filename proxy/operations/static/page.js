// Shows what /api/events says. Each part of the page has a module of its own.

import { showFigures } from "./charts.js";
import { byId, duration } from "./dom.js";
import { beginAgain, receiveExchanges } from "./exchanges.js";
import { receiveClients, showCertificates, showErrors } from "./people.js";
import { showProblems } from "./problems.js";
import { receiveRoutes } from "./routes.js";
import { receiveTokens, showTokens } from "./tokens.js";

/** @param {ProxyState} state */
function show(state) {
  const workers = state.workers === 1 ? "" : ` · ${state.workers} workers`;
  byId("about").textContent = `${state.version} · watched for ${duration(state.at - state.started_at)}${workers}`;
  const ready = byId("ready");
  const verdict = state.ready ? "ready" : "not ready";
  if (ready.textContent !== verdict) ready.textContent = verdict;
  ready.className = `pill ${state.ready ? (state.missing.length ? "warn" : "ok") : "bad"}`;
  showProblems(state);
  showFigures(state);
  receiveTokens(state);
  receiveRoutes(state);
  receiveClients(state);
  showCertificates(state);
  showErrors(state);
}

// The browser makes the connection anew by itself; the server then begins with what it remembers.
const events = new EventSource("api/events");
events.addEventListener("open", () => {
  byId("lost").hidden = true;
  beginAgain();
});
events.addEventListener("error", () => {
  byId("lost").hidden = false;
});
events.addEventListener("state", (event) => show(JSON.parse(event.data)));
events.addEventListener("exchanges", (event) => receiveExchanges(JSON.parse(event.data)));
setInterval(showTokens, 1000);
