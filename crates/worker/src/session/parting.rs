//! The end of a worker: its training thread finishes what it has in hand, the last checkpoint is
//! stored, and where that was not to be, the coordinator hears of it.

use anyhow::{Result, anyhow};
use process::signals::{self, Stop};
use protocol::wire::{Failed, worker_message::Body as Said};
use tokio::{sync::mpsc, time::timeout};

use super::{FAREWELL, Session, away::Link};
use crate::writer::STORE_PATIENCE;

/// Why a worker goes, if all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// The run has ended.
    Ended,
    /// A signal told it to leave.
    Stopped(Stop),
    /// A second signal told it to leave at once.
    CutShort(Stop),
}

impl Parting {
    /// The exit code: 0 only where the run has ended, so that whoever takes this worker away knows
    /// that another one is wanted; else by convention 128 plus the signal's number.
    fn exit_code(self) -> u8 {
        match self {
            Self::Ended => 0,
            Self::Stopped(stop) | Self::CutShort(stop) => stop.exit_code(),
        }
    }
}

impl Session {
    /// Takes leave. Returns the exit code.
    pub(super) async fn part(self, parting: Result<Parting>) -> Result<u8> {
        self.end_generation();
        if let Ok(parting @ Parting::CutShort(_)) = parting {
            return Ok(parting.exit_code());
        }
        let Self { bridge, link, config, mut signals, .. } = self;
        let stores = config.operation.checkpoint_url.is_some();
        let patience = if stores { FAREWELL + STORE_PATIENCE } else { FAREWELL };
        let unfinished = tokio::select! {
            finished = timeout(patience, bridge.finish()) => finished.unwrap_or_else(|_| {
                tracing::warn!("the training thread did not come to an end");
                None
            }),
            Some(stop) = signals.recv() => {
                signals::end_at_next();
                tracing::warn!("stopped by a signal before all was finished");
                return Ok(stop.exit_code());
            }
        };
        match (parting, unfinished) {
            (Ok(Parting::Ended), Some(message)) => {
                tell(link, message.clone(), &mut signals).await;
                Err(anyhow!("{message}"))
            }
            (parting, Some(message)) => {
                tracing::warn!("{message}");
                parting.map(Parting::exit_code)
            }
            (parting, None) => parting.map(Parting::exit_code),
        }
    }
}

/// Tells the coordinator what could not be finished, and waits until it has heard, or until a
/// signal comes.
async fn tell(link: Link, message: String, signals: &mut mpsc::Receiver<Stop>) {
    let Link::Up(mut joined) = link else { return };
    // The states are as good as ever.
    if joined.say(Said::Failed(Failed { message, state_intact: true, recurs: false })) {
        let heard = async { while let Ok(Some(_)) = joined.hear().await {} };
        tokio::select! {
            _gave_up = timeout(FAREWELL, heard) => {}
            Some(_) = signals.recv() => {}
        }
    }
}
