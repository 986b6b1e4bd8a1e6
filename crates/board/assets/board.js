// The page: it requests the data of a run and shows them. Start reading here.

import { Charts } from "./charts.js";
import { Compare } from "./compare.js";
import { $, element } from "./format.js";
import { Live } from "./live.js";
import { Samples, showEvents, showGenerations, showRanks, showState, showTiles, showWorkers } from "./panels.js";

/** The shortest time between two requests for a chart, in ms. */
const CHART_INTERVAL = 1000;

/** The most events that are kept. */
const EVENTS_MAX = 500;

/** The key of the run that is shown; null for the first run. */
let run = new URLSearchParams(location.search).get("run");
let state = null, isLive = false, best = null, isBusy = false, isAsked = false, drawn = "", drawnAt = 0;
let events = [], generations = [], told = 0;

const samples = new Samples();
const compare = new Compare();
const charts = new Charts(() => askChart(true));

const ofRun = () => (run === null ? "" : `&run=${encodeURIComponent(run)}`);

/** Requests the chart, one request at a time. If another request comes meanwhile, it is sent afterwards. */
async function askChart(isForced = false) {
  if (isForced) drawn = "";
  if (isBusy) { isAsked = true; return; }
  isBusy = true;
  isAsked = false;
  try {
    const zoom = charts.zoom ? `&from=${charts.zoom[0]}&to=${charts.zoom[1]}` : "";
    const of = run, buckets = Math.round(Math.max($("chart-loss").clientWidth, 300));
    const answer = await fetch(`api/chart?x=${charts.x}&buckets=${buckets}${zoom}${ofRun()}`);
    if (answer.ok && state && of === run) {
      const data = await answer.json();
      charts.show(state.about, data);
      best = summary(data.epochs, state.about);
      showAll();
      if (/** @type {HTMLDetailsElement} */ ($("table-box")).open) charts.fillTable($("table"));
    }
  } catch { /* The stream reports when the connection is back. */ }
  isBusy = false;
  drawnAt = performance.now();
  if (isAsked) setTimeout(() => askChart(), 50);
}

function summary(epochs, about) {
  const metric = about.metrics[0], values = epochs.lines[`test_${metric?.name ?? "loss"}`];
  const known = (values?.mean ?? []).map((value, index) => ({ value, index })).filter(({ value }) => value !== null);
  if (!known.length) return null;
  const last = known[known.length - 1];
  return {
    last: last.value, epoch: Math.round(epochs.epoch[last.index]), least: Math.min(...known.map(({ value }) => value)),
    unit: metric?.unit ? `${metric.unit},` : "", train: epochs.lines[metric?.name ?? "loss"]?.mean.at(-1),
    parts: about.metrics.slice(1).map(({ name }) => ({ name, value: epochs.lines[name]?.mean.at(-1) ?? null })),
  };
}

async function askStory() {
  try {
    const answer = await fetch(`api/story?since=${told}${ofRun()}`);
    if (!answer.ok) return;
    const story = await answer.json();
    // A log that has become shorter is a new log.
    if (story.told < told) { events = []; told = 0; return askStory(); }
    events = events.filter(event => event.number < told).concat(story.events.filter(event => event.number >= told)).slice(-EVENTS_MAX);
    [told, generations] = [story.told, story.generations];
    showEvents(events);
    showAll();
  } catch { /* The stream reports when the connection is back. */ }
}

function showAll() {
  if (!state) return;
  const losses = events.filter(event => event.kind === "lost" && event.is_bad).length;
  const still = generations.reduce((sum, generation) => sum + (generation.recovery_ms ?? 0), 0);
  showState(state, isLive);
  showTiles(state, { ...(best ?? { last: null, epoch: "–", least: null, unit: "" }), losses, still });
  showRanks(state.ranks, state.slowest);
  showWorkers(state.reading, state.ranks, state.connected);
  showGenerations(generations, state.reading?.state === "training" ? state.now : 0);
  samples.show(run, state.about, state.samples);
}

function onState(next) {
  if (next === null) {
    $("phase").textContent = "there is no run here";
    return;
  }
  const isOther = state?.about.run_id !== next.about.run_id;
  if (isOther) [events, generations, told, best, drawn] = [[], [], 0, null, ""];
  state = next;
  $("to-latent").hidden = !next.explorable;
  showAll();
  const version = `${next.rows} ${next.step} ${next.epochs_done}`;
  if (version !== drawn && (isOther || performance.now() - drawnAt > CHART_INTERVAL)) {
    drawn = version;
    askChart();
  }
  if (next.told !== told) askStory();
}

const live = new Live(onState, connected => {
  const isNews = connected !== isLive;
  isLive = connected;
  if (isNews && state) showState(state, isLive);
});

/** Fills the list of runs; it is shown if there are several. */
async function listRuns() {
  try {
    const answer = await fetch("api/runs");
    if (!answer.ok) return;
    const runs = await answer.json();
    const select = /** @type {HTMLSelectElement} */ ($("run-select"));
    $("pick").hidden = runs.length < 2;
    select.replaceChildren(...runs.map(one => element("option", { value: one.key }, one.is_current ? `${one.name} (now)` : one.name)));
    select.value = run ?? runs[0]?.key ?? "";
  } catch { /* The page then shows no list. */ }
}

function choose(key) {
  run = key;
  [events, generations, told, best, drawn, state] = [[], [], 0, null, "", null];
  charts.zoom = null;
  links();
  live.follow(run);
}

function links() {
  const query = run === null ? "" : `?run=${encodeURIComponent(run)}`;
  $("to-latent").setAttribute("href", `latent${query}`);
  for (const [id, what] of [["csv", "csv"], ["raw-metrics", "metrics"], ["raw-events", "events"]]) $(id).setAttribute("href", `api/${what}${query}`);
}

function view() {
  const isCompare = location.hash === "#compare";
  $("run-view").hidden = isCompare;
  $("compare-view").hidden = !isCompare;
  /** @type {[string, boolean][]} */
  const links = [["to-run", !isCompare], ["to-compare", isCompare]];
  for (const [id, isHere] of links) {
    if (isHere) $(id).setAttribute("aria-current", "page"); else $(id).removeAttribute("aria-current");
  }
  if (isCompare) compare.open(); else charts.redraw();
}

function begin() {
  const input = id => /** @type {HTMLInputElement} */ ($(id));
  input("x").addEventListener("change", () => { charts.x = input("x").value; charts.zoom = null; askChart(true); });
  input("log-y").addEventListener("change", () => { charts.isLogY = input("log-y").checked; charts.redraw(); });
  input("log-x").addEventListener("change", () => { charts.isLogX = input("log-x").checked; charts.redraw(); });
  input("smooth").addEventListener("input", () => {
    charts.smooth = Number(input("smooth").value);
    $("smooth-says").textContent = charts.smooth === 0 ? "off" : `over ${charts.smooth + 1} points`;
    charts.redraw();
  });
  $("whole").addEventListener("click", () => charts.look(null));
  $("table-box").addEventListener("toggle", () => { if (charts.data) charts.fillTable($("table")); });
  input("run-select").addEventListener("change", () => choose(input("run-select").value));
  addEventListener("hashchange", view);
  links();
  view();
  listRuns();
  live.follow(run);
}

begin();
