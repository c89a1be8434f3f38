// What is wrong, first of all: a sentence, the next step, and the code that `explain` knows.

import { advice, byId, causeChip, clock, duration, element, explainCommand, keep, number, plural } from "./dom.js";

const SEVERITIES = { bad: "Requests fail", warn: "Attention", note: "Note" };

// Of what does not make requests fail: so many are told in full, the others in a line to be opened.
const WHOLE = 2;

let announced = "";

/** @param {ProxyState} state */
export function showProblems(state) {
  const { problems } = state;
  const worst = problems[0];
  const verdict = byId("verdict");
  verdict.className = worst ? worst.severity : "ok";
  const words = problems.length === 0 ? allIsWell(state) : headline(problems);
  const title = byId("verdict-title");
  if (title.textContent !== words) title.textContent = words;
  const items = problems.map((one, index) => ({ ...one, brief: index >= WHOLE && one.severity !== "bad" }));
  keep(byId("problems"), items, (one) => one.key, problemItem);
  const news = worst ? `${problems.length} ${worst.key}` : words;
  if (news === announced) return;
  // Only what is new is read out: not every figure that changes in a sentence.
  if (announced || worst) byId("announcement").textContent = worst ? `${words}: ${worst.what}` : words;
  announced = news;
}

/**
 * @param {readonly ProblemState[]} problems
 * @returns {string}
 */
function headline(problems) {
  const failing = problems.filter((one) => one.severity === "bad").length;
  const others = problems.length - failing;
  if (failing === 0) return problems.some((one) => one.severity === "warn") ? `${plural(others, "thing")} to look at` : plural(others, "note");
  const wrong = failing === 1 ? "1 thing is wrong" : `${number(failing)} things are wrong`;
  return others ? `${wrong}, ${number(others)} more to look at` : wrong;
}

/**
 * @param {ProxyState} state
 * @returns {string}
 */
function allIsWell({ ready, tokens, routes }) {
  if (!ready) return "Not ready yet";
  const waiting = tokens.filter((one) => !one.usable).length;
  const served = routes.reduce((sum, route) => sum + route.recent.count, 0);
  const had = tokens.length === 0 ? "" : waiting ? ` ${plural(waiting, "token")} will come with the first request.` : " Every token is good.";
  return `Nothing is wrong.${had}${served ? "" : " No request in the last five minutes."}`;
}

/**
 * @param {ProblemState & { brief: boolean }} problem
 * @returns {HTMLElement}
 */
function problemItem({ severity, what, step, detail, code, by, since_at: since, until_at: until, brief }) {
  const sentence = [element("span", `pill ${severity}`, SEVERITIES[severity]), " ", element("strong", "", what)];
  const about = element("p", "about");
  if (by !== null) about.append(causeChip(by));
  if (since !== null) about.append(element("span", "", `${severity === "bad" ? "since" : "last at"} ${clock(since)}`));
  if (until !== null) about.append(element("span", "", `until ${untilWords(until)}`));
  if (code) about.append(explainCommand(code));
  const rest = [advice(step, "step", element("b", "", "Next: "))];
  if (about.childElementCount) rest.push(about);
  if (brief) {
    if (detail) rest.push(advice(detail));
    return element("li", `problem ${severity}`, element("details", "brief", element("summary", "what", ...sentence), ...rest));
  }
  const made = element("li", `problem ${severity}`, element("p", "what", ...sentence), ...rest);
  if (detail) made.append(element("details", "", element("summary", "", "More about it"), advice(detail)));
  return made;
}

/**
 * @param {number} at Unix seconds
 * @returns {string}
 */
function untilWords(at) {
  const left = at - Date.now() / 1000;
  return left > 172800 ? `${new Date(at * 1000).toISOString().slice(0, 10)}, ${duration(left)} from now` : clock(at);
}
