//! After a lost connection to the coordinator, training goes on and reports are kept. The worker
//! reconnects and then sends the reports.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, bail};
use collective::{Control, Rank};
use protocol::wire::{WorkerMessage, worker_message::Body as WorkerMsg};

use super::{DRAIN_TIMEOUT, Session, link::Link, participation::Participation};
use crate::{
    bridge::{Event, Order},
    control::{self, Joined},
};

/// How long the coordinator may take, after a reconnection, to read the reports that it lacks.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

impl Session {
    /// Sends a message, if there is a connection. A connection whose queue is full counts as lost.
    pub(super) fn send(&mut self, body: WorkerMsg) {
        if let Link::Up(joined) = &self.link
            && !joined.send(body)
        {
            self.lose_link("it does not receive messages");
        }
    }

    pub(super) fn lose_link(&mut self, reason: &str) {
        let Link::Up(joined) = &self.link else { return };
        let timeout = Duration::from_millis(joined.welcome.coordinator_timeout_ms.into());
        tracing::warn!(
            "lost the coordinator ({reason}): going on without it for up to {:.0} s",
            timeout.as_secs_f64()
        );
        // Without the coordinator, the members may not find each other.
        self.stop_connecting("the coordinator was lost");
        self.link = Link::Down(Box::pin(control::reconnect(
            self.route.clone(),
            self.identity.clone(),
            self.run_id.clone(),
            Arc::clone(&self.bridge.shared),
            timeout,
        )));
    }

    /// Uses a new connection. The reports that the coordinator lacks are sent first.
    pub(super) async fn regain_link(&mut self, mut joined: Box<Joined>) -> Result<()> {
        if joined.config()? != self.config {
            bail!("the coordinator came back with another configuration: start this worker again");
        }
        joined.send_heartbeats(&self.bridge.shared);
        self.donor.demand(joined.state_secret()?);
        let rank = joined.welcome.rank.map(Rank);
        tracing::info!(rank = rank.map(|rank| rank.0), "the coordinator is back");
        self.identity.rank = rank.or(self.identity.rank);
        self.is_spare = rank.is_none();
        let recorded = joined.welcome.recorded.unwrap_or_default();
        let mut lacking = self.pending.lacking(&recorded);
        // Sent last, because this report may end the run.
        if let (Participation::Idle, Some(ready)) =
            (&self.participation, self.pending.ready.clone())
        {
            lacking.push(WorkerMsg::Ready(ready));
        }
        let outbound = joined.outbound();
        self.link = Link::Up(joined);
        let delivered = tokio::time::timeout(DELIVERY_TIMEOUT, async {
            for body in lacking {
                outbound.send(WorkerMessage { body: Some(body) }).await?;
            }
            anyhow::Ok(())
        });
        if !matches!(delivered.await, Ok(Ok(()))) {
            self.lose_link("it does not receive messages");
        }
        Ok(())
    }

    /// Pauses with the other members and saves the state, because no coordinator came back.
    pub(super) async fn save_alone(&mut self) {
        self.bridge.shared.request(Control::PAUSE);
        let saved = async {
            let mut idle = !matches!(self.participation, Participation::Training(..));
            if idle {
                self.bridge.order(Order::Persist);
            }
            while let Some(event) = self.bridge.next_event().await {
                match event {
                    Event::Ready(_) if !idle => {
                        idle = true;
                        self.bridge.order(Order::Persist);
                    }
                    Event::Saved(step) => return Some(step),
                    Event::Failed(_) | Event::Died(_) => return None,
                    Event::Ready(_) | Event::Report(_) | Event::EpochReport(_) => {}
                }
            }
            None
        };
        let saved = tokio::select! {
            saved = tokio::time::timeout(DRAIN_TIMEOUT, saved) => saved.unwrap_or_default(),
            Some(_) = self.signals.recv() => None,
        };
        match saved {
            Some(step) => tracing::info!("saved the state after step {step}"),
            None => tracing::warn!("the state was not saved"),
        }
    }
}
