// The last half minute of each pool, as lines.
"use strict";

const POOLS = ["livepool", "deadpool", "bb8"];
const SECONDS = 30;

class Chart {
  // `lines`: for each line the field of a pool's figures, its dash, and its width.
  constructor(canvas, lines, { logarithmic = false, unit = "", least = 1 } = {}) {
    Object.assign(this, { canvas, lines, logarithmic, unit, least });
  }

  draw(history) {
    const { canvas } = this;
    const scale = devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue("--" + name).trim();
    const last = history.length ? history[history.length - 1].at_ms : 0;
    let most = this.least;
    for (const { pools } of history) {
      for (const pool of Object.values(pools)) for (const { field } of this.lines) most = Math.max(most, pool[field]);
    }
    const top = this.logarithmic ? 10 ** Math.ceil(Math.log10(most)) : nice(most);
    const bottom = 0.01;
    const share = (value) => this.logarithmic
      ? Math.log10(Math.max(value, bottom) / bottom) / Math.log10(top / bottom)
      : value / top;
    const y = (value) => height - 4 - share(value) * (height - 14);
    const x = (at) => width - (last - at) / 1000 / SECONDS * width;
    pen.font = "10px system-ui, 'DejaVu Sans', sans-serif";
    pen.fillStyle = color("mute");
    pen.strokeStyle = color("line");
    pen.lineWidth = 1;
    for (const value of this.logarithmic ? [top, bottom] : [top, 0]) {
      pen.beginPath();
      pen.moveTo(0, y(value));
      pen.lineTo(width, y(value));
      pen.stroke();
    }
    pen.fillText(`${top.toLocaleString("en")}${this.unit}`, 2, 9);
    for (const name of POOLS) {
      pen.strokeStyle = color(name);
      for (const { field, dash, width: thick } of this.lines) {
        pen.setLineDash(dash);
        pen.lineWidth = thick;
        pen.beginPath();
        let isDown = false;
        for (const { at_ms, pools } of history) {
          const pool = pools[name];
          if (!pool) { isDown = false; continue; }
          pen[isDown ? "lineTo" : "moveTo"](x(at_ms), y(pool[field]));
          isDown = true;
        }
        pen.stroke();
      }
    }
    pen.setLineDash([]);
  }
}

// The next number that people like: 1, 2 or 5 and zeros.
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value) || value;
}
