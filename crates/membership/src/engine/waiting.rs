//! Describes what a run waits for while no worker computes, for people.

use std::time::Duration;

use collective::Rank;

use super::{Engine, State};
use crate::{WorkerId, roster::Activity};

/// What a run waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// For workers to join and to be ready.
    Workers {
        /// Workers that are ready.
        ready: u32,
        /// Workers that are needed now.
        needed: u32,
        /// Workers that are needed once `left` is over; the run ends if there are fewer then.
        needed_later: u32,
        /// Workers that have joined and are not ready, in rank order.
        loading: Vec<WorkerId>,
        /// How long the run still waits.
        left: Duration,
    },
    /// For members of the current generation to reconnect to this coordinator.
    Returning {
        /// The ranks that are missing.
        missing: Vec<Rank>,
        /// How long the run still waits.
        left: Duration,
    },
    /// For workers to copy a state.
    Transfer {
        /// Each worker that copies, and the worker whose state it copies.
        transfers: Vec<(WorkerId, WorkerId)>,
    },
    /// For the members of a generation that ends to stop.
    Stopping {
        /// The members that have not stopped yet.
        members: Vec<WorkerId>,
        /// How long the run still waits; none while the members finish a step.
        left: Option<Duration>,
    },
    /// For a worker to write a checkpoint.
    Saving {
        /// The worker.
        worker: WorkerId,
        /// How long the run still waits.
        left: Duration,
    },
}

/// Workers that are about to take part while the members train on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Newcomers {
    /// The workers that are not ready yet, in rank order.
    pub loading: Vec<WorkerId>,
    /// The workers that copy a state, each with its donor.
    pub transfers: Vec<(WorkerId, WorkerId)>,
}

impl Engine {
    /// The workers that are about to take part while the members train on.
    #[must_use]
    pub fn newcomers(&self) -> Newcomers {
        if !self.is_training() {
            return Newcomers::default();
        }
        let loading = self.roster.in_rank_order(|slot| slot.activity == Activity::Loading);
        Newcomers { loading, transfers: self.transfers() }
    }

    fn transfers(&self) -> Vec<(WorkerId, WorkerId)> {
        let donor = |activity| match activity {
            Activity::Fetching { donor, .. } => Some(donor),
            _ => None,
        };
        let slots = self.roster.iter();
        slots.filter_map(|(worker, slot)| Some((worker, donor(slot.activity)?))).collect()
    }

    /// What the run waits for at `now`, if its members do not compute.
    #[must_use]
    pub fn waiting(&self, now: Duration) -> Option<Waiting> {
        let left = |deadline: Duration| deadline.saturating_sub(now);
        if !self.absent.is_empty() {
            let missing = self.absent.iter().copied().collect();
            return Some(Waiting::Returning { missing, left: left(self.absent_until) });
        }
        match self.state {
            State::Gathering { .. } if self.is_fetching(now) => {
                Some(Waiting::Transfer { transfers: self.transfers() })
            }
            State::Gathering { deadline } => {
                let ready = self.roster.in_rank_order(|slot| slot.position().is_some()).len();
                Some(Waiting::Workers {
                    ready: u32::try_from(ready).unwrap_or(u32::MAX),
                    needed: self.needed(now),
                    needed_later: self.settings.min_workers,
                    loading: self.roster.in_rank_order(|slot| slot.activity == Activity::Loading),
                    left: left(deadline),
                })
            }
            State::Settling { deadline } => {
                let members = self.roster.members();
                Some(Waiting::Stopping { members, left: Some(left(deadline)) })
            }
            State::Running { pausing: true } => {
                Some(Waiting::Stopping { members: self.roster.members(), left: None })
            }
            State::Persisting { by, deadline } => {
                Some(Waiting::Saving { worker: by, left: left(deadline) })
            }
            State::Running { pausing: false } | State::Ended => None,
        }
    }
}
