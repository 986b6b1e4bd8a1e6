//! A trained model in the browser: a program's own page for its models, and the data that the page requests
//! of a run's newest checkpoint.

use std::{
    fmt::Debug,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use bytes::Bytes;
use tokio::sync::Mutex;

use crate::{
    assets::Asset,
    query::Query,
    routes::{Board, Shared, aside, no_such_run},
};

/// A program's page for the models of its task.
pub trait Explorer: Debug + Send + Sync {
    /// The name of the task.
    fn task(&self) -> &str;

    /// The files of the page; the first is the page itself. Their scripts may request `api/latent`, and
    /// the arrays of the step named there: `api/latent/parameters`, `api/latent/levels` and
    /// `api/latent/labels`.
    fn files(&self) -> Vec<PageFile>;

    /// Reads the newest checkpoint of the run in this directory, and some examples.
    ///
    /// # Errors
    /// Why the model cannot be shown, for people.
    fn open(&self, run_dir: &Path) -> Result<Exploration, String>;
}

/// A file of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageFile {
    /// The path in the file's URL.
    pub route: &'static str,
    /// The file's media type.
    pub kind: &'static str,
    /// The file's content.
    pub text: String,
}

/// A model and some examples, for the page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exploration {
    /// Updates applied to the model.
    pub step: u64,
    /// The description of the model: a JSON object that includes the step.
    pub meta: String,
    /// The model's parameters, f32 in little-endian order.
    pub parameters: Bytes,
    /// The pixel levels of the examples.
    pub levels: Bytes,
    /// The labels of the examples.
    pub labels: Bytes,
}

/// The model that was requested last.
#[derive(Debug)]
struct Opened {
    run_dir: PathBuf,
    /// Step of the newest checkpoint at that time.
    newest: u64,
    exploration: Arc<Exploration>,
}

/// The models of runs; only one is in memory at a time.
#[derive(Debug)]
pub(crate) struct Explorations {
    explorer: Arc<dyn Explorer>,
    opened: Mutex<Option<Opened>>,
}

impl Explorations {
    pub(crate) fn new(explorer: Arc<dyn Explorer>) -> Self {
        Self { explorer, opened: Mutex::default() }
    }

    pub(crate) fn task(&self) -> &str {
        self.explorer.task()
    }

    /// The model of the run's newest checkpoint, whose step is `newest`. If that checkpoint cannot be read,
    /// the model in memory, if it is of this run. With `step`, only a model in memory of that step.
    async fn get(
        &self,
        run_dir: PathBuf,
        newest: u64,
        step: Option<u64>,
    ) -> Result<Arc<Exploration>, (StatusCode, String)> {
        // The lock is held while a model is read, so that only one is read at a time.
        let mut opened = self.opened.lock().await;
        if let Some(last) = opened.as_ref().filter(|last| last.run_dir == run_dir) {
            let is_it = match step {
                Some(step) => last.exploration.step == step,
                None => last.newest == newest,
            };
            if is_it {
                return Ok(Arc::clone(&last.exploration));
            }
        }
        if step.is_some() {
            let why = "there is a newer checkpoint: load this page again\n".to_owned();
            return Err((StatusCode::CONFLICT, why));
        }
        let (explorer, path) = (Arc::clone(&self.explorer), run_dir.clone());
        let read = aside(move || explorer.open(&path)).await;
        let read = read.unwrap_or_else(|| Err("it could not be read".into()));
        let last = opened.as_ref().filter(|last| last.run_dir == run_dir);
        let exploration = match (read, last) {
            (Ok(exploration), _) => Arc::new(exploration),
            // An older model is acceptable, because the page shows the model's step.
            (Err(_), Some(last)) => return Ok(Arc::clone(&last.exploration)),
            (Err(why), None) => return Err((StatusCode::CONFLICT, why + "\n")),
        };
        *opened = Some(Opened { run_dir, newest, exploration: Arc::clone(&exploration) });
        Ok(exploration)
    }
}

/// The routes of the program's page, if it has one.
pub(crate) fn routes(explorer: Option<&dyn Explorer>) -> Router<Arc<Board>> {
    let mut router = Router::new();
    let Some(explorer) = explorer else { return router };
    for asset in explorer.files().into_iter().map(Asset::from) {
        let (route, asset) = (asset.route, Arc::new(asset));
        let answer = move |headers: HeaderMap| async move { asset.answer(&headers) };
        router = router.route(route, get(answer));
    }
    router
        .route("/api/latent", get(meta))
        .route("/api/latent/parameters", get(parameters))
        .route("/api/latent/levels", get(levels))
        .route("/api/latent/labels", get(labels))
}

async fn meta(State(board): Shared, RawQuery(query): RawQuery) -> Response {
    let json = [(CONTENT_TYPE, "application/json")];
    match explore(board, query, false).await {
        Ok(exploration) => (json, exploration.meta.clone()).into_response(),
        Err(refused) => refused,
    }
}

async fn parameters(State(board): Shared, RawQuery(query): RawQuery) -> Response {
    array(board, query, |exploration| &exploration.parameters).await
}

async fn levels(State(board): Shared, RawQuery(query): RawQuery) -> Response {
    array(board, query, |exploration| &exploration.levels).await
}

async fn labels(State(board): Shared, RawQuery(query): RawQuery) -> Response {
    array(board, query, |exploration| &exploration.labels).await
}

async fn array(
    board: Arc<Board>,
    query: Option<String>,
    which: impl FnOnce(&Exploration) -> &Bytes,
) -> Response {
    let binary = [(CONTENT_TYPE, "application/octet-stream")];
    match explore(board, query, true).await {
        Ok(exploration) => (binary, which(&exploration).clone()).into_response(),
        Err(refused) => refused,
    }
}

/// The requested model. A request for an array must name the step.
async fn explore(
    board: Arc<Board>,
    query: Option<String>,
    is_array: bool,
) -> Result<Arc<Exploration>, Response> {
    let query = Query::parse(query.as_deref());
    let step = query.number("step").map(|step| step as u64);
    if is_array && step.is_none() {
        return Err((StatusCode::BAD_REQUEST, "step is missing: see api/latent\n").into_response());
    }
    let (key, shared) = (query.text("run"), Arc::clone(&board));
    let found = aside(move || {
        let mut runs = shared.runs();
        let run = runs.get(key.as_deref())?;
        let newest = run.checkpoints.newest_step;
        Some((run.path.clone(), run.about.task.clone(), newest))
    });
    let (path, task, newest) = found.await.flatten().ok_or_else(no_such_run)?;
    let refused = |why: &'static str| (StatusCode::NOT_FOUND, why).into_response();
    let explorations = board.explorations.as_ref().filter(|known| known.task() == task);
    let explorations = explorations.ok_or_else(|| refused("models of this task have no page\n"))?;
    let newest = newest.ok_or_else(|| refused("this run has no checkpoint yet\n"))?;
    let step = step.filter(|_| is_array);
    explorations
        .get(path, newest, step)
        .await
        .map_err(|(status, why)| (status, why).into_response())
}
