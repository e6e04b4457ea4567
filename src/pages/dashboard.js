// The page at `/` of the admin listener: what one daemon does, now and during the last half hour.
//
// Owns: the samples since it was opened, kept over a reload of its tab.
// Never: changes anything in the daemon, or puts what it is told into markup.
const POLL_MS = 1000;
const LOOP_POLL_MS = 2000;
const ANSWER_MS_MAX = 4000;
// A daemon that has no `/debug/loop` is asked for it again only so often.
const ABSENT_MS = 60_000;
// Percentiles are those of what was counted during this time.
const SPREAD_MS = 10_000;
const RANGES = [["1 min", 60_000], ["5 min", 300_000], ["30 min", 1_800_000]];
const WINDOW_MS = 1_800_000;
const ROWS_MAX = 20;
// Ends that are nobody's trouble.
const ORDINARY = ["normal", "gone", "answered", "shutdown", "reset", "connection_expired"];
// Ends because a client was not let in, as against those of connections that were.
const REFUSALS = ["refused", "capacity", "invalid_token", "connection_limit", "bad_request", "channel_limit",
  "permission_denied", "handshake_timeout"];

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
  count: known((value) => value < 100_000 ? [Number.isInteger(value) ? value.toLocaleString("en") : short(value), ""] : scaled(value, 1000, ["", "k", "M", "G"])),
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

// Reads the Prometheus text: every sample by its name with labels, and the histograms by their names.
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
    if (name.endsWith("_bucket") && pairs.has("le")) {
      const of = name.slice(0, -"_bucket".length), bound = Number(pairs.get("le").replace("+Inf", "Infinity"));
      if (!buckets.has(of)) buckets.set(of, new Map());
      // Of a histogram with labels, the sum over all of them.
      buckets.get(of).set(bound, (buckets.get(of).get(bound) ?? 0) + value);
      continue;
    }
    if (!labelled.has(name)) labelled.set(name, new Map());
    const kind = [...pairs.values()].join(" ");
    labelled.get(name).set(kind, (labelled.get(name).get(kind) ?? 0) + value);
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

const sumOf = (counts, names) => names.reduce((sum, name) => sum + (counts?.get(name) ?? 0), 0);

// --- What is shown --------------------------------------------------------------------------------

const gauges = ["connections", "websockets", "websockets_backlogged", "members", "rooms_alive", "history_bytes",
  "process_resident_memory_bytes"];
const counters = {
  received: "messages_received_total", deliveries: "deliveries_total", replayed: "replayed_total", skipped: "skipped_total",
  in: "received_bytes_total", out: "sent_bytes_total", upgrades: "upgrades_total", paused: "reads_paused_total",
  cpu: "process_cpu_seconds_total", busy: "loop_turn_seconds_sum",
};
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
  ["Connections", "count", [["websockets", "WebSockets"], ["connections", "all"]]],
  ["Deliveries", "rate", [["deliveries", "all"], ["replayed", "resumed"], ["skipped", "skipped"]]],
  ["Messages in", "rate", [["received", "from clients"], ["paused", "reads paused"]]],
  ["Bytes", "flow", [["out", "out"], ["in", "in"]]],
  ["Publish to socket", "time", [["latency50", "p50"], ["latency99", "p99"]]],
  ["Queued for a member", "count", [["deepest", "deepest"], ["queued99", "p99"], ["websockets_backlogged", "who wait"]]],
  ["Bytes queued for a member", "bytes", [["deepestBytes", "deepest"], ["queuedBytes99", "p99"]]],
  ["Comings and goings", "rate", [["upgrades", "opened"], ["ends", "ended"], ["refusals", "refused"]]],
  ["Turn of the loop", "time", [["turn50", "p50"], ["turn99", "p99"]]],
  ["Processor", "share", [["cpu", "all threads"], ["busy", "loop"]]],
  ["Memory", "bytes", [["process_resident_memory_bytes", "resident"], ["history_bytes", "history"]]],
  ["Rooms", "count", [["rooms_alive", "rooms"], ["members", "memberships"]]],
];

let samples = new Samples();
let breaks = [];
let range = RANGES[1][1];
let marked = null;
let loop = null, loopAskedAt = -Infinity, loopAway = null;
let spread = [];
let before = null;
let firstMetrics = null;
let lastMetrics = null;

// Who was not let in, by reason: as the daemon counts them, or else from how connections ended.
function refusalsOf({ labelled, values }) {
  const closes = labelled.get("closes_total");
  const counts = labelled.get("refusals_total") ?? new Map(REFUSALS.map((reason) => [reason, closes?.get(reason) ?? 0]));
  return new Map([...counts, ["dropped unheard", values.get("dropped_total") ?? 0]]);
}

// One row of samples from two scrapes, `seconds` apart. Without a scrape before it, a counter has no rate.
function rowOf(metrics, previous, seconds) {
  const { values, labelled } = metrics, row = {};
  for (const name of gauges) row[name] = values.get(name) ?? NaN;
  const rate = (now, then) => previous ? (now - then) / seconds : NaN;
  for (const [name, metric] of Object.entries(counters)) row[name] = rate(values.get(metric), previous?.values.get(metric));
  const closes = labelled.get("closes_total"), closed = previous?.labelled.get("closes_total");
  const every = (counts) => sumOf(counts, [...(counts?.keys() ?? [])].filter((name) => name !== "answered" && !REFUSALS.includes(name)));
  row.ends = rate(every(closes), every(closed));
  const refused = (scrape) => [...refusalsOf(scrape).values()].reduce((sum, count) => sum + count, 0);
  row.refusals = previous ? rate(refused(metrics), refused(previous)) : NaN;
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
    before = firstMetrics = null;
    spread = [];
  }
  firstMetrics ??= metrics;
  samples.push(time, rowOf(metrics, before?.metrics, (clock - before?.clock) / 1000));
  before = { metrics, clock };
  spread.push(before);
  spread = spread.filter((scrape) => clock - scrape.clock <= SPREAD_MS);
  breaks = breaks.filter((broken) => broken > time - WINDOW_MS);
  lastMetrics = metrics;
}

// --- Tables ---------------------------------------------------------------------------------------

// Shows `rows` under `columns` of name, cell and properties; all text.
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
    ["skipped", ({ skipped }) => count(skipped), "number"],
  ], list(loop?.closes).slice(0, ROWS_MAX), loop ? "no connection has ended yet" : away);
}

function showReasons() {
  if (!lastMetrics) return;
  const rows = [];
  const add = (kind, counts, since) => {
    for (const [reason, total] of counts) {
      if (total > 0) rows.push({ kind: kind(reason), reason, total, recent: total - (since.get(reason) ?? 0) });
    }
  };
  const closesOf = ({ labelled }) => new Map([...labelled.get("closes_total") ?? []].filter(([reason]) => !REFUSALS.includes(reason)));
  add((reason) => ORDINARY.includes(reason) ? "ordinary" : "cut off", closesOf(lastMetrics), closesOf(firstMetrics));
  add(() => "refused", refusalsOf(lastMetrics), refusalsOf(firstMetrics));
  const isTrouble = ({ kind }) => kind !== "ordinary";
  rows.sort((one, other) => isTrouble(other) - isTrouble(one) || other.recent - one.recent || other.total - one.total);
  const most = Math.max(1, ...rows.map(({ total }) => total));
  showTable("reasons", [
    ["reason", ({ reason }) => reason, "bar", ({ total }) => total / most],
    ["kind", ({ kind }) => kind],
    ["since this page opened", ({ recent }) => recent.toLocaleString("en"), "number"],
    ["since the start", ({ total }) => total.toLocaleString("en"), "number"],
  ], rows, "no connection has ended yet");
}

// --- The page -------------------------------------------------------------------------------------

const tiles = TILES.map(([title, key, unit]) => {
  const value = make("b"), suffix = make("i");
  const tile = make("div", { className: "tile", hidden: true }, make("span", { textContent: title }), value, suffix);
  tile.dataset.key = key;
  at("tiles").append(tile);
  return { tile, value, suffix, key, unit };
});

const plots = PLOTS.map(([title, unit, series]) => {
  const canvas = make("canvas", { ariaHidden: "true" });
  const keys = series.map(([, label], number) => {
    const value = make("em");
    return { value, line: make("span", { className: `k${number + 1}` }, `${label} `, value) };
  });
  const caption = make("figcaption", {}, make("b", { textContent: title }), make("span", { className: "keys" }, ...keys.map(({ line }) => line)));
  const figure = make("figure", { hidden: true }, caption, canvas);
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
  return { figure, keys, names, unit, plot: new Plot(canvas, names, wordsOf(unit), LEAST[unit], base) };
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
  colors = { grid: of("grid"), faint: of("faint"), card: of("card"), bad: of("bad"), series: [1, 2, 3, 4].map((number) => of(`s${number}`)) };
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
  for (const { tile, value, suffix, key, unit } of tiles) {
    tile.hidden = !has(key);
    [value.textContent, suffix.textContent] = UNITS[unit](samples.of(key).at(-1));
  }
  for (const { figure, keys, names, unit, plot } of plots) {
    figure.hidden = !names.some(has);
    if (figure.hidden) continue;
    names.forEach((name, number) => {
      keys[number].line.hidden = !has(name);
      keys[number].value.textContent = wordsOf(unit)(samples.of(name)[place]);
    });
    plot.draw(samples, { from, to, marked, breaks, colors });
  }
}

let isAway = false;
function showState(state, words) {
  at("state").dataset.state = state;
  at("state").textContent = words;
  const online = samples.of("websockets").at(-1);
  document.title = state === "away" ? "⚠ roomcast" : Number.isFinite(online) ? `${UNITS.count(online).join("")} · roomcast` : "roomcast";
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
  loopAway = loop ? null : REFUSED[status] ?? `this daemon does not tell (${status} for /debug/loop)`;
  at("door").hidden = status !== 401;
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
    const isDraining = lastMetrics.values.get("draining") > 0;
    showState(isDraining ? "draining" : "live", isDraining ? "draining" : "live, once a second");
    await askLoop();
  } catch (error) {
    if (!isAway) samples.push(Date.now(), {});
    isAway = true;
    awaySince ??= new Date();
    before = null;
    spread = [];
    showState("away", `not reachable since ${awaySince.toLocaleTimeString()}; trying again`);
    at("state").title = error.message;
  }
  showLoopTables();
  showReasons();
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
  try { sessionStorage.setItem("roomcast samples", JSON.stringify({ samples, breaks })); } catch {}
});
try {
  const kept = JSON.parse(sessionStorage.getItem("roomcast samples"));
  if (kept?.samples.times.at(-1) > Date.now() - WINDOW_MS) {
    samples = Samples.from(kept.samples);
    breaks = kept.breaks;
  }
} catch {}
// For tests and the curious: what the plots are drawn from.
globalThis.dashboard = Object.freeze({
  newest: (name) => samples.of(name).at(-1),
  count: () => samples.times.length,
  breaks: () => breaks.length,
});
poll();
