// The services: a list that is found in by typing, and one of them opened.

const LIST_STEP = 100; // services shown at first, and more at a time
const MEMBER_STEP = 100;
const HISTORY_MOST = 50;
const LIST_PAUSE = 1_000; // milliseconds between two readings of the list, at least
const LIST_EVERY = 30_000; // what is bad changes without a word,
const OPENED_PAUSE = 200;
const OPENED_EVERY = 10_000; // and so do sessions and what is held

// Before what is well stands what is not, in this order.
const VERDICTS = [
  "held", "bad", "unread", "unresolved", "duplicate", "dropped", "hidden", "beyond", "drained", "answered",
];
const VERDICT_TONES = { answered: "good", drained: "info", hidden: "info", beyond: "info", bad: "bad", unread: "bad" };
const KIND_TONES = {
  joined: "good", back: "good", "service added": "good", left: "bad", "let go": "bad", "service gone": "bad",
  held: "warn",
};

const chip = (word, tone = "warn") => element("span", { class: "chip", "data-tone": tone }, word);
const serviceLink = (name) => element("a", { href: `#${encodeURIComponent(name)}` }, name);

/** A cell whose column is named beside it where the screen is narrow. */
const cell = (label, ...children) => element("td", { "data-label": label }, ...children);
const small = (text) => element("small", {}, text);

// -- the list ------------------------------------------------------------------------------------------------

const services = {
  all: [], // what needs attention first
  found: [],
  most: LIST_STEP,
  isRead: false,
};

/** How much a service needs attention: 0 most. */
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
    const since = services.isRead ? ` These services are as they were at ${clock(services.readAt)}.` : "";
    setProblem(byId("services-problem"), `The services cannot be read now: ${error.message}.${since}`);
    if (!isLost) readServices(); // until it succeeds
  }
}, LIST_PAUSE);

/** Find those whose names have all words of the filter in them. */
function findServices() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  services.found = words.length
    ? services.all.filter(({ name }) => words.every((word) => name.toLowerCase().includes(word)))
    : services.all;
  showServices();
}

function showServices() {
  const { all, found, most } = services;
  const visible = found.slice(0, most);
  const rows = byId("service-rows");
  const focused = document.activeElement?.closest("#service-rows a")?.getAttribute("href");
  rows.replaceChildren(...visible.map(serviceRow));
  if (focused) [...rows.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
  const urgent = all.filter((line) => urgency(line) < 3).length;
  const finds = found === all ? "" : ` found, ${count(all.length)} in all`;
  const attention = urgent ? `, ${count(urgent)} to look at` : "";
  setText(byId("services-count"), services.isRead
    ? `${count(visible.length)} of ${count(found.length)}${finds}${attention}` : "");
  byId("service-table").hidden = !visible.length;
  const wanted = byId("filter").value.trim();
  setText(byId("services-empty"), !services.isRead ? "" : all.length && wanted
    ? `No service's name has “${wanted}” in it. Enter explains it as a name.` : "There are no services.");
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

/** Say anew how long ago things were; called now and then. */
function tellAges() {
  for (const node of document.querySelectorAll("[data-since]")) {
    setText(node, duration(now() - Number(node.dataset.since)));
  }
}

/** Find by typing; `/` begins it, arrows go through what is found, Enter opens, Escape ends. */
function listenToServices() {
  const filter = byId("filter");
  setInterval(readServices, LIST_EVERY);
  filter.addEventListener("input", () => {
    services.most = LIST_STEP;
    findServices();
  });
  byId("services-more").addEventListener("click", () => {
    services.most += LIST_STEP;
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

// -- one of them ---------------------------------------------------------------------------------------------

const opened = { name: null, most: MEMBER_STEP };

/** Open the service whose name stands behind the # of the address, as links have it. */
function openLinked() {
  const before = opened.name;
  let name;
  try {
    name = decodeURIComponent(location.hash.slice(1));
  } catch {
    name = location.hash.slice(1); // somebody wrote a % by hand
  }
  opened.name = name || null;
  opened.most = MEMBER_STEP;
  byId("opened").hidden = !name;
  if (name && name !== before) {
    setText(byId("opened-title"), name);
    setProblem(byId("opened-problem"), "");
    byId("opened-body").replaceChildren();
    isNews("opened", null); // so that anything is
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
      ? await ask(`api/history?service=${encodeURIComponent(explained.service)}&most=${HISTORY_MOST}`, [404])
      : {};
    if (opened.name !== name) {
      readOpened(); // another one was opened meanwhile
      return;
    }
    Object.assign(opened, { explained, entries: past.entries ?? [], readAt: now() });
    setProblem(byId("opened-problem"), "");
    const lasting = { ...explained, now: null, heard_seconds: null, audited_seconds: null, stale_seconds: null };
    if (isNews("opened", [lasting, opened.entries])) showOpened();
  } catch (error) {
    const since = byId("opened-body").hasChildNodes() ? ` What is shown is of ${clock(opened.readAt)}.` : "";
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
    ...(explained.stale ? [element("p", {}, "Its source is out of reach: this is the last that was known.")] : []),
    ...explained.notes.map((note) => element("p", { class: "note" }, note)),
  ];
  if (explained.nearest.length) {
    const links = explained.nearest.flatMap((name) => [" ", serviceLink(name)]);
    parts.push(element("p", {}, "Was one of these meant?", ...links));
  }
  const facts = [
    ["Answers", explained.answers.map(({ type, rcode, records }) =>
      rcode === "NOERROR" ? `${type} ${count(records)}` : `${type} ${rcode}`).join(", ")],
    ["TTL", explained.ttl === null ? "" : `${explained.ttl} s`],
    ["Order", [explained.order, explained.max_answers && `at most ${explained.max_answers}`].filter(Boolean).join(", ")],
    ["From", explained.origins.join(", ")],
  ].filter(([, text]) => text);
  if (facts.length) parts.push(element("dl", { class: "facts" }, ...facts.map(([term, text]) => fact(term, text))));
  if (members.length) parts.push(memberTable(members.slice(0, opened.most), explained.origins.length > 1));
  if (members.length > opened.most) {
    const rest = members.length - opened.most;
    const more = element("button", { type: "button" },
      `Show ${count(Math.min(MEMBER_STEP, rest))} of ${count(rest)} more members`);
    more.addEventListener("click", () => {
      opened.most += MEMBER_STEP;
      showOpened();
    });
    parts.push(more);
  }
  if (explained.service) {
    parts.push(element("h3", {}, "Its history"), entries.length
      ? element("ol", { class: "entries" }, ...[...entries].reverse().map((entry) => entryLine(entry, false)))
      : element("p", { class: "empty" }, "Nobody came or went since the server was started."));
  }
  byId("opened-body").replaceChildren(...parts);
}

const fact = (term, ...children) =>
  element("div", {}, element("dt", {}, term), element("dd", {}, ...children));

/** The members; where they are of several znodes, each with its own. */
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
    member.held_until && `let go at ${clock(member.held_until)}`,
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
        small(lasting ? "no session: it stays" : `session ${session.owner}`)]
      : [NONE])));
}

/** An entry of the history; the service is left out where all are of one. */
function entryLine(entry, isNamed = true) {
  const about = [entry.endpoint, entry.member].filter(Boolean);
  return element("li", { title: entry.znode },
    element("time", { datetime: new Date(entry.at * 1000).toISOString() }, clock(entry.at)),
    chip(entry.kind, KIND_TONES[entry.kind] ?? "info"),
    element("span", {}, ...(isNamed ? [serviceLink(entry.service), " "] : []), about.join(" · ")));
}
