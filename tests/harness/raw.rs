//! A peer that sends single messages of the protocol, correct or wrong ones.

use protocol::{
    PROTOCOL_VERSION,
    wire::{
        CoordinatorMessage, Fingerprint, Hello, WorkerMessage,
        coordinator_client::CoordinatorClient, coordinator_message, worker_message,
    },
};
use tokio::{runtime::Runtime, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::DEADLINE;

/// A hello that any coordinator accepts.
pub(crate) fn hello() -> Hello {
    Hello {
        protocol_version: PROTOCOL_VERSION,
        rank: None,
        host: "nowhere".into(),
        all_reduce_address: "127.0.0.1:1".into(),
        fingerprint: Some(Fingerprint {
            device: "abacus".into(),
            instruction_set: "beads".into(),
            precision: "whole".into(),
            libtorch: "0".into(),
        }),
        task: vae_options::NAME.into(),
        task_revision: vae_options::REVISION,
        ..Hello::default()
    }
}

/// A stream to a coordinator.
#[derive(Debug)]
pub(crate) struct Raw {
    runtime: Runtime,
    outbound: mpsc::Sender<WorkerMessage>,
    inbound: Streaming<CoordinatorMessage>,
}

impl Raw {
    /// Opens a stream, with this as its first message.
    pub(crate) fn join(url: &str, hello: Hello) -> Result<Self, Status> {
        Self::open(url, Some(worker_message::Body::Hello(hello)))
    }

    /// Opens a stream, with any first message, or an empty one.
    pub(crate) fn open(url: &str, first: Option<worker_message::Body>) -> Result<Self, Status> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (outbound, messages) = mpsc::channel(16);
        let url = url.to_owned();
        let inbound = runtime.block_on(async {
            outbound.send(WorkerMessage { body: first }).await.unwrap();
            let mut client = CoordinatorClient::connect(url).await.unwrap();
            let joined = client.join(ReceiverStream::new(messages));
            timeout(DEADLINE, joined).await.expect("the coordinator answers")
        })?;
        Ok(Self { runtime, outbound, inbound: inbound.into_inner() })
    }

    /// Sends one more message.
    pub(crate) fn say(&self, body: Option<worker_message::Body>) {
        self.runtime.block_on(self.outbound.send(WorkerMessage { body })).unwrap();
    }

    /// Waits for the next message.
    pub(crate) fn recv(&mut self) -> Result<Option<coordinator_message::Body>, Status> {
        let message = async { timeout(DEADLINE, self.inbound.message()).await };
        let message = self.runtime.block_on(message).expect("the coordinator says something")?;
        Ok(message.and_then(|message| message.body))
    }
}
