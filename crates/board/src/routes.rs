//! The routes and their answers. The routes are fixed. A run is named by its key, which is looked up in
//! the list of runs; no file is ever opened by a name from a request.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    middleware,
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::json;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};

use crate::{
    Explorer, Source,
    assets::ASSETS,
    download, explore,
    explore::Explorations,
    guard::{Door, guard},
    metrics,
    query::Query,
    reading::Reading,
    run::{Run, slowest},
    runs::Runs,
    series::Axis,
    stream,
};

/// The most live streams at a time: one for each visible page.
const STREAMS_MAX: usize = 32;

/// The most downloads at a time.
const DOWNLOADS_MAX: usize = 4;

/// Time between two reads of a run, for each stream.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// After this time a stream sends its state again, even if nothing has changed.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How long a source may take to report the state of the run.
const READING_TIMEOUT: Duration = Duration::from_secs(5);

/// Several streams share a reading for this long.
const READING_AGE_MAX: Duration = Duration::from_millis(250);

/// The default number of a chart's buckets.
const BUCKETS: usize = 600;

/// The most buckets that a browser may request.
const BUCKETS_MAX: usize = 4000;

/// The most workers that are listed; further ones are only counted.
const WORKERS_LISTED: usize = 256;

/// The state behind all answers.
#[derive(Debug)]
pub(crate) struct Board {
    source: Option<Arc<dyn Source>>,
    runs: Mutex<Runs>,
    last: tokio::sync::Mutex<Option<(Instant, Option<Reading>)>>,
    streams: Arc<Semaphore>,
    /// The models of runs, if the program has a page for them.
    pub(crate) explorations: Option<Explorations>,
    pub(crate) downloads: Arc<Semaphore>,
}

impl Board {
    pub(crate) fn new(
        source: Option<Arc<dyn Source>>,
        runs: Runs,
        explorations: Option<Explorations>,
    ) -> Arc<Self> {
        Arc::new(Self {
            explorations,
            source,
            runs: Mutex::new(runs),
            last: tokio::sync::Mutex::default(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
        })
    }

    pub(crate) fn runs(&self) -> MutexGuard<'_, Runs> {
        // The data are consistent even after a panic, because rows are added one by one.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of the run, at most [`READING_AGE_MAX`] old.
    async fn reading(&self) -> Option<Reading> {
        let mut last = self.last.lock().await;
        if let Some((at, reading)) = &*last
            && at.elapsed() < READING_AGE_MAX
        {
            return reading.clone();
        }
        let reading = match &self.source {
            Some(source) => timeout(READING_TIMEOUT, source.read()).await.ok().flatten(),
            None => None,
        };
        *last = Some((Instant::now(), reading.clone()));
        reading
    }
}

/// Runs work that reads files on a thread for blocking work.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

pub(crate) fn routes(board: Arc<Board>, explorer: Option<&dyn Explorer>, door: Door) -> Router {
    let mut router = explore::routes(explorer)
        .route("/metrics", get(metrics_of))
        .route("/api/runs", get(runs_of))
        .route("/api/chart", get(chart_of))
        .route("/api/story", get(story_of))
        .route("/api/sample", get(sample_of))
        .route("/api/live", get(live_of))
        .route("/api/csv", get(download::csv))
        .route("/api/metrics", get(download::metrics))
        .route("/api/events", get(download::events));
    for asset in &ASSETS {
        router = router.route(
            asset.route,
            get(move |headers: HeaderMap| async move { asset.answer(&headers) }),
        );
    }
    router
        .fallback(async || (StatusCode::NOT_FOUND, "there is nothing here: begin at /\n"))
        .layer(middleware::from_fn_with_state(door, guard))
        .with_state(board)
}

pub(crate) type Shared = State<Arc<Board>>;

fn as_json(text: String) -> Response {
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}

pub(crate) fn no_such_run() -> Response {
    (StatusCode::NOT_FOUND, "there is no such run here\n").into_response()
}

/// Answers a request about a run with JSON; refuses it if there is no such run.
async fn of_run(
    board: Arc<Board>,
    query: &Query,
    what: impl FnOnce(&mut Run) -> String + Send + 'static,
) -> Response {
    let key = query.text("run");
    let made = aside(move || board.runs().get(key.as_deref()).map(what)).await.flatten();
    made.map_or_else(no_such_run, as_json)
}

async fn metrics_of(State(board): Shared) -> Response {
    let reading = board.reading().await;
    let text = aside(move || {
        loop {
            let mut runs = board.runs();
            let run = runs.get(None);
            // The counters are sent only after all rows are read. The lock is released between two
            // parts, so that other requests are answered meanwhile.
            if !run.as_ref().is_some_and(|run| run.is_behind) {
                return metrics::text(reading.as_ref(), run);
            }
        }
    });
    let text = text.await;
    let headers = [(CONTENT_TYPE, metrics::CONTENT_TYPE)];
    (headers, text.unwrap_or_default()).into_response()
}

async fn runs_of(State(board): Shared) -> Response {
    let list = aside(move || serde_json::to_string(board.runs().list()).unwrap_or_default()).await;
    as_json(list.unwrap_or_default())
}

async fn chart_of(State(board): Shared, RawQuery(query): RawQuery) -> Response {
    let query = Query::parse(query.as_deref());
    let axis = match query.text("x") {
        None => Axis::Step,
        Some(name) => match Axis::parse(&name) {
            Some(axis) => axis,
            None => {
                return (StatusCode::BAD_REQUEST, "x: step, epoch, seconds or time\n")
                    .into_response();
            }
        },
    };
    let from = query.number("from").unwrap_or(f64::NEG_INFINITY);
    let to = query.number("to").unwrap_or(f64::INFINITY);
    let buckets = query.number("buckets").map_or(BUCKETS, |buckets| buckets as usize);
    let buckets = buckets.clamp(4, BUCKETS_MAX);
    let chart = move |run: &mut Run| {
        let steps = run.series.chart(axis, from, to, buckets);
        let epochs = run.epochs.chart(axis, from, to, buckets);
        json!({ "steps": steps, "epochs": epochs, "behind": run.is_behind }).to_string()
    };
    of_run(board, &query, chart).await
}

async fn story_of(State(board): Shared, RawQuery(query): RawQuery) -> Response {
    let query = Query::parse(query.as_deref());
    let since = query.number("since").map_or(0, |number| number as u64);
    let story = move |run: &mut Run| {
        let (events, generations) = (run.story.since(since), run.story.generations());
        json!({ "events": events, "generations": generations, "told": run.story.told() })
            .to_string()
    };
    of_run(board, &query, story).await
}

async fn sample_of(State(board): Shared, RawQuery(query): RawQuery) -> Response {
    let query = Query::parse(query.as_deref());
    let (key, epoch) = (query.text("run"), query.number("epoch").map_or(0, |epoch| epoch as u64));
    let picture = aside(move || {
        let path = {
            let mut runs = board.runs();
            let run = runs.get(key.as_deref())?;
            run.samples.contains(&epoch).then(|| run.sample(epoch))?
        };
        download::read_picture(&path)
    });
    match picture.await.flatten() {
        Some(picture) => ([(CONTENT_TYPE, "image/png")], picture).into_response(),
        None => (StatusCode::NOT_FOUND, "there are no samples of this epoch\n").into_response(),
    }
}

async fn live_of(State(board): Shared, RawQuery(query): RawQuery) -> Response {
    let Ok(turn) = Arc::clone(&board.streams).try_acquire_owned() else {
        let why = "too many pages are open: close one of them\n";
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    };
    let key = Query::parse(query.as_deref()).text("run");
    let (parts, body) = stream::body();
    tokio::spawn(async move {
        let mut said = (String::new(), Instant::now());
        loop {
            let reading = board.reading().await;
            let (shared, key) = (Arc::clone(&board), key.clone());
            let state = aside(move || state(&shared, key.as_deref(), reading)).await;
            let (state, is_behind) = state.unwrap_or_else(|| ("null".to_owned(), false));
            if said.0 != state || said.1.elapsed() > KEEP_ALIVE {
                if parts.send(stream::event("state", &state)).await.is_err() {
                    break;
                }
                said = (state, Instant::now());
            }
            let pause = if is_behind { Duration::ZERO } else { LOOK_INTERVAL };
            tokio::select! {
                () = sleep(pause) => {}
                () = parts.closed() => break,
            }
        }
        drop(turn);
    });
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// The state of a run as JSON for the page, and whether there are more rows to read.
fn state(board: &Board, key: Option<&str>, reading: Option<Reading>) -> (String, bool) {
    let runs = &mut *board.runs();
    let first = runs.first_key();
    let is_current = key.is_none() || key == first.as_deref();
    let Some(run) = runs.get(key) else { return ("null".into(), false) };
    let ranks = run.recent();
    let explorations = board.explorations.as_ref();
    let is_explorable = explorations.is_some_and(|known| known.task() == run.about.task);
    let mut reading = reading.filter(|reading| is_current && reading.run_id == run.about.run_id);
    let connected = reading.as_ref().map(|reading| reading.workers.len());
    if let Some(reading) = &mut reading {
        reading.workers.truncate(WORKERS_LISTED);
    }
    let last = run.series.last();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let state = json!({
        "now": (now.as_secs_f64() * 2.0).floor() / 2.0,
        "about": run.about,
        "reading": reading,
        "connected": connected,
        "rows": run.series.rows(),
        "behind": run.is_behind,
        "epochs_done": run.epochs.rows(),
        "told": run.story.told(),
        "ended": run.story.ended,
        "step": last.step,
        "seconds": last.seconds,
        "time": Some(last.time).filter(|time| time.is_finite()),
        "samples": run.samples,
        "slowest": slowest(&ranks),
        "ranks": ranks,
        "checkpoint": run.checkpoints.newest_step,
        "explorable": is_explorable && run.checkpoints.newest_step.is_some(),
        "error": run.error,
    });
    (state.to_string(), run.is_behind)
}
