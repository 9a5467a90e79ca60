// The board: a dot for each connection, in the column of its state and the row of its upstream.
"use strict";

const PEER_NAMES = ["A", "B", "C"];
const COLUMNS = ["connecting", "idle", "in_use", "shared", "quarantined", "closed"];
const TITLES = { connecting: "connecting", idle: "idle", in_use: "in use", shared: "shared", quarantined: "quarantined", closed: "closed" };
const HEAD = 22, LEFT = 128, GAP = 6;

class Board {
  constructor(canvas, says) {
    this.canvas = canvas;
    this.says = says;
    this.dots = new Map();
    this.pointer = null;
    this.hint = says.textContent;
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    canvas.addEventListener("mousemove", (at) => { this.pointer = { x: at.offsetX, y: at.offsetY }; });
    canvas.addEventListener("mouseleave", () => { this.pointer = null; });
    canvas.addEventListener("click", (at) => {
      const row = Math.floor((at.offsetY - HEAD) / (canvas.clientHeight - HEAD) * 3);
      if (at.offsetX < LEFT && row >= 0) this.onpeer?.(Math.min(row, 2));
    });
  }

  // Takes a frame: where each dot belongs from now on. Drawing moves them there.
  take(now) {
    this.now = now;
    this.taken = performance.now();
    const cells = new Map();
    const seen = new Set();
    const put = (key, column, row, dot) => {
      seen.add(key);
      const cell = column + "/" + row;
      if (!cells.has(cell)) cells.set(cell, []);
      let known = this.dots.get(key);
      if (!known) this.dots.set(key, known = { x: null, y: null, uses: dot.uses || 0, glow: 0 });
      if (dot.uses > known.uses) { known.glow = 1; known.uses = dot.uses; }
      Object.assign(known, { column, row, dot });
      cells.get(cell).push(known);
    };
    // Nobody knows yet where a dial will end.
    now.connecting_ms.forEach((age, number) => put("dial" + number, "connecting", 1, { age_ms: age }));
    for (const dot of now.dots) put(dot.id, dot.place, dot.peer ?? 1, dot);
    for (const dot of now.ended) put(dot.id, "closed", dot.peer ?? 1, dot);
    for (const key of this.dots.keys()) if (!seen.has(key)) this.dots.delete(key);
    this.cells = cells;
    this.counts = {};
    for (const known of this.dots.values()) this.counts[known.column] = (this.counts[known.column] || 0) + 1;
  }

  draw() {
    if (!this.now) return;
    const { canvas } = this;
    const scale = devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const pen = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue("--" + name).trim();
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    const rowHeight = (height - HEAD) / 3;
    const columnWidth = (width - LEFT) / COLUMNS.length;
    pen.font = "12px system-ui, 'DejaVu Sans', sans-serif";
    pen.textBaseline = "middle";

    COLUMNS.forEach((column, number) => {
      const x = LEFT + number * columnWidth;
      pen.fillStyle = color("mute");
      pen.textAlign = "center";
      pen.fillText(`${TITLES[column]} ${this.counts[column] || 0}`, x + columnWidth / 2, HEAD / 2 + 2);
      pen.fillStyle = color("line");
      pen.fillRect(x, HEAD, 1, height - HEAD);
    });
    this.now.peers.forEach((peer, row) => this.label(pen, color, peer, row, HEAD + row * rowHeight, rowHeight, width));

    // Each cell has its dots in rows, as close as they have to be.
    for (const [cell, dots] of this.cells) {
      const [column, row] = cell.split("/");
      const left = LEFT + COLUMNS.indexOf(column) * columnWidth + GAP, top = HEAD + row * rowHeight + GAP;
      const wide = columnWidth - 2 * GAP, high = rowHeight - 2 * GAP;
      const step = spacing(wide, high, dots.length);
      const perRow = Math.max(1, Math.floor(wide / step));
      dots.forEach((known, number) => {
        known.goal = {
          x: left + (number % perRow + 0.5) * step,
          y: top + (Math.floor(number / perRow) + 0.5) * step,
          step,
        };
      });
    }
    const ease = this.still.matches ? 1 : 0.22;
    let nearest = null, distance = 12 * 12;
    for (const known of this.dots.values()) {
      const { goal, dot } = known;
      // A new one comes from the left, where its dial was.
      known.x = known.x === null ? LEFT + columnWidth / 2 : known.x + (goal.x - known.x) * ease;
      known.y = known.y === null ? goal.y : known.y + (goal.y - known.y) * ease;
      known.glow *= 0.9;
      const old = Math.min(1, Math.log10(1 + dot.age_ms / 1000) / 2.5);
      const radius = Math.min(goal.step * 0.42, 4 + 3 * old);
      let name = known.column;
      pen.globalAlpha = 1;
      if (name === "closed") {
        name = dot.was_death ? "bad" : "ended";
        pen.globalAlpha = Math.max(0.1, 1 - dot.ago_ms / 3000);
      } else if (dot.heard_ms !== undefined) {
        pen.globalAlpha = Math.max(0.3, 1 - dot.heard_ms / 7000);
      }
      pen.beginPath();
      pen.arc(known.x, known.y, radius, 0, 2 * Math.PI);
      if (name === "connecting") {
        pen.strokeStyle = color(name);
        pen.lineWidth = 1.5;
        pen.stroke();
      } else {
        pen.fillStyle = color(name);
        pen.fill();
      }
      if (known.glow > 0.15 && known.column !== "closed") {
        pen.globalAlpha = known.glow * 0.35;
        pen.beginPath();
        pen.arc(known.x, known.y, radius + 2.5, 0, 2 * Math.PI);
        pen.fill();
      }
      if (this.pointer) {
        const far = (known.x - this.pointer.x) ** 2 + (known.y - this.pointer.y) ** 2;
        if (far < distance) [nearest, distance] = [known, far];
      }
    }
    pen.globalAlpha = 1;
    if (nearest) {
      pen.strokeStyle = color("text");
      pen.lineWidth = 1.5;
      pen.beginPath();
      pen.arc(nearest.x, nearest.y, 8, 0, 2 * Math.PI);
      pen.stroke();
    }
    const words = nearest ? inWords(nearest) : this.hint;
    if (this.says.textContent !== words) this.says.textContent = words;
  }

  label(pen, color, peer, row, top, high, width) {
    if (this.isTarget?.(row)) {
      pen.fillStyle = color("soft");
      pen.fillRect(0, top, LEFT, high);
    }
    pen.fillStyle = color("line");
    pen.fillRect(0, top, width, 1);
    pen.textAlign = "left";
    pen.fillStyle = color("text");
    pen.font = "600 14px system-ui, 'DejaVu Sans', sans-serif";
    pen.fillText(PEER_NAMES[row], 10, top + 16);
    pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
    pen.fillStyle = color("mute");
    pen.fillText(`port ${peer.addr.split(":").pop()}`, 28, top + 16);
    const lines = [...plights(peer.plight).map((text) => ["bad", text])];
    const judgement = peer.judgement || "not dialed";
    const tone = { healthy: "mute", ejected: "bad" }[judgement] || (peer.judgement ? "quarantined" : "mute");
    lines.push([tone, `pool: ${judgement}`], ["mute", `${peer.connections} open`]);
    lines.forEach(([tone, text], number) => {
      pen.fillStyle = color(tone);
      if (32 + number * 14 < high) pen.fillText(text, 10, top + 33 + number * 14);
    });
  }
}

// The largest distance, of at most 17, at which so many dots have room.
function spacing(wide, high, count) {
  let step = 17;
  while (step > 3 && Math.floor(wide / step) * Math.floor(high / step) < count) step -= 0.5;
  return step;
}

function plights(plight) {
  return [
    plight.gone && "killed", plight.cut && "wire cut", plight.forgot && "flows forgotten",
    plight.stopped && "stopped", plight.refuses && "refuses",
    plight.delay_ms > 0 && `answers ${plight.delay_ms} ms late`,
  ].filter(Boolean);
}

function span(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.floor(ms / 60000)} min ${Math.round(ms % 60000 / 1000)} s`;
}

function inWords({ column, dot }) {
  const to = dot.peer === null || dot.peer === undefined ? "" : ` to ${PEER_NAMES[dot.peer]}`;
  if (column === "connecting") return `connecting for ${span(dot.age_ms)}`;
  if (column === "closed") return `#${dot.id}${to}: closed ${span(dot.ago_ms)} ago at the age of ${span(dot.age_ms)}, reason ${dot.reason}`;
  const users = column === "shared" ? ` by ${dot.users}` : "";
  return `#${dot.id}${to}: ${TITLES[column]}${users}, ${span(dot.age_ms)} old, peer last heard ${span(dot.heard_ms)} ago, used ${dot.uses} times`;
}
