// The page of vae explore: the map, the place under the pointer, sliders, a path, a drawing.
"use strict";

const $ = (id) => document.getElementById(id);
const meta = JSON.parse($("meta").textContent);
const blob = (name, Type) => unpack($(name).textContent, Type);
const network = new Network(meta, blob("parameters", Float32Array));
const [places, means, losses, divergences] = ["places", "means", "losses", "divergences"].map(
  (name) => blob(name, Float32Array),
);
const [labels, levels] = ["labels", "levels"].map((name) => blob(name, Uint8Array));
const { height, width, channels, latent, count } = meta;
const numbers = height * width * channels;
const sorted = losses.slice().sort();
const state = { z: new Float32Array(latent), place: [meta.middle[0], meta.middle[1]], nearest: 0 };

const colour = (label) => meta.colours[label % meta.colours.length];
const name = (label) => meta.names[label] ?? "no label";
const image = (index) =>
  Float32Array.from(levels.subarray(index * numbers, (index + 1) * numbers), (level) => level / 255);
const mean = (index) => means.slice(index * latent, (index + 1) * latent);

/** Draws pixels, 0 to 1, at a place of a canvas. */
function paint(canvas, pixels, left = 0) {
  const data = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    for (let part = 0; part < 3; part++) {
      const value = pixels[at * channels + (channels === 3 ? part : 0)];
      data.data[4 * at + part] = Math.round(255 * value);
    }
    data.data[4 * at + 3] = 255;
  }
  canvas.getContext("2d").putImageData(data, left, 0);
}

for (const id of ["decoded", "nearest", "drawing", "redrawn"]) {
  Object.assign($(id), { width, height });
}

// The map.

const layer = document.createElement("canvas");
/** Pixels of the map from places, and back. */
const shown = ([x, y]) => {
  const side = layer.width;
  const share = (value, axis) => 0.5 + (0.5 * (value - meta.middle[axis])) / meta.reach[axis];
  return [share(x, 0) * side, (1 - share(y, 1)) * side];
};
const placed = (x, y) => {
  const share = (value) => (2 * value) / layer.width - 1;
  return [meta.middle[0] + meta.reach[0] * share(x), meta.middle[1] - meta.reach[1] * share(y)];
};

/** A dot of each colour, drawn once and then copied: 70,000 of them take some milliseconds. */
function dots(radius) {
  return meta.colours.map((colour) => {
    const dot = document.createElement("canvas");
    dot.width = dot.height = Math.ceil(2 * radius + 2);
    const context = dot.getContext("2d");
    context.fillStyle = colour;
    context.globalAlpha = 0.6;
    context.arc(dot.width / 2, dot.width / 2, radius, 0, 7);
    context.fill();
    return dot;
  });
}

function drawPoints() {
  const side = Math.max(Math.round($("map").clientWidth * devicePixelRatio), 50);
  $("map").width = $("map").height = layer.width = layer.height = side;
  const context = layer.getContext("2d");
  const sprites = dots(devicePixelRatio * Math.min(4, Math.max(1.6, 160 / Math.sqrt(count))));
  for (let index = 0; index < count; index++) {
    const sprite = sprites[labels[index] % sprites.length];
    const [x, y] = shown([places[2 * index], places[2 * index + 1]]);
    context.drawImage(sprite, x - sprite.width / 2, y - sprite.width / 2);
  }
  drawMap();
}

function drawMap() {
  const context = $("map").getContext("2d");
  context.clearRect(0, 0, layer.width, layer.width);
  context.drawImage(layer, 0, 0);
  const [x, y] = shown(state.place);
  context.strokeStyle = getComputedStyle(document.body).color;
  context.lineWidth = 2 * devicePixelRatio;
  context.beginPath();
  context.arc(x, y, 8 * devicePixelRatio, 0, 7);
  context.stroke();
}

/** The index of the image whose values are nearest. */
function nearest(values, all, dim) {
  let [best, found] = [Infinity, 0];
  for (let index = 0; index < count; index++) {
    let sum = 0;
    for (let at = 0; at < dim && sum < best; at++) sum += (all[index * dim + at] - values[at]) ** 2;
    if (sum < best) [best, found] = [sum, index];
  }
  return found;
}

/** Goes to a place of the map: PCA's has latents of its own, t-SNE's those of the nearest image. */
function goTo(place) {
  const ends = (axis) => [meta.middle[axis] - meta.reach[axis], meta.middle[axis] + meta.reach[axis]];
  state.place = place.map((value, axis) => Math.min(Math.max(value, ends(axis)[0]), ends(axis)[1]));
  state.nearest = nearest(state.place, places, 2);
  const { origin, axes } = meta;
  state.z = axes
    ? Float32Array.from(origin, (value, at) => value + axes[0][at] * state.place[0] + axes[1][at] * state.place[1])
    : mean(state.nearest);
  show();
}

/** Goes to latents, and to their place on the map: its own under PCA, else the nearest image's. */
function goToLatents(z) {
  state.z = z;
  state.nearest = nearest(z, means, latent);
  const project = (axis) => axis.reduce((sum, part, at) => sum + part * (z[at] - meta.origin[at]), 0);
  state.place = meta.axes
    ? meta.axes.map(project)
    : [places[2 * state.nearest], places[2 * state.nearest + 1]];
  show();
}

function show() {
  const { nearest: index } = state;
  paint($("decoded"), network.decode(state.z));
  paint($("nearest"), image(index));
  const loss = losses[index].toFixed(1);
  $("facts").textContent =
    `Image ${index}: ${name(labels[index])}, loss ${loss} nats, of these KL ${divergences[index].toFixed(1)}`;
  for (const { at, input, output } of sliders) {
    input.value = state.z[at];
    output.value = state.z[at].toFixed(2);
  }
  drawMap();
}

$("map").addEventListener("pointermove", ({ offsetX, offsetY }) =>
  goTo(placed(offsetX * devicePixelRatio, offsetY * devicePixelRatio)),
);
$("map").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (!step) return;
  event.preventDefault();
  const far = event.shiftKey ? 0.1 : 0.02;
  goTo(state.place.map((value, axis) => value + far * meta.reach[axis] * step[axis]));
});

// Sliders.

const sliders = meta.order.map((at) => {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "range", min: -4, max: 4, step: 0.01 });
  const output = document.createElement("output");
  label.append(`z${at} (${meta.use[at].toFixed(2)} nats)`, input, output);
  input.addEventListener("input", () => {
    const z = state.z.slice();
    z[at] = Number(input.value);
    goToLatents(z);
  });
  $("sliders").append(label);
  return { at, input, output };
});

// A path.

const STEPS = 11;
function drawPaths() {
  const ends = ["start", "end"].map((id) => {
    const index = Math.min(Math.max(Math.trunc(Number($(id).value)) || 0, 0), count - 1);
    return mean(index);
  });
  for (const id of ["line", "sphere"]) {
    Object.assign($(id), { width: STEPS * width, height });
    for (let step = 0; step < STEPS; step++) {
      const z = between(ends[0], ends[1], step / (STEPS - 1), id === "sphere");
      paint($(id), network.decode(z), step * width);
    }
  }
}
for (const [button, id] of [["from", "start"], ["to", "end"]]) {
  $(id).max = count - 1;
  $(id).addEventListener("input", drawPaths);
  $(button).addEventListener("click", () => {
    $(id).value = state.nearest;
    drawPaths();
  });
}

// A drawing.

let drawing = new Float32Array(numbers);
let last = null;
const BRUSH = 0.045 * Math.max(width, height);

function stroke(x, y) {
  const [fromX, fromY] = last ?? [x, y];
  const steps = Math.max(1, Math.ceil(Math.hypot(x - fromX, y - fromY) / (0.3 * BRUSH)));
  for (let step = 1; step <= steps; step++) {
    const [a, b] = [fromX + ((x - fromX) * step) / steps, fromY + ((y - fromY) * step) / steps];
    for (let at = 0; at < width * height; at++) {
      const distance = Math.hypot((at % width) + 0.5 - a, Math.floor(at / width) + 0.5 - b);
      const level = Math.round(255 * Math.min(Math.max(1.5 + (BRUSH - distance) / 1.2 - 0.5, 0), 1)) / 255;
      for (let part = 0; part < channels; part++) {
        drawing[at * channels + part] = Math.max(drawing[at * channels + part], Math.fround(level));
      }
    }
  }
  last = [x, y];
  showDrawing();
}

/** What the model makes of the drawing; the loss is that at the mean, for images and drawing alike. */
function measure(pixels) {
  const moments = network.encode(pixels);
  const kl = network.divergence(moments);
  const loss = network.reconstruction(pixels, moments.mean) + kl;
  let below = 0;
  while (below < count && sorted[below] < loss) below++;
  return { moments, kl, loss, share: (100 * below) / count };
}

function showDrawing() {
  paint($("drawing"), drawing);
  if (!drawing.some((value) => value > 0)) {
    $("unusual").textContent = "Nothing is drawn yet.";
    paint($("redrawn"), new Float32Array(numbers));
    return;
  }
  const { moments, kl, loss, share } = measure(drawing);
  paint($("redrawn"), network.decode(moments.mean));
  $("unusual").textContent =
    `Loss ${loss.toFixed(1)} nats, of these KL ${kl.toFixed(1)}: more unusual than ${share.toFixed(1)} % of the images`;
  goToLatents(moments.mean);
}

const inDrawing = ({ offsetX, offsetY }) => {
  const scale = width / $("drawing").clientWidth;
  return [offsetX * scale, offsetY * scale];
};
$("drawing").addEventListener("pointerdown", (event) => {
  event.preventDefault();
  $("drawing").setPointerCapture(event.pointerId);
  last = null;
  stroke(...inDrawing(event));
});
$("drawing").addEventListener("pointermove", (event) => {
  if (event.buttons && last) stroke(...inDrawing(event));
});
for (const end of ["pointerup", "pointercancel"]) $("drawing").addEventListener(end, () => (last = null));
const take = (pixels) => {
  drawing = pixels;
  showDrawing();
};
$("clear").addEventListener("click", () => take(new Float32Array(numbers)));
$("example").addEventListener("click", () => take(image(state.nearest)));

// What people take along.

function save(canvas, name) {
  canvas.toBlob((blob) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
$("save").addEventListener("click", () => save($("decoded"), "decoded.png"));
$("keep").addEventListener("click", () => save($("drawing"), "drawing.png"));
$("copy").addEventListener("click", async () => {
  const text = Array.from(state.z).join(",");
  try {
    await navigator.clipboard.writeText(text);
    $("said").textContent = "Copied: a line of a .csv table for vae decode.";
  } catch {
    $("said").textContent = text;
  }
});

$("model").textContent = meta.model;
$("caption").textContent = meta.caption;
for (const [label, name] of meta.names.entries()) {
  const dot = document.createElement("i");
  dot.style.background = colour(label);
  const item = document.createElement("li");
  item.append(dot, name);
  $("legend").append(item);
}
new ResizeObserver(drawPoints).observe($("map"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);
drawPoints();
drawPaths();
showDrawing();
goToLatents(mean(0));
