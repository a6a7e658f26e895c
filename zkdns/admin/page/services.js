// The list of services with its filter, and the details of one service.

const LIST_STEP = 100; // services shown at first, and added by the button
const MEMBER_STEP = 100;
const HISTORY_LIMIT = 50;
const LIST_PAUSE = 1_000; // minimum milliseconds between two reads of the list
const LIST_EVERY = 30_000; // bad members change without an event,
const OPENED_PAUSE = 200;
const OPENED_EVERY = 10_000; // and so do sessions and held members

// Members with problems come first, in this order.
const VERDICTS = [
  "held", "bad", "unread", "unresolved", "duplicate", "dropped", "hidden", "beyond", "drained", "answered",
];
const VERDICT_TONES = { answered: "good", drained: "info", hidden: "info", beyond: "info", bad: "bad", unread: "bad" };
const KIND_TONES = {
  joined: "good", back: "good", "service added": "good", left: "bad", "released": "bad", "service gone": "bad",
  held: "warn",
};

const chip = (word, tone = "warn") => element("span", { class: "chip", "data-tone": tone }, word);
const serviceLink = (name) => element("a", { href: `#${encodeURIComponent(name)}` }, name);

/** A cell with the name of its column, which narrow screens show next to it. */
const cell = (label, ...children) => element("td", { "data-label": label }, ...children);
const small = (text) => element("small", {}, text);

// -- the list ------------------------------------------------------------------------------------------------

const services = {
  all: [], // most urgent first
  found: [],
  limit: LIST_STEP,
  isRead: false,
};

/** Urgency of a service; 0 is the highest. */
function urgency({ alive, held, bad }) {
  if (held) return 0;
  if (bad) return 1;
  return alive ? 3 : 2;
}

function compare(one, other) {
  return urgency(one) - urgency(other) || (one.name < other.name ? -1 : one.name > other.name ? 1 : 0);
}

const readServices = gathered(async () => {
  try {
    services.all = (await ask("api/services")).services.sort(compare);
    services.isRead = true;
    services.readAt = now();
    setProblem(byId("services-problem"), "");
    findServices();
  } catch (error) {
    const since = services.isRead ? ` The list below is of ${clock(services.readAt)}.` : "";
    setProblem(byId("services-problem"), `The services cannot be read now: ${error.message}.${since}`);
    if (!isLost) readServices(); // retry
  }
}, LIST_PAUSE);

/** Select the services whose names contain all words of the filter. */
function findServices() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  services.found = words.length
    ? services.all.filter(({ name }) => words.every((word) => name.toLowerCase().includes(word)))
    : services.all;
  showServices();
}

function showServices() {
  const { all, found, limit } = services;
  const visible = found.slice(0, limit);
  const rows = byId("service-rows");
  const focused = document.activeElement?.closest("#service-rows a")?.getAttribute("href");
  rows.replaceChildren(...visible.map(serviceRow));
  if (focused) [...rows.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
  const urgent = all.filter((line) => urgency(line) < 3).length;
  const finds = found === all ? "" : ` found, ${count(all.length)} in all`;
  const attention = urgent ? `, ${count(urgent)} with problems` : "";
  setText(byId("services-count"), services.isRead
    ? `${count(visible.length)} of ${count(found.length)}${finds}${attention}` : "");
  byId("service-table").hidden = !visible.length;
  const wanted = byId("filter").value.trim();
  setText(byId("services-empty"), !services.isRead ? "" : all.length && wanted
    ? `No service name contains “${wanted}”. Press Enter to explain it as a name.` : "There are no services.");
  byId("services-empty").hidden = Boolean(visible.length) || !services.isRead;
  byId("services-more").hidden = visible.length === found.length;
  setText(byId("services-more"), `Show ${count(Math.min(LIST_STEP, found.length - visible.length))} more`);
}

function serviceRow(line) {
  const attention = line.held ? "held" : line.bad ? "bad" : line.alive ? null : "none alive";
  const number = (name, value, tone) => element("td", {
    class: "number", "data-label": name, "data-zero": !value, "data-tone": value && tone ? tone : false,
  }, count(value));
  return element("tr", { "aria-current": line.name === opened.name ? "true" : false },
    element("th", { scope: "row" }, serviceLink(line.name),
      ...(attention ? [" ", chip(attention, attention === "held" ? "warn" : "bad")] : [])),
    number("alive", line.alive),
    number("held", line.held, "warn"),
    number("bad", line.bad, "bad"),
    number("hidden", line.hidden),
    number("drained", line.drained),
    element("td", { class: "number", "data-label": "changed", "data-zero": !line.changed, "data-since": line.changed },
      line.changed ? duration(now() - line.changed) : NONE));
}

/** Update all ages; called every second. */
function updateAges() {
  for (const node of document.querySelectorAll("[data-since]")) {
    setText(node, duration(now() - Number(node.dataset.since)));
  }
}

/** Keys: `/` focuses the filter, arrows move through the list, Enter opens, Escape clears. */
function listenToServices() {
  const filter = byId("filter");
  setInterval(readServices, LIST_EVERY);
  filter.addEventListener("input", () => {
    services.limit = LIST_STEP;
    findServices();
  });
  byId("services-more").addEventListener("click", () => {
    services.limit += LIST_STEP;
    showServices();
  });
  filter.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      const name = services.found[0]?.name ?? filter.value.trim();
      if (name) location.hash = encodeURIComponent(name);
    } else if (event.key === "Escape" && filter.value) {
      filter.value = "";
      event.stopPropagation();
      findServices();
    }
  });
  byId("services").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const stops = [filter, ...byId("service-rows").querySelectorAll("a")];
    const next = stops[stops.indexOf(document.activeElement) + step];
    if (next) {
      event.preventDefault();
      next.focus();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && document.activeElement !== filter) {
      event.preventDefault();
      filter.focus();
      filter.select();
    } else if (event.key === "Escape" && opened.name) {
      closeOpened();
    }
  });
}

// -- one service ---------------------------------------------------------------------------------------------

const opened = { name: null, limit: MEMBER_STEP };

/** Open the service named in the fragment of the address. */
function openLinked() {
  const before = opened.name;
  let name;
  try {
    name = decodeURIComponent(location.hash.slice(1));
  } catch {
    name = location.hash.slice(1); // not percent-encoded
  }
  opened.name = name || null;
  opened.limit = MEMBER_STEP;
  byId("opened").hidden = !name;
  if (name && name !== before) {
    setText(byId("opened-title"), name);
    setProblem(byId("opened-problem"), "");
    byId("opened-body").replaceChildren();
    isNews("opened", null); // so that the next result counts as new
    readOpened();
    byId("opened").focus({ preventScroll: true });
    byId("opened").scrollIntoView({ block: "nearest" });
  }
  showServices();
}

function closeOpened() {
  const { name } = opened;
  history.pushState(null, "", location.pathname + location.search);
  openLinked();
  const link = [...byId("service-rows").querySelectorAll("a")].find((one) => one.textContent === name);
  (link ?? byId("filter")).focus();
}

const readOpened = gathered(async () => {
  const { name } = opened;
  if (!name) return;
  try {
    const explained = await ask(`api/explain?name=${encodeURIComponent(name)}`, [404]);
    const past = explained.service
      ? await ask(`api/history?service=${encodeURIComponent(explained.service)}&limit=${HISTORY_LIMIT}`, [404])
      : {};
    if (opened.name !== name) {
      readOpened(); // another service was opened meanwhile
      return;
    }
    Object.assign(opened, { explained, entries: past.entries ?? [], readAt: now() });
    setProblem(byId("opened-problem"), "");
    const lasting = { ...explained, now: null, heard_seconds: null, audited_seconds: null, stale_seconds: null };
    if (isNews("opened", [lasting, opened.entries])) showOpened();
  } catch (error) {
    const since = byId("opened-body").hasChildNodes() ? ` The details below are of ${clock(opened.readAt)}.` : "";
    setProblem(byId("opened-problem"), `It cannot be explained now: ${error.message}.${since}`);
  }
}, OPENED_PAUSE);

function listenToOpened() {
  window.addEventListener("hashchange", openLinked);
  byId("opened-close").addEventListener("click", (event) => {
    event.preventDefault();
    closeOpened();
  });
  setInterval(readOpened, OPENED_EVERY);
}

function showOpened() {
  const { explained, entries } = opened;
  const members = [...explained.members].sort(
    (one, other) => VERDICTS.indexOf(one.verdict) - VERDICTS.indexOf(other.verdict));
  const parts = [
    element("p", {}, `${explained.name}: ${explained.rule}.`),
    ...(explained.stale ? [element("p", {}, "ZooKeeper is disconnected: this is the last known state.")] : []),
    ...explained.notes.map((note) => element("p", { class: "note" }, note)),
  ];
  if (explained.nearest.length) {
    const links = explained.nearest.flatMap((name) => [" ", serviceLink(name)]);
    parts.push(element("p", {}, "Did you mean one of these?", ...links));
  }
  const facts = [
    ["Responses", explained.answers.map(({ type, rcode, records }) =>
      rcode === "NOERROR" ? `${type} ${count(records)}` : `${type} ${rcode}`).join(", ")],
    ["TTL", explained.ttl === null ? "" : `${explained.ttl} s`],
    ["Order", [explained.order, explained.max_answers && `at most ${explained.max_answers}`].filter(Boolean).join(", ")],
    ["From", explained.origins.join(", ")],
  ].filter(([, text]) => text);
  if (facts.length) parts.push(element("dl", { class: "facts" }, ...facts.map(([term, text]) => fact(term, text))));
  if (members.length) parts.push(memberTable(members.slice(0, opened.limit), explained.origins.length > 1));
  if (members.length > opened.limit) {
    const rest = members.length - opened.limit;
    const more = element("button", { type: "button" },
      `Show ${count(Math.min(MEMBER_STEP, rest))} of ${count(rest)} more members`);
    more.addEventListener("click", () => {
      opened.limit += MEMBER_STEP;
      showOpened();
    });
    parts.push(more);
  }
  if (explained.service) {
    parts.push(element("h3", {}, "Its history"), entries.length
      ? element("ol", { class: "entries" }, ...[...entries].reverse().map((entry) => entryLine(entry, false)))
      : element("p", { class: "empty" }, "No changes since the server started."));
  }
  byId("opened-body").replaceChildren(...parts);
}

const fact = (term, ...children) =>
  element("div", {}, element("dt", {}, term), element("dd", {}, ...children));

/** The table of members, with their znodes if there are several origins. */
function memberTable(members, areOfSeveral) {
  const columns = ["Verdict", "Endpoint", "Member", "Age, session"];
  return element("table", { class: "rows members" },
    element("thead", {}, element("tr", {}, ...columns.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...members.map((member) => memberRow(member, areOfSeveral))));
}

function memberRow(member, isOfSeveral) {
  const { verdict, session } = member;
  const held = [
    member.held_since && `left ${clock(member.held_since)}`,
    member.held_until && `held until ${clock(member.held_until)}`,
  ];
  const why = [member.why, held.filter(Boolean).join(", ")];
  const about = [
    member.status,
    member.shard === null ? "" : `shard ${member.shard}`,
    member.weight === 1 ? "" : `weight ${member.weight}`,
  ];
  const others = [
    ...member.addresses,
    ...Object.entries(member.additional).map(([name, at]) => `${name} ${at}`),
  ];
  const lasting = session && /^0x0*$/.test(session.owner);
  return element("tr", {},
    cell("verdict", chip(verdict, VERDICT_TONES[verdict]), ...why.filter(Boolean).map(small)),
    element("td", { "data-label": "endpoint", "data-zero": !member.endpoint },
      member.endpoint ?? NONE, ...others.map(small)),
    element("td", { "data-label": "member", title: member.znode },
      member.member,
      ...[about.filter(Boolean).join(", "), isOfSeveral && member.znode].filter(Boolean).map(small)),
    cell("age", ...(session
      ? [element("span", { "data-since": session.created }, duration(now() - session.created)),
        small(lasting ? "no session: permanent" : `session ${session.owner}`)]
      : [NONE])));
}

/** A line of the history, with or without the service's name. */
function entryLine(entry, isNamed = true) {
  const about = [entry.endpoint, entry.member].filter(Boolean);
  return element("li", { title: entry.znode },
    element("time", { datetime: new Date(entry.at * 1000).toISOString() }, clock(entry.at)),
    chip(entry.kind, KIND_TONES[entry.kind] ?? "info"),
    element("span", {}, ...(isNamed ? [serviceLink(entry.service), " "] : []), about.join(" · ")));
}
