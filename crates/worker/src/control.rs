//! The control stream: reaching the coordinator, and the hello.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use collective::Rank;
use config::RunConfig;
use membership::Fingerprint;
use protocol::{
    CONTROL_MESSAGE_BYTES_MAX, PROTOCOL_VERSION, status,
    wire::{
        CoordinatorMessage, Hello, Welcome, WorkerMessage, coordinator_client::CoordinatorClient,
        coordinator_message, worker_message::Body,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::generation;

/// Messages to the coordinator that wait to be sent.
const OUTBOUND_MESSAGES: usize = 256;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the coordinator may take to answer the hello.
const WELCOME_PATIENCE: Duration = Duration::from_secs(10);

/// Time between two attempts to reach the coordinator.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Time between two lines that say how long it is still tried.
const COUNTDOWN_INTERVAL: Duration = Duration::from_secs(5);

/// A worker's place in a run.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) rank: Rank,
    pub(crate) welcome: Welcome,
    pub(crate) config: RunConfig,
    pub(crate) outbound: mpsc::Sender<WorkerMessage>,
    pub(crate) inbound: Streaming<CoordinatorMessage>,
}

/// Connects to the coordinator, trying again until `patience` is over.
pub(crate) async fn reach(url: &str, patience: Duration) -> Result<CoordinatorClient<Channel>> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .ok()
        .filter(|endpoint| endpoint.uri().host().is_some_and(|host| !host.is_empty()))
        .filter(|endpoint| endpoint.uri().scheme_str() == Some("http"))
        .ok_or_else(|| anyhow!("--coordinator {url:?} is no URL such as http://127.0.0.1:50051"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    let begun = Instant::now();
    let mut next_line = Duration::ZERO;
    loop {
        match endpoint.connect().await {
            Ok(channel) => {
                let client = CoordinatorClient::new(channel);
                return Ok(client.max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX));
            }
            Err(error) => {
                let waited = begun.elapsed();
                let left = patience.saturating_sub(waited);
                if left.is_zero() {
                    let error = anyhow!(error);
                    bail!(
                        "no coordinator at {url} within {} s ({}): start vae-coordinator, or say \
                         where it is with --coordinator",
                        patience.as_secs(),
                        error.root_cause()
                    );
                }
                if waited >= next_line {
                    tracing::info!("waiting for a coordinator at {url}, {} s left", left.as_secs());
                    next_line = waited + COUNTDOWN_INTERVAL;
                }
                tokio::time::sleep(RETRY_INTERVAL.min(left)).await;
            }
        }
    }
}

/// Says hello and waits for the welcome.
pub(crate) async fn join(
    client: &mut CoordinatorClient<Channel>,
    rank: Option<u32>,
    address: SocketAddr,
    fingerprint: Fingerprint,
) -> Result<Joined> {
    let (outbound, messages) = mpsc::channel(OUTBOUND_MESSAGES);
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        rank,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        all_reduce_address: address.to_string(),
        fingerprint: Some(fingerprint.into()),
        memory_domain: generation::memory_domain(),
    };
    outbound.send(WorkerMessage { body: Some(Body::Hello(hello)) }).await?;
    let answer = async {
        let mut inbound = client.join(ReceiverStream::new(messages)).await?.into_inner();
        let first = inbound.message().await?;
        Ok::<_, Status>((first, inbound))
    };
    let (first, inbound) = tokio::time::timeout(WELCOME_PATIENCE, answer)
        .await
        .context("the coordinator does not answer")?
        .map_err(|status| refused(&status))?;
    let Some(CoordinatorMessage { body: Some(coordinator_message::Body::Welcome(welcome)) }) =
        first
    else {
        bail!("the coordinator did not answer the hello with a welcome");
    };
    let config: RunConfig = serde_json::from_str(&welcome.configuration_json)
        .context("the coordinator sent a configuration that this worker does not understand")?;
    config.validate().context("the coordinator sent an impossible configuration")?;
    Ok(Joined { rank: Rank(welcome.rank), welcome, config, outbound, inbound })
}

fn refused(refusal: &Status) -> anyhow::Error {
    let message = protocol::convert::printable(refusal.message());
    if status::is_transient(refusal.code()) {
        anyhow!("lost the coordinator before it answered: {message}")
    } else {
        anyhow!("the coordinator refused this worker: {message}")
    }
}
