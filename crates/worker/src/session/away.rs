//! A coordinator that is away: training goes on, what it should have heard is kept, and the
//! worker comes back to it with its state.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use collective::{Control, Rank};
use protocol::wire::{EpochReport, Ready, worker_message::Body as Said};

use super::{FAREWELL, Phase, Session};
use crate::{
    bridge::{Event, Order},
    control::{self, Joined},
};

/// Reports of epochs that are kept for a coordinator that is away; older ones go.
const UNHEARD_EPOCHS: usize = 1024;

/// The way to the coordinator.
pub(super) enum Link {
    Up(Box<Joined>),
    /// The attempts to come back.
    Down(Pin<Box<dyn Future<Output = Result<Box<Joined>>> + Send>>),
}

/// What a coordinator that is away has yet to hear.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    /// Where the worker stands since its last generation.
    pub(super) ready: Option<Ready>,
    epochs: VecDeque<EpochReport>,
}

impl Unheard {
    /// Keeps the report of an epoch.
    pub(super) fn keep(&mut self, report: EpochReport) {
        self.epochs.push_back(report);
        let surplus = self.epochs.len().saturating_sub(UNHEARD_EPOCHS);
        self.epochs.drain(..surplus);
    }
}

impl Session {
    /// Tells the coordinator, if it is there. One that takes nothing in is as good as gone.
    pub(super) fn say(&mut self, body: Said) {
        if let Link::Up(joined) = &self.link
            && !joined.say(body)
        {
            self.lose_link("it takes nothing in");
        }
    }

    pub(super) fn lose_link(&mut self, reason: &str) {
        let Link::Up(joined) = &self.link else { return };
        let patience = Duration::from_millis(joined.welcome.coordinator_timeout_ms.into());
        tracing::warn!(
            "lost the coordinator ({reason}): going on without it for up to {:.0} s",
            patience.as_secs_f64()
        );
        // Without the coordinator, the members may not find each other.
        self.stop_connecting("the coordinator was lost");
        self.link = Link::Down(Box::pin(control::come_back(
            self.route.clone(),
            self.identity.clone(),
            self.run_id.clone(),
            Arc::clone(&self.bridge.shared),
            patience,
        )));
    }

    pub(super) fn regain_link(&mut self, mut joined: Box<Joined>) -> Result<()> {
        if joined.config()? != self.config {
            bail!("the coordinator came back with another configuration: start this worker again");
        }
        joined.show_life(&self.bridge.shared);
        self.donor.demand(joined.state_secret()?);
        let rank = joined.welcome.rank.map(Rank);
        tracing::info!(rank = rank.map(|rank| rank.0), "the coordinator is back");
        self.identity.rank = rank.or(self.identity.rank);
        self.link = Link::Up(joined);
        for report in std::mem::take(&mut self.unheard.epochs) {
            self.say(Said::EpochReport(report));
        }
        if let (Phase::Idle, Some(ready)) = (&self.phase, self.unheard.ready.clone()) {
            self.say(Said::Ready(ready));
        }
        Ok(())
    }

    /// Pauses with the other members and saves the state, since no coordinator came back.
    pub(super) async fn save_alone(&mut self) {
        self.bridge.shared.request(Control::PAUSE);
        let saved = async {
            let mut idle = !matches!(self.phase, Phase::Training(..));
            if idle {
                self.bridge.order(Order::Persist);
            }
            while let Some(event) = self.bridge.events.recv().await {
                match event {
                    Event::Ready(..) if !idle => {
                        idle = true;
                        self.bridge.order(Order::Persist);
                    }
                    Event::Saved(step) => return Some(step),
                    Event::Failed(_) => return None,
                    Event::Ready(..) | Event::Report(_) | Event::EpochReport(_) => {}
                }
            }
            None
        };
        match tokio::time::timeout(FAREWELL, saved).await {
            Ok(Some(step)) => tracing::info!("saved the state after step {step}"),
            _ => tracing::warn!("the state was not saved"),
        }
    }
}
