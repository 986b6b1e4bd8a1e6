//! A trained model in the browser: the page that a program brings along for its models, and what that page
//! asks for of the newest checkpoint of a run.

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
    Source,
    assets::Asset,
    query::Query,
    routes::{Board, Shared, aside, no_such_run},
};

/// What a program knows to show of the models of its task.
pub trait Explorer: Debug + Send + Sync {
    /// The name of the task.
    fn task(&self) -> &str;

    /// The files of the page; the first is the page. They may ask for `api/latent`, and for the
    /// arrays of that step at `api/latent/parameters`, `api/latent/levels` and `api/latent/labels`.
    fn files(&self) -> Vec<PageFile>;

    /// Reads the newest checkpoint of the run in this directory, and some examples.
    ///
    /// # Errors
    /// Why that cannot be shown, for people.
    fn open(&self, run_dir: &Path) -> Result<Exploration, String>;
}

/// A file of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageFile {
    /// Where the browser asks for it.
    pub route: &'static str,
    /// Its media type.
    pub kind: &'static str,
    /// What it holds.
    pub text: String,
}

/// A model, as the page takes it in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exploration {
    /// Updates that it has seen.
    pub step: u64,
    /// What is said of it, a JSON object with the step in it.
    pub meta: String,
    /// Its parameters, f32 in little-endian order.
    pub parameters: Bytes,
    /// The examples.
    pub levels: Bytes,
    /// Their labels.
    pub labels: Bytes,
}

/// The model that was asked for last.
#[derive(Debug)]
struct Opened {
    run_dir: PathBuf,
    /// The newest checkpoint that there was.
    newest: u64,
    exploration: Arc<Exploration>,
}

/// The models of runs, one in memory at a time.
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

    /// The model of a run whose newest checkpoint is this one, or of an earlier one that is still here where this
    /// one cannot be read; that of `step`, if one is asked for.
    async fn get(
        &self,
        run_dir: PathBuf,
        newest: u64,
        step: Option<u64>,
    ) -> Result<Arc<Exploration>, (StatusCode, String)> {
        // Held while it is read: one at a time.
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
            // The page says of which step the model is.
            (Err(_), Some(last)) => return Ok(Arc::clone(&last.exploration)),
            (Err(why), None) => return Err((StatusCode::CONFLICT, why + "\n")),
        };
        *opened = Some(Opened { run_dir, newest, exploration: Arc::clone(&exploration) });
        Ok(exploration)
    }
}

/// The routes of the page, if a program has brought one.
pub(crate) fn routes<S: Source>(explorer: Option<&dyn Explorer>) -> Router<Arc<Board<S>>> {
    let mut router = Router::new();
    let Some(explorer) = explorer else { return router };
    for asset in explorer.files().into_iter().map(Asset::from) {
        let (route, asset) = (asset.route, Arc::new(asset));
        let answer = move |headers: HeaderMap| async move { asset.answer(&headers) };
        router = router.route(route, get(answer));
    }
    router
        .route("/api/latent", get(meta::<S>))
        .route("/api/latent/parameters", get(parameters::<S>))
        .route("/api/latent/levels", get(levels::<S>))
        .route("/api/latent/labels", get(labels::<S>))
}

async fn meta<S: Source>(State(board): Shared<S>, RawQuery(query): RawQuery) -> Response {
    let json = [(CONTENT_TYPE, "application/json")];
    match explore(board, query, false).await {
        Ok(exploration) => (json, exploration.meta.clone()).into_response(),
        Err(refused) => refused,
    }
}

async fn parameters<S: Source>(State(board): Shared<S>, RawQuery(query): RawQuery) -> Response {
    array(board, query, |exploration| &exploration.parameters).await
}

async fn levels<S: Source>(State(board): Shared<S>, RawQuery(query): RawQuery) -> Response {
    array(board, query, |exploration| &exploration.levels).await
}

async fn labels<S: Source>(State(board): Shared<S>, RawQuery(query): RawQuery) -> Response {
    array(board, query, |exploration| &exploration.labels).await
}

async fn array<S: Source>(
    board: Arc<Board<S>>,
    query: Option<String>,
    which: impl FnOnce(&Exploration) -> &Bytes,
) -> Response {
    let binary = [(CONTENT_TYPE, "application/octet-stream")];
    match explore(board, query, true).await {
        Ok(exploration) => (binary, which(&exploration).clone()).into_response(),
        Err(refused) => refused,
    }
}

/// The model that is asked about; an array is that of a step.
async fn explore<S: Source>(
    board: Arc<Board<S>>,
    query: Option<String>,
    is_array: bool,
) -> Result<Arc<Exploration>, Response> {
    let query = Query::parse(query.as_deref());
    let step = query.number("step").map(|step| step as u64);
    if is_array && step.is_none() {
        return Err((StatusCode::BAD_REQUEST, "step: that of api/latent\n").into_response());
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
