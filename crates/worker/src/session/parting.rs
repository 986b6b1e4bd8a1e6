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
    /// It was told to leave.
    Left,
}

impl Session {
    /// Takes leave.
    pub(super) async fn part(self, parting: Result<Parting>) -> Result<()> {
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
                parting.map(drop)
            }
            (parting, None) => parting.map(drop),
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
    let heard = async { while let Ok(Some(_)) = joined.hear().await {} };
    // The states are as good as ever.
    if joined.say(Said::Failed(Failed { message, state_intact: true })) {
        let _gave_up = timeout(FAREWELL, heard).await;
    }
}
