//! The end of a run: the members stop, one of them saves the newest state, and all workers receive
//! the reason.

use std::time::Duration;

use collective::Step;

use super::{Engine, State};
use crate::{Command, Outcome, Position, WorkerId, roster::Slot};

/// Why a run is about to end, from the weakest reason to the strongest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ending {
    /// A person stopped the run.
    Stop,
    /// The run cannot continue.
    Fault(Outcome),
    /// The run cannot continue, and its states cannot be trusted.
    Untrusted(Outcome),
}

impl Ending {
    fn strength(&self) -> u8 {
        match self {
            Self::Stop => 0,
            Self::Fault(_) => 1,
            Self::Untrusted(_) => 2,
        }
    }
}

impl Engine {
    /// Begins to end the run. Of two equally strong reasons, the first is kept.
    pub(super) fn end(&mut self, ending: Ending, now: Duration) -> Vec<Command> {
        let is_stop = ending == Ending::Stop;
        let is_stronger = |before: &Ending| ending.strength() > before.strength();
        if self.ending.as_ref().is_none_or(is_stronger) {
            self.ending = Some(ending);
        }
        match self.state {
            State::Running { .. } if is_stop => {
                let mut commands = self.pause();
                commands.extend(self.settle_running(now));
                commands
            }
            State::Running { .. } => self.break_generation(now),
            State::Settling { .. } => self.form(now),
            State::Gathering { .. } => self.persist_or_finish(now),
            State::Persisting { .. } | State::Ended => Vec::new(),
        }
    }

    /// Lets a worker save the newest state, if the state can be trusted; else ends the run.
    pub(super) fn persist_or_finish(&mut self, now: Duration) -> Vec<Command> {
        let trusted = !matches!(self.ending, Some(Ending::Untrusted(_)));
        match self.worth_saving() {
            Some((worker, _)) if trusted => vec![self.persist(worker, now)],
            _ => {
                let outcome = self.outcome();
                self.finish(outcome)
            }
        }
    }

    /// The newest state and the worker that has it; none before the run has begun.
    pub(super) fn worth_saving(&self) -> Option<(WorkerId, Position)> {
        let has_begun = self.has_begun();
        self.roster.furthest().filter(|(_, position)| has_begun || position.step > Step(0))
    }

    pub(super) fn persist(&mut self, by: WorkerId, now: Duration) -> Command {
        self.state = State::Persisting { by, deadline: now + self.settings.persist_timeout };
        Command::Persist(by)
    }

    pub(super) fn saved(&mut self, worker: WorkerId, now: Duration) -> Vec<Command> {
        if !matches!(self.state, State::Persisting { by, .. } if by == worker) {
            return Vec::new();
        }
        let position = self.roster.get(worker).and_then(Slot::position);
        self.saved = self.saved.max(position.map(|position| position.step));
        if self.ending.is_some() {
            let outcome = self.outcome();
            return self.finish(outcome);
        }
        self.roster.remove(worker);
        let mut commands = vec![Command::Dismiss(worker)];
        commands.extend(self.after_persisting(now));
        commands
    }

    /// Continues after the worker that had to save is gone.
    pub(super) fn after_persisting(&mut self, now: Duration) -> Vec<Command> {
        if self.ending.is_some() {
            return self.persist_or_finish(now);
        }
        self.state = State::Gathering { deadline: now + self.settings.join_timeout };
        self.form(now)
    }

    fn outcome(&self) -> Outcome {
        match &self.ending {
            Some(Ending::Fault(outcome) | Ending::Untrusted(outcome)) => outcome.clone(),
            Some(Ending::Stop) | None => {
                let furthest = self.roster.furthest().map(|(_, position)| position.step);
                Outcome::Interrupted(self.saved.or(furthest).unwrap_or_default())
            }
        }
    }

    pub(super) fn finish(&mut self, outcome: Outcome) -> Vec<Command> {
        self.state = State::Ended;
        vec![Command::Finish(outcome)]
    }
}
