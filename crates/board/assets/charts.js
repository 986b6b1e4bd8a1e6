// Charts of a run, drawn by uPlot from the server's buckets. A zoom requests new buckets.

import { $, capital, clock, color, figure, several } from "./format.js";

const X_NAMES = { step: "step", epoch: "epoch", seconds: "seconds of training", time: "clock" };
const COLORS = ["one", "three", "five", "four", "seven", "eight", "six", "two"];

/** An exponential moving average; strength 0 keeps the values as they are. Unknown values stay unknown. */
export function smoothed(values, strength) {
  if (strength === 0) return values;
  const keep = 1 - 1 / (strength + 1);
  let mean = null;
  return values.map(value => {
    if (value === null || value === undefined) return value;
    mean = mean === null ? value : mean * keep + value * (1 - keep);
    return mean;
  });
}

export class Charts {
  constructor(onZoom) {
    this.onZoom = onZoom;
    this.about = null;
    this.data = null;
    this.x = "step";
    this.isLogX = this.isLogY = false;
    this.smooth = 0;
    /** The visible range of the x axis; null for the whole run. */
    this.zoom = null;
    /** @type {Map<string, any>} */
    this.plots = new Map();
    const redraw = () => this.redraw();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    // The width of a chart changes with the window, and with the charts beside it.
    const resize = () => this.plots.forEach((plot, id) => {
      const width = $(`chart-${id}`).clientWidth;
      if (width > 0 && plot.width !== width) plot.setSize({ width, height: plot.height });
    });
    const resized = new ResizeObserver(() => requestAnimationFrame(resize));
    for (const id of ["loss", "parts", "rate", "learning", "norm"]) {
      $(`chart-${id}`).addEventListener("keydown", event => this.key(event));
      resized.observe($(`chart-${id}`));
    }
  }

  /** Shows the server's answer. */
  show(about, data) {
    const isNew = this.about?.run_id !== about.run_id;
    this.about = about;
    this.data = data;
    if (isNew) this.clear();
    this.update();
  }

  clear() {
    this.plots.forEach(plot => plot.destroy());
    this.plots.clear();
  }

  redraw() {
    this.clear();
    if (this.data) this.update();
  }

  update() {
    const { about, data } = this;
    const lines = data.steps.lines, metrics = about.metrics.map(metric => metric.name);
    const [loss, ...parts] = metrics.length ? metrics : Object.keys(lines).filter(name => name === "loss");
    const unit = about.metrics[0]?.unit;
    $("loss-name").textContent = capital(loss ?? "loss");
    $("loss-unit").textContent = `${unit ? `${unit} for each ${about.example}; ` : ""}the band holds every report, the line is their mean`;
    $("rate-name").textContent = `${capital(several(about))} a second`;
    this.draw("loss", [loss], true);
    const shown = parts.filter(name => lines[name]);
    const others = Object.keys(lines).filter(name => name.endsWith("_weight"));
    $("parts").hidden = shown.length === 0;
    if (shown.length) this.draw("parts", [...shown, ...others]);
    this.draw("rate", ["examples_per_second"], true);
    $("rates").hidden = !lines.learning_rate;
    if (lines.learning_rate) this.draw("learning", ["learning_rate"]);
    $("norms").hidden = !lines.gradient_norm;
    if (lines.gradient_norm) this.draw("norm", ["gradient_norm"], true);
  }

  /** The positions of the buckets on the x axis. On a logarithmic axis, 0 and negative values have none. */
  places(chart) {
    return chart[this.x].map(value => (value === null || (this.isLogX && value <= 0) ? null : value));
  }

  /** The data of one chart: the buckets, and the test after each epoch if there is one. */
  table(names, hasBand) {
    const { steps, epochs } = this.data;
    const lines = names.map(name => steps.lines[name]);
    const columns = lines.flatMap((line, index) => {
      const empty = () => steps.step.map(() => null);
      const mean = smoothed(line?.mean ?? empty(), this.smooth);
      return index === 0 && hasBand ? [line?.min ?? empty(), line?.max ?? empty(), mean] : [mean];
    });
    const table = this.sorted(this.places(steps), columns);
    const test = epochs.lines[`test_${names[0]}`];
    if (!test) return { data: table, hasTest: false };
    const points = this.sorted(this.places(epochs), [test.mean]);
    return { data: points[0].length ? window.uPlot.join([table, points]) : [...table, table[0].map(() => null)], hasTest: true };
  }

  /** The columns without the rows whose position is not known. */
  sorted(x, columns) {
    const kept = x.map((value, index) => index).filter(index => x[index] !== null);
    const value = column => kept.map(index => {
      const value = column[index];
      return value === undefined || (this.isLogY && value !== null && value <= 0) ? null : value;
    });
    return [kept.map(index => x[index]), ...columns.map(value)];
  }

  draw(id, names, hasBand = false) {
    const place = $(`chart-${id}`);
    const { data, hasTest } = this.table(names, hasBand);
    const shape = JSON.stringify([names, hasTest, this.x, this.isLogX, this.isLogY]);
    place.setAttribute("aria-label", this.words(names, hasTest));
    const plot = this.plots.get(id);
    if (plot?.shape === shape) {
      plot.setData(data, false);
      plot.isQuiet = true;
      plot.batch(() => {
        const x = data[0];
        const [min, max] = this.zoom ?? [x[0] ?? 0, x[x.length - 1] ?? 1];
        plot.setScale("x", { min, max: max > min ? max : min + 1 });
      });
      plot.isQuiet = false;
      return;
    }
    plot?.destroy();
    const made = new window.uPlot(this.options(id, place, names, hasBand, hasTest), data, place);
    made.shape = shape;
    this.plots.set(id, made);
  }

  options(id, place, names, hasBand, hasTest) {
    const value = (plot, raw) => figure(raw);
    const series = names.flatMap((name, index) => {
      const stroke = color(COLORS[index % COLORS.length]);
      const label = name === "examples_per_second" ? `${several(this.about)} per second` : name.replaceAll("_", " ");
      const line = { label, stroke, width: 1.6, spanGaps: true, value };
      const edge = label => ({ label, stroke: "transparent", spanGaps: true, points: { show: false }, value });
      return index === 0 && hasBand ? [edge("least"), edge("most"), line] : [line];
    });
    if (hasTest) {
      const fill = color("two");
      series.push({ label: `test ${names[0].replaceAll("_", " ")}`, stroke: fill, paths: () => null, points: { show: true, size: 7, fill, stroke: fill }, value });
    }
    const axis = extra => ({ stroke: color("dim"), grid: { stroke: color("line"), width: 1 }, ticks: { stroke: color("line") }, ...extra });
    const isTime = this.x === "time";
    const at = (plot, raw) => (raw === null || raw === undefined ? "–" : isTime ? clock(raw) : figure(raw));
    const short = (plot, values) => values.map(number => (number === null ? "" : Math.abs(number) >= 10000 ? `${number / 1000}k` : `${number}`));
    return {
      width: place.clientWidth, height: id === "loss" ? 270 : 150,
      cursor: { sync: { key: "run", setSeries: false }, drag: { x: true, y: false } },
      legend: { live: true },
      scales: { x: { time: isTime, distr: this.isLogX && !isTime ? 3 : 1 }, y: { distr: this.isLogY ? 3 : 1 } },
      axes: [axis({}), axis({ size: 60, values: this.isLogY ? undefined : short })],
      bands: hasBand ? [{ series: [2, 1], fill: `${color("one")}40` }] : [],
      series: [{ label: X_NAMES[this.x], value: at }, ...series],
      hooks: { setSelect: [plot => this.selected(plot)] },
    };
  }

  /** Zooms to the part of a chart that was selected with the mouse. */
  selected(plot) {
    if (plot.select.width < 4) return;
    const from = plot.posToVal(plot.select.left, "x");
    const to = plot.posToVal(plot.select.left + plot.select.width, "x");
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.look([from, to]);
  }

  look(range) {
    this.zoom = range;
    this.onZoom();
  }

  /** Zooms and moves by the keyboard. */
  key(event) {
    const places = this.places(this.data?.steps ?? { step: [], epoch: [], seconds: [], time: [] }).filter(place => place !== null);
    if (!places.length) return;
    const [from, to] = this.zoom ?? [places[0], places[places.length - 1]];
    const width = to - from, middle = (from + to) / 2;
    const ranges = {
      "+": [middle - width / 4, middle + width / 4], "=": [middle - width / 4, middle + width / 4],
      "-": [middle - width, middle + width], ArrowLeft: [from - width / 4, to - width / 4],
      ArrowRight: [from + width / 4, to + width / 4], 0: null,
    };
    if (!(event.key in ranges) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.look(ranges[event.key]);
  }

  words(names, hasTest) {
    const last = name => [...(this.data.steps.lines[name]?.mean ?? [])].reverse().find(value => value !== null);
    const said = names.map(name => `${name.replaceAll("_", " ")} ${figure(last(name))}`);
    return `${said.join(", ")} at the end, by ${X_NAMES[this.x]}${hasTest ? ", with the test after each epoch" : ""}`;
  }

  /** Fills in the numbers as a table, for people who cannot see the charts. */
  fillTable(table) {
    const { steps, epochs } = this.data;
    const names = Object.keys(steps.lines), tests = Object.keys(epochs.lines).filter(name => name.startsWith("test_"));
    const row = (cell, texts) => {
      const made = document.createElement("tr");
      made.append(...texts.map(text => Object.assign(document.createElement(cell), { textContent: text })));
      return made;
    };
    table.tHead.replaceChildren(row("th", ["step", ...names, ...tests].map(name => name.replaceAll("_", " "))));
    const every = Math.max(1, Math.ceil(steps.step.length / 60));
    const rows = steps.step.map((step, index) => ({ step, index })).filter(({ index }) => index % every === 0 || index === steps.step.length - 1)
      .map(({ step, index }) => ({ step, cells: [...names.map(name => steps.lines[name].mean[index]), ...tests.map(() => null)] }));
    epochs.step.forEach((step, index) => rows.push({ step, cells: [...names.map(() => null), ...tests.map(name => epochs.lines[name].mean[index])] }));
    rows.sort((one, other) => one.step - other.step);
    table.tBodies[0].replaceChildren(...rows.map(({ step, cells }) => row("td", [String(step), ...cells.map(value => (value === null ? "" : figure(value)))])));
  }
}
