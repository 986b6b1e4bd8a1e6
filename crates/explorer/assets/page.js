// The page: where each result is shown, and which request each event sends. The object `source` provides the data
// (embedded.js, served.js).
"use strict";

const $ = (id) => document.getElementById(id);
const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

/** Starts the engine in a worker or, if no worker can be started, on the page. */
function startEngine(meta, arrays) {
  const waiting = new Map();
  let [next, worker, here] = [0, null, null];
  const onPage = () => {
    here ??= new Engine(meta, arrays);
    for (const [id, { request, resolve }] of waiting) {
      waiting.delete(id);
      resolve(here.answer(request));
    }
  };
  try {
    worker = source.worker();
    worker.postMessage({ meta, arrays });
    worker.onmessage = ({ data: { id, reply, error } }) => {
      const { resolve, reject } = waiting.get(id) ?? {};
      waiting.delete(id);
      if (error) reject?.(new Error(error));
      else resolve?.(reply);
    };
    worker.onerror = () => {
      worker = null;
      onPage();
    };
  } catch {
    worker = null;
  }
  return (request) =>
    new Promise((resolve, reject) => {
      waiting.set(++next, { request, resolve, reject });
      if (worker) worker.postMessage({ id: next, request });
      else onPage();
    });
}

/** Sends one request at a time. While one is running, only the latest new request is kept. */
function latest(send, show) {
  let [busy, pending] = [false, null];
  const ask = async (request) => {
    pending = request;
    if (busy) return;
    busy = true;
    while (pending) {
      const now = pending;
      pending = null;
      try {
        show(await send(now), now);
      } catch (error) {
        $("said").textContent = `The browser could not compute this: ${error.message}`;
      }
    }
    busy = false;
  };
  return ask;
}

async function start() {
  const { meta, arrays } = await source.load((words) => ($("model").textContent = words));
  const { height, width, channels, latent, count } = meta;
  const { parameters, places, means, losses, divergences, labels, levels } = arrays;
  const numbers = height * width * channels;
  const name = (label) => meta.names[label] ?? "no label";
  const image = (index) =>
    Float32Array.from(levels.subarray(index * numbers, (index + 1) * numbers), (level) => level / 255);
  const ask = startEngine(meta, { parameters, places, means, losses });
  window.explorer = { ask, image, meta };
  const state = { z: new Float32Array(latent), nearest: 0, pixels: new Float32Array(numbers) };

  /** Draws pixels, from 0 to 1, on a canvas. */
  function paint(canvas, pixels, left = 0) {
    const data = new ImageData(width, height);
    for (let at = 0; at < width * height; at++) {
      for (let part = 0; part < 3; part++) {
        data.data[4 * at + part] = Math.round(255 * pixels[at * channels + (channels === 3 ? part : 0)]);
      }
      data.data[4 * at + 3] = 255;
    }
    canvas.getContext("2d").putImageData(data, left, 0);
  }
  for (const id of ["decoded", "nearest", "seen", "redrawn"]) Object.assign($(id), { width, height });

  // The place and its latents.

  const show = ({ z, place, nearest, pixels }) => {
    Object.assign(state, { z, nearest, pixels });
    paint($("decoded"), pixels);
    paint($("nearest"), image(nearest));
    $("facts").textContent =
      `Image ${nearest}: ${name(labels[nearest])}, loss ${losses[nearest].toFixed(1)} nats, ` +
      `of these KL ${divergences[nearest].toFixed(1)}`;
    for (const { at, input, output } of sliders) {
      input.value = z[at];
      output.value = z[at].toFixed(2);
    }
    map.mark(place);
  };
  const go = latest(ask, show);
  const map = new ScatterMap(
    $("map"),
    { places, labels, ...meta },
    (place) => go({ kind: "at", place }),
    (held) => $("hold").setAttribute("aria-pressed", held),
  );
  for (const [id, act] of [
    ["zoom-in", () => map.zoomBy(1.5)],
    ["zoom-out", () => map.zoomBy(1 / 1.5)],
    ["zoom-all", () => map.whole()],
    ["hold", () => map.hold(!map.held)],
  ]) $(id).addEventListener("click", act);
  map.redraw();

  const sliders = meta.order.map((at) => {
    const [label, output] = [make("label"), make("output")];
    const input = make("input", { type: "range", min: -4, max: 4, step: 0.01 });
    label.append(`z${at} (${meta.use[at].toFixed(2)} nats)`, input, output);
    input.addEventListener("input", () => {
      const z = state.z.slice();
      z[at] = Number(input.value);
      state.z = z;
      go({ kind: "latents", z });
    });
    $("sliders").append(label);
    return { at, input, output };
  });

  // The path.

  const STEPS = 11;
  const ends = ["from", "to"].map((word, which) => {
    const label = make("label");
    const input = make("input", { type: "number", id: `path-${word}`, min: 0, max: count - 1 });
    const choice = make("select", { ariaLabel: `${word} class` });
    choice.append(make("option", { value: "", textContent: "class" }));
    for (const [index, name] of meta.names.entries()) {
      const first = labels.indexOf(index);
      if (first >= 0) choice.append(make("option", { value: first, textContent: name }));
    }
    choice.hidden = choice.options.length < 2;
    input.value = which === 0 ? 0 : Math.max(labels.findIndex((label) => label !== labels[0]), Math.min(1, count - 1));
    label.append(`${word} image `, input);
    input.addEventListener("input", walk);
    choice.addEventListener("change", () => {
      if (choice.value !== "") input.value = choice.value;
      choice.value = "";
      walk();
    });
    $(word).addEventListener("click", () => {
      input.value = state.nearest;
      walk();
    });
    $("ends").append(label, choice);
    return input;
  });
  const goAlong = latest(ask, (ways) => {
    for (const [id, images] of Object.entries(ways)) {
      images.forEach((pixels, step) => paint($(id), pixels, step * width));
    }
  });
  function walk() {
    const index = (input) => Math.min(Math.max(Math.trunc(Number(input.value)) || 0, 0), count - 1);
    goAlong({ kind: "path", from: index(ends[0]), to: index(ends[1]), steps: STEPS });
  }
  for (const id of ["line", "sphere"]) Object.assign($(id), { width: STEPS * width, height });

  // The drawing.

  const drawing = new Drawing(meta);
  $("how").textContent = meta.centred
    ? "Draw a digit with a finger or the mouse: it is scaled and centred as the images are."
    : "Draw with a finger or the mouse, on black.";
  $("seen-figure").hidden = !meta.centred;
  $("ink-label").hidden = channels !== 3;
  Object.assign($("drawing"), { width: drawing.width, height: drawing.height });
  const ink = () =>
    channels === 3 ? [1, 3, 5].map((at) => parseInt($("ink").value.slice(at, at + 2), 16) / 255) : [1];
  function paintDrawing() {
    const data = new ImageData(drawing.width, drawing.height);
    for (let at = 0; at < drawing.width * drawing.height; at++) {
      for (let part = 0; part < 3; part++) {
        data.data[4 * at + part] = Math.round(255 * drawing.cells[at * channels + (channels === 3 ? part : 0)]);
      }
      data.data[4 * at + 3] = 255;
    }
    $("drawing").getContext("2d").putImageData(data, 0, 0);
  }
  const measure = latest(ask, ({ z, kl, loss, share, decoded }) => {
    if (drawing.isEmpty) return;
    paint($("redrawn"), decoded);
    $("unusual").textContent =
      `Loss ${loss.toFixed(2)} nats, of these KL ${kl.toFixed(2)}: more unusual than ${share.toFixed(1)} % of the images`;
    go({ kind: "latents", z });
  });
  function showDrawing() {
    paintDrawing();
    const pixels = drawing.image();
    paint($("seen"), pixels);
    if (drawing.isEmpty) {
      $("unusual").textContent = "Nothing is drawn yet.";
      paint($("redrawn"), new Float32Array(numbers));
    } else {
      measure({ kind: "measure", pixels });
    }
  }
  const strokeTo = ({ offsetX, offsetY }) => {
    const { clientWidth, clientHeight } = $("drawing");
    drawing.stroke(offsetX / clientWidth, offsetY / clientHeight, ink());
    showDrawing();
  };
  $("drawing").addEventListener("pointerdown", (event) => {
    event.preventDefault();
    $("drawing").setPointerCapture(event.pointerId);
    if (drawing.taken) drawing.clear();
    drawing.last = null;
    strokeTo(event);
  });
  $("drawing").addEventListener("pointermove", (event) => {
    if (event.buttons && drawing.last) strokeTo(event);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    $("drawing").addEventListener(end, () => (drawing.last = null));
  }
  $("clear").addEventListener("click", () => {
    drawing.taken = null;
    drawing.clear();
    showDrawing();
  });
  $("example").addEventListener("click", () => {
    drawing.take(image(state.nearest));
    showDrawing();
  });

  // Saving and copying.

  const save = (canvas, name) =>
    canvas.toBlob((blob) => {
      const link = make("a", { href: URL.createObjectURL(blob), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    });
  $("save").addEventListener("click", () => save($("decoded"), "decoded.png"));
  $("keep").addEventListener("click", () => save($("seen"), "drawing.png"));
  $("copy").addEventListener("click", async () => {
    const text = Array.from(state.z).join(",");
    try {
      await navigator.clipboard.writeText(`${text}\n`);
      $("said").textContent = "Copied. Save it as z.csv for vae decode --input z.csv.";
    } catch {
      $("said").textContent = text;
    }
  });

  $("caption").textContent = meta.caption;
  for (const [label, name] of meta.names.entries()) {
    const [item, dot] = [make("li"), make("i")];
    dot.style.background = meta.colours[label % meta.colours.length];
    item.append(dot, name);
    $("legend").append(item);
  }
  showDrawing();
  walk();
  await go({ kind: "latents", z: means.slice(0, latent) });
  $("model").textContent = meta.model;
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  $("model").textContent = `This page cannot be shown: ${error.message}. It needs a browser from 2023 or later.`;
});
