//! A model of a run: an engine, its journal, workers, and the messages between them.
//!
//! Workers train in lockstep: a worker finishes a step once all members of its generation have
//! contributed to it. Messages stay in order on a connection and are lost with it. A decision that
//! breaks an invariant of the run is a panic.

mod workers;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use collective::{Digest, Generation, Rank, Step};
use membership::{
    Command, Engine, Event, Fingerprint, Join, Loss, Member, Outcome, Past, Phase, Position,
    Progress, ReadyCause, Returning, Settings, WorkerId,
};

/// The index of a process, in the order of the starts.
pub(crate) type Process = usize;

/// Number of hosts; workers are assigned to them in turn.
const HOSTS: usize = 2;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    settings: Settings,
    pub(crate) engine: Engine,
    /// The content of the journal on disk.
    journal: Past,
    pub(crate) now: Duration,
    pub(crate) workers: Vec<Worker>,
    links: BTreeMap<WorkerId, Link>,
    next_link: u64,
    rounds: BTreeMap<Generation, Round>,
    /// Whether a leader has done the last step, and so has written its checkpoint.
    is_saved: bool,
    /// The step of the newest checkpoint that a worker wrote on demand; new workers load it.
    checkpoint: u64,
    pub(crate) outcome: Option<Outcome>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Worker {
    link: Option<WorkerId>,
    rank: Option<Rank>,
    pub(crate) step: u64,
    pub(crate) task: Task,
    /// Why the worker is idle.
    cause: ReadyCause,
    /// Whether a coordinator has admitted the worker before.
    is_known: bool,
    pub(crate) is_gone: bool,
    pub(crate) is_frozen: bool,
    /// Whether the worker sends heartbeats but no longer computes.
    pub(crate) is_hung: bool,
    /// Whether the run may have gone on without this worker, so that its steps may be done again.
    has_strayed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Task {
    Idle,
    Computing(Generation),
    Fetching(Process),
}

/// A connection, and the messages on their way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Link {
    worker: Process,
    is_admitted: bool,
    up: VecDeque<Event>,
    down: VecDeque<Command>,
}

/// A generation as its members see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Round {
    members: BTreeMap<Process, Part>,
    /// The leader comes first.
    leader: Process,
    /// The step after which all members stop.
    pause_after: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Part {
    /// The last step that the member has done; none until it has begun.
    done: Option<u64>,
    /// Whether the member has stopped in the middle of a step.
    has_broken_off: bool,
}

/// An action that is possible now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Connect(Process),
    /// The coordinator handles the next message of a connection.
    Hear(WorkerId),
    /// The worker handles the next message of a connection.
    Execute(WorkerId),
    Finish(Process),
    /// A member notices that another member has stopped in the middle of a step.
    BreakOff(Process),
    Fetched(Process),
}

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    Kill(Process),
    /// A process is killed, and a new process is started.
    Replace(Process),
    Leave(Process),
    /// The connection breaks, and the worker goes on.
    Cut(Process),
    Freeze(Process),
    Thaw(Process),
    Hang(Process),
    /// A member's generation is interrupted for no reason.
    Interrupt(Process),
    FailFetch(Process),
    RestartCoordinator,
}

impl World {
    pub(crate) fn new(settings: Settings, workers: usize) -> Self {
        Self {
            engine: Engine::new(settings.clone(), Past::default(), Duration::ZERO),
            settings,
            journal: Past::default(),
            now: Duration::ZERO,
            workers: vec![Worker::new(); workers],
            links: BTreeMap::new(),
            next_link: 0,
            rounds: BTreeMap::new(),
            is_saved: false,
            checkpoint: 0,
            outcome: None,
        }
    }

    /// A person wants the run to stop.
    pub(crate) fn request_stop(&mut self) {
        self.tell_engine(Event::StopRequested);
    }

    pub(crate) fn start_worker(&mut self) {
        self.workers.push(Worker::new());
    }

    pub(crate) fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.outcome.is_some() {
            return actions;
        }
        for (process, worker) in self.workers.iter().enumerate() {
            if worker.is_gone || worker.is_frozen {
                continue;
            }
            if worker.link.is_none() {
                actions.push(Action::Connect(process));
            }
            match worker.task {
                _ if worker.is_hung => {}
                Task::Idle => {}
                // The coordinator learns that a donor is gone before the fetch from it fails.
                Task::Fetching(donor) => {
                    if !self
                        .links
                        .values()
                        .any(|l| l.worker == donor && self.workers[donor].is_gone)
                    {
                        actions.push(Action::Fetched(process));
                    }
                }
                Task::Computing(generation) => {
                    let round = &self.rounds[&generation];
                    if round.members.values().all(|part| part.done >= Some(worker.step)) {
                        actions.push(Action::Finish(process));
                    }
                    if round
                        .members
                        .iter()
                        .any(|(p, part)| part.has_broken_off || self.workers[*p].is_gone)
                    {
                        actions.push(Action::BreakOff(process));
                    }
                }
            }
        }
        for (id, link) in &self.links {
            if !link.up.is_empty() {
                actions.push(Action::Hear(*id));
            }
            let worker = &self.workers[link.worker];
            if !link.down.is_empty() && worker.link == Some(*id) && !worker.is_frozen {
                actions.push(Action::Execute(*id));
            }
        }
        actions
    }

    /// Whether an action has the same result now or later, if no fault comes between.
    pub(crate) fn is_local(&self, action: Action) -> bool {
        match action {
            // A member's request to join names its current generation, so its time matters.
            Action::Connect(process) => !matches!(self.workers[process].task, Task::Computing(_)),
            Action::Execute(id) => {
                let link = &self.links[&id];
                let is_idle = self.workers[link.worker].task == Task::Idle;
                match link.down.front() {
                    Some(Command::Pause(..) | Command::Abort(..)) => is_idle,
                    Some(Command::Evict(..)) | None => false,
                    Some(_) => true,
                }
            }
            Action::Hear(id) => {
                // At the beginning, the order in which workers join makes no difference.
                let is_first = self.engine.generation() == Generation(0) && self.next_link <= 3;
                is_first && matches!(self.links[&id].up.front(), Some(Event::Joined(..)))
            }
            Action::Finish(_) | Action::BreakOff(_) | Action::Fetched(_) => false,
        }
    }

    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::Connect(process) => self.connect(process),
            Action::Hear(id) => {
                let event = self.links.get_mut(&id).unwrap().up.pop_front().unwrap();
                if matches!(event, Event::Lost(..)) {
                    self.links.remove(&id);
                }
                self.tell_engine(event);
            }
            Action::Execute(id) => {
                let link = self.links.get_mut(&id).unwrap();
                let (process, command) = (link.worker, link.down.pop_front().unwrap());
                self.handle(process, id, command);
            }
            Action::Finish(process) => self.finish_step(process),
            Action::BreakOff(process) => self.interrupt(process),
            Action::Fetched(process) => self.fetched(process),
        }
        self.forget_rounds();
    }

    pub(crate) fn inflict(&mut self, fault: Fault) {
        match fault {
            Fault::Kill(process) => self.exit(process),
            Fault::Replace(process) => {
                self.exit(process);
                self.start_worker();
            }
            Fault::Leave(process) => {
                let id = self.workers[process].link.unwrap();
                self.links.get_mut(&id).unwrap().up.push_back(Event::Leaving(id));
            }
            Fault::Cut(process) => self.disconnect(process),
            Fault::Freeze(process) => {
                self.workers[process].is_frozen = true;
                self.workers[process].has_strayed = true;
            }
            Fault::Thaw(process) => self.workers[process].is_frozen = false,
            Fault::Hang(process) => self.workers[process].is_hung = true,
            Fault::Interrupt(process) => self.interrupt(process),
            Fault::FailFetch(process) => {
                self.become_idle(process, ReadyCause::NotFetched(String::new()));
            }
            Fault::RestartCoordinator => {
                self.links.clear();
                self.workers.iter_mut().for_each(|worker| worker.link = None);
                self.engine = Engine::new(self.settings.clone(), self.journal.clone(), self.now);
            }
        }
        self.forget_rounds();
    }

    /// The faults that can happen to one process now.
    pub(crate) fn faults(&self, process: Process) -> Vec<Fault> {
        let worker = &self.workers[process];
        if worker.is_gone {
            return Vec::new();
        }
        let mut faults = vec![Fault::Kill(process), Fault::Replace(process)];
        if worker.is_frozen {
            faults.push(Fault::Thaw(process));
            return faults;
        }
        faults.push(Fault::Freeze(process));
        let is_admitted = worker.link.is_some_and(|id| self.links[&id].is_admitted);
        if is_admitted {
            faults.extend([Fault::Leave(process), Fault::Cut(process)]);
        }
        match worker.task {
            Task::Idle => {}
            Task::Computing(_) => {
                faults.extend([Fault::Interrupt(process), Fault::Hang(process)]);
            }
            Task::Fetching(_) => faults.push(Fault::FailFetch(process)),
        }
        faults
    }

    /// Lets time pass: workers that are not frozen send a heartbeat, then the engine gets a tick. Returns
    /// whether the engine decided anything.
    pub(crate) fn pass(&mut self, time: Duration) -> bool {
        self.now += time;
        let connected: Vec<(WorkerId, Process)> = self
            .links
            .iter()
            .filter(|(id, link)| link.is_admitted && self.workers[link.worker].link == Some(**id))
            .map(|(id, link)| (*id, link.worker))
            .collect();
        for (id, process) in connected {
            let worker = &self.workers[process];
            if !worker.is_frozen {
                let progress = Progress { step: Step(worker.step), phase: self.phase(process) };
                self.engine.handle(Event::Alive(id, progress), self.now);
            }
        }
        self.tell_engine(Event::Tick)
    }

    fn phase(&self, process: Process) -> Phase {
        let worker = &self.workers[process];
        match worker.task {
            Task::Computing(_) if worker.is_hung => Phase::Computing,
            Task::Computing(_) => Phase::Waiting,
            Task::Idle | Task::Fetching(_) => Phase::Idle,
        }
    }

    /// The furthest step that a worker has done with the run; the run must not lose this step.
    fn furthest(&self) -> u64 {
        let kept = self.workers.iter().filter(|worker| !worker.is_gone && !worker.has_strayed);
        kept.map(|worker| worker.step).max().unwrap_or_default()
    }

    fn connect(&mut self, process: Process) {
        let id = WorkerId(self.next_link);
        self.next_link += 1;
        let worker = &mut self.workers[process];
        worker.link = Some(id);
        let generation = match worker.task {
            Task::Computing(generation) => Some(generation),
            Task::Idle | Task::Fetching(_) => None,
        };
        let join = Join {
            rank: worker.rank,
            fingerprint: fingerprint(),
            memory_domain: Some((process % HOSTS).to_string()),
            returning: worker.is_known.then_some(Returning { generation }),
        };
        let up = VecDeque::from([Event::Joined(id, join)]);
        let link = Link { worker: process, is_admitted: false, up, down: VecDeque::new() };
        self.links.insert(id, link);
    }

    fn tell_engine(&mut self, event: Event) -> bool {
        let commands = self.engine.handle(event, self.now);
        let has_decided = !commands.is_empty();
        for command in commands {
            self.carry_out(command);
        }
        has_decided
    }

    fn carry_out(&mut self, command: Command) {
        let receivers = match &command {
            Command::Admit(worker, _)
            | Command::Adopt(worker, _)
            | Command::Refuse(worker, _)
            | Command::Fetch { worker, .. }
            | Command::Evict(worker, _)
            | Command::Dismiss(worker)
            | Command::Persist(worker) => vec![*worker],
            Command::Pause(_, workers) | Command::Abort(_, workers) => workers.clone(),
            Command::Start(generation, members) => {
                self.check_start(*generation, members);
                members.iter().map(|member| member.worker).collect()
            }
            Command::Wait { .. } => Vec::new(),
            Command::Finish(outcome) => {
                self.outcome = Some(outcome.clone());
                match outcome {
                    Outcome::Completed(_) => assert!(self.is_saved, "no leader has saved"),
                    Outcome::Interrupted(step) => {
                        assert!(step.0 <= self.checkpoint, "{step} was not saved")
                    }
                    _ => {}
                }
                Vec::new()
            }
        };
        for id in receivers {
            // The connection may have ended before the engine knows.
            if let Some(link) = self.links.get_mut(&id) {
                link.down.push_back(command.clone());
            }
        }
    }

    /// Checks the invariants of a generation, and opens it.
    fn check_start(&mut self, generation: Generation, members: &[Member]) {
        assert!(generation > self.journal.generation, "{generation} is used twice");
        self.journal.generation = generation;
        self.journal.members = members.iter().map(|member| member.rank).collect();
        let in_order = members.is_sorted_by(|a, b| a.rank < b.rank);
        assert!(in_order && !members.is_empty(), "{generation} has no one leader: {members:?}");
        let mut dealt: Vec<_> = members.iter().map(|member| member.shards).collect();
        dealt.sort_by_key(|shards| shards.start);
        let mut next_shard = 0;
        for shards in dealt {
            assert_eq!(shards.start, next_shard, "shards of {generation}: {members:?}");
            next_shard = shards.end;
        }
        assert_eq!(next_shard, self.settings.shards, "shards of {generation}: {members:?}");
        let processes: Vec<Process> =
            members.iter().map(|member| self.links[&member.worker].worker).collect();
        let alive = processes.iter().map(|p| &self.workers[*p]).filter(|worker| !worker.is_gone);
        let steps: BTreeSet<u64> = alive.map(|worker| worker.step).collect();
        assert!(steps.len() <= 1, "members of {generation} stand at {steps:?}");
        self.rounds.insert(
            generation,
            Round {
                leader: processes[0],
                members: processes.into_iter().map(|p| (p, Part::default())).collect(),
                pause_after: None,
            },
        );
    }

    /// Forgets generations that are over, so that worlds which differ only in their past are equal.
    fn forget_rounds(&mut self) {
        let (workers, links) = (&self.workers, &self.links);
        self.rounds.retain(|generation, _| {
            let is_told =
                |command: &Command| matches!(command, Command::Start(g, _) if g == generation);
            workers.iter().any(|worker| worker.task == Task::Computing(*generation))
                || links.values().any(|link| link.down.iter().any(is_told))
        });
    }
}

impl Worker {
    fn new() -> Self {
        Self {
            link: None,
            rank: None,
            step: 0,
            task: Task::Idle,
            cause: ReadyCause::AsTold,
            is_known: false,
            is_gone: false,
            is_frozen: false,
            is_hung: false,
            has_strayed: false,
        }
    }
}

pub(crate) fn digest(step: u64) -> Digest {
    Digest([u8::try_from(step % 251).unwrap(); 16])
}

/// All reasons and names are empty, so that comparing worlds is cheap.
fn fingerprint() -> Fingerprint {
    Fingerprint {
        device: String::new(),
        instruction_set: String::new(),
        precision: String::new(),
        libtorch: String::new(),
    }
}
