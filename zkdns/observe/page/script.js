// The page: what the server says of itself, what changes, and whether it says anything at all.

const CHANGES_SHOWN = 100;
const SILENT_MILLISECONDS = 7_000; // the status comes every two seconds
const CLOSED_MILLISECONDS = 3_000; // until a connection that was turned away is tried again,
const HANGING_MILLISECONDS = 15_000; // and one that says nothing

charts.push(
  new Chart(byId("queries"), "Queries a second", [
    { name: "queries", word: "all", colour: 0 },
  ], { format: perSecond }),
  new Chart(byId("latency"), "Latency", [
    { name: "latency_p50", word: "p50", colour: 1 },
    { name: "latency_p99", word: "p99", colour: 3 },
  ], { format: latency, logarithmic: true }),
  new Chart(byId("sources"), "Answers a second, by source", [
    { name: "memo", word: "memo", colour: 0 },
    { name: "zone", word: "table", colour: 1 },
    { name: "cache", word: "cache", colour: 2 },
    { name: "upstream", word: "upstream", colour: 3 },
    { name: "stale", word: "stale cache", colour: 4 },
    { name: "refused", word: "refused", colour: 5 },
  ], { format: perSecond, stacked: true }),
);

// -- the server's state --------------------------------------------------------------------------------------

/** What is the matter with the table: a word, what follows from it, and its colour. */
function stateOf({ source, zookeeper, ready, table }) {
  if (!zookeeper) {
    if (!ready) return ["not ready", "the file is being read", "warn"];
    switch (source) {
      case "snapshot":
        return ["snapshot", "answers from a snapshot, without ZooKeeper", "warn"];
      case "demo":
        return ["example", "the services are made up, and not in ZooKeeper", "good"];
      default:
        return ["fixed file", "the services stand in a file, not in ZooKeeper", "good"];
    }
  }
  const { state, stale_seconds: stale } = zookeeper;
  const since = stale ? `for ${duration(stale)}: ` : "";
  switch (state) {
    case "live":
      return ["live", ready ? "answers follow each change" : "but not every worker has the table yet", "good"];
    case "away":
      return ["away", `${since}answers stay as they were`, "bad"];
    case "readonly":
      return ["read-only", `${since}without a quorum nothing changes; answers stay as they were`, "warn"];
    case "reading":
      return ready || table?.services
        ? ["reading", "until that is done answers are those known before", "warn"]
        : ["reading for the first time", "until that is done there are no answers", "warn"];
    default:
      return ["unknown", "the process that watches ZooKeeper has not told yet", "warn"];
  }
}

function showStatus(status) {
  ahead = status.now - Date.now() / 1000;
  const [word, detail, tone] = stateOf(status);
  byId("state").dataset.tone = tone;
  setText(byId("state-word"), status.zookeeper ? `ZooKeeper: ${word}` : word[0].toUpperCase() + word.slice(1));
  setText(byId("state-detail"), detail);
  document.title = `${word} – zkdns at ${location.hostname}`;
  setText(byId("version"), status.version);
  const { table, workers, zookeeper } = status;
  const ready = workers.filter((worker) => worker.ready).length;
  const facts = [
    ["Services", table && count(table.services)],
    ["Members alive", table && count(table.alive)],
    ["Hidden", table?.hidden && count(table.hidden)],
    ["Held", table?.held && count(table.held)],
    ["Bad", table?.bad && count(table.bad)],
    ["Workers", `${count(ready)} of ${count(workers.length)} ready`],
    ["Up for", duration(status.now - status.started)],
    ["Zones", status.zones.join(", ")],
    ["Listening", status.listening.join(", ")],
    ["ZooKeeper", zookeeper?.hosts.split(",").join(", ")],
  ].filter(([, text]) => text);
  if (isNews("facts", facts)) byId("facts").replaceChildren(...facts.map(([term, text]) => fact(term, text)));
  if (isNews("upstreams", status.upstreams)) showUpstreams(status.upstreams);
  if (isNews("table", [table, zookeeper?.state, status.ready])) {
    readServices();
    readOpened();
  }
}

function showUpstreams(upstreams) {
  byId("upstream-table").hidden = !upstreams.length;
  byId("upstreams-empty").hidden = Boolean(upstreams.length);
  byId("upstream-rows").replaceChildren(...upstreams.map((upstream) => element("tr", {},
    element("th", { scope: "row" }, upstream.address),
    cell("asked for", upstream.domain || "all other names"),
    cell("state", upstream.dead ? chip("does not answer", "bad") : chip("well", "good")),
    element("td", { class: "number", "data-label": "answers in" }, latency(upstream.rtt_seconds)))));
}

// -- what changes --------------------------------------------------------------------------------------------

let lastNumber = 0; // of the newest entry that is shown

function showEntries(entries) {
  const fresh = entries.filter(({ number }) => number > lastNumber);
  if (!fresh.length) return;
  lastNumber = fresh[fresh.length - 1].number;
  const list = byId("changes");
  list.prepend(...fresh.slice(-CHANGES_SHOWN).reverse().map((entry) => entryLine(entry)));
  while (list.childElementCount > CHANGES_SHOWN) list.lastElementChild.remove();
  byId("changes-empty").hidden = true;
  readServices();
  if (fresh.some(({ service }) => service === opened.explained?.service)) readOpened();
}

async function readHistory() {
  const after = lastNumber ? `&after=${lastNumber}` : "";
  showEntries((await ask(`api/history?most=${CHANGES_SHOWN}${after}`)).entries);
}

// -- the last hour -------------------------------------------------------------------------------------------

let figures = null;

function showFigures(read) {
  figures = read;
  for (const chart of charts) chart.show(figures);
}

async function readFigures() {
  showFigures(await ask("api/figures"));
}

function addPoint({ step, until, series }) {
  if (!figures) return;
  if (Math.abs(until - figures.until - step) > step / 2) {
    retried(readFigures); // some were missed
    return;
  }
  const added = Object.entries(figures.series).map(([name, values]) => [name, [...values.slice(1), series[name] ?? null]]);
  showFigures({ step, until, series: Object.fromEntries(added) });
}

// -- the connection ------------------------------------------------------------------------------------------

let stream = null;
let heardAt = Date.now(); // by the reader's clock, like all that is about the connection
let triedAt = 0;
let isLost = false;
let turnedAway = ""; // why, where the server says that it gives this page no events

function connect() {
  triedAt = Date.now();
  stream?.close();
  stream = new EventSource("api/events");
  stream.addEventListener("open", () => {
    heard();
    for (const read of [readHistory, readFigures]) retried(read);
    readServices();
    readOpened();
  });
  on("status", showStatus);
  on("change", (entry) => showEntries([entry]));
  on("figures", addPoint);
  stream.addEventListener("error", () => {
    setLost(true);
    if (stream.readyState === EventSource.CLOSED) askWhy();
  });
}

/** Say why the server gives no events, if it does that much; browsers keep it from the script. */
async function askWhy() {
  try {
    const response = await fetch("api/events", { signal: AbortSignal.timeout(CLOSED_MILLISECONDS) });
    turnedAway = response.ok ? "" : (await response.json()).error;
    if (response.ok) await response.body.cancel();
  } catch {
    turnedAway = "";
  }
  if (isLost) setLost(true);
}

function on(kind, show) {
  stream.addEventListener(kind, (event) => {
    heard();
    show(JSON.parse(event.data));
  });
}

/** Read again when the connection is there again, should it fail. */
async function retried(read) {
  try {
    await read();
  } catch {
    if (!isLost) setTimeout(() => retried(read), 2_000);
  }
}

function heard() {
  heardAt = Date.now();
  turnedAway = "";
  setLost(false);
}

function setLost(lost) {
  isLost = lost;
  document.body.classList.toggle("lost", lost);
  pointAt(pointed); // the newest values are those of now, or no more
  if (lost) {
    byId("state").dataset.tone = "bad";
    setText(byId("state-word"), "Unknown: the server says nothing");
    setText(byId("state-detail"), "");
    document.title = `lost – zkdns at ${location.hostname}`;
    const what = turnedAway
      ? `The server turns this page away: ${turnedAway}.`
      : "The connection to the server is lost.";
    const since = clock(heardAt / 1000);
    setText(byId("lost"), `${what} All below is as it was at ${since}; this page goes on trying.`);
  }
  byId("lost").hidden = !lost;
}

// Browsers try again by themselves; but not after a response that is no stream, nor where a connection just hangs.
setInterval(() => {
  tellAges();
  const silent = Date.now() - heardAt;
  if (silent > SILENT_MILLISECONDS && !isLost) setLost(true);
  const patience = stream.readyState === EventSource.CLOSED ? CLOSED_MILLISECONDS : HANGING_MILLISECONDS;
  if (Math.min(silent, Date.now() - triedAt) > patience) connect();
}, 1_000);

listenToServices();
listenToOpened();
openLinked();
connect();
