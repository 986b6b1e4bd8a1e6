//! An engine with a clock that tests move by hand, and short names for events and commands.

use std::time::Duration;

use collective::{Digest, Generation, Rank, ShardRange, Step};
use membership::{
    Command, Engine, Event, Fingerprint, Join, Loss, Member, Past, Phase, Position, Progress,
    ReadyCause, Returning, Settings, WorkerId,
};

pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(5);
pub(crate) const STALL_AFTER: Duration = Duration::from_secs(30);
pub(crate) const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
pub(crate) const PERSIST_TIMEOUT: Duration = Duration::from_secs(40);
pub(crate) const TICK: Duration = Duration::from_millis(500);
pub(crate) const STEPS: u64 = 100;

pub(crate) fn settings(workers: u32) -> Settings {
    Settings {
        workers,
        min_workers: 1,
        shards: 4,
        steps: Step(STEPS),
        dead_after: DEAD_AFTER,
        stall_after: STALL_AFTER,
        join_timeout: JOIN_TIMEOUT,
        persist_timeout: PERSIST_TIMEOUT,
        allow_mixed_devices: false,
    }
}

pub(crate) fn join(rank: Option<u32>) -> Join {
    let fingerprint = fingerprint("avx512");
    Join { rank: rank.map(Rank), fingerprint, memory_domain: None, returning: None }
}

/// A worker on a host.
pub(crate) fn join_from(host: &str, rank: Option<u32>) -> Join {
    Join { memory_domain: Some(host.into()), ..join(rank) }
}

/// A worker that reconnects, from a generation or from none.
pub(crate) fn returning(rank: u32, generation: Option<u64>) -> Join {
    let returning = Some(Returning { generation: generation.map(Generation) });
    Join { returning, ..join(Some(rank)) }
}

pub(crate) fn fingerprint(instruction_set: &str) -> Fingerprint {
    Fingerprint {
        device: "cpu".into(),
        instruction_set: instruction_set.into(),
        precision: "f32".into(),
        libtorch: "2.11.0".into(),
    }
}

pub(crate) fn at(step: u64) -> Position {
    Position { step: Step(step), digest: Digest([u8::try_from(step).unwrap(); 16]) }
}

/// Workers `0..workers` hold the ranks of their numbers; generation 1 runs.
pub(crate) fn running(workers: u32) -> Run {
    running_as(settings(workers))
}

pub(crate) fn running_as(settings: Settings) -> Run {
    let workers = u64::from(settings.workers);
    let mut run = Run::new(settings);
    (0..workers).for_each(|worker| drop(run.joins(worker)));
    (0..workers).for_each(|worker| drop(run.ready(worker, 0)));
    assert_eq!(run.engine.generation(), Generation(1));
    run
}

pub(crate) struct Run {
    pub(crate) engine: Engine,
    pub(crate) now: Duration,
}

impl Run {
    pub(crate) fn new(settings: Settings) -> Self {
        Self::after_restart(settings, 0, &[])
    }

    /// A restarted coordinator whose last generation had these ranks.
    pub(crate) fn after_restart(settings: Settings, generation: u64, members: &[u32]) -> Self {
        let past = Past {
            generation: Generation(generation),
            members: members.iter().map(|rank| Rank(*rank)).collect(),
        };
        Self { engine: Engine::new(settings, past, Duration::ZERO), now: Duration::ZERO }
    }

    pub(crate) fn on(&mut self, event: Event) -> Vec<Command> {
        self.engine.handle(event, self.now)
    }

    pub(crate) fn joins(&mut self, worker: u64) -> Vec<Command> {
        self.on(Event::Joined(WorkerId(worker), join(None)))
    }

    pub(crate) fn returns(&mut self, worker: u64, rank: u32, g: Option<u64>) -> Vec<Command> {
        self.on(Event::Joined(WorkerId(worker), returning(rank, g)))
    }

    pub(crate) fn ready(&mut self, worker: u64, step: u64) -> Vec<Command> {
        self.on(Event::Ready(WorkerId(worker), at(step), ReadyCause::AsTold))
    }

    pub(crate) fn interrupted(&mut self, worker: u64, step: u64) -> Vec<Command> {
        self.on(Event::Ready(WorkerId(worker), at(step), ReadyCause::Interrupted("reset".into())))
    }

    pub(crate) fn not_fetched(&mut self, worker: u64, step: u64) -> Vec<Command> {
        self.on(Event::Ready(WorkerId(worker), at(step), ReadyCause::NotFetched("refused".into())))
    }

    pub(crate) fn lose(&mut self, worker: u64) -> Vec<Command> {
        self.on(Event::Lost(WorkerId(worker), Loss::Disconnected("reset".into())))
    }

    pub(crate) fn leaves(&mut self, worker: u64) -> Vec<Command> {
        self.on(Event::Leaving(WorkerId(worker)))
    }

    pub(crate) fn alive(&mut self, worker: u64, step: u64, phase: Phase) {
        let progress = Progress { step: Step(step), phase };
        assert_eq!(self.on(Event::Alive(WorkerId(worker), progress)), []);
    }

    /// Lets time pass, in ticks, with heartbeats of these workers.
    pub(crate) fn after(&mut self, time: Duration, alive: &[(u64, u64, Phase)]) -> Vec<Command> {
        let end = self.now + time;
        let mut commands = Vec::new();
        while self.now < end {
            self.now = end.min(self.now + TICK);
            for (worker, step, phase) in alive {
                self.alive(*worker, *step, *phase);
            }
            commands.extend(self.on(Event::Tick));
        }
        commands
    }
}

/// The command that starts a generation; each member has worker, rank, first and end shard.
pub(crate) fn start(generation: u64, members: &[(u64, u32, u32, u32)]) -> Command {
    let members = members.iter().map(|(worker, rank, start, end)| Member {
        worker: WorkerId(*worker),
        rank: Rank(*rank),
        shards: ShardRange { start: *start, end: *end },
    });
    Command::Start(Generation(generation), members.collect())
}

pub(crate) fn abort(generation: u64, workers: &[u64]) -> Command {
    Command::Abort(Generation(generation), ids(workers))
}

pub(crate) fn pause(generation: u64, workers: &[u64]) -> Command {
    Command::Pause(Generation(generation), ids(workers))
}

pub(crate) fn fetch(worker: u64, donor: u64) -> Command {
    Command::Fetch { worker: WorkerId(worker), donor: WorkerId(donor) }
}

pub(crate) fn admit(worker: u64, rank: Option<u32>) -> Command {
    Command::Admit(WorkerId(worker), rank.map(Rank))
}

pub(crate) fn adopt(worker: u64, rank: u32) -> Command {
    Command::Adopt(WorkerId(worker), Rank(rank))
}

pub(crate) fn dismiss(worker: u64) -> Command {
    Command::Dismiss(WorkerId(worker))
}

pub(crate) fn persist(worker: u64) -> Command {
    Command::Persist(WorkerId(worker))
}

fn ids(workers: &[u64]) -> Vec<WorkerId> {
    workers.iter().map(|worker| WorkerId(*worker)).collect()
}
