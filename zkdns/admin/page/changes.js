// Recent changes, grouped: the changes of one service within five minutes are one line, which can be expanded.

const GROUP_SECONDS = 300;
const GROUPS_SHOWN = 50;
const GROUP_ENTRIES = 100; // single changes of a group that are shown
const HISTORY_READ = 500; // entries to read at the start
const CHANGES_PAUSE = 200; // minimum milliseconds between two updates

const KIND_TONES = {
  joined: "good", back: "good", "service added": "good", left: "bad", "released": "bad", "service gone": "bad",
  held: "warn",
};

/** Changes of one service. It draws itself into its list item. */
class ChangeGroup {
  constructor({ service, at }) {
    Object.assign(this, { service, first: at, last: at, total: 0 });
    this.kinds = new Map(); // number of changes of each kind
    this.entries = []; // the newest ones, newest first
    this.time = element("time");
    this.summary = element("summary");
    this.list = element("ol", { class: "entries" });
    this.details = element("details", {}, this.summary, this.list);
    this.details.addEventListener("toggle", () => this.showEntries());
    this.only = element("span", { class: "only" });
    this.item = element("li", { class: "group" }, this.time,
      element("div", {}, serviceLink(service), " ", this.only, this.details));
  }

  add(entry) {
    this.last = entry.at;
    this.total += 1;
    this.kinds.set(entry.kind, (this.kinds.get(entry.kind) ?? 0) + 1);
    this.entries.unshift(entry);
    this.entries.length = Math.min(this.entries.length, GROUP_ENTRIES);
    this.isDrawn = false;
  }

  draw() {
    if (this.isDrawn) return;
    this.isDrawn = true;
    setAttribute(this.time, "datetime", new Date(this.last * 1000).toISOString());
    setText(this.time, clock(this.last));
    const isOnly = this.total === 1;
    this.details.hidden = isOnly;
    this.only.replaceChildren(...(isOnly ? changeParts(this.entries[0]) : []));
    if (isOnly) return;
    const kinds = [...this.kinds].map(([kind, number]) =>
      element("span", { class: "kind", "data-tone": KIND_TONES[kind] ?? "info" }, `${count(number)} ${kind}`));
    const seconds = this.last - this.first;
    this.summary.replaceChildren(
      ...kinds.flatMap((kind, index) => (index ? [", ", kind] : [kind])),
      seconds < 1 ? " at once" : ` in ${duration(seconds)}`);
    this.showEntries();
  }

  showEntries() {
    if (!this.details.open || this.details.hidden) {
      this.list.replaceChildren();
      return;
    }
    const more = this.total - this.entries.length;
    this.list.replaceChildren(...this.entries.map(entryLine),
      ...(more > 0 ? [element("li", { class: "empty" }, `and ${count(more)} earlier changes`)] : []));
  }
}

const changes = {
  newest: new Map(), // the newest group of each service
  groups: [], // newest first
  last: 0, // number of the newest entry
  waiting: [], // entries that are not shown yet
  heardAt: -Infinity, // when the last ones arrived
  isRead: false, // whether the history has been read
};

const showChanges = gathered(async () => {
  if (!changes.isRead) return; // the older entries come first
  const fresh = changes.waiting.filter(({ number }) => number > changes.last)
    .sort((one, other) => one.number - other.number);
  changes.waiting = [];
  if (!fresh.length) return;
  for (const entry of fresh) {
    if (entry.number === changes.last) continue; // the stream and the history both had it
    changes.last = entry.number;
    let group = changes.newest.get(entry.service);
    if (!group || entry.at - group.first > GROUP_SECONDS) {
      group = new ChangeGroup(entry);
      changes.newest.set(entry.service, group);
      changes.groups.push(group);
    }
    group.add(entry);
  }
  changes.groups.sort((one, other) => other.last - one.last);
  for (const group of changes.groups.splice(GROUPS_SHOWN)) {
    if (changes.newest.get(group.service) === group) changes.newest.delete(group.service);
  }
  for (const group of changes.groups) group.draw();
  arrange(byId("changes"), changes.groups.map(({ item }) => item));
  byId("changes-empty").hidden = true;
  readServices();
  if (fresh.some(({ service }) => service === opened.explained?.service)) readOpened();
}, CHANGES_PAUSE);

function addChanges(entries) {
  changes.waiting.push(...entries);
  changes.heardAt = performance.now();
  showChanges();
}

async function readHistory() {
  const { entries } = await ask(`api/history?limit=${HISTORY_READ}`);
  changes.isRead = true;
  addChanges(entries);
}

const changeParts = ({ kind, endpoint, member }) =>
  [chip(kind, KIND_TONES[kind] ?? "info"), " ", ...joined([endpoint, member])];

/** A line for a single change of a known service. */
function entryLine(entry) {
  const [kind, , ...about] = changeParts(entry);
  return element("li", { title: entry.znode },
    element("time", { datetime: new Date(entry.at * 1000).toISOString() }, clock(entry.at)),
    kind, element("span", {}, ...about));
}
