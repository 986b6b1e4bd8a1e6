//! The states of a run, and the events that lead from one to the next.
//!
//! Workers that join and leave are handled here. [`forming`] starts the next generation, [`ending`]
//! ends the run, [`timeouts`] evicts workers that take too long, and [`waiting`] describes what the
//! run waits for.

mod ending;
mod forming;
mod timeouts;
mod waiting;

use std::{collections::BTreeSet, mem, time::Duration};

use collective::{Generation, Rank, Step};

pub use self::waiting::{Newcomers, Waiting};
use self::{ending::Ending, forming::FailedGenerations, timeouts::Pace};
use crate::{
    Command, Event, Failure, Fingerprint, Join, Loss, Outcome, Position, Progress, ReadyCause,
    Refusal, WorkerId,
    roster::{Activity, Roster},
};

/// The settings of a run for the engine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Members of a full generation.
    pub workers: u32,
    /// The fewest members of a generation; with fewer ready workers the run waits.
    pub min_workers: u32,
    /// Shards of a global batch.
    pub shards: u32,
    /// Steps of the whole run.
    pub steps: Step,
    /// How long a worker may be silent before it is evicted.
    pub dead_after: Duration,
    /// How long a worker may make no progress while others wait for it. The engine allows at least
    /// the time of twenty steps.
    pub stall_after: Duration,
    /// How long the run waits for its workers to join and be ready.
    pub join_timeout: Duration,
    /// How long a worker may take to write a checkpoint on demand.
    pub persist_timeout: Duration,
    /// Whether workers with different fingerprints may take part.
    pub allow_mixed_devices: bool,
}

/// What a restarted coordinator knows of the run from its journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Past {
    /// The last generation that the run may have used.
    pub generation: Generation,
    /// The ranks of the members of that generation that may still compute.
    pub members: BTreeSet<Rank>,
}

/// Decides on the membership of one run. See the crate's page.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Engine {
    settings: Settings,
    roster: Roster,
    generation: Generation,
    state: State,
    /// Why the run is about to end, if it is.
    ending: Option<Ending>,
    /// The fingerprint of the run's members; none before the first generation.
    fingerprint: Option<Fingerprint>,
    /// The fingerprints in the checkpoint that the run continues from.
    computed: BTreeSet<String>,
    /// Members of the current generation that have not reconnected to this coordinator yet, and
    /// until when the engine waits for them.
    absent: BTreeSet<Rank>,
    absent_until: Duration,
    /// The number of ready workers in the last [`Command::Wait`].
    waiting_with: Option<u32>,
    /// The furthest state that was saved on demand.
    saved: Option<Step>,
    failed: FailedGenerations,
    pace: Pace,
    last_tick: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    /// No worker computes: the run waits until enough workers are ready.
    Gathering {
        deadline: Duration,
    },
    /// A generation computes. It may have been asked to pause.
    Running {
        pausing: bool,
    },
    /// A generation was aborted, and its members have yet to report their positions.
    Settling {
        deadline: Duration,
    },
    /// A worker writes a checkpoint, because the run ends or because the worker wants to leave.
    Persisting {
        by: WorkerId,
        deadline: Duration,
    },
    Ended,
}

impl Engine {
    /// Ends the run at this step, before the last planned step: the members have decided on early
    /// stopping.
    pub fn end_at(&mut self, step: Step) {
        self.settings.steps = self.settings.steps.min(step);
    }

    /// The state of a run when its coordinator starts, at `now`.
    #[must_use]
    pub fn new(settings: Settings, past: Past, now: Duration) -> Self {
        let state = if past.members.is_empty() {
            State::Gathering { deadline: now + settings.join_timeout }
        } else {
            State::Running { pausing: false }
        };
        Self {
            absent_until: now + settings.dead_after,
            settings,
            roster: Roster::default(),
            generation: past.generation,
            state,
            ending: None,
            fingerprint: None,
            computed: BTreeSet::new(),
            absent: past.members,
            waiting_with: None,
            saved: None,
            failed: FailedGenerations::default(),
            pace: Pace::default(),
            last_tick: now,
        }
    }

    /// Lets the run continue from a state that was computed with these fingerprints.
    #[must_use]
    pub fn going_on_from(self, computed: BTreeSet<String>) -> Self {
        Self { computed, ..self }
    }

    /// The current generation, or the last one.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Workers that hold a rank now.
    #[must_use]
    pub fn present(&self) -> u32 {
        self.roster.ranked()
    }

    /// The members of the current generation that compute, in rank order.
    #[must_use]
    pub fn members(&self) -> Vec<WorkerId> {
        self.roster.members()
    }

    /// Whether a generation computes.
    #[must_use]
    pub fn is_training(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// The rank of a worker, if it holds one.
    #[must_use]
    pub fn rank(&self, worker: WorkerId) -> Option<Rank> {
        self.roster.get(worker)?.rank
    }

    /// The name of the run's state, for people.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Gathering { .. } => "waiting for workers",
            State::Running { pausing: false } => "training",
            State::Running { pausing: true } => "pausing",
            State::Settling { .. } => "recovering",
            State::Persisting { .. } => "saving",
            State::Ended => "ended",
        }
    }

    /// Handles an event at `now`, and returns the commands that follow.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Command> {
        if matches!(self.state, State::Ended) {
            return match event {
                Event::Joined(worker, _) => vec![Command::Refuse(worker, Refusal::Ending)],
                _ => Vec::new(),
            };
        }
        match event {
            Event::Joined(worker, join) => self.joined(worker, &join, now),
            Event::Lost(worker, _) => self.lost(worker, now),
            Event::Leaving(worker) => self.leaving(worker, now),
            Event::Ready(worker, position, cause) => self.ready(worker, position, cause, now),
            Event::Alive(worker, progress) => {
                self.seen(worker, progress, now);
                Vec::new()
            }
            Event::Saved(worker) => self.saved(worker, now),
            Event::Failed(worker, failure) => self.failed(worker, failure, now),
            Event::GivenUp(rank, status) => self.given_up(rank, status),
            Event::StopRequested => self.end(Ending::Stop, now),
            Event::Tick => self.tick(now),
        }
    }

    fn joined(&mut self, worker: WorkerId, join: &Join, now: Duration) -> Vec<Command> {
        if let Some(refusal) = self.refuse_mixed(join) {
            return vec![Command::Refuse(worker, refusal)];
        }
        // A run that is ending still needs its members, because they have the state to be saved.
        if let Some(rank) = self.absentee(join) {
            return self.welcome_back(worker, join, rank, now);
        }
        if self.ending.is_some() {
            return vec![Command::Refuse(worker, Refusal::Ending)];
        }
        let admitted = self.roster.admit(worker, join, self.settings.workers, &self.absent, now);
        let rank = match admitted {
            Ok(rank) => rank,
            Err(refusal) => return vec![Command::Refuse(worker, refusal)],
        };
        let mut commands = vec![Command::Admit(worker, rank)];
        if let Some(stale) = join.returning.and_then(|returning| returning.generation) {
            commands.push(Command::Abort(stale, vec![worker]));
        }
        commands
    }

    /// Whether this coordinator has seen a generation.
    fn has_begun(&self) -> bool {
        self.fingerprint.is_some()
    }

    fn refuse_mixed(&self, join: &Join) -> Option<Refusal> {
        if self.settings.allow_mixed_devices {
            return None;
        }
        let theirs = join.fingerprint.to_string();
        if !self.computed.iter().all(|computed| *computed == theirs) {
            let computed: Vec<String> = self.computed.iter().cloned().collect();
            return Some(Refusal::OtherArithmetic { computed: computed.join(" and "), theirs });
        }
        let ours = self.fingerprint.as_ref().or_else(|| self.roster.fingerprint())?;
        let mixed = *ours != join.fingerprint;
        mixed.then(|| Refusal::MixedFingerprints {
            ours: Box::new(ours.clone()),
            theirs: Box::new(join.fingerprint.clone()),
        })
    }

    /// The worker's rank, if it is a member that has to reconnect to this coordinator.
    fn absentee(&self, join: &Join) -> Option<Rank> {
        join.returning?;
        join.rank.filter(|rank| self.absent.contains(rank))
    }

    /// Admits a member of a generation that an earlier coordinator started.
    fn welcome_back(
        &mut self,
        worker: WorkerId,
        join: &Join,
        rank: Rank,
        now: Duration,
    ) -> Vec<Command> {
        self.absent.remove(&rank);
        self.roster.adopt(worker, join, rank, now);
        self.fingerprint.get_or_insert_with(|| join.fingerprint.clone());
        let generation = join.returning.and_then(|returning| returning.generation);
        let mut commands = vec![Command::Adopt(worker, rank)];
        let is_running = matches!(self.state, State::Running { .. });
        if is_running && generation == Some(self.generation) {
            if matches!(self.state, State::Running { pausing: true }) {
                commands.push(Command::Pause(self.generation, vec![worker]));
            }
            commands.extend(self.bring_in(now));
            return commands;
        }
        // The previous coordinator had ended this generation, or had begun a newer one without
        // telling all members.
        commands.extend(generation.map(|stale| Command::Abort(stale, vec![worker])));
        if is_running {
            commands.extend(self.break_generation(now));
        }
        commands
    }

    fn seen(&mut self, worker: WorkerId, progress: Progress, now: Duration) {
        let Some(slot) = self.roster.get_mut(worker) else { return };
        slot.last_seen = now;
        let Some((before, since)) = &mut slot.progress else {
            slot.progress = Some((progress, now));
            return;
        };
        if progress.step > before.step {
            self.pace.note(progress.step.0 - before.step.0, now.saturating_sub(*since));
        }
        if progress.step != before.step {
            *since = now;
        }
        *before = progress;
    }

    fn lost(&mut self, worker: WorkerId, now: Duration) -> Vec<Command> {
        let Some(slot) = self.roster.remove(worker) else { return Vec::new() };
        match self.state {
            State::Persisting { by, .. } if by == worker => self.after_persisting(now),
            State::Running { .. } if slot.activity == Activity::Member => {
                self.break_generation(now)
            }
            State::Running { .. } => self.without_one(now),
            State::Gathering { .. } | State::Settling { .. } => self.form(now),
            State::Persisting { .. } | State::Ended => Vec::new(),
        }
    }

    /// Reacts to the loss of another worker while a generation computes.
    fn without_one(&mut self, now: Duration) -> Vec<Command> {
        let mut commands = self.settle_running(now);
        commands.extend(self.bring_in(now));
        commands
    }

    /// Lets a worker leave. A member stays until all have paused and another worker has its state.
    fn leaving(&mut self, worker: WorkerId, now: Duration) -> Vec<Command> {
        let Some(slot) = self.roster.get_mut(worker) else { return Vec::new() };
        slot.leaving = true;
        match (self.state, slot.activity) {
            (State::Running { .. }, Activity::Member) => self.pause(),
            // This worker has already paused or completed; the other members will do so soon.
            (State::Running { .. }, Activity::Ready(_)) if slot.proven && slot.rank.is_some() => {
                Vec::new()
            }
            (State::Running { .. }, _) | (_, Activity::Loading | Activity::Fetching { .. }) => {
                let mut commands = vec![Command::Dismiss(worker)];
                commands.extend(self.lost(worker, now));
                commands
            }
            (State::Gathering { .. } | State::Settling { .. }, _) => self.form(now),
            (State::Persisting { .. } | State::Ended, _) => Vec::new(),
        }
    }

    fn ready(
        &mut self,
        worker: WorkerId,
        position: Position,
        cause: ReadyCause,
        now: Duration,
    ) -> Vec<Command> {
        let Some(slot) = self.roster.get_mut(worker) else { return Vec::new() };
        slot.last_seen = now;
        let was_at = mem::replace(&mut slot.activity, Activity::Ready(position));
        let was_member = was_at == Activity::Member;
        match cause {
            ReadyCause::AsTold => slot.proven |= matches!(was_at, Activity::Fetching { .. }),
            ReadyCause::NotFetched(reason) => {
                if let Some(donor) = self.blamed_donor(worker, was_at) {
                    return self.evict(donor, Loss::Isolated(reason), now);
                }
                let Some(slot) = self.roster.get_mut(worker) else { return Vec::new() };
                if let Some(loss) = slot.fetch_failed(reason) {
                    return self.evict(worker, loss, now);
                }
            }
            ReadyCause::Interrupted(reason) if was_member => {
                // Only the first reason is kept: later reports are consequences of the first.
                self.failed.reason.get_or_insert((slot.rank.unwrap_or_default(), reason));
                if matches!(self.state, State::Running { .. }) {
                    return self.break_generation(now);
                }
            }
            ReadyCause::Interrupted(_) => {}
        }
        match self.state {
            State::Running { .. } if was_member => self.settle_running(now),
            State::Running { .. } => self.bring_in(now),
            State::Gathering { .. } | State::Settling { .. } => self.form(now),
            State::Persisting { .. } | State::Ended => Vec::new(),
        }
    }

    fn evict(&mut self, worker: WorkerId, loss: Loss, now: Duration) -> Vec<Command> {
        let mut commands = vec![Command::Evict(worker, loss)];
        commands.extend(self.lost(worker, now));
        commands
    }

    /// Ends the run if a process fails at its start, because that worker will never join.
    fn given_up(&mut self, rank: Rank, status: String) -> Vec<Command> {
        if self.has_begun() || !matches!(self.state, State::Gathering { .. }) {
            return Vec::new();
        }
        let message = format!("its process ended before the run began ({status})");
        // A new process would fail in the same way.
        self.finish(Outcome::WorkerFailed { rank, message, recurs: true })
    }

    fn failed(&mut self, worker: WorkerId, failure: Failure, now: Duration) -> Vec<Command> {
        let is_loading =
            self.roster.get(worker).is_some_and(|slot| slot.activity == Activity::Loading);
        if is_loading && self.has_begun() && failure.state_intact {
            // Only the new worker is evicted; the members train on.
            return self.evict(worker, Loss::Unable(failure.message), now);
        }
        let Some(slot) = self.roster.remove(worker) else { return Vec::new() };
        let rank = slot.rank.unwrap_or_default();
        let Failure { message, state_intact, recurs } = failure;
        let outcome = Outcome::WorkerFailed { rank, message, recurs };
        let ending = if state_intact { Ending::Fault(outcome) } else { Ending::Untrusted(outcome) };
        let was_saving = matches!(self.state, State::Persisting { by, .. } if by == worker);
        let mut commands = self.end(ending, now);
        if was_saving {
            commands.extend(self.after_persisting(now));
        }
        commands
    }
}
