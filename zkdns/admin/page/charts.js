// Charts of the last hour: lines or stacked areas over time, with gaps for unknown values.

const MARGIN = { left: 46, right: 6, top: 8, bottom: 20 };
const TICK_MINUTES = 15;

const charts = [];

/** A chart in a figure element. Pointing at one chart shows the values of that moment in all charts. */
class Chart {
  /**
   * @param figure the element to draw in
   * @param title its title
   * @param lines for each line: the name of its series, its label, and the number of its colour. `dashed`: how it is
   *   drawn; `joins`: its value stands beside that of the line before it in the legend
   * @param options format: formats a value; stacked: draw stacked areas; logarithmic: scale of the vertical axis
   */
  constructor(figure, title, lines, { format, stacked = false, logarithmic = false }) {
    Object.assign(this, { title, lines, format, stacked, logarithmic });
    this.hour = null;
    this.at = element("span", { class: "at" });
    this.values = new Map(lines.map(({ name }) => [name, element("b", { class: "number" })]));
    this.svg = drawn("svg", { role: "img", tabindex: 0 });
    const legend = [];
    for (const { name, word, colour, joins } of lines) {
      const value = [`${joins ? ", " : ""}${word} `, this.values.get(name)];
      if (joins) legend[legend.length - 1].append(...value);
      else legend.push(element("li", {}, element("i", { class: `colour-${colour}` }), ...value));
    }
    figure.append(
      element("figcaption", { class: "head" }, element("h2", {}, title), this.at),
      this.svg,
      element("ul", { class: "legend" }, ...legend),
    );
    this.listen();
  }

  listen() {
    const point = (event) => pointAt(this.indexAt(event.offsetX));
    this.svg.addEventListener("pointermove", point);
    this.svg.addEventListener("pointerdown", point);
    this.svg.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") pointAt(null); // lifting a finger fires this event too
    });
    this.svg.addEventListener("blur", () => pointAt(null));
    this.svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step || !this.hour) return;
      event.preventDefault();
      pointAt(Math.min(Math.max((pointed ?? this.length - 1) + step, 0), this.length - 1));
    });
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  get length() {
    return this.hour.series[this.lines[0].name].length;
  }

  show(hour) {
    this.hour = hour;
    this.draw();
  }

  // -- drawing -----------------------------------------------------------------------------------------------

  draw() {
    const { width, height } = this.svg.getBoundingClientRect();
    if (!this.hour || !width) return;
    this.area = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: height - MARGIN.bottom };
    const rows = this.stacked ? stack(this.rows()) : this.rows().map((values) => ({ values, below: null }));
    const ticks = this.logarithmic ? decades(rows) : rounds(rows);
    this.scale = { low: ticks[0], high: ticks[ticks.length - 1] };
    this.cursor = drawn("path", { class: "cursor" });
    this.svg.replaceChildren(
      ...ticks.flatMap((value) => this.valueTick(value)),
      ...this.timeTicks(),
      ...rows.flatMap((row, index) => this.line(row, this.lines[index])).reverse(),
      this.cursor,
    );
    this.showValues();
  }

  rows() {
    return this.lines.map(({ name }) => this.hour.series[name]);
  }

  x(index) {
    const { left, right } = this.area;
    return left + ((right - left) * index) / (this.length - 1);
  }

  indexAt(x) {
    if (!this.hour) return null;
    const { left, right } = this.area;
    const share = Math.min(Math.max((x - left) / (right - left), 0), 1);
    return Math.round(share * (this.length - 1));
  }

  y(value) {
    const { top, bottom } = this.area;
    const { low, high } = this.scale;
    const share = this.logarithmic
      ? Math.log(Math.max(value, low) / low) / Math.log(high / low)
      : (value - low) / (high - low);
    return bottom - (bottom - top) * Math.min(share, 1);
  }

  valueTick(value) {
    const y = this.y(value);
    return [
      drawn("path", { class: "grid", d: `M${this.area.left} ${y}H${this.area.right}` }),
      drawn("text", { class: "tick", x: this.area.left - 6, y: y + 4, "text-anchor": "end" }, this.format(value)),
    ];
  }

  timeTicks() {
    const { until, step } = this.hour;
    const every = TICK_MINUTES * 60;
    const ticks = [];
    for (let at = Math.floor(until / every) * every; at > until - step * (this.length - 1); at -= every) {
      const x = this.x(this.length - 1 - (until - at) / step);
      // Skip labels that would be cut off at an end.
      if (x < this.area.left + 16 || x > this.area.right - 16) continue;
      const text = clock(at, { hour: "2-digit", minute: "2-digit" }).slice(-5);
      ticks.push(drawn("text", { class: "tick", x, y: this.area.bottom + 15, "text-anchor": "middle" }, text));
    }
    return ticks;
  }

  /** Draw the known runs of a line, and the areas below them. */
  line({ values, below }, { colour, dashed }) {
    const line = [];
    const areas = [];
    for (const [first, last] of known(values)) {
      const upper = [];
      const lower = [];
      for (let index = first; index <= last; index += 1) {
        upper.push(`${this.x(index).toFixed(1)} ${this.y(values[index]).toFixed(1)}`);
        lower.push(`${this.x(index).toFixed(1)} ${this.y(below ? below[index] : this.scale.low).toFixed(1)}`);
      }
      line.push(`M${upper.join("L")}${first === last ? "h-3" : ""}`); // makes a single point visible
      areas.push(`M${upper.join("L")}L${lower.reverse().join("L")}Z`);
    }
    const filled = this.stacked || this.lines.length === 1;
    const paths = [drawn("path", { class: `line colour-${colour}${dashed ? " dashed" : ""}`, d: line.join("") })];
    if (filled) paths.push(drawn("path", { class: `area colour-${colour}`, d: areas.join("") }));
    return paths;
  }

  // -- values as text ----------------------------------------------------------------------------------------

  /** Show the values at the pointer, or the newest ones. */
  showValues() {
    if (!this.hour || !this.cursor) return;
    const index = pointed ?? this.length - 1;
    const words = this.lines.map(({ name, word }) => {
      const value = this.format(this.hour.series[name][index]);
      setText(this.values.get(name), value);
      return `${word} ${value}`;
    });
    const at = clock(this.hour.until - this.hour.step * (this.length - 1 - index));
    const when = pointed === null && !isLost ? "now" : at;
    setText(this.at, when);
    this.svg.setAttribute("aria-label", `${this.title}, ${when}: ${words.join(", ")}`);
    const x = this.x(index);
    this.cursor.setAttribute("d", pointed === null ? "" : `M${x} ${this.area.top}V${this.area.bottom}`);
  }
}

let pointed = null; // index of the point whose values are shown

function pointAt(index) {
  pointed = index;
  for (const chart of charts) chart.showValues();
}

/** First and last index of each run of known values. */
function known(values) {
  const runs = [];
  values.forEach((value, index) => {
    if (value === null) return;
    const run = runs[runs.length - 1];
    if (run && run[1] === index - 1) run[1] = index;
    else runs.push([index, index]);
  });
  return runs;
}

/** Stack the rows. A moment without any known value is a gap; a single unknown value counts as 0. */
function stack(rows) {
  let below = rows[0].map((_, index) => (rows.some((row) => row[index] !== null) ? 0 : null));
  return rows.map((row) => {
    const lower = below;
    const values = row.map((value, index) => (lower[index] === null ? null : lower[index] + (value ?? 0)));
    below = values;
    return { values, below: lower };
  });
}

/** Ticks at zero, half and all of a round number above all values. */
function rounds(rows) {
  const highest = Math.max(0, ...rows.flatMap(({ values }) => values));
  if (!highest) return [0, 1];
  const decade = 10 ** Math.floor(Math.log10(highest));
  const top = [1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10].find((factor) => highest <= factor * decade * (1 + 1e-9)) * decade;
  return [0, top / 2, top];
}

/** Powers of ten around all values. */
function decades(rows) {
  const values = rows.flatMap((row) => row.values).filter((value) => value);
  if (!values.length) return [1e-4, 1e-3];
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))));
  const every = Math.ceil((high - low) / 4);
  const powers = [];
  for (let power = low; power < high + every; power += every) powers.push(10 ** power);
  return powers;
}
