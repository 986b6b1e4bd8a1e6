// Compares several runs: one line in the chart for each run.

import { $, color, count, element, figure } from "./format.js";

const COLORS = ["one", "two", "three", "four", "five", "seven", "eight", "six"];

/** The most runs that are drawn: one for each colour. */
const CHOSEN_MAX = COLORS.length;

export class Compare {
  constructor() {
    this.runs = [];
    this.chosen = new Set();
    this.plot = null;
    this.token = 0;
    for (const id of ["compare-metric", "compare-x", "compare-log"]) $(id).addEventListener("change", () => this.draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (!$("compare-view").hidden) this.draw(); });
  }

  /** Shows the list; at first, the first runs are chosen. */
  async open() {
    const answer = await fetch("api/runs");
    if (!answer.ok) return;
    this.runs = await answer.json();
    if (!this.chosen.size) this.runs.slice(0, 4).forEach(run => this.chosen.add(run.key));
    const metrics = this.runs.flatMap(run => run.metrics.map(metric => metric.name));
    const names = [...new Set(metrics.flatMap(name => [`test_${name}`, name])), "examples_per_second", "gradient_norm", "learning_rate"];
    const select = /** @type {HTMLSelectElement} */ ($("compare-metric"));
    const before = select.value;
    select.replaceChildren(...names.map(name => element("option", { value: name }, name.replaceAll("_", " "))));
    if (names.includes(before)) select.value = before;
    this.list();
    await this.draw();
  }

  list() {
    const row = run => {
      const box = /** @type {HTMLInputElement} */ (element("input", { type: "checkbox", "aria-label": `Show ${run.name}` }));
      box.checked = this.chosen.has(run.key);
      box.addEventListener("change", () => {
        if (box.checked && this.chosen.size >= CHOSEN_MAX) { box.checked = false; return; }
        if (box.checked) this.chosen.add(run.key); else this.chosen.delete(run.key);
        this.draw();
      });
      const summary = run.summary ?? {}, metric = run.metrics[0]?.name ?? "loss";
      const cells = [run.is_current ? `${run.name} (this run)` : run.name, run.task, `${run.epochs ?? "–"}`, figure(summary[`test_${metric}`]), count(summary.train_examples_per_second), (summary.digest ?? "–").slice(0, 16)];
      return element("tr", {}, element("td", {}, box), ...cells.map(cell => element("td", {}, cell)));
    };
    /** @type {any} */ ($("runs")).tBodies[0].replaceChildren(...this.runs.map(row));
  }

  async draw() {
    const token = ++this.token;
    const metric = /** @type {HTMLSelectElement} */ ($("compare-metric")).value, x = /** @type {HTMLSelectElement} */ ($("compare-x")).value;
    const runs = this.runs.filter(run => this.chosen.has(run.key));
    const charts = await Promise.all(runs.map(run => fetch(`api/chart?x=${x}&run=${encodeURIComponent(run.key)}`).then(answer => (answer.ok ? answer.json() : null), () => null)));
    if (token !== this.token) return;
    // The server reads a long run in parts; the chart is drawn again until all rows are read.
    if (charts.some(chart => chart?.behind)) setTimeout(() => { if (token === this.token) this.draw(); }, 500);
    const tables = [], series = [{ label: x }];
    charts.forEach((chart, index) => {
      const part = metric.startsWith("test_") ? chart?.epochs : chart?.steps;
      const line = part?.lines[metric]?.mean;
      if (!line) return;
      tables.push([part[x], line]);
      const stroke = color(COLORS[index]);
      series.push({ label: runs[index].name, stroke, width: 1.6, spanGaps: true, value: (plot, raw) => figure(raw), points: { show: metric.startsWith("test_"), size: 6, fill: stroke } });
    });
    this.plot?.destroy();
    this.plot = null;
    const place = $("chart-compare");
    place.setAttribute("aria-label", `${metric.replaceAll("_", " ")} by ${x} of ${series.slice(1).map(one => one.label).join(", ")}`);
    if (!tables.length) { place.replaceChildren(element("p", { class: "dim" }, "Nothing to show: choose runs below that have this metric.")); return; }
    place.replaceChildren();
    const axis = () => ({ stroke: color("dim"), grid: { stroke: color("line"), width: 1 }, ticks: { stroke: color("line") }, size: 60 });
    const isLog = /** @type {HTMLInputElement} */ ($("compare-log")).checked;
    const data = tables.length > 1 ? window.uPlot.join(tables) : tables[0];
    this.plot = new window.uPlot({ width: place.clientWidth, height: 340, scales: { x: { time: false }, y: { distr: isLog ? 3 : 1 } }, axes: [axis(), axis()], series }, data, place);
  }
}
