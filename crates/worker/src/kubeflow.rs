//! Posts the progress of a run to the status of a TrainJob. Kubeflow Trainer (2.2, with its feature
//! TrainJobStatus) gives every pod the URL, a token, and the certificate of the URL's authority. The
//! leader posts; training never waits for a post.

use std::{
    env, fs,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use config::RunConfig;
use protocol::wire::Report;
use serde_json::json;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// The environment variables: the URL, the file of the token, and the file of the authority's
/// certificate.
const URL: &str = "KUBEFLOW_TRAINER_SERVER_URL";
const TOKEN: &str = "KUBEFLOW_TRAINER_SERVER_TOKEN";
const AUTHORITY: &str = "KUBEFLOW_TRAINER_SERVER_CA_CERT";

/// The least time between two posts, as Kubeflow requires.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long a post may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Posts the progress of the run.
#[derive(Debug)]
pub(crate) struct Kubeflow {
    server: StatusServer,
    steps: u64,
    metrics: Vec<String>,
    slot: Arc<Slot>,
    /// Started with the first report, because most members never lead.
    thread: Option<JoinHandle<()>>,
}

/// The URL for posts, and the files that are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StatusServer {
    url: String,
    token: PathBuf,
    authority: PathBuf,
}

/// The next status to post.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pending: Option<String>,
    has_ended: bool,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kubeflow {
    /// The settings from the environment; none outside of a TrainJob with this feature.
    pub(crate) fn from_environment(config: &RunConfig) -> Option<Self> {
        let file = |name| env::var_os(name).map(PathBuf::from);
        let (url, token, authority) = (env::var(URL).ok()?, file(TOKEN)?, file(AUTHORITY)?);
        let training = &config.training;
        let (seed, examples) = (training.seed, training.learned_examples());
        let schedule = data::Schedule::new(seed, examples, training.shards, training.batch_size);
        Some(Self {
            server: StatusServer { url, token, authority },
            steps: schedule.steps_per_epoch() * u64::from(config.operation.epochs),
            metrics: training.task.metrics.iter().map(|metric| metric.name.clone()).collect(),
            slot: Arc::default(),
            thread: None,
        })
    }

    /// Queues the status of a report. It replaces a status that was not posted yet.
    pub(crate) fn report(&mut self, report: &Report) {
        let status = status(report, self.steps, &self.metrics, jiff::Timestamp::now());
        self.slot.lock().pending = Some(status);
        self.slot.changed.notify_one();
        if self.thread.is_none() {
            let (server, slot) = (self.server.clone(), Arc::clone(&self.slot));
            let thread = thread::Builder::new().name("kubeflow".into());
            self.thread = thread.spawn(move || post_all(&server, &slot)).ok();
        }
    }
}

impl Drop for Kubeflow {
    /// Posts the last status; waits for the post.
    fn drop(&mut self) {
        self.slot.lock().has_ended = true;
        self.slot.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// A status of a TrainJob, as JSON.
fn status(report: &Report, steps: u64, metrics: &[String], now: jiff::Timestamp) -> String {
    let done = report.step.min(steps);
    let seconds = report.seconds / report.steps.max(1) as f64 * (steps - done) as f64;
    let means = metrics.iter().zip(&report.means);
    let metric = |(name, mean): (&String, &f64)| json!({ "name": name, "value": mean.to_string() });
    let now = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
    json!({ "trainerStatus": {
        "progressPercentage": 100 * done / steps.max(1),
        "estimatedRemainingSeconds": seconds.clamp(0.0, i32::MAX.into()) as i64,
        "metrics": means.map(metric).collect::<Vec<_>>(),
        "lastUpdatedTime": now.to_string(),
    } })
    .to_string()
}

/// Posts every status until the end. Only the first error is a warning.
fn post_all(server: &StatusServer, slot: &Slot) {
    let (mut has_complained, mut agent) = (false, None);
    loop {
        let (status, has_ended) = {
            let is_idle = |state: &mut State| state.pending.is_none() && !state.has_ended;
            let state = slot.changed.wait_while(slot.lock(), is_idle);
            let mut state = state.unwrap_or_else(PoisonError::into_inner);
            (state.pending.take(), state.has_ended)
        };
        if let Some(status) = status
            && let Err(error) = post(server, &status, &mut agent)
        {
            let StatusServer { url, .. } = server;
            match has_complained {
                true => tracing::debug!("cannot post the status to {url}: {error}"),
                false => {
                    tracing::warn!("cannot post the status to {url}: {error}; training goes on")
                }
            }
            (has_complained, agent) = (true, None);
        }
        if has_ended {
            return;
        }
        let is_early = |state: &mut State| !state.has_ended;
        let _later = slot.changed.wait_timeout_while(slot.lock(), INTERVAL, is_early);
    }
}

/// Posts a status. The token is read again for every post, because it changes. The authority's
/// certificate is read again after an error.
fn post(
    server: &StatusServer,
    status: &str,
    agent: &mut Option<ureq::Agent>,
) -> Result<(), String> {
    let read = |path: &PathBuf| {
        fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    if agent.is_none() {
        let pem = read(&server.authority)?;
        *agent = Some(
            agent_for(&pem).map_err(|error| format!("{}: {error}", server.authority.display()))?,
        );
    }
    let token = String::from_utf8_lossy(&read(&server.token)?).trim().to_owned();
    let Some(agent) = agent else { return Ok(()) };
    let request = agent.post(&server.url).content_type("application/json");
    let sent = request.header("authorization", format!("Bearer {token}")).send(status);
    sent.map(drop).map_err(|error| error.to_string())
}

fn agent_for(pem: &[u8]) -> Result<ureq::Agent, ureq::Error> {
    let mut roots: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item? {
            roots.push(certificate);
        }
    }
    let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&roots)).build();
    let config = ureq::Agent::config_builder()
        .https_only(true)
        .max_redirects(0)
        .proxy(None)
        .tls_config(tls)
        .timeout_global(Some(TIMEOUT))
        .build();
    Ok(config.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_how_far_the_run_is() {
        let report =
            Report { step: 50, steps: 10, seconds: 2.0, means: vec![99.5], ..Report::default() };
        let names = ["loss".to_owned()];
        let now = jiff::Timestamp::from_millisecond(1_700_000_000_123).unwrap();
        let said = |steps| -> serde_json::Value {
            serde_json::from_str(&status(&report, steps, &names, now)).unwrap()
        };
        let half = &said(100)["trainerStatus"];
        assert_eq!(
            (&half["progressPercentage"], &half["estimatedRemainingSeconds"]),
            (&json!(50), &json!(10))
        );
        assert_eq!(half["metrics"], json!([{ "name": "loss", "value": "99.5" }]));
        assert_eq!(half["lastUpdatedTime"], "2023-11-14T22:13:20Z");
        assert_eq!(said(50)["trainerStatus"]["progressPercentage"], 100);
        assert_eq!(said(0)["trainerStatus"]["progressPercentage"], 0);
    }
}
