// The page: state of the server, upstreams, charts, and the connection.

const SILENT_MILLISECONDS = 7_000; // the status comes every two seconds
const CLOSED_MILLISECONDS = 3_000; // until a rejected connection is tried again,
const HANGING_MILLISECONDS = 15_000; // and a silent one

charts.push(
  new Chart(byId("queries"), "Queries per second", [
    { name: "queries", word: "all", colour: 0 },
  ], { format: perSecond }),
  new Chart(byId("latency"), "Latency", [
    { name: "latency_cached_p50", word: "cache: median", colour: 0, dashed: true },
    { name: "latency_cached_p99", word: "99 %", colour: 0, joins: true },
    { name: "latency_computed_p50", word: "zone: median", colour: 1, dashed: true },
    { name: "latency_computed_p99", word: "99 %", colour: 1, joins: true },
    { name: "latency_forwarded_p50", word: "upstream: median", colour: 3, dashed: true },
    { name: "latency_forwarded_p99", word: "99 %", colour: 3, joins: true },
  ], { format: latency, logarithmic: true }),
  new Chart(byId("sources"), "Responses per second, by source", [
    { name: "response_cache", word: "response cache", colour: 0 },
    { name: "zone", word: "table", colour: 1 },
    { name: "forward_cache", word: "forward cache", colour: 2 },
    { name: "upstream", word: "upstream", colour: 3 },
    { name: "stale", word: "stale cache", colour: 4 },
    { name: "refused", word: "refused", colour: 5 },
  ], { format: perSecond, stacked: true }),
);

// -- the server's state --------------------------------------------------------------------------------------

/** The state of the table: a word, its effect on responses, and its colour. */
function stateOf({ source, zookeeper, primary, ready, table }) {
  if (!zookeeper && !primary) {
    if (!ready) return ["not ready", "the file is being read", "warn"];
    switch (source) {
      case "snapshot":
        return ["snapshot", "serving a snapshot, without ZooKeeper", "warn"];
      case "demo":
        return ["demo", "serving the built-in example, without ZooKeeper", "good"];
      default:
        return ["static file", "serving the services of a file, without ZooKeeper", "good"];
    }
  }
  const { state, stale_seconds: stale, problem } = zookeeper ?? primary;
  const cause = problem ? ` (${problem})` : "";
  const since = stale ? `for ${duration(stale)}: ` : "";
  switch (state) {
    case "live":
      if (problem) return ["live", problem, "warn"];
      return ["live", ready ? "responses follow each change" : "not every worker has the table yet", "good"];
    case "unreachable":
      return ["unreachable", `${since}serving the last known table${cause}`, "bad"];
    case "readonly":
      return ["read-only", `${since}no changes without a quorum; serving the last known table`, "warn"];
    case "reading":
      return ready || table?.services
        ? ["reading", `serving the previous table until the read is complete${cause}`, "warn"]
        : ["reading for the first time", `no responses until the read is complete${cause}`, "warn"];
    default:
      return ["unknown", "the watcher has not reported yet", "warn"];
  }
}

/** What is special about a namespace; empty if nothing is. */
function namespaceText({ state, stale_seconds: stale, held, unread }, all) {
  const differs = all.some((one) => one.state !== all[0].state);
  return [
    differs && (stale ? `${state} for ${duration(stale)}` : state),
    held && all.length > 1 && `${count(held)} held`,
    unread && `${count(unread)} ${unread === 1 ? "znode" : "znodes"} cannot be listed`,
  ].filter(Boolean).join(", ");
}

function showStatus(status) {
  ahead = status.now - Date.now() / 1000;
  const [word, detail, tone] = stateOf(status);
  byId("state").dataset.tone = tone;
  setText(byId("state-word"), status.zookeeper ? `ZooKeeper: ${word}`
    : status.primary ? `Primary: ${word}` : word[0].toUpperCase() + word.slice(1));
  setText(byId("state-detail"), detail);
  document.title = `${word} – zkdns at ${location.hostname}`;
  setText(byId("version"), status.version);
  const { table, workers, zookeeper, primary } = status;
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
    ["Primaries", primary?.servers.join(", ")],
    ...(primary?.zones ?? []).map((one) => [one.zone, one.serial === null ? "" : `serial ${one.serial}`]),
    ["ZooKeeper", zookeeper?.hosts.split(",").join(", ")],
    ...(zookeeper?.namespaces ?? []).map((one) => [one.namespace, namespaceText(one, zookeeper.namespaces)]),
  ].filter(([, text]) => text);
  showFacts(facts);
  if (isNews("upstreams", status.upstreams)) showUpstreams(status.upstreams);
  // Changes of these have no entries in the history.
  if (isNews("table", [table?.bad, zookeeper?.state, zookeeper?.namespaces.map((one) => one.unread), status.ready,
    status.started, opens])) {
    readAllServices();
    readOpened();
  }
  if (isNews("counts", table)) {
    readServices();
    readOpened();
  }
  compareServices(table);
}

const shownFacts = new Map(); // term: its element

function showFacts(facts) {
  if (!isNews("facts", facts)) return;
  arrange(byId("facts"), facts.map(([term, text]) => {
    if (!shownFacts.has(term)) shownFacts.set(term, fact(term, ""));
    setText(shownFacts.get(term).lastElementChild, text);
    return shownFacts.get(term);
  }));
  for (const term of shownFacts.keys()) if (!facts.some(([other]) => other === term)) shownFacts.delete(term);
}

function showUpstreams(upstreams) {
  byId("upstream-table").hidden = !upstreams.length;
  byId("upstreams-empty").hidden = Boolean(upstreams.length);
  byId("upstream-rows").replaceChildren(...upstreams.map((upstream) => element("tr", {},
    element("th", { scope: "row" }, upstream.address),
    cell("names", upstream.domain || "all other names"),
    cell("state", upstream.dead ? chip("down", "bad") : chip("up", "good")),
    element("td", { class: "number", "data-label": "RTT" }, latency(upstream.rtt_seconds)))));
}

// -- the last hour -------------------------------------------------------------------------------------------

let hour = null;

function showHour(read) {
  hour = read;
  for (const chart of charts) chart.show(hour);
}

async function readHour() {
  showHour(await ask("api/last-hour"));
}

function addPoint({ step, until, series }) {
  if (!hour) return;
  if (Math.abs(until - hour.until - step) > step / 2) {
    retried(readHour); // points were missed
    return;
  }
  const added = Object.entries(hour.series).map(([name, values]) => [name, [...values.slice(1), series[name] ?? null]]);
  showHour({ step, until, series: Object.fromEntries(added) });
}

// -- the connection ------------------------------------------------------------------------------------------

let stream = null;
let heardAt = Date.now(); // by the browser's clock, like all times about the connection
let triedAt = 0;
let opens = 0; // number of connections that were opened
let isLost = false;
let rejection = ""; // reason, if the server rejects the event stream

function connect() {
  triedAt = Date.now();
  stream?.close();
  stream = new EventSource("api/events");
  stream.addEventListener("open", () => {
    heard();
    for (const read of [readHistory, readHour]) retried(read);
    opens += 1; // the status that follows reads the services
  });
  on("status", showStatus);
  on("change", (entry) => addChanges([entry]));
  on("point", addPoint);
  stream.addEventListener("error", () => {
    setLost(true);
    if (stream.readyState === EventSource.CLOSED) readRejection();
  });
}

/** Request the reason for a rejected stream, which EventSource does not reveal. */
async function readRejection() {
  try {
    const response = await fetch("api/events", { signal: AbortSignal.timeout(CLOSED_MILLISECONDS) });
    rejection = response.ok ? "" : (await response.json()).error;
    if (response.ok) await response.body.cancel();
  } catch {
    rejection = "";
  }
  if (isLost) setLost(true);
}

function on(kind, show) {
  stream.addEventListener(kind, (event) => {
    heard();
    show(JSON.parse(event.data));
  });
}

/** Read, and try again after a failure while connected. */
async function retried(read) {
  try {
    await read();
  } catch {
    if (!isLost) setTimeout(() => retried(read), 2_000);
  }
}

function heard() {
  heardAt = Date.now();
  rejection = "";
  setLost(false);
}

function setLost(lost) {
  if (!lost && !isLost) return; // called for each event
  isLost = lost;
  document.body.classList.toggle("lost", lost);
  pointAt(pointed); // so that the newest values are no longer labelled as current
  if (lost) {
    byId("state").dataset.tone = "bad";
    setText(byId("state-word"), "Unknown: no connection to the server");
    setText(byId("state-detail"), "");
    document.title = `lost – zkdns at ${location.hostname}`;
    const what = rejection
      ? `The server rejects this page: ${rejection}.`
      : "The connection to the server is lost.";
    const since = clock(heardAt / 1000);
    setText(byId("lost"), `${what} The values below are of ${since}. Reconnecting.`);
  }
  byId("lost").hidden = !lost;
}

// Browsers reconnect by themselves, but not after an error response or while a connection hangs.
setInterval(() => {
  updateAges();
  const silent = Date.now() - heardAt;
  if (silent > SILENT_MILLISECONDS && !isLost) setLost(true);
  const patience = stream.readyState === EventSource.CLOSED ? CLOSED_MILLISECONDS : HANGING_MILLISECONDS;
  if (Math.min(silent, Date.now() - triedAt) > patience) connect();
}, 1_000);

readAddress();
listenToServices();
listenToOpened();
openLinked();
connect();
