"use strict";
// Half an hour of samples, and plots of them.
//
// Owns: the samples of every series, by time; the drawing of one canvas each.
// Never: knows what a series means, or asks anybody for figures.

const SAMPLES_MAX = 1800;
// Where samples are further apart than this, a line is broken: nobody knows what was between them. A
// browser lets a page that nobody looks at run once a minute.
const GAP_MS = 90_000;

// The newest samples, all series in step. What a series has not at a time is not a number.
class Samples {
  times = [];
  values = new Map();

  // Adds a sample of every series in `row`.
  push(time, row) {
    this.times.push(time);
    for (const name of Object.keys(row)) {
      if (!this.values.has(name)) this.values.set(name, new Array(this.times.length - 1).fill(NaN));
    }
    for (const [name, series] of this.values) series.push(row[name] ?? NaN);
    if (this.times.length <= SAMPLES_MAX) return;
    this.times.shift();
    for (const series of this.values.values()) series.shift();
  }

  of(name) { return this.values.get(name) ?? []; }

  // The place of the sample at `time` or just before it; -1 where there is none.
  placeAt(time) {
    let low = 0, high = this.times.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.times[middle] <= time) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  toJSON() {
    const rounded = (series) => series.map((value) => Number.isFinite(value) ? Number(value.toPrecision(5)) : null);
    return { times: this.times, values: [...this.values].map(([name, series]) => [name, rounded(series)]) };
  }

  static from({ times, values }) {
    const samples = new Samples();
    samples.times = times;
    samples.values = new Map(values.map(([name, series]) => [name, series.map((value) => value ?? NaN)]));
    return samples;
  }
}

// The least of a few round numbers times a power of `base` that is not below `value`.
function niceCeiling(value, base) {
  const power = base ** Math.floor(Math.log(value) / Math.log(base));
  const steps = base === 10 ? [1, 1.2, 1.5, 2, 3, 4, 5, 6, 8, 10] : [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
  return power * (steps.find((step) => step * power >= value * 0.9999) ?? base);
}

class Plot {
  #canvas; #ink; #series; #format; #least; #base;

  // `series` lists names of `Samples`, drawn in the colours of the style sheet in that order. The scale
  // ends at `least` or above it, at a value that is round in `base`.
  constructor(canvas, series, format, least, base) {
    this.#canvas = canvas;
    this.#ink = canvas.getContext("2d");
    this.#series = series;
    this.#format = format;
    this.#least = least;
    this.#base = base;
  }

  // Draws what was between `from` and `to`, with a line at `marked`, if any, and one at the time of each of
  // `events`, in its colour.
  draw(samples, { from, to, marked, events, colors }) {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    if (!width) return;
    const ratio = Math.min(2, devicePixelRatio || 1), ink = this.#ink;
    const wide = Math.round(width * ratio), high = Math.round(height * ratio);
    if (this.#canvas.width !== wide || this.#canvas.height !== high) [this.#canvas.width, this.#canvas.height] = [wide, high];
    ink.setTransform(ratio, 0, 0, ratio, 0, 0);
    ink.clearRect(0, 0, width, height);

    const first = Math.max(0, samples.placeAt(from)), last = samples.placeAt(to);
    let most = 0;
    for (const name of this.#series) {
      const series = samples.of(name);
      for (let place = first; place <= last; place += 1) if (series[place] > most) most = series[place];
    }
    const top = niceCeiling(Math.max(most, this.#least), this.#base);
    const foot = height - 18, head = 8;
    const x = (time) => (time - from) / (to - from) * width;
    const y = (value) => foot - value / top * (foot - head);

    ink.font = "11px system-ui, sans-serif";
    ink.lineWidth = 1;
    ink.strokeStyle = colors.grid;
    ink.fillStyle = colors.faint;
    ink.textBaseline = "alphabetic";
    ink.beginPath();
    for (const part of [0, 0.5, 1]) {
      const level = Math.round(y(part * top)) + 0.5;
      ink.moveTo(0, level);
      ink.lineTo(width, level);
    }
    ink.stroke();
    const minutes = (to - from) / 60_000;
    for (const part of [0, 0.5, 1]) {
      ink.textAlign = part === 0 ? "left" : part === 1 ? "right" : "center";
      const ago = minutes * (1 - part);
      ink.fillText(ago ? `−${ago >= 1 ? `${Math.round(ago * 10) / 10} min` : `${Math.round(ago * 60)} s`}` : "now", part * width, height - 4);
    }

    ink.save();
    ink.beginPath();
    ink.rect(0, 0, width, foot + 1);
    ink.clip();
    // The first lies on top.
    for (let number = this.#series.length - 1; number >= 0; number -= 1) {
      this.#line(samples.of(this.#series[number]), samples.times, { first, last, x, y, foot }, colors.series[number], number === 0);
    }
    ink.restore();

    ink.fillStyle = colors.faint;
    ink.textAlign = "left";
    // On a ground of its own, so that lines do not cross it.
    for (const part of [0.5, 1]) {
      const words = this.#format(part * top), level = y(part * top) + 12;
      ink.save();
      ink.globalAlpha = 0.8;
      ink.fillStyle = colors.card;
      ink.fillRect(0, level - 10, ink.measureText(words).width + 4, 13);
      ink.restore();
      ink.fillText(words, 0, level);
    }
    ink.setLineDash([3, 3]);
    for (const [time, color] of events) {
      if (time > from) this.#upright(x(time), head, foot, color);
    }
    ink.setLineDash([]);
    if (marked !== null) this.#upright(x(marked), head, foot, colors.faint);
  }

  #upright(place, head, foot, color) {
    this.#ink.strokeStyle = color;
    this.#ink.beginPath();
    this.#ink.moveTo(place, head);
    this.#ink.lineTo(place, foot);
    this.#ink.stroke();
  }

  // One line; where several samples fall on a pixel, the largest of them counts, so that no peak is lost.
  #line(series, times, { first, last, x, y, foot }, color, isFilled) {
    const ink = this.#ink, runs = [];
    let run = null, before = -Infinity, column = null;
    for (let place = first; place <= last; place += 1) {
      const value = series[place], time = times[place];
      if (!Number.isFinite(value)) {
        run = null;
        continue;
      }
      if (!run || time - before > GAP_MS) {
        run = [];
        runs.push(run);
        column = null;
      }
      before = time;
      const at = x(time), pixel = Math.floor(at);
      if (pixel === column) {
        const point = run[run.length - 1];
        if (value > point[2]) [point[1], point[2]] = [y(value), value];
      } else {
        run.push([at, y(value), value]);
        column = pixel;
      }
    }
    ink.strokeStyle = ink.fillStyle = color;
    ink.lineWidth = 1.6;
    ink.lineJoin = "round";
    for (const points of runs) {
      ink.beginPath();
      points.forEach(([at, level], number) => number ? ink.lineTo(at, level) : ink.moveTo(at, level));
      // A point alone is shown as one.
      if (points.length === 1) ink.lineTo(points[0][0] + 1, points[0][1]);
      ink.stroke();
      if (!isFilled) continue;
      ink.lineTo(points[points.length - 1][0], foot);
      ink.lineTo(points[0][0], foot);
      ink.save();
      ink.globalAlpha = 0.12;
      ink.fill();
      ink.restore();
    }
  }
}
