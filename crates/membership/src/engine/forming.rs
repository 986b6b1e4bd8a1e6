//! From one generation to the next: the members stop, workers that are behind copy the newest state,
//! and the next generation starts.

use std::{collections::BTreeMap, time::Duration};

use collective::{Digest, Divergence, Rank, Step};

use super::{Ending, Engine, State};
use crate::{
    Command, Outcome, Position, WorkerId,
    roster::{Activity, Slot},
};

/// The run ends after this many generations in a row that broke before their first step.
const SETBACKS: u32 = 8;

/// The pause after the first such generation; the pause doubles after each further one.
const SETBACK_PAUSE: Duration = Duration::from_millis(50);

/// The failed generations in a row: those that a member reported as interrupted, without a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct FailedGenerations {
    in_a_row: u32,
    /// The step at which the last generation started.
    started_at: Step,
    /// No generation starts before this time.
    not_before: Duration,
    /// The first member that reported the generation as interrupted, and its reason.
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

    /// Aborts the generation in the middle of a step, which its members cannot finish.
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

    /// Brings ready workers into a run that trains. First they copy a state while the members train,
    /// which proves that they can. Then all members pause, and the next generation includes them.
    pub(super) fn bring_in(&mut self, now: Duration) -> Vec<Command> {
        self.roster.promote_spares(self.settings.workers, &self.absent);
        let ready = |slot: &Slot| slot.position().is_some() && !slot.leaving;
        let ready: Vec<WorkerId> =
            self.roster.iter().filter(|(_, slot)| ready(slot)).map(|(w, _)| w).collect();
        let mut commands = Vec::new();
        for worker in ready {
            // In a generation that pauses, a ready worker may be a member that has already paused.
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

    /// Ends a generation that was not broken, once none of its members computes any more.
    pub(super) fn settle_running(&mut self, now: Duration) -> Vec<Command> {
        if self.is_computing() {
            return Vec::new();
        }
        // A worker that has done the last step has already saved the last checkpoint.
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

    /// Starts the next generation, or takes the next step towards it.
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

    /// Two states at the same step that differ, if there are any.
    fn divergence(&self) -> Option<Divergence> {
        let mut digests: BTreeMap<Step, Vec<(Rank, Digest)>> = BTreeMap::new();
        for (_, slot, position) in self.roster.positions() {
            let digest = slot.rank.map(|rank| (rank, position.digest));
            digests.entry(position.step).or_default().extend(digest);
        }
        digests.iter().find_map(|(step, digests)| Divergence::among(*step, digests).err())
    }

    /// Counts a generation that a member reported as interrupted and that has done no step. Returns
    /// the end of the run when there were too many of them in a row.
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

    /// Lets the workers that are behind copy the newest state.
    fn level(&mut self, now: Duration) -> Vec<Command> {
        let Some((_, target)) = self.roster.furthest() else { return Vec::new() };
        let is_behind = |slot: &Slot| slot.position().is_some_and(|s| s.step < target.step);
        let proven =
            self.roster.in_rank_order(|slot| is_next(slot) && (slot.proven || !is_behind(slot)));
        let enough = proven.len() >= self.needed(now) as usize;
        let behind = self.roster.in_rank_order(|slot| {
            // An unproven worker may be unable to copy a state. If there are enough workers without
            // it, the others do not wait for it.
            is_next(slot) && is_behind(slot) && (slot.proven || !enough)
        });
        behind.into_iter().filter_map(|worker| self.fetch(worker, now)).collect()
    }

    /// Lets a worker copy a state that is not behind its own. The donor is a member, or if no member
    /// computes, a worker with the newest state. Of several donors, the one with the fewest current
    /// copies is chosen.
    pub(super) fn fetch(&mut self, worker: WorkerId, now: Duration) -> Option<Command> {
        let own = self.roster.get(worker)?.position()?.step;
        let computing = self.roster.has_members();
        let furthest = self.roster.furthest().map(|(_, position)| position.step);
        let mut donors = self.roster.ranks_first(|slot| match slot.activity {
            Activity::Member => slot.progress.map_or(Step::default(), |(p, _)| p.step) >= own,
            Activity::Ready(position) => !computing && Some(position.step) == furthest,
            Activity::Loading | Activity::Fetching { .. } => false,
        });
        donors.retain(|donor| *donor != worker);
        // The leader, which is first in rank order, has the most work, so it is tried last.
        donors.reverse();
        let fetches = self.roster.fetches();
        donors.sort_by_key(|donor| fetches.get(donor));
        let slot = self.roster.get_mut(worker)?;
        let tried = slot.failed_fetches as usize;
        let donor = *donors.get(tried.checked_rem(donors.len())?)?;
        slot.activity = Activity::Fetching { donor, since: now };
        Some(Command::Fetch { worker, donor })
    }

    /// The donor of a failed fetch, if the donor is at fault: it alone has the newest state, and two
    /// proven workers could not fetch from it.
    pub(super) fn blamed_donor(
        &mut self,
        recipient: WorkerId,
        was_at: Activity,
    ) -> Option<WorkerId> {
        let Activity::Fetching { donor, .. } = was_at else { return None };
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
            let fetches = matches!(slot.activity, Activity::Fetching { .. });
            fetches && is_next(slot) && (slot.proven || short)
        })
    }

    /// The workers that could compute now: they have a rank and the newest state, and are not leaving.
    fn next_members(&self) -> Vec<WorkerId> {
        let Some((_, target)) = self.roster.furthest() else { return Vec::new() };
        self.roster.in_rank_order(|slot| is_next(slot) && slot.position() == Some(target))
    }

    /// The fewest members for the next generation: all workers at the run's beginning, until the
    /// deadline for joining, else the minimum.
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

    /// Dismisses the workers that want to leave; other workers have their state.
    fn dismiss_leaving(&mut self) -> Vec<Command> {
        let leaving: Vec<WorkerId> =
            self.roster.iter().filter(|(_, slot)| slot.leaving).map(|(w, _)| w).collect();
        leaving.iter().for_each(|worker| drop(self.roster.remove(*worker)));
        leaving.into_iter().map(Command::Dismiss).collect()
    }

    /// Waits for more workers. If only workers that want to leave have the newest state, one of them
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

    /// A worker with the newest state, if all workers with this state want to leave.
    fn last_keeper(&self) -> Option<WorkerId> {
        let (worker, furthest) = self.worth_saving()?;
        let positions = self.roster.positions();
        let mut keepers = positions.iter().filter(|(_, _, position)| *position == furthest);
        keepers.all(|(_, slot, _)| slot.leaving).then_some(worker)
    }
}

/// Whether a worker can be in the next generation, once it has the newest state.
fn is_next(slot: &Slot) -> bool {
    slot.rank.is_some() && !slot.leaving
}
