// The page at `/` of the admin listener: what one daemon does, now and during the last half hour.
//
// Owns: the samples since it was opened, kept over a reload of its tab.
// Never: changes anything in the daemon, or puts what it is told into markup.
const POLL_MS = 1000;
const LOOP_POLL_MS = 2000;
const ANSWER_MS_MAX = 4000;
// Who does not tell this page what `/debug/loop` holds is asked for it again only so often.
const ABSENT_MS = 60_000;
// Percentiles are those of what was counted during this time.
const SPREAD_MS = 10_000;
const RANGES = [["1 min", 60_000], ["5 min", 300_000], ["30 min", 1_800_000]];
const WINDOW_MS = 1_800_000;
const ROWS_MAX = 20;
// Ends that are nobody's trouble, and ends of what never became a WebSocket.
const ORDINARY = ["normal", "gone", "answered", "shutdown", "reset", "connection_expired"];
const UNOPENED = ["refused", "capacity", "handshake_timeout", "tls"];

// What the daemon says to a page that asks who its users are.
const REFUSED = {
  401: "only with the API key",
  403: "only where the address of this page is an IP address or localhost, or with an API key",
};

const at = (id) => document.getElementById(id);
function make(kind, properties = {}, ...children) {
  const element = Object.assign(document.createElement(kind), properties);
  element.append(...children);
  return element;
}

// --- Words for numbers ----------------------------------------------------------------------------

const short = (value) => value >= 100 || Number.isInteger(value) ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
function scaled(value, step, units) {
  let place = 0;
  while (Math.abs(value) >= step * 0.9995 && place < units.length - 1) [value, place] = [value / step, place + 1];
  return [short(value), units[place]];
}
const known = (words) => (value) => Number.isFinite(value) ? words(value) : ["–", ""];
const UNITS = {
  count: known((value) => value < 100_000 ? [value.toLocaleString("en", { maximumFractionDigits: 1 }), ""] : scaled(value, 1000, ["", "k", "M", "G"])),
  rate: known((value) => scaled(value, 1000, ["/s", "k/s", "M/s", "G/s"])),
  bytes: known((value) => scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"])),
  flow: known((value) => scaled(value, 1024, ["B/s", "KiB/s", "MiB/s", "GiB/s"])),
  time: known((value) => value ? scaled(value * 1e6, 1000, ["µs", "ms", "s"]) : ["0", "s"]),
  share: known((value) => [`${short(value * 100)}`, "%"]),
};
// The scale of a plot goes at least so far.
const LEAST = { count: 2, rate: 2, bytes: 1024, flow: 1024, time: 0.001, share: 0.1 };
const wordsOf = (unit) => (value) => UNITS[unit](value).join(UNITS[unit](value)[1].startsWith("/") ? "" : " ").trim();
function ageOf(ms) {
  const seconds = ms / 1000;
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 1) return `${Math.round(ms)} ms`;
  if (seconds < 120) return `${short(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${short(seconds / 3600)} h`;
}

// --- Metrics --------------------------------------------------------------------------------------

// Reads the Prometheus text: plain samples by name, others by name and the values of their labels, and
// histograms by both in one, such as `loop_phase_seconds flush`.
function readMetrics(text) {
  const values = new Map(), labelled = new Map(), buckets = new Map();
  for (const line of text.split("\n")) {
    const match = /^roomcast_([a-z0-9_]+)(?:\{(.*)\})? ([^ ]+)$/.exec(line);
    if (!match) continue;
    const [, name, labels = "", written] = match;
    const value = written === "+Inf" ? Infinity : Number(written);
    if (!labels) {
      values.set(name, value);
      continue;
    }
    const pairs = new Map([...labels.matchAll(/([a-z0-9_]+)="([^"]*)"/g)].map(([, label, of]) => [label, of]));
    if (pairs.has("le")) {
      const bound = Number(pairs.get("le").replace("+Inf", "Infinity"));
      pairs.delete("le");
      const of = [name.slice(0, -"_bucket".length), ...pairs.values()].join(" ");
      if (!buckets.has(of)) buckets.set(of, new Map());
      buckets.get(of).set(bound, value);
      continue;
    }
    if (!labelled.has(name)) labelled.set(name, new Map());
    labelled.get(name).set([...pairs.values()].join(" "), value);
  }
  return { values, labelled, buckets };
}

// The value below which `part` of what a histogram has counted since `before` lies, taken evenly
// within its bucket; not a number if it has counted nothing. The last bucket has no end, so what is
// there counts as its begin.
function quantile(part, buckets, before) {
  const bounds = [...(buckets ?? [])].map(([bound, count]) => [bound, count - (before?.get(bound) ?? 0)]);
  bounds.sort(([one], [other]) => one - other);
  const total = bounds.at(-1)?.[1] ?? 0;
  if (!(total > 0)) return NaN;
  let [lower, below] = [0, 0];
  for (const [bound, count] of bounds) {
    if (count >= part * total) {
      if (!Number.isFinite(bound) || count === below) return lower;
      return lower + (bound - lower) * (part * total - below) / (count - below);
    }
    [lower, below] = [bound, count];
  }
  return lower;
}

// All that stands under `name`, whatever its labels; of `kinds` only, if they are given.
function totalOf({ labelled }, name, kinds) {
  const counts = labelled.get(name) ?? new Map();
  return (kinds ?? [...counts.keys()]).reduce((sum, kind) => sum + (counts.get(kind) ?? 0), 0);
}

// --- What is shown --------------------------------------------------------------------------------

const gauges = ["connections", "websockets", "websockets_backlogged", "users", "members", "rooms_alive", "history_bytes",
  "effects_waiting", "process_resident_memory_bytes", "process_open_fds"];
const counters = {
  received: "messages_received_total", deliveries: "deliveries_total", replayed: "replayed_total", skipped: "skipped_total",
  in: "received_bytes_total", out: "sent_bytes_total", upgrades: "upgrades_total", paused: "reads_paused_total",
  dropped: "dropped_from_queues_total", cpu: "process_cpu_seconds_total", busy: "loop_turn_seconds_sum",
};
// Counters with a label, added up: series, metric, and which values of the label.
const totals = [
  ["ends", "close_codes_total"], ["refusals", "refusals_total"], ["calls", "api_calls_total"], ["errors", "api_errors_total"],
  ["reading", "loop_phase_seconds_sum", ["note", "accept", "receive"]], ["sharing", "loop_phase_seconds_sum", ["jobs", "effects"]],
  ["writing", "loop_phase_seconds_sum", ["flush"]], ["resting", "loop_phase_seconds_sum", ["expire", "report", "reap"]],
];
// What is drawn of histograms: series, histogram, percentile.
const quantiles = [
  ["latency50", "publish_to_socket_seconds", 0.5], ["latency99", "publish_to_socket_seconds", 0.99],
  ["turn50", "loop_turn_seconds", 0.5], ["turn99", "loop_turn_seconds", 0.99],
  ["queued99", "queue_publications", 0.99], ["queuedBytes99", "queue_bytes", 0.99],
];
const TILES = [
  ["Connections", "websockets", "count"], ["Messages in", "received", "rate"], ["Deliveries", "deliveries", "rate"],
  ["Bytes out", "out", "flow"], ["Latency p99", "latency99", "time"], ["Rooms", "rooms_alive", "count"],
  ["Refusals", "refusals", "rate"], ["Memory", "process_resident_memory_bytes", "bytes"], ["Loop busy", "busy", "share"],
];
const PLOTS = [
  ["Connections", "count", [["websockets", "WebSockets"], ["connections", "all"], ["users", "users"]]],
  ["Messages in", "rate", [["received", "from clients"], ["paused", "reads paused"]]],
  ["Deliveries", "rate", [["deliveries", "all"], ["replayed", "resumed"], ["skipped", "skipped"], ["dropped", "dropped"]]],
  ["Publish to socket", "time", [["latency50", "p50"], ["latency99", "p99"]]],
  ["Queued for a member", "count", [["deepest", "deepest"], ["queued99", "p99"]]],
  ["Bytes queued for a member", "bytes", [["deepestBytes", "deepest"], ["queuedBytes99", "p99"]]],
  ["Waiting", "count", [["websockets_backlogged", "members"], ["jobs", "jobs of a worker"], ["effects_waiting", "effects"]]],
  ["Bytes", "flow", [["out", "out"], ["in", "in"]]],
  ["WebSockets", "rate", [["upgrades", "opened"], ["ends", "ended"], ["refusals", "refused"]]],
  ["API calls", "rate", [["calls", "calls"], ["errors", "errors"]]],
  ["Turn of the loop", "time", [["turn50", "p50"], ["turn99", "p99"]]],
  ["Time of the loop", "share", [["writing", "writing"], ["reading", "reading"], ["sharing", "workers"], ["resting", "rest"]]],
  ["Processor", "share", [["cpu", "all threads"], ["busy", "loop"]]],
  ["Memory", "bytes", [["process_resident_memory_bytes", "resident"], ["history_bytes", "history"]]],
  ["Rooms", "count", [["rooms_alive", "rooms"], ["members", "memberships"]]],
  ["Open files", "count", [["process_open_fds", "open"]]],
];

let samples = new Samples();
// When a daemon began anew, and when one began to drain.
let breaks = [], drains = [];
let range = RANGES[1][1];
let marked = null;
let loop = null, loopAskedAt = -Infinity, loopAway = null;
let spread = [];
let before = null;
let firstMetrics = null;
let lastMetrics = null;
// WebSockets that there were when the drain began.
let drainedFrom = null;

// One row of samples from two scrapes, `seconds` apart. Without a scrape before it, a counter has no rate.
function rowOf(metrics, previous, seconds) {
  const { values, labelled } = metrics, row = {};
  for (const name of gauges) row[name] = values.get(name) ?? NaN;
  row.jobs = Math.max(...labelled.get("worker_jobs")?.values() ?? [NaN]);
  const rate = (of) => previous ? (of(metrics) - of(previous)) / seconds : NaN;
  for (const [name, metric] of Object.entries(counters)) row[name] = rate((scrape) => scrape.values.get(metric));
  for (const [name, metric, kinds] of totals) row[name] = rate((scrape) => totalOf(scrape, metric, kinds));
  row.refusals += rate((scrape) => scrape.values.get("dropped_total"));
  const eldest = spread[0]?.metrics;
  for (const [name, histogram, part] of quantiles) {
    row[name] = eldest ? quantile(part, metrics.buckets.get(histogram), eldest.buckets.get(histogram)) : NaN;
  }
  const deepest = (of) => loop ? Math.max(0, ...list(loop.queues).map((queue) => queue[of] ?? 0)) : NaN;
  [row.deepest, row.deepestBytes] = [deepest("queued"), deepest("queued_bytes")];
  return row;
}

// A daemon that has started again counts from zero.
function hasRestarted(metrics, previous) {
  const [start, started] = [metrics, previous].map(({ values }) => values.get("process_start_time_seconds"));
  if (start !== started) return true;
  return ["loop_turns_total", "accepted_total", "sent_bytes_total"].some((name) => metrics.values.get(name) < previous.values.get(name));
}

const list = (value) => Array.isArray(value) ? value : [];

function handleMetrics(text) {
  const metrics = readMetrics(text), time = Date.now(), clock = performance.now();
  if (lastMetrics && hasRestarted(metrics, lastMetrics)) {
    breaks.push(time);
    before = firstMetrics = drainedFrom = null;
    spread = [];
  }
  firstMetrics ??= metrics;
  if (metrics.values.get("draining") > 0 && drainedFrom === null) {
    drains.push(time);
    drainedFrom = before?.metrics.values.get("websockets") ?? metrics.values.get("websockets");
  }
  samples.push(time, rowOf(metrics, before?.metrics, (clock - before?.clock) / 1000));
  before = { metrics, clock };
  spread.push(before);
  spread = spread.filter((scrape) => clock - scrape.clock <= SPREAD_MS);
  [breaks, drains] = [breaks, drains].map((times) => times.filter((one) => one > time - WINDOW_MS));
  lastMetrics = metrics;
}

// --- Tables ---------------------------------------------------------------------------------------

// What stands out in a table.
const TROUBLE = ["cut off"];

// Shows `rows` under `columns` of name, cell, kind and length of a bar from 0 to 1; all text.
function showTable(id, columns, rows, empty) {
  const place = at(id).querySelector(".scroll");
  if (!rows.length) {
    place.replaceChildren(make("p", { className: "none", textContent: empty }));
    return;
  }
  const head = make("tr", {}, ...columns.map(([name, , kind]) => make("th", { className: kind ?? "", scope: "col", textContent: name })));
  const body = rows.map((row) => make("tr", {}, ...columns.map(([, cell, kind, part]) => {
    const words = String(cell(row) ?? "–");
    const made = make("td", { className: kind ?? "", textContent: words, title: words });
    if (TROUBLE.includes(words)) made.classList.add("warn");
    if (part) made.style.setProperty("--part", `${Math.round(part(row) * 100)}%`);
    return made;
  })));
  const scrolled = place.scrollTop;
  place.replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  place.scrollTop = scrolled;
}

function showLoopTables() {
  const rooms = list(loop?.rooms).slice(0, ROWS_MAX), most = Math.max(1, ...rooms.map(({ members }) => members));
  const away = loopAway ?? "waiting for the first figures", count = (value) => UNITS.count(value ?? NaN).join("");
  showTable("rooms", [
    ["room", ({ room }) => room, "bar", ({ members }) => members / most],
    ["members", ({ members }) => count(members), "number"],
    ["last publication", ({ offset }) => count(offset), "number"],
  ], rooms, loop ? "no room has a member" : away);
  showTable("slow", [
    ["peer", ({ peer }) => peer], ["user", ({ user }) => user || "–"],
    ["queued", ({ queued }) => count(queued), "number"],
    ["bytes", ({ queued_bytes }) => wordsOf("bytes")(queued_bytes), "number"],
    ["skipped", ({ skipped }) => count(skipped), "number"],
    ["here for", ({ age_ms }) => ageOf(age_ms), "number"],
    ["rooms", ({ rooms }) => list(rooms).join(", ")],
  ], list(loop?.queues).slice(0, ROWS_MAX), loop ? "nobody waits for anything" : away);
  const ago = ({ time }) => ageOf(Math.max(0, loop.time - time));
  showTable("closes", [
    ["ago", ago, "number"], ["reason", ({ reason }) => reason], ["code", ({ code }) => code || "–", "number"],
    ["peer", ({ peer }) => peer], ["user", ({ user }) => user || "–"], ["was here for", ({ age_ms }) => ageOf(age_ms), "number"],
    ["sent", ({ sent }) => count(sent), "number"], ["skipped", ({ skipped }) => count(skipped), "number"],
  ], list(loop?.closes).slice(0, ROWS_MAX), loop ? "no connection has ended yet" : away);
}

function showReasons() {
  const kindOf = (reason) => ORDINARY.includes(reason) ? "ordinary" : UNOPENED.includes(reason) ? "never opened" : "cut off";
  const closes = rowsOf("closes_total").map((row) => ({ ...row, kind: kindOf(row.of) }));
  const refusals = rowsOf("refusals_total").map((row) => ({ ...row, kind: "refused" }));
  const dropped = rowsOf("dropped_total").map((row) => ({ ...row, of: "over capacity", kind: "unheard" }));
  const rows = [...closes, ...refusals, ...dropped];
  const isTrouble = ({ kind }) => kind !== "ordinary";
  rows.sort((one, other) => isTrouble(other) - isTrouble(one) || other.recent - one.recent || other.total - one.total);
  const most = Math.max(1, ...rows.map(({ total }) => total));
  showTable("reasons", [
    ["reason", ({ of }) => of, "bar", ({ total }) => total / most], ["kind", ({ kind }) => kind],
    ["since this page opened", ({ recent }) => recent.toLocaleString("en"), "number"],
    ["since the start", ({ total }) => total.toLocaleString("en"), "number"],
  ], rows, "no connection has ended yet");
}

// What a counter has counted by its labels: since the page opened, and in all.
function rowsOf(name) {
  const countsOf = (scrape) => scrape.labelled.get(name) ?? new Map([[name, scrape.values.get(name) ?? 0]]);
  const since = countsOf(firstMetrics);
  return [...countsOf(lastMetrics)].filter(([, total]) => total > 0)
    .map(([of, total]) => ({ of, total, recent: total - (since.get(of) ?? 0) }));
}

function showPhases() {
  const { metrics: eldest, clock } = spread[0] ?? {}, seconds = (before?.clock - clock) / 1000;
  const names = [...lastMetrics.labelled.get("loop_phase_seconds_sum")?.keys() ?? []];
  const gain = (name, phase) => (totalOf(lastMetrics, name, [phase]) - totalOf(eldest, name, [phase])) / seconds;
  const rows = seconds > 0 ? names.map((phase) => ({
    phase, share: gain("loop_phase_seconds_sum", phase), times: gain("loop_phase_seconds_count", phase),
    at: (part) => quantile(part, ...[lastMetrics, eldest].map(({ buckets }) => buckets.get(`loop_phase_seconds ${phase}`))),
  })) : [];
  rows.sort((one, other) => other.share - one.share);
  const most = Math.max(1e-9, ...rows.map(({ share }) => share));
  showTable("phases", [
    ["phase", ({ phase }) => phase, "bar", ({ share }) => share / most],
    ["of the time", ({ share }) => wordsOf("share")(share), "number"],
    ["times", ({ times }) => wordsOf("rate")(times), "number"],
    ["p50", ({ at }) => wordsOf("time")(at(0.5)), "number"], ["p99", ({ at }) => wordsOf("time")(at(0.99)), "number"],
  ], rows, "waiting for the second figures");
}

function showCalls() {
  const rows = new Map();
  for (const { of, recent, total } of rowsOf("api_outcomes_total")) {
    const [method, code] = of.split(" ");
    if (!rows.has(method)) rows.set(method, { method, recent: 0, total: 0, errors: [] });
    const row = rows.get(method);
    row.recent += recent;
    row.total += total;
    if (code !== "0") row.errors.push(`${code}: ${total.toLocaleString("en")}`);
  }
  const most = Math.max(1, ...[...rows.values()].map(({ total }) => total));
  showTable("calls", [
    ["method", ({ method }) => method || "no such method", "bar", ({ total }) => total / most],
    ["errors by code", ({ errors }) => errors.join(", ") || "–"],
    ["since this page opened", ({ recent }) => recent.toLocaleString("en"), "number"],
    ["since the start", ({ total }) => total.toLocaleString("en"), "number"],
  ], [...rows.values()].sort((one, other) => other.recent - one.recent || other.total - one.total), "nobody has called yet");
}

// --- The page -------------------------------------------------------------------------------------

const tiles = TILES.map(([title, key, unit]) => {
  const value = make("b"), suffix = make("i");
  const tile = make("div", { className: "tile" }, make("span", { textContent: title }), value, suffix);
  tile.dataset.key = key;
  at("tiles").append(tile);
  return { value, suffix, key, unit };
});

const plots = PLOTS.map(([title, unit, series]) => {
  const canvas = make("canvas", { ariaHidden: "true" });
  const keys = series.map(([, label], number) => {
    const value = make("em");
    return { value, line: make("span", { className: `k${number + 1}` }, `${label} `, value) };
  });
  const caption = make("figcaption", {}, make("b", { textContent: title }), make("span", { className: "keys" }, ...keys.map(({ line }) => line)));
  const figure = make("figure", {}, caption, canvas);
  at("plots").append(figure);
  const move = ({ clientX }) => {
    const { left, width } = canvas.getBoundingClientRect(), { from, to } = shown();
    marked = from + (clientX - left) / width * (to - from);
    show();
  };
  canvas.onpointermove = move;
  canvas.onpointerleave = () => {
    marked = null;
    show();
  };
  const names = series.map(([name]) => name);
  const base = unit === "bytes" || unit === "flow" ? 1024 : 10;
  return { keys, names, unit, plot: new Plot(canvas, names, wordsOf(unit), LEAST[unit], base) };
});

for (const [words, ms] of RANGES) {
  const button = make("button", { type: "button", textContent: words });
  button.setAttribute("aria-pressed", String(ms === range));
  button.onclick = () => {
    range = ms;
    for (const other of at("ranges").children) other.setAttribute("aria-pressed", String(other === button));
    show();
  };
  at("ranges").append(button);
}

let colors = null;
function readColors() {
  const style = getComputedStyle(document.documentElement), of = (name) => style.getPropertyValue(`--${name}`);
  colors = { grid: of("grid"), faint: of("faint"), card: of("card"), bad: of("bad"), wait: of("wait"), series: [1, 2, 3, 4].map((number) => of(`s${number}`)) };
}

const has = (name) => samples.of(name).some(Number.isFinite);

let frame = 0;
function show() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    draw();
  });
}

// What the plots show: the range chosen, or as much of it as there is.
function shown() {
  const to = samples.times.at(-1) ?? Date.now();
  return { from: to - Math.min(range, Math.max(RANGES[0][1], to - (samples.times[0] ?? to))), to };
}

function draw() {
  if (!colors) readColors();
  const { from, to } = shown();
  const place = marked === null ? samples.times.length - 1 : samples.placeAt(marked);
  for (const { value, suffix, key, unit } of tiles) {
    [value.textContent, suffix.textContent] = UNITS[unit](samples.of(key).at(-1));
  }
  const events = [...breaks.map((time) => [time, colors.bad]), ...drains.map((time) => [time, colors.wait])];
  for (const { keys, names, unit, plot } of plots) {
    names.forEach((name, number) => {
      // Only what `/debug/loop` tells may be missing.
      keys[number].line.hidden = !has(name) && name.startsWith("deepest");
      keys[number].value.textContent = wordsOf(unit)(samples.of(name)[place]);
    });
    plot.draw(samples, { from, to, marked, events, colors });
  }
}

let isAway = false;
function showState(state, words) {
  document.body.dataset.state = at("state").dataset.state = state;
  at("state").textContent = words;
  const online = samples.of("websockets").at(-1);
  document.title = state === "draining" ? `${UNITS.count(online).join("")} left · roomcast` : state === "away" ? "⚠ roomcast" : Number.isFinite(online) ? `${UNITS.count(online).join("")} · roomcast` : "roomcast";
}

// --- Asking ---------------------------------------------------------------------------------------

async function ask(path, headers = {}) {
  const answer = await fetch(path, { headers, cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS_MAX) });
  return { status: answer.status, text: await answer.text() };
}

async function askLoop() {
  const now = performance.now(), pause = loopAway ? ABSENT_MS : LOOP_POLL_MS;
  if (now - loopAskedAt < pause) return;
  loopAskedAt = now;
  const { status, text } = await ask("debug/loop", key ? { "X-API-Key": key } : {});
  loop = status === 200 ? JSON.parse(text) : null;
  loopAway = loop ? null : REFUSED[status] ?? `${status} for /debug/loop`;
  at("door").hidden = status !== 401;
  at("told").textContent = status === 401 && key ? "That is not the key of this daemon." : "";
  if (status === 401) key = "";
}

// What the daemon does, in words.
function nowOf({ values }) {
  if (values.get("draining") > 0) {
    const [left, all] = [values.get("websockets"), drainedFrom].map((number) => number.toLocaleString("en"));
    return ["draining", `draining: ${left} of ${all} WebSockets left`];
  }
  const restarted = breaks.length ? `, restarted at ${new Date(breaks.at(-1)).toLocaleTimeString()}` : "";
  return ["live", `live${restarted}`];
}

// The key is kept in memory only: it opens more than what is looked at here.
let key = "";
at("door").onsubmit = (event) => {
  event.preventDefault();
  key = at("key").value;
  [loopAskedAt, loopAway] = [-Infinity, null];
};

let awaySince = null;
async function poll() {
  const begun = performance.now();
  try {
    const { status, text } = await ask("metrics");
    if (status !== 200) throw new Error(`${status} for /metrics`);
    handleMetrics(text);
    // After an absence it may be another daemon.
    if (isAway) [loopAskedAt, loopAway] = [-Infinity, null];
    [isAway, awaySince] = [false, null];
    showState(...nowOf(lastMetrics));
    at("up").textContent = `up ${ageOf(Date.now() - 1000 * lastMetrics.values.get("process_start_time_seconds"))}`;
    await askLoop();
  } catch (error) {
    if (!isAway) samples.push(Date.now(), {});
    isAway = true;
    awaySince ??= new Date();
    before = null;
    spread = [];
    const since = awaySince.toLocaleTimeString();
    showState("away", drainedFrom === null ? `not reachable since ${since}; trying again` : `drained and gone since ${since}; waiting for the next`);
    at("state").title = error.message;
  }
  showLoopTables();
  if (lastMetrics) [showReasons, showPhases, showCalls].forEach((showThem) => showThem());
  show();
  setTimeout(poll, Math.max(100, POLL_MS - (performance.now() - begun)));
}

at("host").textContent = location.host;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  colors = null;
  show();
});
new ResizeObserver(show).observe(at("plots"));

// A reload of the tab keeps what was seen. A browser may forbid storage; then it begins anew.
window.addEventListener("pagehide", () => {
  try { sessionStorage.setItem("roomcast samples", JSON.stringify({ samples, breaks, drains })); } catch {}
});
try {
  const kept = JSON.parse(sessionStorage.getItem("roomcast samples"));
  if (kept?.samples.times.at(-1) > Date.now() - WINDOW_MS) {
    samples = Samples.from(kept.samples);
    [breaks, drains] = [kept.breaks, kept.drains];
  }
} catch {}
// For tests and the curious: what the plots are drawn from.
globalThis.dashboard = Object.freeze({
  newest: (name) => samples.of(name).at(-1),
  count: () => samples.times.length,
  breaks: () => breaks.length,
});
poll();
