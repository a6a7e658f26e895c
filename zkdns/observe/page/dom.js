// Making elements, words for numbers, and asking the API.
//
// Names of services, statuses and znodes are others' input. All of it becomes text nodes and attributes here;
// nothing is ever parsed as markup.

const byId = (id) => document.getElementById(id);

/** An element with these attributes (false: left out) and children, which are elements or text. */
function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same of SVG's. */
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

/** Set a text; one that stays the same is not read aloud again. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Show a sentence; none: hide its place. */
function setProblem(node, sentence) {
  setText(node, sentence);
  node.hidden = !sentence;
}

const shown = new Map();

/** Whether what is shown somewhere is another thing now; what stays may be read and marked in peace. */
function isNews(place, value) {
  const text = JSON.stringify(value);
  if (shown.get(place) === text) return false;
  shown.set(place, text);
  return true;
}

// -- words for numbers ---------------------------------------------------------------------------------------

const NONE = "–"; // what is not known
const numbers = new Intl.NumberFormat("en");

const count = (number) => numbers.format(number);

function perSecond(value) {
  if (value === null) return NONE;
  return value >= 100 ? count(Math.round(value)) : value.toLocaleString("en", { maximumSignificantDigits: 2 });
}

/** Seconds in the unit that suits them, for what takes little time. */
function latency(seconds) {
  if (seconds === null) return NONE;
  const [factor, unit] = seconds < 1e-3 ? [1e6, "µs"] : seconds < 1 ? [1e3, "ms"] : [1, "s"];
  const value = seconds * factor;
  return `${value >= 10 ? Math.round(value) : Number(value.toPrecision(2))} ${unit}`;
}

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

/** Seconds in their two greatest units, of which the first counts alone from ten on. */
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

/** A Unix time by the reader's clock on the wall; with its day where that is not today. */
function clock(unix, options = { timeStyle: "medium" }) {
  const date = new Date(unix * 1000);
  const time = date.toLocaleTimeString("en-GB", options);
  if (date.toDateString() === new Date(now() * 1000).toDateString()) return time;
  return `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}`;
}

// -- the server ----------------------------------------------------------------------------------------------

let ahead = 0; // seconds that the server's clock is ahead of the reader's

/** Unix time by the server's clock, which all that it tells of goes by. */
const now = () => Date.now() / 1000 + ahead;

const ASK_MILLISECONDS = 10_000;

/** What the API answers; fails with a sentence for the reader. `also` are statuses whose answers are of use. */
async function ask(path, also = []) {
  let response;
  let answer;
  try {
    response = await fetch(path, { signal: AbortSignal.timeout(ASK_MILLISECONDS) });
    answer = await response.json();
  } catch {
    throw new Error("the server does not answer");
  }
  if (!response.ok && !also.includes(response.status)) throw new Error(answer.error ?? "the server cannot tell");
  return answer;
}

/** A function that does work soon, once for all calls meanwhile, and never again before the last time is over. */
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
    // What takes long is done less often.
    const pause = Math.max(milliseconds, 5 * (performance.now() - begun));
    setTimeout(() => {
      const again = state === "again";
      state = "idle";
      if (again) soon();
    }, pause);
  };
}
