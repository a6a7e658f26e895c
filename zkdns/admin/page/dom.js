// Helpers for elements, number formats, and API requests.
//
// Names of services, statuses and znodes are untrusted input. They become text nodes and attributes; nothing is
// parsed as markup.

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
    if (value !== false && value !== null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** Set a text if it differs, so that screen readers do not repeat it. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
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
  let response;
  let answer;
  try {
    response = await fetch(path, { signal: AbortSignal.timeout(ASK_MILLISECONDS) });
    answer = await response.json();
  } catch {
    throw new Error("the server does not respond");
  }
  if (!response.ok && !also.includes(response.status)) throw new Error(answer.error ?? "the request failed");
  return answer;
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
