//! The control stream: connects to the coordinator, sends the hello, and reconnects when the stream
//! ends before the run.

use std::{
    collections::hash_map::RandomState,
    error::Error as _,
    hash::BuildHasher as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use collective::Rank;
use config::RunConfig;
use membership::Fingerprint;
use protocol::{
    CONTROL_MESSAGE_BYTES_MAX, PROTOCOL_VERSION, status,
    wire::{
        CoordinatorMessage, Heartbeat, Hello, Returning, StatusRequest, Welcome, WorkerMessage,
        coordinator_client::CoordinatorClient, coordinator_message, worker_message::Body,
    },
};
use secure::{Address, Authorized, Secret, Security};
use tokio::{
    net::{UdpSocket, lookup_host},
    sync::mpsc::{self, error::TrySendError},
    task::AbortHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Endpoint};

use crate::{bridge::Shared, generation, program};

/// The most messages to the coordinator that wait to be sent.
const OUTBOUND_MESSAGES: usize = 256;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the coordinator may take to answer the hello.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between two attempts to reach a coordinator for the first time.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// How often the coordinator may be lost before it has answered the first hello.
const LOSSES_MAX: u32 = 3;

/// Time between two log lines about the remaining time.
const COUNTDOWN_INTERVAL: Duration = Duration::from_secs(5);

/// The pause after the first failed attempt to reconnect; it doubles with each attempt.
const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// The most time between two attempts to reconnect.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// After so much silence of the coordinator, the worker sends a ping.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How long the coordinator may take to answer a ping, because it may be suspended for a while.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// The least time between two heartbeats, whatever the coordinator asks for.
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);

/// The identity of a worker, which every hello carries.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) rank: Option<Rank>,
    /// The address at which it serves the other workers.
    pub(crate) address: Address,
    /// The proof that it had its rank in its last generation.
    pub(crate) proof: Option<Secret>,
    pub(crate) fingerprint: Fingerprint,
    /// The GPU on which it computes; empty on the CPU.
    pub(crate) gpu: String,
    /// The name of its device, for people.
    pub(crate) device_name: String,
    /// Name and revision of the task that its program trains.
    pub(crate) task: (&'static str, u32),
}

/// A control stream that the coordinator has answered.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) welcome: Welcome,
    outbound: mpsc::Sender<WorkerMessage>,
    inbound: Streaming<CoordinatorMessage>,
    heartbeat: Option<AbortHandle>,
}

impl Joined {
    /// The run's configuration, checked.
    pub(crate) fn config(&self) -> Result<RunConfig> {
        let config: RunConfig = serde_json::from_str(&self.welcome.configuration_json)
            .context("the coordinator sent a configuration that this worker does not understand")?;
        config.validate().context("the coordinator sent an impossible configuration")?;
        Ok(config)
    }

    /// The secret that others need to fetch the state of this worker.
    pub(crate) fn state_secret(&self) -> Result<Secret> {
        secret(&self.welcome.state_secret)
    }

    /// Sends heartbeats from now on, until this stream is dropped.
    pub(crate) fn send_heartbeats(&mut self, shared: &Arc<Shared>) {
        let interval = Duration::from_millis(self.welcome.heartbeat_ms.into()).max(HEARTBEAT_MIN);
        let beats = heartbeats(self.outbound.clone(), Arc::clone(shared), interval);
        self.heartbeat = Some(tokio::spawn(beats).abort_handle());
    }

    /// Queues a message. False when the queue is full. When the stream has ended the message is
    /// dropped, and [`Joined::recv`] tells why.
    pub(crate) fn send(&self, body: Body) -> bool {
        let sent = self.outbound.try_send(WorkerMessage { body: Some(body) });
        !matches!(sent, Err(TrySendError::Full(_)))
    }

    /// A sender to the queue of messages, for other tasks.
    pub(crate) fn outbound(&self) -> mpsc::Sender<WorkerMessage> {
        self.outbound.clone()
    }

    /// The coordinator's next message; none when the coordinator has ended the stream properly.
    pub(crate) async fn recv(&mut self) -> Result<Option<coordinator_message::Body>, Status> {
        let message = self.inbound.message().await?;
        match message {
            None => Ok(None),
            Some(CoordinatorMessage { body: Some(body) }) => Ok(Some(body)),
            Some(CoordinatorMessage { body: None }) => Err(Status::internal("an empty message")),
        }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.abort();
        }
    }
}

/// Reads a secret that the coordinator sent.
pub(crate) fn secret(bytes: &[u8]) -> Result<Secret> {
    Secret::try_from(bytes).context("the coordinator sent a secret of a wrong length")
}

async fn heartbeats(
    outbound: mpsc::Sender<WorkerMessage>,
    shared: Arc<Shared>,
    interval: Duration,
) {
    let mut beats = tokio::time::interval(interval);
    loop {
        beats.tick().await;
        let heartbeat = Heartbeat {
            step: shared.step(),
            phase: protocol::wire::Phase::from(shared.phase()).into(),
            memory_bytes: process::memory_bytes().unwrap_or_default(),
        };
        let message = WorkerMessage { body: Some(Body::Heartbeat(heartbeat)) };
        if outbound.send(message).await.is_err() {
            return;
        }
    }
}

/// The address of a coordinator, and the settings of connections to it.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    url: String,
    endpoint: Endpoint,
    address: Address,
    security: Security,
}

/// Calls to a coordinator.
pub(crate) type Client = CoordinatorClient<Authorized>;

impl Route {
    pub(crate) fn new(url: &str, security: &Security) -> Result<Self> {
        let (endpoint, address) = security.coordinator(url)?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        Ok(Self { url: url.to_owned(), endpoint, address, security: security.clone() })
    }

    /// Connects to the coordinator, trying again until `timeout` is over.
    pub(crate) async fn reach(&self, timeout: Duration) -> Result<Client> {
        let url = &self.url;
        let begun = Instant::now();
        let mut next_line = Duration::ZERO;
        loop {
            let error = match self.connect().await {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            if let Some(reason) = Security::refused(&error) {
                bail!("no connection to the coordinator at {url}: {reason}");
            }
            if let Some(limit) = limits::explain(&error) {
                bail!("no connection to the coordinator at {url}: {limit}");
            }
            let waited = begun.elapsed();
            let left = timeout.saturating_sub(waited);
            if left.is_zero() {
                bail!(
                    "no coordinator at {url} within {} s ({}): start vae-coordinator there, or name \
                     another place with --coordinator",
                    timeout.as_secs(),
                    limits::cause(&error)
                );
            }
            if waited >= next_line {
                tracing::info!("waiting for a coordinator at {url}, {} s left", left.as_secs());
                next_line = waited + COUNTDOWN_INTERVAL;
            }
            tokio::time::sleep(RETRY_INTERVAL.min(left)).await;
        }
    }

    async fn connect(&self) -> Result<Client, tonic::transport::Error> {
        let channel = self.security.channel(&self.endpoint, &self.address).await?;
        let channel = self.security.authorize(channel);
        Ok(CoordinatorClient::new(channel).max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX))
    }

    fn refused(&self, refusal: &Status) -> JoinError {
        let message = status::reason(refusal);
        if status::is_preparing(refusal) {
            return JoinError::Preparing(message);
        }
        // A coordinator's own refusal has no source.
        if refusal.source().is_some() && !status::is_transient(refusal.code()) {
            let url = &self.url;
            return JoinError::Refused(anyhow!(
                "what answers at {url} is no coordinator: {message}; check --coordinator"
            ));
        }
        if !status::is_transient(refusal.code()) {
            return JoinError::Refused(anyhow!("the coordinator refused this worker: {message}"));
        }
        let hint = if self.security.has_tls() { "" } else { secure::NO_ANSWER_HINT };
        JoinError::Unreachable(anyhow!(
            "lost the coordinator at {} before it answered: {message}{hint}",
            self.url
        ))
    }

    /// The address of this host from which packets to the coordinator are sent. Other workers can
    /// reach this worker there if the coordinator can.
    pub(crate) async fn own_address(&self) -> Result<IpAddr> {
        let Self { url, address, .. } = self;
        // No packet is sent: connecting a datagram socket only looks its route up.
        let found = async {
            let mut coordinators = lookup_host((address.host(), address.port())).await?;
            let coordinator = coordinators.next().ok_or_else(|| anyhow!("no such host"))?;
            let any: IpAddr = match coordinator {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.connect(coordinator).await?;
            anyhow::Ok(socket.local_addr()?.ip())
        };
        found.await.with_context(|| format!("cannot find this host's address on the way to {url}"))
    }
}

/// Waits until the name of this host resolves: clusters publish names a moment after their hosts have
/// started.
pub(crate) async fn until_known(address: &Address, timeout: Duration) {
    let begun = Instant::now();
    let mut logged = false;
    loop {
        let found = lookup_host((address.host(), address.port())).await;
        if found.is_ok_and(|mut found| found.next().is_some()) {
            return;
        }
        let left = timeout.saturating_sub(begun.elapsed());
        let host = address.host();
        if left.is_zero() {
            tracing::warn!("{host} is not known here: going on, because others may know it");
            return;
        }
        if !std::mem::replace(&mut logged, true) {
            tracing::info!("waiting until {host} is known, for at most {} s", left.as_secs());
        }
        tokio::time::sleep(RETRY_INTERVAL.min(left)).await;
    }
}

/// Why there is no control stream.
#[derive(Debug)]
pub(crate) enum JoinError {
    /// The coordinator is not ready yet, with the reason.
    Preparing(String),
    /// Another attempt may succeed.
    Unreachable(anyhow::Error),
    /// The coordinator refuses this worker.
    Refused(anyhow::Error),
}

/// Sends the hello and waits for the welcome.
pub(crate) async fn join(
    client: &mut Client,
    route: &Route,
    identity: &Identity,
    returning: Option<Returning>,
) -> Result<Joined, JoinError> {
    let (outbound, messages) = mpsc::channel(OUTBOUND_MESSAGES);
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        rank: identity.rank.map(|rank| rank.0),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        all_reduce_address: identity.address.to_string(),
        fingerprint: Some(identity.fingerprint.clone().into()),
        memory_domain: generation::memory_domain(),
        process: std::process::id(),
        returning,
        gpu: identity.gpu.clone(),
        birth: process::birth(std::process::id()).unwrap_or_default(),
        task: identity.task.0.into(),
        task_revision: identity.task.1,
        program: program::digest().into(),
        device_name: identity.device_name.clone(),
    };
    let _open = outbound.try_send(WorkerMessage { body: Some(Body::Hello(hello)) });
    let answer = async {
        let mut inbound = client.join(ReceiverStream::new(messages)).await?.into_inner();
        let first = inbound.message().await?;
        Ok::<_, Status>((first, inbound))
    };
    let (first, inbound) = answered(answer, route).await?;
    match first.and_then(|message| message.body) {
        Some(coordinator_message::Body::Welcome(welcome)) => {
            Ok(Joined { welcome, outbound, inbound, heartbeat: None })
        }
        _ => Err(JoinError::Refused(anyhow!(
            "the coordinator did not answer the hello with a welcome"
        ))),
    }
}

/// The coordinator's answer, within [`WELCOME_TIMEOUT`].
async fn answered<A>(
    answer: impl Future<Output = Result<A, Status>>,
    route: &Route,
) -> Result<A, JoinError> {
    let silent = |_| JoinError::Unreachable(anyhow!("the coordinator does not answer"));
    let answer = tokio::time::timeout(WELCOME_TIMEOUT, answer).await.map_err(silent)?;
    answer.map_err(|status| route.refused(&status))
}

/// Joins a run for the first time.
pub(crate) async fn join_when_ready(
    client: &mut Client,
    route: &Route,
    identity: &Identity,
    timeout: Duration,
) -> Result<Joined> {
    when_ready(client, route, timeout, async |client| join(client, route, identity, None).await)
        .await
}

/// The run's configuration as JSON, for a worker that has not chosen its program and its device yet.
/// Empty if the coordinator does not send it.
pub(crate) async fn configuration(
    client: &mut Client,
    route: &Route,
    timeout: Duration,
) -> Result<String> {
    when_ready(client, route, timeout, async |client| {
        let status = answered(client.status(StatusRequest {}), route).await?;
        Ok(status.into_inner().configuration_json)
    })
    .await
}

/// Asks until there is an answer. While the coordinator says that it is not ready, for example because
/// it still fetches the data set, the worker waits without a bound. If the coordinator is lost before it
/// has answered, the worker tries to reach it again for `timeout`.
async fn when_ready<A>(
    client: &mut Client,
    route: &Route,
    timeout: Duration,
    mut ask: impl AsyncFnMut(&mut Client) -> Result<A, JoinError>,
) -> Result<A> {
    let mut logged: Option<Instant> = None;
    let mut losses = 0;
    loop {
        match ask(client).await {
            Err(JoinError::Preparing(what)) => {
                if logged.is_none_or(|before| before.elapsed() >= COUNTDOWN_INTERVAL) {
                    logged = Some(Instant::now());
                    tracing::info!("waiting: {what}");
                }
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            Err(JoinError::Unreachable(lost)) if losses < LOSSES_MAX => {
                losses += 1;
                tracing::info!("{lost:#}: trying again");
                tokio::time::sleep(RETRY_INTERVAL).await;
                *client = route.reach(timeout).await?;
            }
            answered => return Ok(answered?),
        }
    }
}

impl From<JoinError> for anyhow::Error {
    fn from(unjoined: JoinError) -> Self {
        match unjoined {
            JoinError::Preparing(what) => anyhow!("{what}"),
            JoinError::Unreachable(error) | JoinError::Refused(error) => error,
        }
    }
}

/// Reconnects to a coordinator that was lost, trying again until `timeout` is over.
///
/// # Errors
/// The time is over, or the coordinator refuses this worker.
pub(crate) async fn reconnect(
    route: Route,
    identity: Identity,
    run_id: String,
    shared: Arc<Shared>,
    timeout: Duration,
) -> Result<Box<Joined>> {
    let mut begun = Instant::now();
    let mut backoff = BACKOFF_MIN;
    loop {
        let attempt = async {
            let unreachable = |error| JoinError::Unreachable(anyhow!("{error}"));
            let mut client = route.connect().await.map_err(unreachable)?;
            // The current generation, not that at the time of the loss.
            let generation = shared.computing();
            let proof = identity.proof.map(|proof| proof.bytes().to_vec().into());
            let proof = proof.unwrap_or_default();
            let returning = Returning { run_id: run_id.clone(), generation, proof };
            join(&mut client, &route, &identity, Some(returning)).await
        };
        match attempt.await {
            Ok(joined) => return Ok(Box::new(joined)),
            Err(JoinError::Refused(refused)) => return Err(refused),
            Err(JoinError::Preparing(what)) => {
                tracing::debug!("{what}");
                begun = Instant::now();
                tokio::time::sleep(BACKOFF_MAX).await;
            }
            Err(JoinError::Unreachable(_)) if begun.elapsed() >= timeout => {
                let url = &route.url;
                bail!("no coordinator came back to {url} within {:.0} s", timeout.as_secs_f64())
            }
            Err(JoinError::Unreachable(_)) => {
                tokio::time::sleep(backoff.mul_f64(jitter())).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// A number from 0.5 to 1, so that workers do not reconnect all at once.
fn jitter() -> f64 {
    let random = RandomState::new().hash_one(std::process::id());
    0.5 + (random >> 11) as f64 / (1_u64 << 54) as f64
}
