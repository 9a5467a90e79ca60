// Ties the page to the program: frames come in through /events, buttons go out through /do.
"use strict";

const at = (id) => document.getElementById(id);
const state = { target: 1, history: [], frames: 0, missed: 0, behind_ms: 0, worst_behind_ms: 0, drawn: 0, last: null };
// For tests, and for whoever opens the console.
window.playground = state;

// ---- theme

const root = document.documentElement;
const wantsDark = matchMedia("(prefers-color-scheme: dark)");
function setTheme(theme) {
  root.dataset.theme = theme;
  at("theme").textContent = theme === "dark" ? "light" : "dark";
}
setTheme(wantsDark.matches ? "dark" : "light");
wantsDark.addEventListener("change", () => setTheme(wantsDark.matches ? "dark" : "light"));
at("theme").addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));

// ---- what is asked of the program

// A request may overtake the one before. Those of one kind are sent one after the other, so that what was
// pressed last holds.
const turns = {};
function press(button) {
  const turn = Promise.resolve(turns[button.do]).then(() => send(button));
  turns[button.do] = turn;
  return turn;
}

async function send(button) {
  try {
    const answer = await fetch("/do", {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(button),
    });
    if (!answer.ok) toast(await answer.text());
  } catch {
    toast("the playground does not answer");
  }
}

function toast(text) {
  at("toast")?.remove();
  const toast = Object.assign(document.createElement("p"), { id: "toast", textContent: text });
  toast.setAttribute("role", "alert");
  document.body.append(toast);
  setTimeout(() => toast.remove(), 4000);
}

const DELAY_MS = 300;
// Each with its opposite, where it has one: which of the two the button is follows from what was done.
const FAULTS = [
  { id: "close", name: "close", fault: "close", text: "Its sockets are closed (FIN), as by a server that restarts." },
  { id: "reset", name: "reset", fault: "reset", text: "Its sockets are reset (RST), as by a crash." },
  { id: "cut", name: "cut the wire", undo: "heal the wire", fault: "cut", back: "heal", is: (p) => p.cut, text: "Nothing arrives there any more, and nobody is told." },
  { id: "forget", name: "forget flows", undo: "remember", fault: "forget", back: "heal", is: (p) => p.forgot && !p.cut, text: "Open connections go silent, new ones work: a NAT lost its table." },
  { id: "stop", name: "stop", undo: "continue", fault: "stop", back: "continue", is: (p) => p.stopped, text: "Its process hangs (SIGSTOP); its kernel still answers." },
  { id: "refuse", name: "refuse", undo: "accept", fault: "refuse", back: "accept", is: (p) => p.refuses, text: "Its sockets are reset, and new connections refused." },
  { id: "delay", name: "delay", undo: "no delay", fault: { delay: DELAY_MS }, back: { delay: 0 }, is: (p) => p.delay_ms > 0, text: `Every answer comes ${DELAY_MS} ms late.` },
  { id: "fail-over", name: "fail over", undo: "bring back", fault: "fail_over", back: "bring_back", is: (p) => p.gone, text: "Its process is killed, and the name leads to the others." },
];
const WORKS = [
  { id: "pause", name: "pause", undo: "resume", is: (now) => now.switches.paused, press: (on) => ({ do: "pause", on }), text: "No connection is used or made; callers wait. livepool only." },
  { id: "invalidate", name: "invalidate", press: () => ({ do: "invalidate" }), text: "No connection of today is used again. Not in bb8." },
  { id: "cancel", name: "cancel ⅓", press: () => ({ do: "cancel_a_third" }), text: "Every third caller gives up, wherever it is." },
  { id: "resize", name: "resize", press: () => ({ do: "resize", size: Math.max(1, Math.round(Number(at("size").value) / 2)) }), text: "Halves the pool; the slider sets any size." },
];

function row(parent, { id, name, text }, act) {
  const row = Object.assign(document.createElement("div"), { className: "act", id: `act-${id}` });
  const button = Object.assign(document.createElement("button"), { type: "button", id, textContent: name });
  const says = Object.assign(document.createElement("p"), { textContent: text, id: `says-${id}` });
  button.setAttribute("aria-describedby", says.id);
  button.addEventListener("click", act);
  row.append(button, says);
  parent.append(row);
}

const targets = () => state.target === "all" ? [0, 1, 2] : [state.target];
const isOn = (fault) => Boolean(fault.is && state.last && targets().some((peer) => fault.is(state.last.peers[peer].plight)));
for (const fault of FAULTS) {
  row(at("faults"), fault, () => press({ do: "fault", peers: targets(), fault: isOn(fault) ? fault.back : fault.fault }));
}
for (const work of WORKS) {
  row(at("works"), work, () => press(work.press(!(work.is && work.is(state.last)))));
}
function setTarget(target) {
  state.target = target;
  for (const button of at("target").children) button.setAttribute("aria-checked", String(button.dataset.target === String(target)));
  if (state.last) showSwitches(state.last);
}
for (const button of at("target").children) {
  button.addEventListener("click", () => setTarget(button.dataset.target === "all" ? "all" : Number(button.dataset.target)));
}
setTarget(1);

// ---- sliders: of rates and times the small ones need more room than the large ones

const RATE_MOST = 5000, THINK_MOST = 500;
const toRate = (slider) => Math.round(RATE_MOST * (slider / 100) ** 3);
const toThink = (slider) => Math.round(THINK_MOST * (slider / 100) ** 2);
const busy = { rate: 0, think: 0, size: 0, beside: 0 };
let shared = false;
function demand() {
  return { do: "demand", rate: toRate(at("rate").value), think_ms: toThink(at("think").value), shared };
}
for (const id of ["rate", "think", "size"]) {
  at(id).addEventListener("input", () => {
    // What the program says is older than the hand on the slider.
    busy[id] = performance.now() + 800;
    showSliders();
  });
  at(id).addEventListener("change", () => press(id === "size" ? { do: "resize", size: Number(at("size").value) } : demand()));
}
function showSliders() {
  at("rate-is").textContent = `${toRate(at("rate").value).toLocaleString("en")}/s`;
  at("think-is").textContent = `${toThink(at("think").value)} ms`;
  at("size-is").textContent = at("size").value;
}
for (const [id, is] of [["own", false], ["shared", true]]) {
  at(id).addEventListener("click", () => { shared = is; press(demand()); });
}
async function beside() {
  // Until it is done the frames have the switches as they were.
  busy.beside = Infinity;
  const turn = press({ do: "beside", deadpool: at("deadpool").checked, bb8: at("bb8").checked, check: at("check").value });
  await turn;
  if (turns.beside === turn) busy.beside = performance.now() + 800;
}
for (const id of ["deadpool", "bb8", "check"]) at(id).addEventListener("change", beside);
at("zero").addEventListener("click", () => press({ do: "zero" }));
at("load").addEventListener("submit", (event) => event.preventDefault());

function showSwitches(now) {
  const { switches } = now;
  const time = performance.now();
  if (time > busy.rate) at("rate").value = Math.round(100 * Math.cbrt(switches.demand.rate / RATE_MOST));
  if (time > busy.think) at("think").value = Math.round(100 * Math.sqrt(switches.demand.think_ms / THINK_MOST));
  if (time > busy.size) at("size").value = switches.size;
  showSliders();
  shared = switches.demand.shared;
  at("own").setAttribute("aria-pressed", String(!shared));
  at("shared").setAttribute("aria-pressed", String(shared));
  if (time > busy.beside) {
    for (const name of ["deadpool", "bb8"]) at(name).checked = switches[name];
    if (document.activeElement !== at("check")) at("check").value = switches.check;
  }
  const show = (entry, on) => {
    at(`act-${entry.id}`).classList.toggle("on", on);
    at(entry.id).textContent = on ? entry.undo : entry.name;
  };
  for (const fault of FAULTS) if (fault.is) show(fault, isOn(fault));
  for (const work of WORKS) if (work.is) show(work, work.is(now));
}

// ---- table and timeline

const ms = (value) => value < 10 ? `${value.toFixed(2)} ms` : value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
const number = (value) => Math.round(value).toLocaleString("en");

function showPools(now) {
  const body = at("pools").tBodies[0];
  const names = POOLS.filter((name) => now.pools[name]);
  while (body.rows.length > names.length) body.deleteRow(-1);
  names.forEach((name, index) => {
    const pool = now.pools[name];
    const line = body.rows[index] || body.insertRow();
    while (line.cells.length < 9) line.insertCell();
    if (line.dataset.pool !== name) {
      line.dataset.pool = name;
      const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
      swatch.style.background = `var(--${name})`;
      line.cells[0].replaceChildren(swatch, name);
    }
    const kinds = Object.entries(pool.kinds).map(([kind, count]) => `${count} × ${kind}`).join("\n");
    const cells = [
      number(pool.checkouts_per_s), ms(pool.p50_ms), ms(pool.p99_ms), ms(pool.longest_ms),
      number(pool.errors), number(pool.dead), number(pool.wrong), number(pool.connections),
    ];
    cells.forEach((text, cell) => {
      const td = line.cells[cell + 1];
      if (td.textContent !== text) td.textContent = text;
      td.className = cell >= 4 && cell <= 6 && text !== "0" ? "bad" : "";
    });
    line.cells[5].title = kinds;
    line.title = `${number(pool.checkouts)} checkouts, ${number(pool.cancelled)} cancelled; ${number(pool.held_back)} callers did not come, since too many were there`;
  });
}

const MOST_LINES = 120;
// What goes on is one line, for so long, with a number that grows.
const SAME_MS = 2500;
const latest = new Map();

function showLines(lines) {
  const list = at("timeline");
  for (const line of lines) {
    const key = [line.what, line.why, line.peer].join("/");
    let known = latest.get(key);
    if (!known || line.tone === "button" || line.at_ms - known.at_ms > SAME_MS) {
      latest.set(key, known = newLine(line));
      list.prepend(known.item);
    }
    known.count += line.count;
    known.conns.push(...line.conns.slice(0, 3 - known.conns.length));
    known.times.textContent = known.count > 1 ? `×${number(known.count)}` : "";
    const more = known.count > known.conns.length ? " …" : "";
    known.who.textContent = known.conns.length ? known.conns.map((id) => `#${id}`).join(" ") + more : "";
  }
  while (list.children.length > MOST_LINES) list.lastChild.remove();
}

function newLine(line) {
  const make = (tag, className, textContent) => Object.assign(document.createElement(tag), { className, textContent });
  const item = make("li", line.tone, "");
  item.dataset.what = line.what;
  item.dataset.why = line.why;
  if (line.peer !== null) item.dataset.peer = line.peer;
  const text = make("span", "", "");
  const peer = line.peer === null ? "" : ` ${PEER_NAMES[line.peer]}`;
  text.append(make("b", "", line.what + peer));
  if (line.why) text.append(` ${line.why}`);
  const times = make("span", "times", ""), who = make("span", "conns", "");
  item.append(make("time", "", (line.at_ms / 1000).toFixed(1)), text, times, who);
  return { item, times, who, at_ms: line.at_ms, count: 0, conns: [] };
}

// ---- frames

const board = state.board = new Board(at("dots"), at("says"));
board.onpeer = setTarget;
board.isTarget = (peer) => targets().includes(peer);
const solid = { dash: [], width: 1.8 }, thin = { dash: [2, 2], width: 1.2 };
const charts = [
  new Chart(at("chart-rate"), [{ field: "checkouts_per_s", ...solid }], { least: 10 }),
  new Chart(at("chart-wait"), [{ field: "p99_ms", ...solid }, { field: "p50_ms", ...thin }], { logarithmic: true, unit: " ms", least: 1 }),
  new Chart(at("chart-errors"), [{ field: "errors_per_s", ...solid }], { least: 1 }),
];
let least = Infinity, fresh = null;

function take({ now, lines }) {
  if (state.last && now.number < state.last.number) {
    // Another run of the program.
    state.history = [];
    state.last = null;
    least = Infinity;
    at("timeline").replaceChildren();
    latest.clear();
  }
  if (state.last) state.missed += now.number - state.last.number - 1;
  // The clocks differ by what the quickest frame had, at most.
  const offset = performance.now() - now.at_ms;
  least = Math.min(least, offset);
  state.behind_ms = offset - least;
  state.worst_behind_ms = Math.max(state.worst_behind_ms, state.behind_ms);
  state.frames += 1;
  state.last = now;
  state.history.push({ at_ms: now.at_ms, pools: now.pools });
  while (state.history[0].at_ms < now.at_ms - SECONDS * 1000) state.history.shift();
  if (lines.length) showLines(lines);
  fresh = now;
}

function draw() {
  requestAnimationFrame(draw);
  if (fresh) {
    board.take(fresh);
    showSwitches(fresh);
    showPools(fresh);
    for (const chart of charts) chart.draw(state.history);
    const late = state.behind_ms > 1000;
    at("feed").className = late ? "late" : "live";
    at("feed").textContent = late ? `${span(state.behind_ms)} behind` : `live, ${fresh.dots.length} connections`;
    fresh = null;
    state.drawn += 1;
  }
  board.draw();
}
requestAnimationFrame(draw);

const events = new EventSource("/events");
events.onmessage = (event) => take(JSON.parse(event.data));
events.onerror = () => { at("feed").className = "late"; at("feed").textContent = "the playground does not answer"; };
