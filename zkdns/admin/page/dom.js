// Helpers for elements, number formats, and API requests.
//
// Names of services, statuses and znodes are untrusted input. They become text nodes and attributes; nothing is
// parsed as markup. Invisible characters and those that reorder the text around them are escaped.

const MAX_TEXT = 1_000; // characters of a text; longer ones are cut
// Control, format (such as bidirectional controls), private and unassigned characters, line and paragraph
// separators, and spaces except the usual one: as in zkdns/escape.py.
const INVISIBLE = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu;

/** Escape the characters of a text that are invisible, and cut it if it is very long. */
function visible(text) {
  const cut = text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}…` : text;
  return cut.replace(INVISIBLE, (char) => `\\u${char.codePointAt(0).toString(16).padStart(4, "0")}`);
}

const byId = (id) => document.getElementById(id);

/** Make an element with attributes (false omits one) and children, which are elements or text. */
function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function drawn(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null) continue;
    node.setAttribute(name, value === true ? "" : name === "title" ? visible(value) : value);
  }
  node.append(...children.map((child) => (typeof child === "string" ? visible(child) : child)));
  return node;
}

/** A text whose direction of writing does not affect the text around it. */
const apart = (text) => element("bdi", {}, text);

/** Texts with a separator between them, without the empty ones. */
const joined = (texts, separator = " · ") =>
  texts.filter(Boolean).flatMap((text, index) => (index ? [separator, apart(text)] : [apart(text)]));

/** Set a text if it differs, so that screen readers do not repeat it. */
function setText(node, text) {
  const shownText = visible(text);
  if (node.textContent !== shownText) node.textContent = shownText;
}

/** Set an attribute if it differs; null removes it. */
function setAttribute(node, name, value) {
  if (node.getAttribute(name) === value) return;
  if (value === null) node.removeAttribute(name);
  else node.setAttribute(name, value);
}

/** Make these nodes the children of a node. Those that are in place are not touched, so that focus is kept. */
function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  let at = parent.firstElementChild;
  for (const node of nodes) {
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
  }
  if (focused && document.activeElement !== focused) focused.focus({ preventScroll: true });
}

/** Replace all children. The link or button with the same text as the focused one is focused again. */
function redraw(parent, parts) {
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  parent.replaceChildren(...parts);
  if (!focused) return;
  const same = [...parent.querySelectorAll(focused.tagName)].find((one) => one.textContent === focused.textContent);
  (same ?? parent.closest("[tabindex]"))?.focus({ preventScroll: true });
}

/** Show a sentence, or hide the element if it is empty. */
function setProblem(node, sentence) {
  setText(node, sentence);
  node.hidden = !sentence;
}

const shown = new Map();

/** True if the value for a place differs from the last one. Unchanged parts are not redrawn. */
function isNews(place, value) {
  const text = JSON.stringify(value);
  if (shown.get(place) === text) return false;
  shown.set(place, text);
  return true;
}

// -- number formats ------------------------------------------------------------------------------------------

const NONE = "–"; // unknown
const numbers = new Intl.NumberFormat("en");

const count = (number) => numbers.format(number);

function perSecond(value) {
  if (value === null) return NONE;
  return value >= 100 ? count(Math.round(value)) : value.toLocaleString("en", { maximumSignificantDigits: 2 });
}

/** Format a short time in a suitable unit. */
function latency(seconds) {
  if (seconds === null) return NONE;
  const [factor, unit] = seconds < 1e-3 ? [1e6, "µs"] : seconds < 1 ? [1e3, "ms"] : [1, "s"];
  const value = seconds * factor;
  return `${value >= 10 ? Math.round(value) : Number(value.toPrecision(2))} ${unit}`;
}

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

/** Format a duration in its two largest units, or one if that is ten or more. */
function duration(seconds) {
  let rest = Math.max(0, Math.round(seconds));
  const first = UNITS.findIndex(([size]) => rest >= size);
  if (first < 0) return "0 s";
  const parts = [];
  for (const [size, unit] of UNITS.slice(first, first + 2)) {
    const whole = Math.floor(rest / size);
    if (whole) parts.push(`${whole} ${unit}`);
    rest -= whole * size;
    if (whole >= 10) break;
  }
  return parts.join(" ");
}

/** Format a Unix time in the browser's time zone, with the day unless it is today. */
function clock(unix, options = { timeStyle: "medium" }) {
  const date = new Date(unix * 1000);
  const time = date.toLocaleTimeString("en-GB", options);
  if (date.toDateString() === new Date(now() * 1000).toDateString()) return time;
  return `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}`;
}

// -- the server ----------------------------------------------------------------------------------------------

let ahead = 0; // seconds by which the server's clock is ahead of the browser's

/** Unix time by the server's clock. */
const now = () => Date.now() / 1000 + ahead;

const ASK_MILLISECONDS = 10_000;

/** Request the API. Throws a sentence for the user. `also` lists further statuses to accept. */
async function ask(path, also = []) {
  return (await request(path, also)).answer;
}

/**
 * The same, with the entity tag of the answer. The answer is null if the server has the one with the tag `known`.
 */
async function request(path, also = [], known = null) {
  let response;
  let answer;
  try {
    const headers = known ? { "If-None-Match": known } : {};
    response = await fetch(path, { headers, signal: AbortSignal.timeout(ASK_MILLISECONDS) });
    if (response.status === 304) return { answer: null, tag: known };
    answer = await response.json();
  } catch {
    throw new Error("the server does not respond");
  }
  if (!response.ok && !also.includes(response.status)) throw new Error(answer.error ?? "the request failed");
  return { answer, tag: response.headers.get("ETag") };
}

/** Return a throttled function: calls during a run are combined into one more run after a pause. */
function gathered(work, milliseconds) {
  let state = "idle";
  return async function soon() {
    if (state !== "idle") {
      state = "again";
      return;
    }
    state = "busy";
    const begun = performance.now();
    await work();
    // Slow work runs less often.
    const pause = Math.max(milliseconds, 5 * (performance.now() - begun));
    setTimeout(() => {
      const again = state === "again";
      state = "idle";
      if (again) soon();
    }, pause);
  };
}
