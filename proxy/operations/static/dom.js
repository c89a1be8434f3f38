// Makes elements, and words out of figures. Everything that comes from elsewhere becomes text, never markup.

/** The links of the chain, and what they are called. */
export const CAUSES = {
  client: "client",
  proxy: "this proxy",
  identity: "identity platform",
  gateway: "gateway",
  api: "API",
};

/**
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no ${id}`);
  return found;
}

/**
 * @param {string} id
 * @returns {HTMLInputElement}
 */
export function inputById(id) {
  return /** @type {HTMLInputElement} */ (byId(id));
}

/**
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {string} [className]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[Name]}
 */
export function element(name, className = "", ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 * @returns {SVGElement}
 */
export function shape(name, attributes) {
  const made = /** @type {SVGElement} */ (document.createElementNS("http://www.w3.org/2000/svg", name));
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}

/**
 * An item with a swatch of a colour before its text.
 * @param {string} colour the name of a custom property of the style sheet
 * @param {string} text
 * @returns {HTMLLIElement}
 */
export function swatched(colour, text) {
  const made = element("li", "", text);
  made.style.setProperty("--swatch", `var(--${colour})`);
  return made;
}

/**
 * What to do, with the commands in it, which stand in backquotes.
 * @param {string} text
 * @param {string} [className]
 * @param {...(Node | string)} before
 * @returns {HTMLParagraphElement}
 */
export function advice(text, className = "", ...before) {
  const parts = text.split("`").map((part, index) => (index % 2 ? element("code", "", part) : part));
  return element("p", className, ...before, ...parts);
}

/**
 * @param {string} code
 * @returns {HTMLElement}
 */
export const explainCommand = (code) => element("code", "", `apim-auth-proxy explain ${code}`);

/**
 * @param {Cause} cause
 * @returns {HTMLElement}
 */
export function causeChip(cause) {
  const made = element("span", "chip", CAUSES[cause]);
  made.style.setProperty("--swatch", `var(--by-${cause})`);
  return made;
}

/**
 * @param {number} seconds
 * @returns {string}
 */
export function duration(seconds) {
  const s = Math.max(0, seconds);
  if (s < 90) return `${Math.floor(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}

/**
 * @param {number | null | undefined} ms
 * @returns {string}
 */
export function milliseconds(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

/**
 * @param {number} count
 * @returns {string}
 */
export function bytes(count) {
  if (count < 1000) return `${count} B`;
  const power = Math.min(Math.floor(Math.log10(count) / 3), 4);
  return `${(count / 1000 ** power).toFixed(1)} ${["", "kB", "MB", "GB", "TB"][power]}`;
}

/**
 * @param {number} value
 * @returns {string}
 */
export const number = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });

/**
 * @param {number} count
 * @param {string} one
 * @returns {string}
 */
export const plural = (count, one) => `${number(count)} ${one}${count === 1 ? "" : "s"}`;

/**
 * The time of day; with the date where it is not today's.
 * @param {number} at Unix seconds
 * @returns {string}
 */
export function clock(at) {
  const date = new Date(at * 1000);
  const time = date.toLocaleTimeString("en-GB");
  return date.toDateString() === new Date().toDateString() ? time : `${day(at)} ${time}`;
}

/**
 * @param {number} at Unix seconds
 * @returns {string}
 */
export const day = (at) => new Date(at * 1000).toISOString().slice(0, 10);

/**
 * @param {number | null} status
 * @returns {string}
 */
export function statusClass(status) {
  if (!status) return "aborted";
  return status >= 100 && status < 600 ? `s${Math.floor(status / 100)}xx` : "other";
}

const NARROW = matchMedia("(max-width: 44rem)");

/** @type {WeakMap<Element, Map<string, { json: string, node: HTMLElement }>>} */
const shown = new WeakMap();

/**
 * Shows items under keys: makes anew only what has changed, and keeps what is open and where the focus is.
 * @template Item
 * @param {HTMLElement} place
 * @param {readonly Item[]} items
 * @param {(item: Item) => string} keyOf
 * @param {(item: Item) => HTMLElement} make
 */
export function keep(place, items, keyOf, make) {
  const before = shown.get(place) ?? new Map();
  const after = new Map();
  const focused = document.activeElement instanceof HTMLElement ? document.activeElement : null;
  /** @type {HTMLElement | null} */
  let wanted = null;
  for (const item of items) {
    const key = keyOf(item);
    const json = JSON.stringify(item);
    const old = before.get(key);
    let node = old?.node;
    if (node === undefined || old?.json !== json) {
      const made = make(item);
      if (node !== undefined) {
        takeOver(node, made);
        if (focused !== null && node.contains(focused)) wanted = counterpart(node, made, focused);
      }
      node = made;
    } else if (focused !== null && node.contains(focused)) wanted = focused;
    after.set(key, { json, node });
  }
  shown.set(place, after);
  const nodes = [...after.values()].map((one) => one.node);
  nodes.forEach((node, index) => {
    if (place.children[index] !== node) place.insertBefore(node, place.children[index] ?? null);
  });
  while (place.children.length > nodes.length) place.lastElementChild?.remove();
  if (wanted !== null && document.activeElement !== wanted) wanted.focus({ preventScroll: true });
}

const FOCUSABLE = "summary, button, a[href], input, select";

/**
 * @param {HTMLElement} old
 * @param {HTMLElement} made
 */
function takeOver(old, made) {
  const opened = [...old.querySelectorAll("details")].map((one) => one.open);
  made.querySelectorAll("details").forEach((one, index) => {
    one.open = opened[index] ?? false;
  });
}

/**
 * @param {HTMLElement} old
 * @param {HTMLElement} made
 * @param {HTMLElement} focused
 * @returns {HTMLElement | null}
 */
function counterpart(old, made, focused) {
  const index = [...old.querySelectorAll(FOCUSABLE)].indexOf(focused);
  return index < 0 ? null : /** @type {HTMLElement | null} */ (made.querySelectorAll(FOCUSABLE)[index] ?? null);
}

/**
 * A list that shows its first items, and all of them once somebody asks.
 * @param {string} id of the button
 * @param {string} what its items are, in the plural
 * @param {() => void} again shows the list
 * @returns {<Item>(items: readonly Item[], few: number, onPhone: number) => readonly Item[]} what is to be shown of the items
 */
export function limited(id, what, again) {
  const button = byId(id);
  let all = false;
  NARROW.addEventListener("change", again);
  button.addEventListener("click", () => {
    all = !all;
    again();
  });
  return (items, usual, onPhone) => {
    const few = NARROW.matches ? onPhone : usual;
    button.hidden = items.length <= few;
    button.setAttribute("aria-expanded", String(all));
    const words = all ? `Show fewer ${what}` : `Show all ${items.length} ${what}`;
    if (button.textContent !== words) button.textContent = words;
    return all ? items : items.slice(0, few);
  };
}

/**
 * A row of a table whose roles are spelt out, because on a phone it is laid out as something else.
 * @param {HTMLElement} content of the row's own header
 * @param {...[label: string, content: Node | string, className: string]} cells
 * @returns {HTMLTableRowElement}
 */
export function tableRow(content, ...cells) {
  const head = element("th", "", content);
  head.scope = "row";
  head.setAttribute("role", "rowheader");
  const made = element("tr", "", head);
  made.setAttribute("role", "row");
  for (const [label, inside, className] of cells) {
    const cell = made.appendChild(element("td", className, inside));
    cell.setAttribute("role", "cell");
    cell.dataset["label"] = label;
  }
  return made;
}

/**
 * @param {string} id
 * @param {string} text empty: nothing to say
 */
export function sayNone(id, text) {
  const place = byId(id);
  place.hidden = text === "";
  if (place.textContent !== text) place.textContent = text;
}
