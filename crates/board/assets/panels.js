// The panels beside the charts: tiles, ranks, generations, workers, events, samples.

import { $, bytes, capital, clock, count, duration, element, figure, several, shape } from "./format.js";

/** The most workers and ranks that are drawn; further ones are only counted. */
const DRAWN = 64;

/** @param {any} state */
export function showTiles(state, best) {
  const { about, reading } = state;
  const step = reading?.step ?? state.step ?? 0, steps = reading?.steps ?? (about.epochs ?? 0) * (about.steps_per_epoch ?? 0);
  const perEpoch = about.steps_per_epoch ?? (steps && about.epochs ? steps / about.epochs : 0);
  const epochs = perEpoch ? step / perEpoch : 0;
  const rate = reading?.examples_per_second ?? null;
  const secondsLeft = state.seconds && step ? (steps - step) * (state.seconds / step) : null;
  const tile = (name, value, small, extra) => element("div", {}, element("span", {}, name), element("b", {}, value), element("small", {}, small), ...(extra ?? []));
  const bar = element("progress", { max: String(Math.max(steps, 1)), value: String(step), "aria-label": "Steps done" });
  const loss = reading?.metrics?.[0];
  const parts = (reading?.metrics.slice(1) ?? best?.parts ?? []).map(metric => `${metric.name.replaceAll("_", " ")} ${figure(metric.value)}`);
  const tiles = [
    tile("Epoch", `${Math.min(Math.floor(epochs) + 1, about.epochs ?? Infinity)} / ${about.epochs ?? "?"}`, `step ${count(step)} of ${count(steps)}`, [bar]),
    tile("Test loss", figure(best?.last), best ? `${best.unit} epoch ${best.epoch}; best ${figure(best.least)}` : "no test yet"),
    tile("Train loss", figure(loss?.value ?? best?.train), parts.join(" + ")),
    tile(`${capital(several(about))}/s`, rate === null ? "–" : count(rate), rate === null ? "not training now" : "as last reported"),
    tile("Left", reading ? duration(secondsLeft) : "–", `trained for ${duration(state.seconds)}`),
    tile("Lost", String(best?.losses ?? 0), best?.still ? `${duration(best.still / 1000)} stood still` : "workers so far"),
  ];
  $("tiles").replaceChildren(...tiles);
}

export function showState(state, isLive) {
  const { about, reading, ended } = state;
  const phase = reading?.state ?? (ended ? (ended[0] ? "ended" : "failed") : "no coordinator");
  $("phase").textContent = phase;
  $("dot").className = `dot ${reading?.state === "training" || (ended && ended[0]) ? "good" : ended || reading ? "bad" : ""}`;
  const members = (reading?.workers ?? []).filter(worker => worker.is_member).length;
  const words = reading
    ? `· generation ${reading.generation} · ${members} of ${reading.workers_wanted} workers`
    : ended ? `· ${ended[1]}` : "· from its files";
  $("about").textContent = `${words} · ${about.task} · ${about.name}`;
  $("link").textContent = isLive ? "· live" : "· not connected: trying again";
  $("link").className = isLive ? "link" : "link gone";
  document.title = `${phase} · epoch ${reading?.epoch ?? Math.ceil((state.step ?? 0) / (about.steps_per_epoch || 1))}/${about.epochs ?? "?"} · Lockstep`;
  const rows = state.behind ? `Reading the rows of this run: ${count(state.rows)} so far` : null;
  const waiting = state.error ?? rows ?? reading?.waiting_for ?? null;
  $("waiting").hidden = waiting === null;
  $("waiting").textContent = waiting === null ? "" : `${waiting}${reading?.waiting_seconds && waiting === reading.waiting_for ? ` (${duration(reading.waiting_seconds)})` : ""}`;
}

export function showRanks(ranks, slowest) {
  const most = Math.max(...ranks.map(rank => rank.compute + rank.all_reduce + rank.waiting), 1e-9);
  const bar = (kind, seconds) => {
    const made = element("span", { class: kind, title: `${kind}: ${seconds.toFixed(2)} s` });
    made.style.width = `${(100 * seconds) / most}%`;
    return made;
  };
  const one = rank => {
    const isSlow = rank.rank === slowest;
    const words = `computing ${rank.compute.toFixed(2)} s, all-reduce ${rank.all_reduce.toFixed(2)} s, waiting ${rank.waiting.toFixed(2)} s`;
    const bars = element("div", { class: "bars", role: "img", "aria-label": words },
      bar("compute", rank.compute), bar("reduce", rank.all_reduce), bar("wait", rank.waiting));
    return element("div", { class: isSlow ? "rank slow" : "rank" }, element("span", {}, `rank ${rank.rank}`), bars,
      element("span", {}, isSlow ? "slowest" : ""));
  };
  $("ranks").replaceChildren(...ranks.slice(0, DRAWN).map(one));
  const slow = ranks.find(rank => rank.rank === slowest);
  const others = ranks.filter(rank => rank.rank !== slowest);
  const waited = others.reduce((sum, rank) => sum + rank.waiting, 0) / Math.max(others.length, 1);
  const says = slow ? `Rank ${slowest} is the slowest: the others have waited ${waited.toFixed(1)} s for it on average.`
    : ranks.length > 1 ? "No rank keeps the others waiting." : "";
  if ($("slowest").textContent !== says) $("slowest").textContent = says;
}

export function showWorkers(reading, ranks, connected) {
  const memory = new Map(ranks.map(rank => [rank.rank, rank.memory_bytes]));
  const workers = reading?.workers ?? [];
  /** @type {[string, (worker: any) => any][]} */
  const all = [
    ["rank", worker => (worker.rank === null ? "spare" : worker.rank)],
    ["host", worker => worker.host],
    ["process", worker => worker.process],
    ["device", worker => worker.device],
    ["memory", worker => { const size = worker.memory_bytes ?? memory.get(worker.rank); return size ? bytes(size) : null; }],
    ["step", worker => worker.step ?? "–"],
    ["does", worker => (worker.is_member ? worker.state : "not a member")],
    ["heard", worker => duration(worker.silent_seconds)],
  ];
  // A column without any known value is left out.
  const columns = all.filter(([, of]) => workers.some(worker => (of(worker) ?? null) !== null));
  const rows = workers.slice(0, DRAWN).map(worker => element("tr", {}, ...columns.map(([, of]) => element("td", {}, String(of(worker) ?? "–")))));
  const wide = text => element("tr", {}, element("td", { colspan: String(Math.max(columns.length, 1)) }, text));
  const more = (connected ?? 0) - rows.length;
  if (more > 0) rows.push(wide(`and ${more} more`));
  if (!rows.length) rows.push(wide(reading ? "no worker is connected" : "not known without a coordinator"));
  const table = /** @type {HTMLTableElement} */ ($("workers"));
  table.tHead?.replaceChildren(element("tr", {}, ...columns.map(([name]) => element("th", { scope: "col" }, name))));
  table.tBodies[0].replaceChildren(...rows);
}

export function showEvents(events) {
  const item = event => element("li", event.is_bad ? { class: "bad" } : {}, element("time", {}, clock(event.time)), event.text);
  $("events").replaceChildren(...[...events].reverse().map(item));
}

/** @param {any[]} generations */
export function showGenerations(generations, now) {
  const shown = generations.filter(generation => generation.began !== null).slice(-40);
  if (!shown.length) return $("generations").replaceChildren(element("p", { class: "dim" }, "none yet"));
  const ranks = [...new Set(shown.flatMap(generation => generation.ranks))].sort((one, other) => one - other);
  const rows = ranks.length <= 16 ? ranks : [];
  const width = 1000, row = 16, top = 4, height = top + Math.max(rows.length, 1) * row + 20;
  const begin = shown[0].began, end = Math.max(now, ...shown.map(generation => generation.ended ?? generation.began)) + 1e-3;
  const at = time => (width * (time - begin)) / (end - begin);
  const words = shown.map(generation => `generation ${generation.number} with ${generation.ranks.length} workers from step ${generation.step}${generation.recovery_ms === null ? "" : `, ${Math.round(generation.recovery_ms)} ms after the last`}`);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", height: String(height), role: "img", "aria-label": words.join("; ") });
  let labelled = -Infinity;
  for (const generation of shown) {
    const left = at(generation.began), right = at(generation.ended ?? end);
    const cells = rows.length ? rows.map(rank => generation.ranks.includes(rank)) : [true];
    cells.forEach((isMember, index) => svg.append(shape("rect", { x: String(left), y: String(top + index * row), width: String(Math.max(right - left - 1, 1)), height: String(row - 3), class: isMember ? "member" : "absent" })));
    if (generation.recovery_ms !== null) svg.append(shape("line", { x1: String(left), x2: String(left), y1: "0", y2: String(height - 18), class: "lost" }));
    if (left - labelled > 60) { svg.append(shape("text", { x: String(left), y: String(height - 5) }, String(generation.number))); labelled = left; }
  }
  const line = generation => element("tr", {}, ...[
    String(generation.number), clock(generation.began), String(generation.ranks.length), String(generation.step), generation.collective ?? "–",
    generation.recovery_ms === null ? "–" : `${Math.round(generation.recovery_ms)} ms`,
    generation.recovery_ms === null ? "" : `agreement ${Math.round(generation.agreement_ms)}, of that transfer ${Math.round(generation.transfer_ms)}; connection ${Math.round(generation.connection_ms)} ms`,
  ].map(cell => element("td", {}, cell)));
  const head = ["generation", "began", "workers", "step", "exchange", "stood still", "of that"].map(name => element("th", { scope: "col" }, name));
  const isOpen = $("generations").querySelector("details")?.open ?? false;
  const table = element("details", isOpen ? { open: "" } : {}, element("summary", {}, `${shown.length} generations as a table`),
    element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...shown.map(line).reverse()))));
  $("generations").replaceChildren(svg, table);
}

/** The samples of the epochs: the newest, unless a person has chosen another. */
export class Samples {
  constructor() {
    this.epochs = [];
    this.run = null;
    /** @type {any} */
    this.about = null;
    this.slider = /** @type {HTMLInputElement} */ ($("sample-slider"));
    this.slider.addEventListener("input", () => this.draw());
  }

  show(run, about, epochs) {
    const isNew = run !== this.run;
    const isAtEnd = isNew || Number(this.slider.value) >= this.epochs.length - 1;
    const isSame = !isNew && epochs.length === this.epochs.length;
    [this.run, this.epochs, this.about] = [run, epochs, about];
    $("samples").hidden = epochs.length === 0;
    if (isSame || !epochs.length) return;
    Object.assign(this.slider, { min: "0", max: String(epochs.length - 1) });
    if (isAtEnd) this.slider.value = String(epochs.length - 1);
    this.draw();
  }

  draw() {
    const epoch = this.epochs[Number(this.slider.value)];
    if (epoch === undefined) return;
    const run = this.run === null ? "" : `&run=${encodeURIComponent(this.run)}`;
    $("sample-epoch").textContent = String(epoch);
    this.slider.setAttribute("aria-valuetext", `epoch ${epoch}`);
    Object.assign($("sample"), { src: `api/sample?epoch=${epoch}${run}`, alt: `Samples after epoch ${epoch}: test ${several(this.about)}, their reconstructions, and new ones` });
  }
}
