//! The end of a worker: its training thread finishes what it has in hand, the last checkpoint is
//! stored, and where that was not to be, the coordinator hears of it.

use anyhow::{Context as _, Result, anyhow, bail};
use protocol::wire::{Failed, worker_message::Body as Said};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use super::{FAREWELL, Session, away::Link};
use crate::{bridge::Bridge, writer::STORE_PATIENCE};

/// Why a worker goes, if all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// The run has ended.
    Ended,
    /// It was told to leave, by SIGINT.
    Interrupted,
    /// It was told to leave, by SIGTERM.
    Terminated,
}

impl Parting {
    /// The exit code: 0 only where the run has ended, so that whoever takes this worker away knows
    /// that another one is wanted; else by convention 128 plus the signal's number.
    fn exit_code(self) -> u8 {
        match self {
            Self::Ended => 0,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

impl Session {
    /// Takes leave. Returns the exit code.
    pub(super) async fn part(self, parting: Result<Parting>) -> Result<u8> {
        self.end_generation();
        let Self { bridge, link, config, .. } = self;
        let stores = config.operation.checkpoint_url.is_some();
        let patience = if stores { FAREWELL + STORE_PATIENCE } else { FAREWELL };
        let unfinished = timeout(patience, finish(bridge)).await.unwrap_or_else(|_| {
            tracing::warn!("the training thread did not come to an end");
            Ok(None)
        })?;
        match (parting, unfinished) {
            (Ok(Parting::Ended), Some(message)) => {
                tell(link, message.clone()).await;
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

/// Waits for the training thread, unless a signal says that nobody wants to.
async fn finish(bridge: Bridge) -> Result<Option<String>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::select! {
        unfinished = bridge.finish() => Ok(unfinished),
        _ = interrupt.recv() => bail!("stopped by a signal while it finished"),
        _ = terminate.recv() => bail!("stopped by a signal while it finished"),
    }
}

/// Tells the coordinator what could not be finished, and waits until it has heard.
async fn tell(link: Link, message: String) {
    let Link::Up(mut joined) = link else { return };
    // The states are as good as ever.
    if joined.say(Said::Failed(Failed { message, state_intact: true, recurs: false })) {
        let heard = async { while let Ok(Some(_)) = joined.hear().await {} };
        let _gave_up = timeout(FAREWELL, heard).await;
    }
}
