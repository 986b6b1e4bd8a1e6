//! The control loop: feeds the membership engine with events, and lets [`orders`] carry out the
//! engine's commands. All state of a running coordinator is here, in one task.

mod arrivals;
mod call;
mod drain;
mod fingerprints;
mod orders;
mod recovery;
mod reports;
mod status;
mod stop;
mod topology;
mod waiting;

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;
use collective::{Digest, Rank};
use history::{Event as Happened, EventRow, Time};
use membership::{Engine, Event, Join, Loss, Outcome, Position, Progress, Settings, WorkerId};
use protocol::{
    convert::printable,
    status as code,
    wire::{self, StatusReply, worker_message},
};
use secure::{Key, Secret};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

pub(crate) use self::{call::Outbound, waiting::during};
use self::{fingerprints::Trains, recovery::Recovery, waiting::Waits};
use crate::{
    console::Console,
    deaths::Deaths,
    health::Health,
    journal::{Entry, Process},
    launch::Launch,
    live::Live,
    record::{Record, VERSION},
    run_dir::RunDir,
    spawn::{Children, Exit},
    stop::Asked,
};

/// Time between two ticks of the engine's clock.
const TICK: Duration = Duration::from_millis(50);

/// How long a worker may take to write a checkpoint on demand.
const PERSIST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long workers may take to disconnect once the run has ended.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// An event for the control loop.
#[derive(Debug)]
pub(crate) enum Input {
    /// A worker joined; with `Returning` if it reconnects to this run.
    Joined(WorkerId, Join, Connection, Option<wire::Returning>),
    /// A later message from a worker.
    Message(WorkerId, worker_message::Body),
    /// A worker's stream ended.
    Lost(WorkerId, Loss),
    /// A process that this coordinator started has exited.
    ChildExited(u32, Exit),
    /// It is time to start a process again.
    Restart(u32),
    /// A request for the status of the run.
    Status(oneshot::Sender<StatusReply>),
}

/// The connection to a worker.
#[derive(Debug)]
pub(crate) struct Connection {
    outbound: mpsc::Sender<Result<Outbound, Status>>,
    /// The rank that the worker was told last. The engine forgets an evicted worker before the
    /// eviction is reported, so the rank is kept here.
    rank: Option<Rank>,
    /// Where the worker serves the other workers.
    address: String,
    process: Process,
    /// Equal for workers that can share memory; none for one that cannot.
    memory_domain: Option<String>,
    /// The PCI bus id of the worker's GPU, if it is known.
    gpu: Option<String>,
    /// Whether the worker computes on a GPU.
    is_on_gpu: bool,
    /// The secret that another worker must send to fetch this worker's state.
    state_secret: Secret,
    joined: Instant,
    /// The checkpoint to begin from: the newest one when the worker joined.
    checkpoint: Option<PathBuf>,
    last: Option<(Progress, Instant)>,
    /// Memory of the worker's process, from its last heartbeat.
    memory_bytes: Option<u64>,
    /// Name of the worker's device, for people; empty if unknown.
    device: String,
    /// The worker's fingerprint, in the form that checkpoints hold.
    arithmetic: String,
    trains: Trains,
}

impl Connection {
    pub(crate) fn new(
        hello: &wire::Hello,
        join: &Join,
        outbound: mpsc::Sender<Result<Outbound, Status>>,
        checkpoint: Option<PathBuf>,
    ) -> Self {
        Self {
            outbound,
            rank: None,
            address: printable(&hello.all_reduce_address),
            process: Process {
                host: printable(&hello.host),
                id: hello.process,
                birth: Some(printable(&hello.birth)).filter(|birth| !birth.is_empty()),
            },
            memory_domain: join.memory_domain.clone(),
            gpu: Some(printable(&hello.gpu)).filter(|gpu| !gpu.is_empty()),
            is_on_gpu: join.fingerprint.device == "cuda",
            state_secret: Secret::random(),
            joined: Instant::now(),
            checkpoint,
            last: None,
            memory_bytes: None,
            device: printable(&hello.device_name),
            arithmetic: String::new(),
            trains: hello.into(),
        }
    }

    /// Sends a message, or drops it if the queue is full. A worker that does not read its messages
    /// will also stop its heartbeats, and is then evicted.
    fn send(&self, message: Result<Outbound, Status>) {
        if self.outbound.try_send(message).is_err() {
            tracing::debug!(host = self.process.host, "a message to a worker was dropped");
        }
    }
}

/// A running coordinator.
#[derive(Debug)]
pub(crate) struct RunningCoordinator<'a> {
    launch: &'a Launch,
    key: Key,
    run_dir: &'a mut RunDir,
    children: &'a mut Children,
    /// Why workers that were started here have died.
    deaths: Deaths,
    console: Console,
    record: Record,
    /// Sends the run's events beyond its own files.
    live: Live,
    waits: Waits,
    engine: Engine,
    /// The arithmetic of all steps of the run so far: one fingerprint for each kind.
    arithmetic: BTreeSet<String>,
    /// The digest of the first worker's program; empty if it is not known.
    program: Option<Vec<u8>>,
    /// The digest of the probe's gradient, which every worker must reproduce.
    probe: Option<Digest>,
    /// The reason of the last refusal of a worker that computes something else.
    turned_away: Option<String>,
    epoch: Instant,
    connections: HashMap<WorkerId, Connection>,
    /// The members of the current generation, in rank order; the first is the leader.
    members: Vec<(Rank, WorkerId)>,
    /// The members' transport; none until this coordinator has started a generation.
    transport: Option<wire::Transport>,
    /// Whether this coordinator has seen a generation.
    has_begun: bool,
    /// When this coordinator decided on the current generation.
    generation_began: Option<Instant>,
    recovery: Recovery,
    outcome: Option<Outcome>,
    /// Why a worker could not store the last checkpoint after the run's end.
    unfinished: Option<String>,
    /// Publishes this coordinator's health.
    health: watch::Sender<Health>,
    /// Why the run directory cannot be written; the run then stops.
    broken: Option<anyhow::Error>,
    /// What signals ask for.
    asked: watch::Receiver<Asked>,
    /// Whether the coordinator ends at once, without waiting for its workers.
    is_cut_short: bool,
    /// Whether the run was interrupted when no worker was left that could save the newest state.
    is_unsaved: bool,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    /// Why the last checkpoint could not be stored, if it could not.
    pub(crate) unfinished: Option<String>,
    /// Whether the run was interrupted before its state was saved. The outcome then names the step
    /// of the last checkpoint.
    pub(crate) is_cut_short: bool,
}

impl<'a> RunningCoordinator<'a> {
    pub(crate) fn new(
        launch: &'a Launch,
        key: Key,
        run_dir: &'a mut RunDir,
        children: &'a mut Children,
        console: Console,
        health: watch::Sender<Health>,
        asked: watch::Receiver<Asked>,
    ) -> Self {
        let config = launch.config();
        let arithmetic: BTreeSet<String> = launch
            .checkpoint()
            .map(|(_, metadata)| metadata.arithmetic.iter().cloned().collect())
            .unwrap_or_default();
        let recorded = run_dir.take_recorded();
        let live = Live::start(launch, run_dir.path(), recorded.last_steps());
        let record = Record::new(launch, recorded);
        let settings = Settings {
            workers: config.operation.workers,
            min_workers: launch.min_workers,
            shards: config.training.shards,
            steps: collective::Step(record.steps()),
            dead_after: launch.dead_after,
            stall_after: launch.stall_after,
            join_timeout: launch.join_timeout,
            persist_timeout: PERSIST_TIMEOUT,
            allow_mixed_devices: launch.allow_mixed_devices,
        };
        Self {
            launch,
            key,
            run_dir,
            children,
            deaths: Deaths::new(),
            console,
            record,
            live,
            waits: Waits::default(),
            engine: Engine::new(settings, launch.history.past(), Duration::ZERO)
                .going_on_from(arithmetic.clone()),
            arithmetic,
            program: None,
            probe: launch.history.probe(),
            turned_away: None,
            epoch: Instant::now(),
            connections: HashMap::new(),
            members: Vec::new(),
            transport: None,
            has_begun: false,
            generation_began: None,
            recovery: Recovery::default(),
            outcome: None,
            unfinished: None,
            health,
            broken: None,
            asked,
            is_cut_short: false,
            is_unsaved: false,
        }
    }

    /// Runs until the run has ended and its workers have disconnected.
    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) -> Result<Ended> {
        self.begin();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.outcome.is_none() && !self.is_cut_short {
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.take_in(input),
                    None => self.decide(Event::StopRequested),
                },
                Ok(()) = self.asked.changed() => self.handle_signals(),
                _ = ticks.tick() => {
                    self.deaths.pass_time();
                    self.pass_time_of_metrics();
                    self.decide(Event::Tick);
                    self.tell_waiting();
                }
            }
        }
        self.console.end();
        self.record_unreported(u64::MAX);
        self.flush_metrics();
        if !self.is_cut_short {
            self.drain(&mut inputs).await;
        }
        if self.is_cut_short {
            self.cut_short();
        }
        self.console.end();
        if let Some(error) = self.broken {
            return Err(error);
        }
        if self.is_cut_short && self.outcome.is_none() {
            let outcome = Outcome::Interrupted(self.newest_checkpoint());
            return Ok(Ended { outcome, unfinished: None, is_cut_short: true });
        }
        let outcome = self.outcome.unwrap_or(Outcome::Interrupted(collective::Step(0)));
        self.live.end(matches!(outcome, Outcome::Completed(_)));
        self.run_dir.journal().note(&Entry::Ended)?;
        crashpoint::reach!("coordinator.ended");
        if let Outcome::Completed(digest) = outcome {
            let generations = self.engine.generation();
            self.run_dir.write_summary(&self.record.summary(digest, generations))?;
            self.console.line(&self.record.closing_words(self.run_dir, digest)?);
        }
        Ok(Ended { outcome, unfinished: self.unfinished, is_cut_short: self.is_unsaved })
    }

    fn begin(&mut self) {
        let past = self.launch.history.past();
        if !past.members.is_empty() {
            let members = stdout::counted(past.members.len() as u64, "worker");
            self.console.line(&format!(
                "Waiting for {members} of generation {} to reconnect",
                past.generation
            ));
        }
        let (generation, version) = (past.generation.0, Some(VERSION.to_owned()));
        self.note(Happened::CoordinatorStarted { generation, version });
        if past.members.is_empty() {
            // Workers that continue from the checkpoint report its last epoch once more.
            self.record_unreported(self.record.begun_at_epoch());
        }
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::Joined(worker, join, connection, returning) => {
                self.joined(worker, join, connection, returning.as_ref());
            }
            Input::Message(worker, body) => self.message(worker, body),
            Input::Lost(worker, loss) => {
                if self.connections.contains_key(&worker) {
                    self.lost(worker, &loss);
                    self.connections.remove(&worker);
                    self.decide(Event::Lost(worker, loss));
                }
            }
            Input::ChildExited(slot, exit) => self.child_exited(slot, &exit),
            Input::Restart(slot) => {
                if let Err(error) = self.children.restart(slot, self.run_dir.journal()) {
                    tracing::warn!(slot, "cannot start a worker again: {error:#}");
                }
            }
            Input::Status(reply) => {
                let _gone = reply.send(self.status());
            }
        }
    }

    /// Records the loss of a worker, and prints it.
    fn lost(&mut self, worker: WorkerId, loss: &Loss) {
        let who = self.name(worker);
        let host = self.connections.get(&worker).map(|c| c.process.host.clone());
        let place = host.map_or(String::new(), |host| format!(" on {host}"));
        self.console.line(&match loss {
            Loss::Left => format!("Dismissed {who}{place}"),
            loss => format!("Lost {who}{place}: {loss}"),
        });
        if self.is_member(worker) && *loss != Loss::Left {
            self.detect(&format!("{who} is gone: {loss}"), true);
        }
        let rank = self.rank(worker).map(|rank| rank.0);
        self.note(Happened::Lost { rank, reason: loss.to_string() });
    }

    /// Records that the generation is about to end.
    fn detect(&mut self, cause: &str, is_told: bool) {
        if self.recovery.detect(cause, is_told) {
            let generation = self.engine.generation().0;
            self.note(Happened::GenerationEnded { generation, cause: cause.to_owned() });
        }
    }

    /// The rank of a connected worker; none for a spare.
    fn rank(&self, worker: WorkerId) -> Option<Rank> {
        self.connections.get(&worker)?.rank
    }

    /// A worker's name for people.
    fn name(&self, worker: WorkerId) -> String {
        match self.rank(worker) {
            Some(rank) => format!("rank {rank}"),
            None => "a spare".into(),
        }
    }

    fn message(&mut self, worker: WorkerId, body: worker_message::Body) {
        use worker_message::Body as WorkerMsg;
        let Some(connection) = self.connections.get_mut(&worker) else { return };
        let event = match body {
            WorkerMsg::Heartbeat(heartbeat) => {
                let progress = Progress::from(&heartbeat);
                connection.last = Some((progress, Instant::now()));
                connection.memory_bytes = Some(heartbeat.memory_bytes).filter(|bytes| *bytes > 0);
                Event::Alive(worker, progress)
            }
            WorkerMsg::Ready(ready) => match Position::try_from(&ready) {
                Ok(_) if self.refuses_probe(worker, &ready) => return,
                Ok(position) => {
                    crashpoint::reach!("coordinator.ready-received");
                    self.ready(worker, &ready);
                    if ready.is_last && self.record.end_early(ready.step) {
                        self.engine.end_at(position.step);
                    }
                    Event::Ready(worker, position, (&ready).into())
                }
                Err(malformed) => return self.expel(worker, &code::malformed(&malformed)),
            },
            WorkerMsg::Leaving(_) => Event::Leaving(worker),
            WorkerMsg::Saved(_) => {
                crashpoint::reach!("coordinator.saved-received");
                Event::Saved(worker)
            }
            WorkerMsg::Failed(failed) => Event::Failed(worker, (&failed).into()),
            WorkerMsg::Report(report) => return self.report(worker, &report),
            WorkerMsg::EpochReport(report) => return self.epoch_report(&report),
            WorkerMsg::Segment(segment) => return self.announce(worker, segment),
            WorkerMsg::Hello(_) => {
                return self.expel(worker, &Status::invalid_argument("a second hello"));
            }
        };
        self.decide(event);
    }

    /// Records the rest of a worker's Ready: an interrupted generation, or a copied state.
    fn ready(&mut self, worker: WorkerId, ready: &wire::Ready) {
        let rank = self.rank(worker).map(|rank| rank.0);
        if let Some(wire::ready::Unexpected::Interrupted(reason)) = &ready.unexpected
            // A worker that reconnects reports a generation that is already over.
            && self.is_member(worker)
        {
            let who = self.name(worker);
            self.detect(&format!("{who}: {}", printable(reason)), false);
        }
        if let Some(transfer) = &ready.transfer {
            let ms = transfer.seconds * 1e3;
            self.recovery.transferred(transfer.seconds);
            let bytes = transfer.bytes;
            self.note(Happened::StateTransferred { rank, bytes, ms });
        }
    }

    fn expel(&mut self, worker: WorkerId, status: &Status) {
        tracing::warn!("a worker is sent away: {}", status.message());
        let loss = Loss::Disconnected(status.message().to_owned());
        self.lost(worker, &loss);
        self.close(worker, status.clone());
        self.decide(Event::Lost(worker, loss));
    }

    fn close(&mut self, worker: WorkerId, status: Status) {
        if let Some(connection) = self.connections.remove(&worker) {
            connection.send(Err(status));
        }
    }

    fn is_member(&self, worker: WorkerId) -> bool {
        self.members.iter().any(|(_, member)| *member == worker)
    }

    /// Writes a row of the events.
    fn note(&mut self, event: Happened) {
        let row = EventRow { time: Some(Time::now()), event };
        self.live.event(&row);
        let written = self.run_dir.append_event(&row);
        self.stop_if_broken(written);
    }

    /// Stops the run if its directory cannot be written, so that the run can be resumed.
    fn stop_if_broken(&mut self, written: Result<()>) {
        if let (Err(error), None) = (written, &self.broken) {
            self.broken = Some(error);
            self.decide(Event::StopRequested);
        }
    }

    fn decide(&mut self, event: Event) {
        let now = self.epoch.elapsed();
        for command in self.engine.handle(event, now) {
            self.carry_out(command);
        }
        let health = match (&self.outcome, self.engine.is_training()) {
            (Some(_), _) => Health::Ended,
            (None, true) => Health::Training,
            (None, false) => Health::Waiting,
        };
        self.health.send_if_modified(|before| std::mem::replace(before, health) != health);
    }
}
