//! The states of a run and what leads from one to the next.

use std::{mem, time::Duration};

use collective::{Generation, Rank, Step};

use crate::{
    Command, Event, Failure, Join, Loss, Outcome, Refusal, Standing, WorkerId, roster::Roster,
};

/// What a run is to the engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Members of a full generation.
    pub workers: u32,
    /// Shards of a global batch.
    pub shards: u32,
    /// Steps of the whole run.
    pub steps: Step,
    /// The last generation that the run may have used before.
    pub last_generation: Generation,
    /// How long a worker may give no sign of life.
    pub dead_after: Duration,
    /// How long the run waits for its workers to come and be ready.
    pub join_timeout: Duration,
    /// How long a worker may take to write a checkpoint on demand.
    pub persist_timeout: Duration,
    /// Whether workers that compute other bits may take part.
    pub allow_mixed_devices: bool,
}

/// Decides over the membership of one run. See the crate's page.
#[derive(Clone, Debug)]
pub struct Engine {
    settings: Settings,
    roster: Roster,
    generation: Generation,
    state: State,
    last_tick: Duration,
}

#[derive(Clone, Debug)]
enum State {
    /// Waiting for all workers to come and be ready.
    Gathering {
        deadline: Duration,
    },
    /// A generation computes.
    Running,
    /// A generation ended; its members report where they stand.
    Settling {
        ending: Ending,
        deadline: Duration,
    },
    /// One worker writes a checkpoint, then the run ends.
    Persisting {
        by: WorkerId,
        ending: Ending,
        deadline: Duration,
    },
    Ended,
}

/// Why a run is about to end, from the weakest reason to the strongest.
#[derive(Clone, Debug)]
enum Ending {
    /// The members were asked to pause, for a worker that wants to leave.
    Leave(Rank),
    /// The members were asked to pause, for a person.
    Stop,
    /// A member's generation broke; who is to blame may still turn up.
    Broken(Outcome),
    /// Somebody is to blame.
    Fault(Outcome),
    /// The states are not to be trusted.
    Untrusted(Outcome),
}

impl Engine {
    /// A run that begins to gather its workers at `now`.
    #[must_use]
    pub fn new(settings: Settings, now: Duration) -> Self {
        let deadline = now + settings.join_timeout;
        let generation = settings.last_generation;
        let state = State::Gathering { deadline };
        Self { settings, roster: Roster::default(), generation, state, last_tick: now }
    }

    /// The current generation, or the last one.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Workers that hold a rank now.
    #[must_use]
    pub fn present(&self) -> u32 {
        self.roster.len()
    }

    /// Takes in what happened at `now` and decides what follows.
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Command> {
        if matches!(self.state, State::Ended) {
            return match event {
                Event::Joined(worker, _) => vec![Command::Refuse(worker, Refusal::UnderWay)],
                _ => Vec::new(),
            };
        }
        match event {
            Event::Joined(worker, join) => self.joined(worker, join, now),
            Event::Lost(worker, loss) => self.lost(worker, loss, now),
            Event::Leaving(worker) => self.leaving(worker, now),
            Event::Ready(worker, standing, interrupted) => {
                self.ready(worker, standing, interrupted, now)
            }
            Event::Alive(worker) => {
                self.seen(worker, now);
                Vec::new()
            }
            Event::Saved(worker) => self.saved(worker),
            Event::Failed(worker, failure) => self.failed(worker, failure, now),
            Event::ChildExited(rank, status) => self.child_exited(rank, status),
            Event::StopRequested => self.stop(now),
            Event::Tick => self.tick(now),
        }
    }

    fn joined(&mut self, worker: WorkerId, join: Join, now: Duration) -> Vec<Command> {
        if !matches!(self.state, State::Gathering { .. }) {
            return vec![Command::Refuse(worker, Refusal::UnderWay)];
        }
        let Settings { workers, allow_mixed_devices, .. } = self.settings;
        match self.roster.admit(worker, join, workers, allow_mixed_devices, now) {
            Ok(rank) => vec![Command::Admit(worker, rank)],
            Err(refusal) => vec![Command::Refuse(worker, refusal)],
        }
    }

    fn seen(&mut self, worker: WorkerId, now: Duration) {
        if let Some(seat) = self.roster.seat_mut(worker) {
            seat.last_seen = now;
        }
    }

    fn lost(&mut self, worker: WorkerId, loss: Loss, now: Duration) -> Vec<Command> {
        let Some(rank) = self.roster.remove(worker) else { return Vec::new() };
        if matches!(self.state, State::Gathering { .. }) {
            return Vec::new();
        }
        let mut commands = self.end(Ending::Fault(Outcome::WorkerLost { rank, loss }), now);
        if matches!(self.state, State::Persisting { by, .. } if by == worker) {
            commands.extend(self.persist_or_finish(now));
        }
        commands
    }

    /// A worker in a generation stays until all have paused, so that its state can be saved.
    fn leaving(&mut self, worker: WorkerId, now: Duration) -> Vec<Command> {
        let Some(rank) = self.roster.rank(worker) else { return Vec::new() };
        match self.state {
            State::Gathering { .. } => {
                self.roster.remove(worker);
                vec![Command::Dismiss(worker)]
            }
            State::Running => self.pause(Ending::Leave(rank), now),
            _ => Vec::new(),
        }
    }

    fn failed(&mut self, worker: WorkerId, failure: Failure, now: Duration) -> Vec<Command> {
        let Some(rank) = self.roster.remove(worker) else { return Vec::new() };
        let outcome = Outcome::WorkerFailed { rank, message: failure.message };
        let ending =
            if failure.state_intact { Ending::Fault(outcome) } else { Ending::Untrusted(outcome) };
        let mut commands = self.end(ending, now);
        if matches!(self.state, State::Persisting { by, .. } if by == worker) {
            commands.extend(self.persist_or_finish(now));
        }
        commands
    }

    /// A process that goes before the run begins will not come; later, its stream tells.
    fn child_exited(&mut self, rank: Rank, status: String) -> Vec<Command> {
        if !matches!(self.state, State::Gathering { .. }) {
            return Vec::new();
        }
        let message = format!("its process ended before the run began ({status})");
        self.finish(Outcome::WorkerFailed { rank, message })
    }

    fn ready(
        &mut self,
        worker: WorkerId,
        standing: Standing,
        interrupted: Option<String>,
        now: Duration,
    ) -> Vec<Command> {
        let Some(rank) = self.roster.rank(worker) else { return Vec::new() };
        if let Some(seat) = self.roster.seat_mut(worker) {
            seat.last_seen = now;
            seat.standing = Some(standing);
        }
        match (&self.state, interrupted) {
            (State::Gathering { .. }, _) => self.start_if_complete(),
            (State::Running | State::Settling { .. }, Some(message)) => {
                self.end(Ending::Broken(Outcome::WorkerFailed { rank, message }), now)
            }
            (State::Running | State::Settling { .. }, _) => self.settle(now),
            _ => Vec::new(),
        }
    }

    fn start_if_complete(&mut self) -> Vec<Command> {
        if self.roster.len() < self.settings.workers || !self.roster.all_ready() {
            return Vec::new();
        }
        if let Some(outcome) = self.states_differ() {
            return self.finish(outcome);
        }
        self.generation = self.generation.next();
        self.state = State::Running;
        vec![Command::Start(self.generation, self.roster.deal(self.settings.shards))]
    }

    /// Whether every worker holds the state after the last step.
    fn at_end(&self) -> bool {
        let last = self.settings.steps;
        self.roster.all_ready() && self.roster.standings().all(|(_, _, s)| s.step >= last)
    }

    fn states_differ(&self) -> Option<Outcome> {
        let mut standings = self.roster.standings();
        let (rank, _, standing) = standings.next()?;
        let (other_rank, _, other) = standings.find(|(_, _, other)| *other != standing)?;
        Some(Outcome::StatesDiffer { rank, standing, other_rank, other })
    }

    fn stop(&mut self, now: Duration) -> Vec<Command> {
        match &mut self.state {
            State::Gathering { .. } => self.finish(Outcome::Interrupted(self.furthest())),
            State::Running => self.pause(Ending::Stop, now),
            State::Settling { ending, .. } | State::Persisting { ending, .. } => {
                ending.strengthen(Ending::Stop);
                Vec::new()
            }
            State::Ended => Vec::new(),
        }
    }

    /// Ends the generation on purpose, and the run with it.
    fn pause(&mut self, ending: Ending, now: Duration) -> Vec<Command> {
        // A pause waits for the step in hand, which may be a long one.
        let deadline = now + self.settings.persist_timeout;
        self.state = State::Settling { ending, deadline };
        vec![Command::Pause(self.generation)]
    }

    /// Ends the generation for a fault, and the run with it.
    fn end(&mut self, ending: Ending, now: Duration) -> Vec<Command> {
        let deadline = now + self.settings.dead_after;
        match &mut self.state {
            State::Gathering { .. } => {
                let outcome = self.outcome_of(ending);
                self.finish(outcome)
            }
            State::Running => {
                self.state = State::Settling { ending, deadline };
                let mut commands = vec![Command::Abort(self.generation)];
                commands.extend(self.settle(now));
                commands
            }
            State::Settling { ending: previous, deadline: bound } => {
                let mut commands = Vec::new();
                if previous.is_pause() {
                    *bound = deadline;
                    commands.push(Command::Abort(self.generation));
                }
                previous.strengthen(ending);
                commands.extend(self.settle(now));
                commands
            }
            State::Persisting { ending: previous, .. } => {
                previous.strengthen(ending);
                Vec::new()
            }
            State::Ended => Vec::new(),
        }
    }

    /// Once all members have reported: ends the run, saving the state that is furthest.
    fn settle(&mut self, now: Duration) -> Vec<Command> {
        if !self.roster.all_ready() {
            return Vec::new();
        }
        let on_purpose = match &self.state {
            State::Settling { ending, .. } => ending.is_pause(),
            state => matches!(state, State::Running),
        };
        if on_purpose {
            if let Some(outcome) = self.states_differ() {
                return self.finish(outcome);
            }
            let first = self.roster.standings().next();
            if let (true, Some((_, _, standing))) = (self.at_end(), first) {
                return self.finish(Outcome::Completed(standing.digest));
            }
        }
        self.persist_or_finish(now)
    }

    fn persist_or_finish(&mut self, now: Duration) -> Vec<Command> {
        let state = mem::replace(&mut self.state, State::Ended);
        let (State::Settling { ending, .. } | State::Persisting { ending, .. }) = state else {
            self.state = state;
            return Vec::new();
        };
        // The lowest rank among those that are furthest: max_by_key keeps the last, so reverse.
        let furthest =
            self.roster.standings().collect::<Vec<_>>().into_iter().rev().max_by_key(|s| s.2.step);
        match (&ending, furthest) {
            (Ending::Untrusted(_), _) | (_, None) => {
                let outcome = self.outcome_of(ending);
                self.finish(outcome)
            }
            (_, Some((_, by, _))) => {
                let deadline = now + self.settings.persist_timeout;
                self.state = State::Persisting { by, ending, deadline };
                vec![Command::Persist(by)]
            }
        }
    }

    fn saved(&mut self, worker: WorkerId) -> Vec<Command> {
        match &self.state {
            State::Persisting { by, ending, .. } if *by == worker => {
                let outcome = self.outcome_of(ending.clone());
                self.finish(outcome)
            }
            _ => Vec::new(),
        }
    }

    fn outcome_of(&self, ending: Ending) -> Outcome {
        match ending {
            Ending::Leave(rank) => Outcome::WorkerLost { rank, loss: Loss::Left },
            Ending::Stop => Outcome::Interrupted(self.furthest()),
            Ending::Broken(outcome) | Ending::Fault(outcome) | Ending::Untrusted(outcome) => {
                outcome
            }
        }
    }

    fn furthest(&self) -> Step {
        self.roster.standings().map(|(_, _, standing)| standing.step).max().unwrap_or_default()
    }

    fn finish(&mut self, outcome: Outcome) -> Vec<Command> {
        self.state = State::Ended;
        vec![Command::Finish(outcome)]
    }

    fn tick(&mut self, now: Duration) -> Vec<Command> {
        let mut commands = self.evict_silent(now);
        match self.state {
            State::Gathering { deadline } if now >= deadline => {
                let (workers, waited) = (self.settings.workers, self.settings.join_timeout);
                let present = self.roster.standings().count();
                let present = u32::try_from(present).unwrap_or(workers);
                commands.extend(self.finish(Outcome::WorkersMissing { present, workers, waited }));
            }
            State::Settling { deadline, .. } if now >= deadline => {
                commands.extend(self.persist_or_finish(now));
            }
            State::Persisting { by, deadline, .. } if now >= deadline => {
                commands.push(Command::Evict(by));
                commands.extend(self.lost(by, Loss::Silent(self.settings.persist_timeout), now));
            }
            _ => {}
        }
        commands
    }

    fn evict_silent(&mut self, now: Duration) -> Vec<Command> {
        let limit = self.settings.dead_after;
        let since = now.saturating_sub(mem::replace(&mut self.last_tick, now));
        if since > limit / 2 {
            // The coordinator itself stood still: nobody listened, so silence proves nothing.
            self.roster.seats_mut().for_each(|seat| seat.last_seen = now);
        }
        let silent: Vec<(WorkerId, Duration)> = self
            .roster
            .seats()
            .map(|(_, seat)| (seat.worker, now.saturating_sub(seat.last_seen)))
            .filter(|(_, silence)| *silence > limit)
            .collect();
        let mut commands = Vec::new();
        for (worker, silence) in silent {
            commands.push(Command::Evict(worker));
            commands.extend(self.lost(worker, Loss::Silent(silence), now));
        }
        commands
    }
}

impl Ending {
    fn strength(&self) -> u8 {
        match self {
            Self::Leave(_) => 0,
            Self::Stop => 1,
            Self::Broken(_) => 2,
            Self::Fault(_) => 3,
            Self::Untrusted(_) => 4,
        }
    }

    /// Whether the members stop together after a step.
    fn is_pause(&self) -> bool {
        matches!(self, Self::Leave(_) | Self::Stop)
    }

    /// Keeps the stronger reason; of two equally strong, the first.
    fn strengthen(&mut self, other: Self) {
        if other.strength() > self.strength() {
            *self = other;
        }
    }
}
