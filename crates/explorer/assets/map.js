// The map: all images as points on a canvas. The points are drawn once for each view and then copied. The map knows
// places and colours, and nothing about latents.
"use strict";

const ZOOM_MOST = 200;
/** Pixels that a pressed mouse may move and still count as a click. */
const CLICK = 4;
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

class ScatterMap {
  /** `onPlace` is called with each place that is visited, `onHold` when a place is held or released. */
  constructor(canvas, { places, labels, colours, middle, reach }, onPlace, onHold) {
    Object.assign(this, { canvas, places, labels, colours, middle, reach, onPlace, onHold });
    this.layer = document.createElement("canvas");
    this.place = [...middle];
    this.held = false;
    this.pointers = new Map();
    this.whole();
    this.listen();
    new ResizeObserver(() => this.redraw()).observe(canvas);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.dark.addEventListener("change", () => this.redraw());
  }

  /** Shows all points. */
  whole() {
    this.view = { centre: [...this.middle], zoom: 1 };
    this.redraw();
  }

  /** The canvas pixels of a place; `placed` is the inverse. */
  shown(place) {
    const share = (axis) =>
      0.5 + (0.5 * this.view.zoom * (place[axis] - this.view.centre[axis])) / this.reach[axis];
    return [share(0) * this.layer.width, (1 - share(1)) * this.layer.width];
  }

  placed(x, y) {
    const offset = (value, axis) => (((2 * value) / this.layer.width - 1) * this.reach[axis]) / this.view.zoom;
    return [this.view.centre[0] + offset(x, 0), this.view.centre[1] - offset(y, 1)];
  }

  /** Zooms by a factor around a point of the canvas, which stays fixed. */
  zoomBy(factor, [x, y] = [this.layer.width / 2, this.layer.width / 2]) {
    const fixed = this.placed(x, y);
    this.view.zoom = Math.min(Math.max(this.view.zoom * factor, 1), ZOOM_MOST);
    const moved = this.placed(x, y);
    this.view.centre = this.view.centre.map((value, axis) => this.inside(value + fixed[axis] - moved[axis], axis));
    this.redraw();
  }

  /** Moves the points by this many canvas pixels. */
  pan(across, down) {
    const { centre, zoom } = this.view;
    const move = (pixels, axis) => (2 * pixels * this.reach[axis]) / this.layer.width / zoom;
    this.view.centre = [this.inside(centre[0] - move(across, 0), 0), this.inside(centre[1] + move(down, 1), 1)];
    this.redraw();
  }

  /** The coordinate, limited to the map. */
  inside(value, axis) {
    const [low, high] = [this.middle[axis] - this.reach[axis], this.middle[axis] + this.reach[axis]];
    return Math.min(Math.max(value, low), high);
  }

  /** Marks the current place. */
  mark(place) {
    this.place = place;
    this.draw();
  }

  goTo(place) {
    this.onPlace(place.map((value, axis) => this.inside(value, axis)));
  }

  hold(held) {
    this.held = held;
    this.onHold(held);
    this.draw();
  }

  /** A dot of each colour, drawn once and then copied: 70,000 copies take about 30 milliseconds. */
  dots() {
    const count = this.labels.length;
    const base = Math.min(4, Math.max(1.6, 160 / Math.sqrt(count)));
    const radius = devicePixelRatio * Math.min(6, base * Math.sqrt(Math.sqrt(this.view.zoom)));
    return this.colours.map((colour) => {
      const dot = document.createElement("canvas");
      dot.width = dot.height = Math.ceil(2 * radius + 2);
      const context = dot.getContext("2d");
      context.fillStyle = colour;
      context.globalAlpha = 0.65;
      context.arc(dot.width / 2, dot.width / 2, radius, 0, 7);
      context.fill();
      if (this.dark.matches) {
        // The darkest colours would be invisible on a dark page.
        context.globalCompositeOperation = "source-atop";
        context.globalAlpha = 0.35;
        context.fillStyle = "#fff";
        context.fillRect(0, 0, dot.width, dot.width);
      }
      return dot;
    });
  }

  /** Draws the points before the next frame. */
  redraw() {
    if (this.waiting || !this.dark) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.drawPoints();
    });
  }

  drawPoints() {
    const side = Math.max(Math.round(this.canvas.clientWidth * devicePixelRatio), 50);
    if (this.layer.width !== side) {
      for (const canvas of [this.canvas, this.layer]) Object.assign(canvas, { width: side, height: side });
    }
    const context = this.layer.getContext("2d");
    context.clearRect(0, 0, side, side);
    const dots = this.dots();
    for (let index = 0; index < this.labels.length; index++) {
      const dot = dots[this.labels[index] % dots.length];
      const [x, y] = this.shown([this.places[2 * index], this.places[2 * index + 1]]);
      if (x < -9 || y < -9 || x > side + 9 || y > side + 9) continue;
      context.drawImage(dot, x - dot.width / 2, y - dot.width / 2);
    }
    this.draw();
  }

  draw() {
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.layer.width, this.layer.width);
    context.drawImage(this.layer, 0, 0);
    const [x, y] = this.shown(this.place);
    const style = getComputedStyle(document.body);
    for (const [colour, width] of [[style.backgroundColor, 5], [style.color, 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * devicePixelRatio;
      context.beginPath();
      context.arc(x, y, 8 * devicePixelRatio, 0, 7);
      context.stroke();
    }
    if (this.held) {
      context.fillStyle = style.color;
      context.beginPath();
      context.arc(x, y, 3 * devicePixelRatio, 0, 7);
      context.fill();
    }
  }

  listen() {
    const { canvas, pointers } = this;
    const at = ({ offsetX, offsetY }) => [offsetX * devicePixelRatio, offsetY * devicePixelRatio];
    const gesture = () => {
      const [[ax, ay], [bx, by]] = [...pointers.values()];
      return { middle: [(ax + bx) / 2, (ay + by) / 2], distance: Math.hypot(ax - bx, ay - by) };
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, at(event));
      this.moved = 0;
      if (event.pointerType === "touch" && pointers.size === 1) this.goTo(this.placed(...at(event)));
    });
    canvas.addEventListener("pointermove", (event) => {
      const [point, before] = [at(event), pointers.get(event.pointerId)];
      if (!before) {
        if (!this.held) this.goTo(this.placed(...point));
        return;
      }
      const old = pointers.size === 2 && gesture();
      pointers.set(event.pointerId, point);
      const [across, down] = [point[0] - before[0], point[1] - before[1]];
      this.moved += Math.hypot(across, down);
      if (old) {
        const now = gesture();
        this.pan(now.middle[0] - old.middle[0], now.middle[1] - old.middle[1]);
        if (old.distance > 0) this.zoomBy(now.distance / old.distance, now.middle);
      } else if (event.pointerType === "touch") {
        this.goTo(this.placed(...point));
      } else if (this.moved > CLICK) {
        this.pan(across, down);
      }
    });
    const end = (event, clicked) => {
      if (!pointers.delete(event.pointerId) || event.pointerType === "touch") return;
      if (clicked && this.moved <= CLICK) {
        if (!this.held) this.goTo(this.placed(...at(event)));
        this.hold(!this.held);
      }
    };
    canvas.addEventListener("pointerup", (event) => end(event, true));
    canvas.addEventListener("pointercancel", (event) => end(event, false));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(2 ** (-event.deltaY / (event.deltaMode ? 10 : 300)), at(event));
    }, { passive: false });
    canvas.addEventListener("dblclick", () => this.whole());
    canvas.addEventListener("keydown", (event) => this.pressed(event));
  }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { key } = event;
    if (KEYS[key]) {
      const far = (event.shiftKey ? 0.1 : 0.02) / this.view.zoom;
      this.goTo(this.place.map((value, axis) => value + far * this.reach[axis] * KEYS[key][axis]));
    } else if (key === "+" || key === "=") {
      this.zoomBy(1.5, this.shown(this.place));
    } else if (key === "-") {
      this.zoomBy(1 / 1.5, this.shown(this.place));
    } else if (key === "0") {
      this.whole();
    } else if (key === "Enter" || key === " ") {
      this.hold(!this.held);
    } else if (key === "Escape") {
      this.hold(false);
    } else {
      return;
    }
    event.preventDefault();
  }
}
