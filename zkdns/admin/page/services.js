// The list of services: its filters, order and pages, which the address of the page keeps.

const PAGE_SIZE = 100; // rows of a page
const LIST_PAUSE = 1_000; // minimum milliseconds between two reads of the list
const LIST_EVERY = 60_000; // between two reads of the whole list: bad members change without an event
const COMPARE_AFTER = 10_000; // after the last change, before the sums are compared with those of the server
const ADDRESS_PAUSE = 300; // after the last key, before the filter is written into the address
const TRAFFIC_EVERY = 5_000; // between two reads of the traffic,
const TRAFFIC_FIRST = 1_500; // and between the first two, so that there are rates soon
const MAX_ENVIRONMENTS = 500; // in the list of environments

const chip = (word, tone = "warn") => element("span", { class: "chip", "data-tone": tone }, word);
const serviceLink = (name) => element("a", { href: `#${encodeURIComponent(name)}` }, name);

/** A cell with the name of its column, which narrow screens show next to it. */
const cell = (label, ...children) => element("td", { "data-label": label }, ...children);
const small = (text) => element("small", {}, text);

// Columns: the value to sort by, and the tone of a number that is not 0. `wide`: narrow screens leave it out.
const COLUMNS = {
  name: { value: ({ name }) => name },
  queries: { value: ({ name }) => rateOf(name) ?? 0, wide: true },
  alive: { value: ({ alive }) => alive },
  held: { value: ({ held }) => held, tone: "warn", wide: true },
  bad: { value: ({ bad }) => bad, tone: "bad", wide: true },
  hidden: { value: ({ hidden }) => hidden, wide: true },
  drained: { value: ({ drained }) => drained, wide: true },
  changed: { value: ({ changed }) => changed ?? 0 },
};

const services = {
  byName: new Map(),
  all: [], // in the order of the table
  found: [], // those of them that the filters select
  rows: new Map(), // the rows that are drawn, by name
  isRead: false,
  last: 0, // the number of the newest change in the list
  tag: null, // of the last whole list
  wholeAt: -Infinity,
  wantsWhole: true,
  traffic: null, // the last reading of the traffic, with a map of its services
  rates: null, // queries per second by service; null: unknown
  // What the address keeps:
  words: "",
  environment: "", // empty: all
  sort: "", // a column, with "-" before it for descending order; empty: services with problems first
  page: 0,
};

// -- reading -------------------------------------------------------------------------------------------------

/** Read the services that have changed since the last time, or all of them now and then. */
const readServices = gathered(async () => {
  const isWhole = services.wantsWhole || !services.last || performance.now() - services.wholeAt > LIST_EVERY;
  services.wantsWhole = false;
  try {
    const { answer, tag } = await (isWhole
      ? request("api/services", [], services.tag)
      : request(`api/services?after=${services.last}`));
    if (isWhole) Object.assign(services, { tag, wholeAt: performance.now() });
    services.isRead = true;
    services.readAt = now();
    setProblem(byId("services-problem"), "");
    if (answer) takeServices(answer, isWhole);
  } catch (error) {
    services.wantsWhole ||= isWhole;
    const since = services.isRead ? ` The list below is of ${clock(services.readAt)}.` : "";
    setProblem(byId("services-problem"), `The services cannot be read now: ${error.message}.${since}`);
    if (!isLost) readServices(); // retry
  }
}, LIST_PAUSE);

function readAllServices() {
  services.wantsWhole = true;
  readServices();
}

function takeServices({ services: lines, gone, last, unread, unread_count: unreadCount }, isWhole) {
  if (isWhole) {
    services.byName = new Map(lines.map((line) => [line.name, line]));
    services.all = lines;
  } else {
    // What was read before is no longer what the tag stands for.
    if (lines.length || gone.length) services.tag = null;
    const added = lines.filter(({ name }) => !services.byName.has(name));
    for (const line of lines) services.byName.set(line.name, line);
    for (const name of gone) services.byName.delete(name);
    // Sorting takes little time if most of the order stays.
    services.all = services.all.map(({ name }) => services.byName.get(name)).filter(Boolean).concat(added);
  }
  services.last = Math.max(last, services.last);
  if (isNews("unread", [unread, unreadCount])) showUnread(unread, unreadCount);
  findServices();
}

/** Read the whole list if its sums differ from those of the server although there was no change for a while. */
function compareServices(table) {
  const quiet = performance.now() - Math.max(services.wholeAt, changes.heardAt);
  if (!table || !services.isRead || quiet < COMPARE_AFTER) return;
  let alive = 0;
  for (const line of services.byName.values()) alive += line.alive;
  if (services.byName.size !== table.services || alive !== table.alive) readAllServices();
}

/** Queries per second for names of a service; null if unknown. */
const rateOf = (name) => services.rates && (services.rates.get(name) ?? 0);

/** Read how many queries there were for each service, and compute the rates since the last time. */
async function readTraffic() {
  if (!document.hidden) {
    try {
      takeTraffic(await ask("api/traffic"));
    } catch {
      Object.assign(services, { traffic: null, rates: null });
    }
    if (services.sort.endsWith("queries")) findServices();
    else showServices();
  }
  setTimeout(readTraffic, services.rates ? TRAFFIC_EVERY : TRAFFIC_FIRST);
}

function takeTraffic({ services: counts, started, clock: at }) {
  const before = services.traffic;
  services.traffic = { counts: new Map(Object.entries(counts)), started, at };
  services.rates = null;
  if (before?.started !== started || at <= before.at) return;
  const rate = (name, total) => Math.max(total - (before.counts.get(name) ?? 0), 0) / (at - before.at);
  services.rates = new Map([...services.traffic.counts].map(([name, total]) => [name, rate(name, total)]));
}

function showUnread(znodes, total) {
  byId("unread").hidden = !total;
  setText(byId("unread-count"), count(total));
  byId("unread-rows").replaceChildren(...znodes.map(({ path, reason }) =>
    element("li", {}, element("code", {}, path), " ", element("span", {}, reason))));
  const more = total - znodes.length;
  setText(byId("unread-more"), more ? `and ${count(more)} more` : "");
}

// -- filters and order ---------------------------------------------------------------------------------------

/** Urgency of a service; 0 is the highest. */
function urgency({ alive, held, bad }) {
  if (held) return 0;
  if (bad) return 1;
  return alive ? 3 : 2;
}

const compareNames = ({ name: one }, { name: other }) => (one < other ? -1 : one > other ? 1 : 0);

function comparison() {
  const { value } = COLUMNS[services.sort.replace("-", "")] ?? {};
  if (!value) return (one, other) => urgency(one) - urgency(other) || compareNames(one, other);
  const sign = services.sort.startsWith("-") ? -1 : 1;
  if (value === COLUMNS.name.value) return (one, other) => sign * compareNames(one, other);
  return (one, other) => sign * (value(one) - value(other)) || compareNames(one, other);
}

/** Select the services of the environment whose names contain all words of the filter, and sort them. */
function findServices() {
  const words = services.words.toLowerCase().split(/\s+/).filter(Boolean);
  const { environment } = services;
  services.all.sort(comparison());
  services.found = !environment && !words.length ? services.all : services.all.filter((line) =>
    (!environment || line.environment === environment)
      && words.every((word) => line.name.toLowerCase().includes(word)));
  showEnvironments();
  showServices();
}

function showEnvironments() {
  const counts = new Map();
  for (const { environment } of services.byName.values()) counts.set(environment, (counts.get(environment) ?? 0) + 1);
  counts.delete("");
  if (services.environment && !counts.has(services.environment)) counts.set(services.environment, 0);
  const options = [...counts].sort(([one], [other]) => (one < other ? -1 : 1)).slice(0, MAX_ENVIRONMENTS);
  const select = byId("environment");
  byId("environments").hidden = !options.length;
  if (isNews("environments", options)) {
    select.replaceChildren(element("option", { value: "" }, "All environments"),
      ...options.map(([name, number]) => element("option", { value: name }, `${name} (${count(number)})`)));
  }
  select.value = services.environment;
}

// -- the table -----------------------------------------------------------------------------------------------

function showServices() {
  const { byName, found, environment, words, isRead } = services;
  if (isRead) services.page = Math.max(0, Math.min(services.page, Math.ceil(found.length / PAGE_SIZE) - 1));
  const first = services.page * PAGE_SIZE;
  const visibleLines = found.slice(first, first + PAGE_SIZE);
  const drawnRows = services.rows;
  services.rows = new Map(visibleLines.map(({ name }) => [name, drawnRows.get(name) ?? new ServiceRow(name)]));
  for (const line of visibleLines) services.rows.get(line.name).show(line);
  arrange(byId("service-rows"), [...services.rows.values()].map(({ row }) => row));

  let urgent = 0;
  for (const line of byName.values()) urgent += urgency(line) < 3;
  const end = count(first + visibleLines.length);
  const range = found.length > PAGE_SIZE ? `${count(first + 1)}–${end}` : end;
  const finds = environment || words.trim() ? ` found, ${count(byName.size)} in all` : "";
  const attention = urgent ? `, ${count(urgent)} with problems` : "";
  setText(byId("services-count"), isRead ? `Showing ${range} of ${count(found.length)}${finds}${attention}` : "");
  byId("service-table").hidden = !visibleLines.length;
  setText(byId("services-empty"), !isRead ? "" : !byName.size ? "There are no services." : !words.trim()
    ? `There are no services in ${environment}.`
    : `No service name contains “${words.trim()}”. Press Enter to explain it as a name.`);
  byId("services-empty").hidden = Boolean(visibleLines.length) || !isRead;
  byId("pages").hidden = found.length <= PAGE_SIZE;
  byId("page-before").disabled = !services.page;
  byId("page-after").disabled = first + PAGE_SIZE >= found.length;
  setText(byId("page-number"), `Page ${count(services.page + 1)} of ${count(Math.ceil(found.length / PAGE_SIZE))}`);
  for (const button of document.querySelectorAll("#service-table [data-sort]")) {
    const { sort } = button.dataset;
    const order = services.sort === sort ? "ascending" : services.sort === `-${sort}` ? "descending" : null;
    setAttribute(button.closest("th"), "aria-sort", order);
  }
}

/** A row, which is updated in place. */
class ServiceRow {
  constructor(name) {
    this.link = serviceLink(name);
    this.chips = element("span", { class: "chips" });
    this.cells = Object.entries(COLUMNS).filter(([label]) => label !== "name").map(([label, { wide }]) =>
      element("td", { class: wide ? "number wide" : "number", "data-label": label }));
    this.row = element("tr", {}, element("th", { scope: "row" }, this.link, " ", this.chips), ...this.cells);
    this.news = "";
  }

  show(line) {
    setAttribute(this.row, "aria-current", line.name === opened.name ? "true" : null);
    const rate = rateOf(line.name);
    const news = JSON.stringify([line, rate]);
    if (news === this.news) return;
    this.news = news;
    const problems = [
      line.held && ["held", "warn"],
      line.bad && ["bad", "bad"],
    ].filter(Boolean).map(([kind, tone]) => chip(`${count(line[kind])} ${kind}`, tone));
    for (const one of problems) one.classList.add("narrow"); // wide screens have columns for these numbers
    this.chips.replaceChildren(...problems, ...(line.alive ? [] : [chip("none alive", "bad")]));
    for (const td of this.cells) {
      const { label } = td.dataset;
      const value = label === "queries" ? rate : line[label];
      const isChange = label === "changed";
      if (label === "queries") setText(td, perSecond(rate));
      else setText(td, isChange ? (value ? duration(now() - value) : NONE) : count(value));
      setAttribute(td, "data-zero", value ? null : "");
      setAttribute(td, "data-tone", (value && COLUMNS[label].tone) || null);
      setAttribute(td, "data-since", isChange && value ? String(value) : null);
    }
  }
}

/** Update all ages; called every second. */
function updateAges() {
  for (const node of document.querySelectorAll("[data-since]")) {
    setText(node, duration(now() - Number(node.dataset.since)));
  }
}

// -- the address ---------------------------------------------------------------------------------------------

function readAddress() {
  const parameters = new URLSearchParams(location.search);
  const sort = parameters.get("sort") ?? "";
  const page = Number(parameters.get("page") ?? 1);
  Object.assign(services, {
    words: parameters.get("find") ?? "",
    environment: parameters.get("environment") ?? "",
    sort: sort.replace(/^-/, "") in COLUMNS ? sort : "",
    page: Number.isSafeInteger(page) && page > 0 ? page - 1 : 0,
  });
  byId("filter").value = services.words;
}

function writeAddress() {
  const parameters = new URLSearchParams(Object.entries({
    find: services.words.trim(),
    environment: services.environment,
    sort: services.sort,
    page: services.page ? String(services.page + 1) : "",
  }).filter(([, value]) => value));
  const search = String(parameters) && `?${parameters}`;
  if (search === location.search) return;
  history.replaceState(history.state, "", `${location.pathname}${search}${location.hash}`);
}

// -- keys and buttons ----------------------------------------------------------------------------------------

let addressTimer = 0;

/** Change what the address keeps. Another filter or order starts at the first page. */
function choose(change) {
  Object.assign(services, { page: 0, ...change });
  findServices();
  clearTimeout(addressTimer);
  addressTimer = setTimeout(writeAddress, ADDRESS_PAUSE);
}

/** Numbers are sorted from the highest first, names from the first; the third time restores the usual order. */
function sortBy(column) {
  const [first, second] = column === "name" ? ["name", "-name"] : [`-${column}`, column];
  choose({ sort: services.sort === first ? second : services.sort === second ? "" : first });
}

function turnPage(step) {
  choose({ page: services.page + step });
  byId("services").scrollIntoView({ block: "start" });
}

/** Keys: `/` focuses the filter, arrows move through the list, Enter opens, Escape clears. */
function listenToServices() {
  const filter = byId("filter");
  setInterval(readServices, LIST_EVERY);
  readTraffic();
  window.addEventListener("popstate", () => {
    readAddress();
    findServices();
  });
  filter.addEventListener("input", () => choose({ words: filter.value }));
  byId("environment").addEventListener("change", ({ target }) => choose({ environment: target.value }));
  byId("page-before").addEventListener("click", () => turnPage(-1));
  byId("page-after").addEventListener("click", () => turnPage(1));
  for (const button of document.querySelectorAll("#service-table [data-sort]")) {
    button.addEventListener("click", () => sortBy(button.dataset.sort));
  }
  filter.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      const name = services.found[0]?.name ?? filter.value.trim();
      if (name) location.hash = encodeURIComponent(name);
    } else if (event.key === "Escape" && filter.value) {
      filter.value = "";
      event.stopPropagation();
      choose({ words: "" });
    }
  });
  byId("services").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const stops = [filter, ...byId("service-rows").querySelectorAll("a")];
    const index = stops.indexOf(document.activeElement);
    const next = stops[index + step];
    if (step && index >= 0 && next) {
      event.preventDefault();
      next.focus();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && !document.activeElement?.matches("input, select")) {
      event.preventDefault();
      filter.focus();
      filter.select();
    } else if (event.key === "Escape" && opened.name) {
      closeOpened();
    }
  });
}
