//! From one generation to the next: its members stop, those behind catch up, and the next one
//! starts.

use std::{collections::BTreeMap, time::Duration};

use collective::{Digest, Divergence, Rank, Step};

use super::{Ending, Engine, State};
use crate::{
    Command, Outcome, Position, WorkerId,
    roster::{Place, Slot},
};

/// Generations in a row that may break without one step before the run ends.
const SETBACKS: u32 = 8;

/// The pause after the first of them; the pause doubles after each further one.
const SETBACK_PAUSE: Duration = Duration::from_millis(50);

/// Generations that broke without a step although no worker was lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct FailedGenerations {
    in_a_row: u32,
    /// Where the last generation started.
    started_at: Step,
    /// No generation starts before this.
    not_before: Duration,
    /// A member's report on the generation that is breaking.
    pub(super) reason: Option<(Rank, String)>,
}

impl Engine {
    /// Asks the members to stop together after the current step.
    pub(super) fn pause(&mut self) -> Vec<Command> {
        if !matches!(self.state, State::Running { pausing: false }) {
            return Vec::new();
        }
        self.state = State::Running { pausing: true };
        vec![Command::Pause(self.generation, self.roster.members())]
    }

    /// Ends the generation in the middle of a step: it cannot finish it.
    pub(super) fn break_generation(&mut self, now: Duration) -> Vec<Command> {
        let deadline = now + self.stall_timeout();
        self.state = State::Settling { deadline };
        let members = self.roster.members();
        let mut commands = Vec::new();
        if !members.is_empty() {
            commands.push(Command::Abort(self.generation, members));
        }
        commands.extend(self.form(now));
        commands
    }

    /// Brings ready workers into a generation that computes: first they copy a state while the
    /// others train, which proves that they can; then all pause for them.
    pub(super) fn bring_in(&mut self, now: Duration) -> Vec<Command> {
        self.roster.promote_spares(self.settings.workers, &self.absent);
        let ready = |slot: &Slot| slot.position().is_some() && !slot.leaving;
        let ready: Vec<WorkerId> =
            self.roster.iter().filter(|(_, slot)| ready(slot)).map(|(w, _)| w).collect();
        let mut commands = Vec::new();
        for worker in ready {
            // In a generation that pauses, they may be members who have, and wait for others.
            if !matches!(self.state, State::Running { pausing: false }) {
                break;
            }
            let Some(slot) = self.roster.get(worker) else { continue };
            let is_at_end = slot.position().is_some_and(|s| s.step >= self.settings.steps);
            if !slot.proven {
                commands.extend(self.fetch(worker, now));
            } else if slot.rank.is_some() && !is_at_end {
                commands.extend(self.pause());
            }
        }
        commands
    }

    /// Once no member computes any more in a generation that was not broken.
    pub(super) fn settle_running(&mut self, now: Duration) -> Vec<Command> {
        if self.is_computing() {
            return Vec::new();
        }
        // A worker that has seen the last step has saved what was to be saved.
        match (self.roster.furthest(), self.divergence()) {
            (Some((_, position)), None) if position.step >= self.settings.steps => {
                self.finish(Outcome::Completed(position.digest))
            }
            _ => self.form(now),
        }
    }

    /// Whether a member of the last generation has yet to report its position.
    fn is_computing(&self) -> bool {
        !self.absent.is_empty() || self.roster.has_members()
    }

    /// Starts the next generation, or does what is still to be done before.
    pub(super) fn form(&mut self, now: Duration) -> Vec<Command> {
        if self.is_computing() {
            return Vec::new();
        }
        self.roster.promote_spares(self.settings.workers, &self.absent);
        if let Some(divergence) = self.divergence() {
            return self.finish(Outcome::Diverged(divergence));
        }
        if self.ending.is_some() {
            return self.persist_or_finish(now);
        }
        if let Some(ending) = self.leave_generation(now) {
            return self.end(ending, now);
        }
        let commands = self.level(now);
        if !commands.is_empty() || self.is_fetching(now) {
            return commands;
        }
        let members = self.next_members();
        if members.len() < self.needed(now) as usize {
            return self.gather(members.len(), now);
        }
        if now < self.failed.not_before {
            return Vec::new();
        }
        self.start(&members, now)
    }

    /// States that differ although they have seen the same steps.
    fn divergence(&self) -> Option<Divergence> {
        let mut digests: BTreeMap<Step, Vec<(Rank, Digest)>> = BTreeMap::new();
        for (_, slot, position) in self.roster.positions() {
            let digest = slot.rank.map(|rank| (rank, position.digest));
            digests.entry(position.step).or_default().extend(digest);
        }
        digests.iter().find_map(|(step, digests)| Divergence::among(*step, digests).err())
    }

    /// Counts a generation that broke without a known reason; ends the run when there were too
    /// many of them.
    fn leave_generation(&mut self, now: Duration) -> Option<Ending> {
        if matches!(self.state, State::Gathering { .. }) {
            return None;
        }
        let broken = matches!(self.state, State::Settling { .. });
        self.state = State::Gathering { deadline: now + self.settings.join_timeout };
        let furthest = self.roster.furthest().map(|(_, position)| position.step);
        let FailedGenerations { in_a_row, started_at, not_before, reason } = &mut self.failed;
        match reason.take() {
            Some((rank, message)) if broken && furthest == Some(*started_at) => {
                *not_before = now + SETBACK_PAUSE * 2_u32.pow(*in_a_row);
                *in_a_row += 1;
                let outcome = Outcome::WorkerFailed { rank, message, recurs: false };
                (*in_a_row >= SETBACKS).then_some(Ending::Fault(outcome))
            }
            _ => {
                *in_a_row = 0;
                None
            }
        }
    }

    /// Has the workers that are behind copy the state of one that is ahead.
    fn level(&mut self, now: Duration) -> Vec<Command> {
        let Some((_, target)) = self.roster.furthest() else { return Vec::new() };
        let is_behind = |slot: &Slot| slot.position().is_some_and(|s| s.step < target.step);
        let proven =
            self.roster.in_rank_order(|slot| is_next(slot) && (slot.proven || !is_behind(slot)));
        let enough = proven.len() >= self.needed(now) as usize;
        let behind = self.roster.in_rank_order(|slot| {
            // One that may not be able to would hold up the others.
            is_next(slot) && is_behind(slot) && (slot.proven || !enough)
        });
        behind.into_iter().filter_map(|worker| self.fetch(worker, now)).collect()
    }

    /// Has a worker take over a state that is not behind its own: of a member, or of one that is
    /// furthest; of several, of the one that has the least to give.
    pub(super) fn fetch(&mut self, worker: WorkerId, now: Duration) -> Option<Command> {
        let own = self.roster.get(worker)?.position()?.step;
        let computing = self.roster.has_members();
        let furthest = self.roster.furthest().map(|(_, position)| position.step);
        let mut donors = self.roster.ranks_first(|slot| match slot.place {
            Place::Member => slot.progress.map_or(Step::default(), |(p, _)| p.step) >= own,
            Place::Ready(position) => !computing && Some(position.step) == furthest,
            Place::Loading | Place::Fetching { .. } => false,
        });
        donors.retain(|donor| *donor != worker);
        // The leader, first in rank order, has most to do: it comes last.
        donors.reverse();
        let fetches = self.roster.fetches();
        donors.sort_by_key(|donor| fetches.get(donor));
        let slot = self.roster.get_mut(worker)?;
        let tried = slot.failed_fetches as usize;
        let donor = *donors.get(tried.checked_rem(donors.len())?)?;
        slot.place = Place::Fetching { donor, since: now };
        Some(Command::Fetch { worker, donor })
    }

    /// The donor of a fetch that failed, if it is to blame: it alone has the furthest state, and
    /// this is the second worker that could reach the others and cannot reach it.
    pub(super) fn blamed_donor(&mut self, recipient: WorkerId, was_at: Place) -> Option<WorkerId> {
        let Place::Fetching { donor, .. } = was_at else { return None };
        let (_, furthest) = self.roster.furthest()?;
        let has_it = |(_, _, position): &(_, _, Position)| position.step == furthest.step;
        let is_alone = self.roster.positions().iter().filter(|ready| has_it(ready)).count() == 1;
        let is_proven = self.roster.get(recipient)?.proven;
        let slot = self.roster.get_mut(donor)?;
        if !is_proven || !is_alone || slot.position() != Some(furthest) {
            return None;
        }
        slot.failed_recipients.insert(recipient);
        (slot.failed_recipients.len() > 1).then_some(donor)
    }

    /// Whether a worker that the run waits for is copying a state.
    pub(super) fn is_fetching(&self, now: Duration) -> bool {
        let short = self.next_members().len() < self.needed(now) as usize;
        self.roster.iter().any(|(_, slot)| {
            let fetches = matches!(slot.place, Place::Fetching { .. });
            fetches && is_next(slot) && (slot.proven || short)
        })
    }

    /// The workers that could compute now: those with a rank and the newest state.
    fn next_members(&self) -> Vec<WorkerId> {
        let Some((_, target)) = self.roster.furthest() else { return Vec::new() };
        self.roster.in_rank_order(|slot| is_next(slot) && slot.position() == Some(target))
    }

    /// Members that the next generation needs: all at the run's beginning, while they may
    /// still come.
    pub(super) fn needed(&self, now: Duration) -> u32 {
        match self.state {
            State::Gathering { deadline } if !self.has_begun() && now < deadline => {
                self.settings.workers
            }
            _ => self.settings.min_workers,
        }
    }

    fn start(&mut self, members: &[WorkerId], now: Duration) -> Vec<Command> {
        let step = self.roster.furthest().map(|(_, position)| position.step);
        self.failed.started_at = step.unwrap_or_default();
        self.failed.reason = None;
        self.fingerprint = self.fingerprint.take().or_else(|| self.roster.fingerprint().cloned());
        self.generation = self.generation.next();
        self.state = State::Running { pausing: false };
        self.waiting_with = None;
        let mut commands = self.dismiss_leaving();
        let members = self.roster.deal(members, self.settings.shards, now);
        commands.push(Command::Start(self.generation, members));
        commands.extend(self.bring_in(now));
        commands
    }

    /// Lets workers leave that were asked to; others have their state.
    fn dismiss_leaving(&mut self) -> Vec<Command> {
        let leaving: Vec<WorkerId> =
            self.roster.iter().filter(|(_, slot)| slot.leaving).map(|(w, _)| w).collect();
        leaving.iter().for_each(|worker| drop(self.roster.remove(*worker)));
        leaving.into_iter().map(Command::Dismiss).collect()
    }

    /// Waits for more workers. A worker that wants to leave and alone has the furthest state
    /// saves it first.
    fn gather(&mut self, present: usize, now: Duration) -> Vec<Command> {
        if let Some(worker) = self.last_keeper() {
            return vec![self.persist(worker, now)];
        }
        let mut commands = self.dismiss_leaving();
        if !self.has_begun() {
            return commands;
        }
        let (present, needed) = (u32::try_from(present).unwrap_or(u32::MAX), self.needed(now));
        if self.waiting_with.replace(present) != Some(present) {
            commands.push(Command::Wait { present, needed });
        }
        commands
    }

    /// The worker that has the furthest state, if it and all others that have it want to leave.
    fn last_keeper(&self) -> Option<WorkerId> {
        let (worker, furthest) = self.worth_saving()?;
        let positions = self.roster.positions();
        let mut keepers = positions.iter().filter(|(_, _, position)| *position == furthest);
        keepers.all(|(_, slot, _)| slot.leaving).then_some(worker)
    }
}

/// Whether a worker is to be in the next generation, if it holds the right state.
fn is_next(slot: &Slot) -> bool {
    slot.rank.is_some() && !slot.leaving
}
