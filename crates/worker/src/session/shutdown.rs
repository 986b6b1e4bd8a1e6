//! The end of a worker: its training thread finishes its work, and the last checkpoint is stored. If
//! either fails, the worker tells the coordinator.

use anyhow::{Result, anyhow};
use process::signals::{self, Stop};
use protocol::wire::{Failed, worker_message::Body as WorkerMsg};
use tokio::{sync::mpsc, time::timeout};

use super::{DRAIN_TIMEOUT, Session, link::Link};
use crate::writer::STORE_TIMEOUT;

/// Why a worker exits, if nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shutdown {
    /// The run has ended.
    RunEnded,
    /// A signal asked it to leave.
    Signalled(Stop),
    /// A second signal asked it to leave at once.
    SignalledTwice(Stop),
}

impl Shutdown {
    /// The exit code. It is 0 only if the run has ended, so that a scheduler that stops this worker knows
    /// that the run still needs a worker. Otherwise it is, by convention, 128 plus the signal's number.
    fn exit_code(self) -> u8 {
        match self {
            Self::RunEnded => 0,
            Self::Signalled(stop) | Self::SignalledTwice(stop) => stop.exit_code(),
        }
    }
}

impl Session {
    /// Finishes the remaining work. Returns the exit code.
    pub(super) async fn shut_down(self, ended: Result<Shutdown>) -> Result<u8> {
        self.end_generation();
        if let Ok(shutdown @ Shutdown::SignalledTwice(_)) = ended {
            return Ok(shutdown.exit_code());
        }
        let Self { bridge, link, config, mut signals, .. } = self;
        let stores = config.operation.checkpoint_url.is_some();
        let allowed = if stores { DRAIN_TIMEOUT + STORE_TIMEOUT } else { DRAIN_TIMEOUT };
        let unfinished = tokio::select! {
            finished = timeout(allowed, bridge.finish()) => finished.unwrap_or_else(|_| {
                tracing::warn!("the training thread did not end in time");
                None
            }),
            Some(stop) = signals.recv() => {
                signals::end_at_next();
                tracing::warn!("stopped by a signal before all was finished");
                return Ok(stop.exit_code());
            }
        };
        match (ended, unfinished) {
            (Ok(Shutdown::RunEnded), Some(message)) => {
                report_failure(link, message.clone(), &mut signals).await;
                Err(anyhow!("{message}"))
            }
            (ended, Some(message)) => {
                tracing::warn!("{message}");
                ended.map(Shutdown::exit_code)
            }
            (ended, None) => ended.map(Shutdown::exit_code),
        }
    }
}

/// Reports the failure to the coordinator, and waits until it closes the stream or a signal comes.
async fn report_failure(link: Link, message: String, signals: &mut mpsc::Receiver<Stop>) {
    let Link::Up(mut joined) = link else { return };
    if joined.send(WorkerMsg::Failed(Failed { message, state_intact: true, recurs: false })) {
        let closed = async { while let Ok(Some(_)) = joined.recv().await {} };
        tokio::select! {
            _gave_up = timeout(DRAIN_TIMEOUT, closed) => {}
            Some(_) = signals.recv() => {}
        }
    }
}
