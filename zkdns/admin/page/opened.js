// The details of one service, which the fragment of the address names.

const MEMBER_STEP = 100; // members shown at first, and added by the button
const HISTORY_LIMIT = 50; // changes to read
const HISTORY_SHOWN = 5; // changes that are shown at once
const OPENED_PAUSE = 200;
const OPENED_EVERY = 10_000; // sessions and held members change without an event

// Members with problems come first, in this order.
const VERDICTS = [
  "held", "bad", "unread", "unresolved", "duplicate", "dropped", "hidden", "beyond", "drained", "answered",
];
const VERDICT_TONES = { answered: "good", drained: "info", hidden: "info", beyond: "info", bad: "bad", unread: "bad" };

const opened = { name: null, limit: MEMBER_STEP, showsOlder: false };

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
  if (opened.name !== before) Object.assign(opened, { limit: MEMBER_STEP, showsOlder: false });
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
  (services.rows.get(name)?.link ?? byId("filter")).focus();
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
    element("p", {}, apart(explained.name), `: ${explained.rule}.`),
    ...(explained.stale ? [element("p", {}, "ZooKeeper is unreachable: this is the last known state.")] : []),
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
  ].filter(([, text]) => text).map(([term, text]) => fact(term, text));
  if (explained.origins.length) facts.push(fact("From", ...joined(explained.origins, ", ")));
  if (facts.length) parts.push(element("dl", { class: "facts" }, ...facts));
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
      ? pastEntries([...entries].reverse())
      : element("p", { class: "empty" }, "No changes since the server started."));
  }
  redraw(byId("opened-body"), parts);
}

/** The newest entries, and the others in a part that can be opened. */
function pastEntries(entries) {
  const list = (some) => element("ol", { class: "entries" }, ...some.map(entryLine));
  const older = entries.slice(HISTORY_SHOWN);
  if (!older.length) return list(entries);
  const details = element("details", {}, element("summary", {}, `${count(older.length)} earlier changes`), list(older));
  details.open = opened.showsOlder;
  details.addEventListener("toggle", () => {
    opened.showsOlder = details.open;
  });
  return element("div", {}, list(entries.slice(0, HISTORY_SHOWN)), details);
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
