// A drawing: strokes on a fine grid, and the image that the model gets from them. For MNIST the digit
// is scaled to 20 x 20 pixels and centred by its mass, as the program vae does with pictures of digits.
"use strict";

/** The longer side of a digit in its frame, in pixels, as in MNIST. */
const DIGIT = 20;
/** Fainter ink is ignored when the size of a digit is measured. */
const FAINT = 0.1;
/** Grid cells along the side of a pixel, for drawings that are centred. */
const FINE = 10;

class Drawing {
  constructor({ height, width, channels, centred }) {
    Object.assign(this, { channels, centred, size: [height, width] });
    this.fine = centred ? FINE : 1;
    [this.height, this.width] = [height * this.fine, width * this.fine];
    /** Half of a stroke's width, in cells. */
    this.brush = (centred ? 0.04 : 0.045) * Math.max(this.width, this.height);
    this.clear();
  }

  clear() {
    this.cells = new Float32Array(this.width * this.height * this.channels);
    this.last = null;
  }

  get isEmpty() {
    return !this.cells.some((value) => value > 0);
  }

  /** Replaces the drawing by an image. */
  take(pixels) {
    const [{ channels, fine, width }, [, columns]] = [this, this.size];
    this.cells = this.cells.map((_, at) => {
      const [cell, part] = [Math.floor(at / channels), at % channels];
      const [row, column] = [Math.floor(Math.floor(cell / width) / fine), Math.floor((cell % width) / fine)];
      return pixels[(row * columns + column) * channels + part];
    });
    this.last = null;
    this.taken = pixels;
  }

  /** Draws from the last place to this one. Places are shares of the sides; `colour` has one number per channel. */
  stroke(across, down, colour) {
    this.taken = null;
    const [x, y] = [across * this.width, down * this.height];
    const [fromX, fromY] = this.last ?? [x, y];
    const steps = Math.max(1, Math.ceil(Math.hypot(x - fromX, y - fromY) / (0.3 * this.brush)));
    for (let step = 1; step <= steps; step++) {
      this.dab(fromX + ((x - fromX) * step) / steps, fromY + ((y - fromY) * step) / steps, colour);
    }
    this.last = [x, y];
  }

  dab(x, y, colour) {
    const { width, height, channels, brush, cells } = this;
    const [top, bottom] = [Math.max(0, Math.floor(y - brush - 1)), Math.min(height, Math.ceil(y + brush + 1))];
    const [left, right] = [Math.max(0, Math.floor(x - brush - 1)), Math.min(width, Math.ceil(x + brush + 1))];
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right; column++) {
        const distance = Math.hypot(column + 0.5 - x, row + 0.5 - y);
        const cover = Math.min(Math.max(brush + 0.5 - distance, 0), 1);
        for (let part = 0; part < channels; part++) {
          const at = (row * width + column) * channels + part;
          // A grey stroke never darkens a cell; a coloured stroke covers the old colour.
          cells[at] = channels === 1
            ? Math.max(cells[at], cover * colour[0])
            : cells[at] + cover * (colour[part] - cells[at]);
        }
      }
    }
  }

  /** The image for the model, in levels of 1/255 as in an image file. */
  image() {
    const levels = (values) => values.map((value) => Math.round(255 * Math.min(Math.max(value, 0), 1)) / 255);
    if (this.taken) return this.taken;
    return levels(this.centred && !this.isEmpty ? this.centre() : this.cells.slice());
  }

  /** The mean over a rectangle with fractional bounds. */
  mean(left, right, top, bottom) {
    let [sum, area] = [0, 0];
    for (let y = Math.max(0, Math.floor(top)); y < Math.min(this.height, Math.ceil(bottom)); y++) {
      const tall = Math.min(bottom, y + 1) - Math.max(top, y);
      for (let x = Math.max(0, Math.floor(left)); x < Math.min(this.width, Math.ceil(right)); x++) {
        const share = tall * (Math.min(right, x + 1) - Math.max(left, x));
        sum += share * this.cells[y * this.width + x];
        area += share;
      }
    }
    return area > 0 ? sum / area : 0;
  }

  centre() {
    const { cells, width: across } = this;
    const bounds = { left: Infinity, right: 0, top: Infinity, bottom: 0 };
    let [mass, xMass, yMass] = [0, 0, 0];
    for (let at = 0; at < cells.length; at++) {
      const [x, y, level] = [at % across, Math.floor(at / across), cells[at]];
      if (level > FAINT) {
        bounds.left = Math.min(bounds.left, x);
        bounds.right = Math.max(bounds.right, x + 1);
        bounds.top = Math.min(bounds.top, y);
        bounds.bottom = Math.max(bounds.bottom, y + 1);
      }
      mass += level;
      xMass += level * (x + 0.5);
      yMass += level * (y + 0.5);
    }
    const scale = Math.max(bounds.right - bounds.left, bounds.bottom - bounds.top, 1) / DIGIT;
    const [height, width] = this.size;
    const [left, top] = [xMass / mass - (width / 2) * scale, yMass / mass - (height / 2) * scale];
    const digit = Float32Array.from({ length: height * width }, (_, at) => {
      const [x, y] = [left + (at % width) * scale, top + Math.floor(at / width) * scale];
      return this.mean(x, x + scale, y, y + scale);
    });
    const brightest = digit.reduce((most, level) => Math.max(most, level), 0);
    return digit.map((level) => level / brightest);
  }
}
