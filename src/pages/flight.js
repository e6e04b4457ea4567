"use strict";
// Comments that fly over a canvas.
//
// Owns: the lanes, the comments in the air with a picture each, and those that wait for a lane.
// Never: knows where comments come from, reads a clock, or touches the page beside its canvas.
//
// A comment enters a lane at the right edge and keeps its speed. Whether it may enter is arithmetic on
// the comment before it: that one's tail must have cleared the edge, and must clear the left edge before
// the newcomer's head arrives there. Speeds do not change, so what holds at both ends holds between
// them, and no two comments of a lane ever touch. What finds no lane waits, for a moment and in a
// bounded queue; then it is passed over and counted.

// Pixels between two comments of a lane.
const GAP = 24;
const LINE_HEIGHT = 1.5;
// Seconds on the screen: some to read, and more the wider it is. Under pressure comments hurry, so that
// more of them fit, and all are about as fast, or the fast would have to wait for the slow; for the same
// reason pressure comes and goes slowly.
const SECONDS = 5;
const PIXELS_A_SECOND = 270;
const HURRY = 0.45;
const PRESSURE_MS = 2000;
// With so many waiting there is pressure.
const PRESSING = 6;
// How long a comment stands still for who wants no motion.
const STILL_MS = 4000;
const WAITING_MAX = 60;
const WAIT_MS_MAX = 2500;
const IN_THE_AIR_MAX = 500;
// Pictures kept for the next comments.
const SPARE_PICTURES_MAX = 100;
const WIDTHS_MAX = 1000;
const LETTERS_MAX = 60;
// How many of those that wait are tried in a frame, so that a long one does not hold up the short.
const TRIED_MAX = 8;

// Pixels a second of a comment. Long ones are faster, but only so much: they would be hard to read, and
// harder to fit behind others. `pressure` is from 0 to 1.
function speedOf(width, roomWidth, pressure) {
  const seconds = (SECONDS + roomWidth / PIXELS_A_SECOND) * (1 - HURRY * pressure);
  return (roomWidth + Math.min(width, roomWidth) * (1 - 0.8 * pressure)) / seconds;
}

// Whether a comment of `speed` may enter a lane of `roomWidth` at its right edge, when the tail of the
// one before it, its gap included, is at `tail` and moves at `lastSpeed`.
function mayFollow(tail, lastSpeed, speed, roomWidth) {
  return tail <= roomWidth && tail / lastSpeed <= roomWidth / speed;
}

class Flight {
  #canvas; #ink; #styleOf;
  #size = 20; #width = 0; #height = 0; #ratio = 1;
  #lanes = [];
  #inTheAir = [];
  #waiting = [];
  #spare = [];
  #widths = new Map();
  #frame = 0;
  #now = 0;
  #isStill = false;
  #pressure = 0;
  #counts = { heard: 0, flown: 0, passed: 0, frames: 0, painted: 0, measured: 0, pictures: 0 };

  // `styleOf(color)` says in which colours the letters of a comment and their edge are painted.
  constructor(canvas, styleOf) {
    this.#canvas = canvas;
    this.#ink = canvas.getContext("2d");
    this.#styleOf = styleOf;
  }

  // Takes a comment. One's own goes before all others, and is not passed over.
  add(text, color, isOwn = false) {
    const letters = [...text.replace(/\s+/g, " ").trim()];
    if (!letters.length) return;
    const short = letters.length > LETTERS_MAX ? `${letters.slice(0, LETTERS_MAX).join("")}…` : letters.join("");
    const comment = { text: short, color, isOwn, since: null };
    this.#counts.heard += 1;
    if (isOwn) this.#waiting.unshift(comment);
    else this.#waiting.push(comment);
    while (this.#waiting.length > WAITING_MAX) {
      this.#waiting.pop();
      this.#counts.passed += 1;
    }
    this.#wake();
  }

  // Fits the flight into the canvas, whose place on the page has changed. What flies keeps its place.
  fit(width, height, ratio, size) {
    if (size !== this.#size || ratio !== this.#ratio) {
      this.#size = size;
      this.#ratio = ratio;
      this.#widths.clear();
      this.clear();
    }
    this.#width = width;
    this.#height = height;
    this.#canvas.width = Math.round(width * ratio);
    this.#canvas.height = Math.round(height * ratio);
    const lanes = Math.max(0, Math.floor((height - GAP / 2) / this.laneHeight));
    for (const comment of this.#inTheAir) {
      if (comment.lane >= lanes) comment.isOver = true;
    }
    this.#lanes.length = Math.min(this.#lanes.length, lanes);
    while (this.#lanes.length < lanes) this.#lanes.push(null);
    this.#wake();
  }

  // Paints everything anew: colours have changed.
  repaint() {
    for (const comment of this.#inTheAir) this.#paint(comment);
    this.#wake();
  }

  // Who wants no motion gets comments that stand still for a moment, one in a lane.
  setStill(isStill) {
    if (isStill !== this.#isStill) this.clear();
    this.#isStill = isStill;
  }

  // Forgets what flies and what waits.
  clear() {
    this.#waiting.length = 0;
    for (const comment of this.#inTheAir) comment.isOver = true;
    this.#wake();
  }

  get laneHeight() { return Math.round(this.#size * LINE_HEIGHT); }

  // What is in the air, as of the frame last drawn.
  sprites() {
    return this.#inTheAir.filter((comment) => !comment.isOver).map((comment) => {
      const left = this.#leftOf(comment, this.#now);
      return { text: comment.text, lane: comment.lane, left, right: left + comment.width };
    });
  }

  stats() {
    return {
      ...this.#counts, lanes: this.#lanes.length, waiting: this.#waiting.length,
      inTheAir: this.#inTheAir.length, spare: this.#spare.length, width: this.#width, isStill: this.#isStill,
    };
  }

  #wake() {
    if (!this.#frame) this.#frame = requestAnimationFrame((now) => this.#turn(now));
  }

  #turn(now) {
    const goal = this.#waiting.length > PRESSING ? 1 : 0;
    this.#pressure += (goal - this.#pressure) * Math.min(1, (now - this.#now) / PRESSURE_MS);
    this.#now = now;
    this.#counts.frames += 1;
    this.#land(now);
    this.#admit(now);
    this.#draw(now);
    this.#frame = 0;
    // An empty sky costs nothing.
    if (this.#inTheAir.length || this.#waiting.length) this.#wake();
  }

  // Takes out who has arrived, and keeps the pictures.
  #land(now) {
    let kept = 0;
    for (const comment of this.#inTheAir) {
      const isOver = comment.isOver || (comment.speed
        ? this.#leftOf(comment, now) + comment.width <= 0
        : now >= comment.start + STILL_MS);
      if (!isOver) {
        this.#inTheAir[kept] = comment;
        kept += 1;
        continue;
      }
      if (this.#lanes[comment.lane] === comment) this.#lanes[comment.lane] = null;
      if (this.#spare.length < SPARE_PICTURES_MAX) this.#spare.push(comment.picture);
      comment.picture = null;
      comment.isOver = true;
    }
    this.#inTheAir.length = kept;
  }

  // Lets those who wait into free lanes, the eldest first.
  #admit(now) {
    for (const comment of this.#waiting) comment.since ??= now;
    const isStale = (comment) => !comment.isOwn && now - comment.since > WAIT_MS_MAX;
    let place = 0;
    for (let tried = 0; place < this.#waiting.length && tried < TRIED_MAX;) {
      const comment = this.#waiting[place];
      if (isStale(comment)) {
        this.#waiting.splice(place, 1);
        this.#counts.passed += 1;
      } else if (this.#enter(comment, now)) {
        this.#waiting.splice(place, 1);
        this.#counts.flown += 1;
      } else {
        place += 1;
        tried += 1;
      }
    }
  }

  #enter(comment, now) {
    if (this.#inTheAir.length >= IN_THE_AIR_MAX || !this.#width) return false;
    const width = this.#measure(comment.text);
    const speed = this.#isStill ? 0 : speedOf(width, this.#width, this.#pressure);
    const lane = this.#laneFor(speed, now);
    if (lane < 0) return false;
    const start = this.#isStill ? Math.max(0, (this.#width - width) * Math.random()) : this.#width;
    Object.assign(comment, { lane, width, speed, from: start, start: now, isOver: false });
    comment.picture = this.#spare.pop() ?? this.#newPicture();
    this.#paint(comment);
    this.#lanes[lane] = comment;
    this.#inTheAir.push(comment);
    return true;
  }

  // The free lane with the most room, any of those that are empty; -1 where none is free.
  #laneFor(speed, now) {
    let best = -1, most = -1;
    for (const [lane, last] of this.#lanes.entries()) {
      let room = this.#width * (2 + Math.random());
      if (last) {
        if (!last.speed || !speed) continue;
        const tail = this.#leftOf(last, now) + last.width + GAP;
        if (!mayFollow(tail, last.speed, speed, this.#width)) continue;
        room = this.#width - tail;
      }
      if (room > most) [best, most] = [lane, room];
    }
    return best;
  }

  #leftOf({ from, speed, start }, now) {
    return from - speed * Math.max(0, now - start) / 1000;
  }

  #font() { return `600 ${this.#size}px system-ui, sans-serif`; }

  #measure(text) {
    let width = this.#widths.get(text);
    if (width === undefined) {
      this.#ink.font = this.#font();
      width = Math.ceil(this.#ink.measureText(text).width) + this.#size;
      this.#counts.measured += 1;
      // The eldest goes: a map keeps the order of its entries.
      if (this.#widths.size >= WIDTHS_MAX) this.#widths.delete(this.#widths.keys().next().value);
      this.#widths.set(text, width);
    }
    return width;
  }

  #newPicture() {
    this.#counts.pictures += 1;
    const picture = document.createElement("canvas");
    return { canvas: picture, ink: picture.getContext("2d") };
  }

  // Paints a comment once; frames only copy it.
  #paint({ text, color, width, isOwn, picture: { canvas, ink } }) {
    this.#counts.painted += 1;
    const ratio = this.#ratio, height = this.laneHeight;
    const wide = Math.ceil(width * ratio), high = Math.ceil(height * ratio);
    // A picture that is large enough is used again; a new size would cost an allocation.
    if (canvas.height !== high || canvas.width < wide || canvas.width > 2 * wide + 128) {
      canvas.width = Math.ceil(wide / 64) * 64;
      canvas.height = high;
    }
    ink.setTransform(ratio, 0, 0, ratio, 0, 0);
    ink.clearRect(0, 0, canvas.width / ratio, height);
    const { fill, edge } = this.#styleOf(color);
    ink.font = this.#font();
    ink.textBaseline = "middle";
    ink.lineJoin = "round";
    ink.lineWidth = this.#size / 6;
    ink.strokeStyle = edge;
    ink.fillStyle = fill;
    const inset = this.#size / 2;
    ink.strokeText(text, inset, height / 2);
    ink.fillText(text, inset, height / 2);
    if (isOwn) {
      ink.strokeStyle = fill;
      ink.lineWidth = 1.5;
      ink.beginPath();
      ink.roundRect(1, 1.5, width - 2, height - 3, this.#size / 2);
      ink.stroke();
    }
  }

  #draw(now) {
    const ink = this.#ink, ratio = this.#ratio, height = this.laneHeight;
    ink.setTransform(1, 0, 0, 1, 0, 0);
    ink.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    const high = Math.ceil(height * ratio);
    for (const comment of this.#inTheAir) {
      const wide = Math.ceil(comment.width * ratio);
      const left = this.#leftOf(comment, now) * ratio;
      const top = Math.round((GAP / 4 + comment.lane * height) * ratio);
      ink.drawImage(comment.picture.canvas, 0, 0, wide, high, left, top, wide, high);
    }
  }
}
