// The page at `/`: a room as a wall of comments and a list of them.
//
// Owns: the one connection, where it was in each room, and what the list shows.
// Never: puts what comes from the wire into markup, or shows a comment that was not published.
const LINES_MAX = 500;
const RETRY_MS = 1000;
const RETRY_MS_MAX = 30_000;
// A count of members older than this is shown with its time.
const FRESH_MS = 60_000;
const TOAST_MS = 7000;
// A list that moves so soon after it was touched was moved by its reader.
const HANDLED_MS = 1000;
// What was missed comes without a pause; after one, nothing more is to be expected of it.
const CATCH_UP_PAUSE_MS = 3000;
const COLORS = ["plain", "rose", "coral", "amber", "lime", "mint", "sea", "violet"];
const QUICK = ["👏", "❤️", "😂", "🔥", "🎉", "👋"];
const GREETINGS = [
  "hello 👋", "open a second tab and talk to yourself", "no two comments ever touch",
  "cut the connection: what you missed comes back", "弹幕 · danmaku · bullet comments", "pick a colour, pick a name",
];
// Beside 3500 and up: to come back would end the same way.
const FINAL_CODES = [1000, 1002, 1007];
// What a person can do about a close; codes that need nothing are left out.
const HINTS = {
  1009: "That message was larger than this server takes.",
  3500: "This server lets only those in who bring a token.",
  3501: "Rooms and names are printable ASCII; a name has no comma.",
  3507: "That room is not open to this name.",
};
const at = (id) => document.getElementById(id);
const plural = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
const log = at("log");
const asked = new URLSearchParams(location.search);
const positions = new Map();
let me = { user: "", color: "plain", flies: true, ...load("localStorage", "me") };
if (!COLORS.includes(me.color)) me.color = "plain";
let login = { room: asked.get("room") ?? "lobby", user: asked.get("user") ?? me.user, token: asked.get("token"), isLive: false };
let socket = null, retry = null, failures = 0;
// What is being caught up with in the room on the wall.
let catchUp = null;

// A browser may forbid storage; the page then works without a memory.
function save(storage, key, value) {
  try { window[storage].setItem(`roomcast ${key}`, JSON.stringify(value)); } catch {}
}
function load(storage, key) {
  try { return JSON.parse(window[storage].getItem(`roomcast ${key}`)); } catch { return null; }
}

// --- The wall -------------------------------------------------------------------------------------

// Colours are those of the style sheet, for the sky as it is now.
let inks = new Map();
function styleOf(color) {
  if (!inks.size) {
    const style = getComputedStyle(document.documentElement);
    const edge = style.getPropertyValue("--edge");
    for (const name of COLORS) inks.set(name, { fill: style.getPropertyValue(`--${name}`), edge });
  }
  return inks.get(color) ?? inks.get("plain");
}

const flight = new Flight(at("sky"), styleOf);
// For tests and the curious: how the wall is doing.
globalThis.wall = Object.freeze({ sprites: () => flight.sprites(), stats: () => flight.stats() });

function fitWall() {
  const { clientWidth: width, clientHeight: height } = at("stage");
  flight.fit(width, height, Math.min(2, devicePixelRatio || 1), width < 560 ? 18 : 23);
}
new ResizeObserver(fitWall).observe(at("stage"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  inks = new Map();
  flight.repaint();
});
const stillness = matchMedia("(prefers-reduced-motion: reduce)");
stillness.addEventListener("change", () => flight.setStill(stillness.matches));
flight.setStill(stillness.matches);

function fly(text, color, isOwn) {
  // Nobody looks at a hidden page, and it draws nothing: all would come at once later.
  if (!me.flies || document.hidden) return;
  flight.add(text, color, isOwn);
  showSpare();
}

// How many comments the wall had no room for, told once in a while.
let spareTimer = null;
function showSpare() {
  spareTimer ??= setTimeout(() => {
    spareTimer = null;
    const { passed } = flight.stats();
    at("spare").hidden = !passed;
    at("spare").textContent = `${passed} in the list only`;
    at("spare").title = "Comments that did not fly, because the sky was full";
  }, 500);
}

function showFlies() {
  at("fly").setAttribute("aria-pressed", String(me.flies));
}
at("fly").onclick = () => {
  keepMe({ flies: !me.flies });
  if (!me.flies) flight.clear();
  showFlies();
};

// --- Who one is -----------------------------------------------------------------------------------

function keepMe(change) {
  me = { ...me, ...change };
  save("localStorage", "me", me);
}

function chooseColor(color) {
  keepMe({ color });
  for (const choice of at("colors").querySelectorAll("input")) choice.checked = choice.value === color;
  at("ink").dataset.color = color;
  at("ink").title = `Your colour: ${color}`;
}

// Of those without a colour, everybody's name has one.
function colorOf(user) {
  let hash = 2166136261;
  for (const letter of user) hash = Math.imul(hash ^ letter.codePointAt(0), 16777619);
  return user ? COLORS[1 + (hash >>> 8) % (COLORS.length - 1)] : "plain";
}

for (const color of COLORS) {
  const label = document.createElement("label");
  const choice = Object.assign(document.createElement("input"), { type: "radio", name: "color", value: color });
  choice.setAttribute("aria-label", color);
  choice.onchange = () => chooseColor(color);
  label.dataset.color = color;
  label.title = color;
  label.append(choice, document.createElement("i"));
  at("colors").append(label);
}
at("ink").append(document.createElement("i"));
at("ink").onclick = () => chooseColor(COLORS[(COLORS.indexOf(me.color) + 1) % COLORS.length]);

// --- Comments as they travel ----------------------------------------------------------------------

// A comment is its text. Where it has a colour, or could be taken for one that has, it is JSON.
function encode(text) {
  if (me.color === "plain" && !text.startsWith("{")) return text;
  return JSON.stringify({ text, ...(me.color !== "plain" && { color: me.color }) });
}

function decode({ data, b64 }) {
  let body = data;
  if (typeof data === "string" && data.startsWith("{")) {
    try { body = JSON.parse(data); } catch {}
  }
  if (typeof body?.text === "string") {
    return { text: body.text, color: COLORS.includes(body.color) ? body.color : null };
  }
  if (typeof data === "string") return { text: data, color: null };
  if (data !== undefined) return { text: JSON.stringify(data), color: null };
  return { text: `[binary, ${atob(b64 ?? "").length} bytes]`, color: null };
}

// --- Where one is in a room -----------------------------------------------------------------------

// As `since` takes it. Messages to a user come while no tab is open, so that position is the browser's;
// any other is the tab's.
const isPersonal = (room) => room === `#${login.user}`;
const storageOf = (room) => isPersonal(room) ? "localStorage" : "sessionStorage";
function positionOf(room) {
  const position = positions.get(room) ?? load(storageOf(room), `position ${room}`);
  return /^[0-9a-z]{1,16}\.[0-9]{1,16}$/i.test(position) ? position : null;
}
function keepPosition(room, epoch, offset) {
  positions.set(room, `${epoch}.${offset}`);
  save(storageOf(room), `position ${room}`, positions.get(room));
}

// --- What the page shows --------------------------------------------------------------------------

function setLive(isLive) {
  login.isLive = isLive;
  save("sessionStorage", "login", login);
}

function showLogin() {
  at("room").value = login.room;
  at("user").value = login.user;
}

function showState(state, words) {
  document.body.dataset.state = at("state").dataset.state = state;
  at("state").textContent = at("state").title = words;
  const open = state === "open", waiting = state === "waiting";
  const busy = open || waiting || state === "connecting";
  at("room").disabled = at("user").disabled = busy;
  at("connect").disabled = busy && !waiting;
  at("door").hidden = busy;
  at("disconnect").disabled = at("text").disabled = !busy;
  at("send").disabled = !open;
  for (const button of at("quick").children) button.disabled = !open;
  at("again").hidden = !waiting;
  at("notice").hidden = true;
  if (!open) at("online").hidden = true;
}

function showNotice(words, canTakeOver) {
  at("notice-text").textContent = words;
  at("takeover").hidden = !canTakeOver;
  at("notice").hidden = false;
}

let toastTimer = null;
function showToast(kind, words) {
  clearTimeout(toastTimer);
  at("toast").dataset.kind = kind;
  at("toast").textContent = words;
  if (words && kind !== "wait") toastTimer = setTimeout(() => showToast("", ""), TOAST_MS);
}

// The count is that of the moment of joining; only heartbeats keep it fresh.
let onlineTimer = null;
function showOnline(count) {
  clearTimeout(onlineTimer);
  at("online").hidden = false;
  at("online").textContent = `${count} online`;
  at("online").title = "Connections in this room";
  const time = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  onlineTimer = setTimeout(() => {
    at("online").textContent = `${count} at ${time}`;
    at("online").title = "Connections in this room when you came; with heartbeats, this server would tell more";
  }, FRESH_MS);
}

// Someone who scrolled up to read is left where they are. The list is measured once a frame: with
// every line, a flood would lay the page out thousands of times.
let isAtEnd = true, unseen = 0, scrolling = 0, handledAt = -Infinity;
// Lines that come between a scroll of ours and the news of it look like a scroll away from the end; only
// what a reader does is one.
for (const kind of ["wheel", "touchmove", "keydown", "pointerdown"]) {
  log.addEventListener(kind, ({ timeStamp }) => { handledAt = timeStamp; }, { passive: true });
}
log.addEventListener("scroll", ({ timeStamp }) => {
  if (log.scrollHeight - log.scrollTop - log.clientHeight < 40) isAtEnd = true;
  else if (timeStamp - handledAt < HANDLED_MS) isAtEnd = false;
  if (isAtEnd) unseen = 0;
  at("newest").hidden = isAtEnd || !unseen;
}, { passive: true });
function followEnd() {
  scrolling ||= requestAnimationFrame(() => {
    scrolling = 0;
    if (isAtEnd) log.scrollTop = log.scrollHeight;
    at("newest").hidden = isAtEnd || !unseen;
    at("newest").textContent = `${unseen} new ↓`;
  });
}
at("newest").onclick = () => {
  isAtEnd = true;
  followEnd();
};
new ResizeObserver(followEnd).observe(log);

// Everything that comes from the wire goes through textContent, never through markup.
function addLine(kind, name, text, color) {
  const line = document.createElement("li");
  line.className = kind;
  if (name !== null) {
    const who = document.createElement("b");
    who.textContent = name;
    who.dataset.color = color ?? "plain";
    line.append(who);
  }
  line.append(document.createTextNode(text));
  log.append(line);
  while (log.childElementCount > LINES_MAX) log.firstElementChild.remove();
  if (!isAtEnd) unseen += 1;
  followEnd();
  return line;
}

const lines = () => [...log.children].map((line) => {
  const who = line.querySelector("b");
  return [line.className, who?.textContent ?? null, line.lastChild.textContent, who?.dataset.color];
});

// --- What comes from the server -------------------------------------------------------------------

function handleJoined({ room, epoch, offset, lost, online }) {
  failures = 0;
  const before = positionOf(room);
  // What follows is counted from where we were; in a new epoch, from its start.
  if (before?.split(".")[0] !== epoch) keepPosition(room, epoch, before ? 0 : offset);
  // An empty room is forgotten as soon as nobody is in it: that it is another one means nothing.
  const isLossUnknown = lost < 0 && !before?.endsWith(".0");
  if (room === login.room) {
    const note = addLine("note", null, `Joined ${room}; members now: ${online}.`);
    showOnline(online);
    if (before) beginCatchUp({ until: offset, seen: 0, lost: isLossUnknown ? -1 : Math.max(0, lost), note });
    else showToast("", "");
  }
  const what = isPersonal(room) ? "direct message" : "message";
  if (lost > 0) addLine("missed", null, `${plural(lost, what)} ${lost === 1 ? "was" : "were"} missed.`);
  if (isLossUnknown) addLine("missed", null, `Some ${what}s may have been missed; the server cannot tell.`);
}

function beginCatchUp(begun) {
  catchUp = begun;
  catchUp.timer = setTimeout(endCatchUp, CATCH_UP_PAUSE_MS);
  const reached = Number(positionOf(login.room).split(".")[1]);
  if (reached >= begun.until) endCatchUp();
}

// A publication of the room on the wall has come: whether it is one of those that were missed. What
// was not to be kept is passed over, so their number is known only when they are here.
function isCaughtUp(offset) {
  if (!catchUp) return false;
  const isMissed = offset <= catchUp.until;
  if (isMissed) {
    catchUp.seen += 1;
    clearTimeout(catchUp.timer);
    catchUp.timer = setTimeout(endCatchUp, CATCH_UP_PAUSE_MS);
  }
  if (offset >= catchUp.until) endCatchUp();
  return isMissed;
}

function endCatchUp() {
  const { seen, lost, note, timer } = catchUp;
  clearTimeout(timer);
  catchUp = null;
  const gained = seen ? `${plural(seen, "comment")} caught up` : lost ? "" : "nothing was missed";
  const gone = lost > 0 ? `${plural(lost, "comment")} lost` : lost < 0 ? "some comments may be lost" : "";
  const words = [gained, gone].filter(Boolean).join(", ");
  showToast(lost ? "bad" : "good", `Reconnected: ${words}.`);
  if (seen) note.lastChild.data += ` ${plural(seen, "comment")} caught up.`;
}

function dropCatchUp() {
  clearTimeout(catchUp?.timer);
  catchUp = null;
}

function handlePublication({ room, offset, time, user = "", ...payload }) {
  const { text, color } = decode(payload);
  const shade = color ?? colorOf(user);
  const isDirect = isPersonal(room) && room !== login.room;
  const isMissed = room === login.room && isCaughtUp(offset);
  const name = user || "anonymous";
  const kind = isDirect ? "direct" : isMissed ? "said caught" : "said";
  const line = addLine(kind, isDirect ? `${name} to you` : name, text, shade);
  if (Number.isFinite(time)) line.title = new Date(time).toLocaleTimeString();
  if (isDirect) showToast("good", `Direct message from ${name}`);
  else fly(text, shade, Boolean(user) && user === login.user);
  // What was said to everybody belongs to no room, and has no place in it.
  if (room !== undefined && offset !== undefined) keepPosition(room, positionOf(room).split(".")[0], offset);
}

function handleEnvelope({ joined, publication, skipped, heartbeat }) {
  if (joined) handleJoined(joined);
  if (publication) handlePublication(publication);
  if (skipped) {
    const were = skipped.count === 1 ? "was" : "were";
    addLine("missed", null, `${plural(skipped.count, "message")} ${were} skipped: this connection is too slow.`);
  }
  const online = heartbeat?.rooms?.[login.room]?.online;
  if (online) showOnline(online);
}

// --- The connection -------------------------------------------------------------------------------

// The server may say when to come back. Otherwise the delay grows, and is random so that all who
// lost the same server do not return at the same moment.
function retryDelayMs(failures, serverMs) {
  if (Number.isFinite(serverMs)) return serverMs;
  return Math.min(RETRY_MS_MAX, RETRY_MS * 2 ** failures) * (0.5 + Math.random() / 2);
}

function connect() {
  clearTimeout(retry);
  retry = null;
  const { room, user } = login;
  const query = new URLSearchParams({ room, format: "json" });
  if (user) query.set("user", user);
  if (login.token) query.set("token", login.token);
  for (const name of new Set(user ? [room, `#${user}`] : [room])) {
    const position = positionOf(name);
    if (position) query.append("since", `${name}@${position}`);
  }
  const url = new URL(`ws?${query}`, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";

  let hasJoined = false, retryMs;
  socket = new WebSocket(url);
  showState("connecting", "connecting…");
  socket.onopen = () => showState("open", `connected to ${room}`);
  socket.onmessage = ({ data }) => {
    const envelope = JSON.parse(data);
    hasJoined ||= "joined" in envelope;
    retryMs = envelope.closing?.retry_ms;
    handleEnvelope(envelope);
  };
  socket.onclose = ({ code, reason }) => {
    socket = null;
    dropCatchUp();
    handleClose(code, reason, hasJoined, retryMs);
  };
}

function handleClose(code, reason, hasJoined, retryMs) {
  const words = code === 1006 ? "connection lost" : `closed ${code}${reason ? `: ${reason}` : ""}`;
  if (HINTS[code]) addLine("note", null, HINTS[code]);
  if (login.isLive && code < 3500 && !FINAL_CODES.includes(code)) {
    const delayMs = retryDelayMs(failures++, retryMs);
    retry = setTimeout(connect, delayMs);
    const again = `trying again in ${Math.ceil(delayMs / 1000)} s`;
    showState("waiting", `${words}; ${again}`);
    showToast("wait", `Connection lost, ${again}. What is said meanwhile comes when you are back.`);
    return;
  }
  setLive(false);
  showToast("", "");
  showState("closed", words);
  // Two tabs that both came back by themselves would throw each other out for ever.
  if (code === 3504 && hasJoined) showNotice(`${login.user} is now connected elsewhere.`, true);
  else if (code === 3504) showNotice(`${login.user} is already connected elsewhere.`, false);
  else if (HINTS[code]) showNotice(HINTS[code], false);
}

function enter(room, user) {
  login = { room, user, token: login.token };
  keepMe({ user });
  setLive(true);
  showLogin();
  stopGreeting();
  // The address can be passed on: it has a name only if it came with one, and never a token.
  const query = new URLSearchParams({ room: login.room });
  if (login.user && asked.has("user")) query.set("user", login.user);
  history.replaceState(null, "", `?${query}`);
  connect();
  // A phone would answer with its keyboard, over half of the wall.
  const hasKeyboard = matchMedia("(pointer: fine)").matches;
  socket.addEventListener("open", () => hasKeyboard && at("text").focus());
}

function say(text) {
  if (socket?.readyState !== WebSocket.OPEN || !text.trim()) return;
  // The server sends it back to us as to every member, so nothing is shown before it is published.
  socket.send(encode(text));
}

at("door").onsubmit = (event) => {
  event.preventDefault();
  if (!socket) enter(at("room").value, at("user").value);
};
at("takeover").onclick = () => enter(login.room, login.user);
at("again").onclick = () => { if (retry !== null) connect(); };
at("disconnect").onclick = () => {
  setLive(false);
  clearTimeout(retry);
  retry = null;
  showToast("", "");
  if (socket) socket.close(1000, "goodbye");
  else showState("closed", "not connected");
};
at("say").onsubmit = (event) => {
  event.preventDefault();
  if (socket?.readyState !== WebSocket.OPEN) return;
  say(at("text").value);
  at("text").value = "";
};
for (const text of QUICK) {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "plain", disabled: true });
  button.textContent = text;
  button.setAttribute("aria-label", `Say ${text}`);
  button.onclick = () => say(text);
  at("quick").append(button);
}
window.addEventListener("online", () => { if (retry !== null) connect(); });
window.addEventListener("pagehide", () => save("sessionStorage", "lines", lines()));
// Where the keyboard covers the page instead of shrinking it, the page shrinks itself.
window.visualViewport?.addEventListener("resize", () => {
  const { height, scale } = window.visualViewport;
  if (scale === 1) document.documentElement.style.setProperty("--height", `${height}px`);
});

// --- Before anybody has entered -------------------------------------------------------------------

// A few words fly behind the door, once.
const greetings = [];
function greet() {
  if (stillness.matches) return;
  GREETINGS.forEach((text, number) => {
    greetings.push(setTimeout(() => fly(text, COLORS[1 + number], false), 400 + 1500 * number));
  });
}
function stopGreeting() {
  if (!greetings.length) return;
  greetings.splice(0).forEach(clearTimeout);
  flight.clear();
}

// `?demo` and `?demo=3000` (comments a minute) fill the wall without a server.
function demonstrate(perMinute) {
  const users = ["ada", "bob", "chen", "dora", "emil", "fay", "gus", "hana"];
  const words = [...QUICK, "wow", "what a goal!", "hello from the back row", "again again again",
    "did you see that?", "first time here, this is lovely", "no way", "+1", "haha", "that was close"];
  const any = (list) => list[Math.floor(Math.random() * list.length)];
  showState("open", `demonstration: ${perMinute} comments a minute, made up by this page`);
  for (const control of document.querySelectorAll("#chat form *, #quick *")) control.disabled = true;
  at("disconnect").onclick = () => location.assign(location.pathname);
  let offset = 0;
  setInterval(() => {
    offset += 1;
    const color = Math.random() < 0.4 ? any(COLORS) : undefined;
    const data = JSON.stringify({ text: Math.random() < 0.7 ? any(words) : `${any(words)} ${any(words)}`, color });
    handlePublication({ user: any(users), time: Date.now(), data });
  }, 60_000 / perMinute);
}

showFlies();
chooseColor(me.color);
// A reload goes on where the tab was; the address of another room begins anew.
const kept = load("sessionStorage", "login");
if (kept?.room === login.room && [null, kept.user].includes(asked.get("user"))) login = kept;
showLogin();
if (asked.has("demo")) {
  demonstrate(Math.min(12_000, Math.max(1, Number(asked.get("demo")) || 900)));
} else if (login.isLive) {
  for (const line of load("sessionStorage", "lines") ?? []) addLine(...line);
  // A copy of this tab would show them beside a position that is not theirs.
  save("sessionStorage", "lines", []);
  connect();
} else {
  greet();
}
