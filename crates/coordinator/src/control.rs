//! The control loop: feeds the membership engine with what happens, and carries out what it
//! decides. All state of a running coordinator is here, in one task.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use collective::{Generation, Rank};
use config::{Collective, Precision};
use membership::{Command, Engine, Event, Join, Loss, Member, Outcome, Settings, WorkerId};
use protocol::{
    convert::printable,
    status,
    wire::{self, CoordinatorMessage, coordinator_message::Body, worker_message},
};
use tokio::sync::mpsc;
use tonic::Status;

use crate::{console::Console, launch::Launch, record::Record, run_dir::RunDir, spawn::Children};

/// Time between looks at the clock.
const TICK: Duration = Duration::from_millis(50);

/// How long a worker may take to write a checkpoint on demand.
const PERSIST_TIMEOUT: Duration = Duration::from_secs(60);

/// Signs of life that fit into the time after which a worker counts as dead.
const HEARTBEATS_PER_DEATH: u32 = 10;

/// How long workers may take to go once the run has ended.
pub(crate) const FAREWELL: Duration = Duration::from_secs(5);

/// What happens to a coordinator.
#[derive(Debug)]
pub(crate) enum Input {
    /// A worker said hello.
    Joined(WorkerId, Join, Connection),
    /// A worker said something else.
    Message(WorkerId, worker_message::Body),
    /// A worker's stream ended.
    Lost(WorkerId, Loss),
    /// A process that this coordinator started for a rank has exited.
    ChildExited(Rank, String),
    /// A person wants the run to stop.
    Stop,
}

/// The way to a worker.
#[derive(Debug)]
pub(crate) struct Connection {
    outbound: mpsc::Sender<Result<CoordinatorMessage, Status>>,
    address: String,
    host: String,
    /// Equal for workers that can share memory; empty for one that cannot.
    memory_domain: String,
}

impl Connection {
    pub(crate) fn new(
        hello: &wire::Hello,
        outbound: mpsc::Sender<Result<CoordinatorMessage, Status>>,
    ) -> Self {
        let (address, host) = (printable(&hello.all_reduce_address), printable(&hello.host));
        Self { outbound, address, host, memory_domain: printable(&hello.memory_domain) }
    }

    /// Sends, or gives up: a worker that does not take in its messages will fall silent too.
    fn send(&self, message: Result<Body, Status>) {
        let message = message.map(|body| CoordinatorMessage { body: Some(body) });
        if self.outbound.try_send(message).is_err() {
            tracing::debug!(host = self.host, "a message to a worker was dropped");
        }
    }
}

/// A coordinator at work.
#[derive(Debug)]
pub(crate) struct Control<'a> {
    launch: &'a Launch,
    run_dir: &'a mut RunDir,
    children: &'a mut Children,
    console: Console,
    record: Record,
    engine: Engine,
    epoch: Instant,
    connections: HashMap<WorkerId, Connection>,
    ranks: HashMap<WorkerId, Rank>,
    /// In rank order; the first leads.
    members: Vec<WorkerId>,
    outcome: Option<Outcome>,
    /// Why the run directory cannot be written; the run then stops.
    broken: Option<anyhow::Error>,
}

impl<'a> Control<'a> {
    pub(crate) fn new(
        launch: &'a Launch,
        run_dir: &'a mut RunDir,
        children: &'a mut Children,
        console: Console,
    ) -> Result<Self> {
        let config = launch.config();
        let record = Record::new(launch);
        let settings = Settings {
            workers: config.operation.workers,
            shards: config.training.shards,
            steps: collective::Step(record.steps()),
            last_generation: run_dir.last_generation()?,
            dead_after: launch.dead_after,
            join_timeout: launch.join_timeout,
            persist_timeout: PERSIST_TIMEOUT,
            allow_mixed_devices: launch.allow_mixed_devices,
        };
        Ok(Self {
            launch,
            run_dir,
            children,
            console,
            record,
            engine: Engine::new(settings, Duration::ZERO),
            epoch: Instant::now(),
            connections: HashMap::new(),
            ranks: HashMap::new(),
            members: Vec::new(),
            outcome: None,
            broken: None,
        })
    }

    /// Runs until the run has ended and its workers have gone.
    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) -> Result<Outcome> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.outcome.is_none() {
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.take_in(input),
                    None => self.decide(Event::StopRequested),
                },
                _ = ticks.tick() => self.decide(Event::Tick),
            }
        }
        self.console.end();
        self.say_farewell(inputs).await;
        if let Some(error) = self.broken {
            return Err(error);
        }
        let outcome = self.outcome.unwrap_or(Outcome::Interrupted(collective::Step(0)));
        if let Outcome::Completed(digest) = outcome {
            let generations = self.engine.generation();
            self.run_dir.write_summary(&self.record.summary(digest, generations))?;
            self.console.line(&self.record.closing_words(self.run_dir)?);
        }
        Ok(outcome)
    }

    /// Waits, within a bound, for the workers to end their streams.
    async fn say_farewell(&mut self, mut inputs: mpsc::Receiver<Input>) {
        let gone = async {
            while !self.connections.is_empty() {
                match inputs.recv().await {
                    Some(Input::Lost(worker, _)) => drop(self.connections.remove(&worker)),
                    Some(Input::Joined(_, _, connection)) => {
                        connection.send(Err(Status::unavailable("the run has ended")));
                    }
                    Some(_) => {}
                    None => return,
                }
            }
        };
        if tokio::time::timeout(FAREWELL, gone).await.is_err() {
            tracing::warn!(workers = self.connections.len(), "some workers did not go in time");
        }
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::Joined(worker, mut join, connection) => {
                self.connections.insert(worker, connection);
                // How a worker computes bf16 products says nothing about a run in f32.
                if self.launch.config().training.precision == Precision::F32 {
                    join.fingerprint.precision = "f32".into();
                }
                self.decide(Event::Joined(worker, join));
            }
            Input::Message(worker, body) => self.message(worker, body),
            Input::Lost(worker, loss) => {
                self.connections.remove(&worker);
                if let Some(rank) = self.ranks.remove(&worker) {
                    tracing::info!(rank = rank.0, "worker gone: {loss}");
                }
                self.decide(Event::Lost(worker, loss));
            }
            Input::ChildExited(rank, status) => self.decide(Event::ChildExited(rank, status)),
            Input::Stop => {
                self.console.line("Stopping after the step in hand ...");
                self.decide(Event::StopRequested);
            }
        }
    }

    fn message(&mut self, worker: WorkerId, body: worker_message::Body) {
        use worker_message::Body as Said;
        if !self.ranks.contains_key(&worker) {
            return;
        }
        let event = match body {
            Said::Heartbeat(_) => Event::Alive(worker),
            Said::Ready(ready) => match (&ready).try_into() {
                Ok(standing) => {
                    let interrupted = ready.interrupted.as_deref().map(printable);
                    Event::Ready(worker, standing, interrupted)
                }
                Err(malformed) => return self.expel(worker, &status::malformed(&malformed)),
            },
            Said::Leaving(_) => Event::Leaving(worker),
            Said::Saved(_) => Event::Saved(worker),
            Said::Failed(failed) => Event::Failed(worker, (&failed).into()),
            Said::Report(report) => return self.report(worker, &report),
            Said::EpochReport(report) => return self.epoch_report(worker, &report),
            Said::Segment(segment) => return self.announce(worker, segment),
            Said::Hello(_) => {
                return self.expel(worker, &Status::invalid_argument("a second hello"));
            }
        };
        self.decide(event);
    }

    fn close(&mut self, worker: WorkerId, status: Status) {
        self.ranks.remove(&worker);
        if let Some(connection) = self.connections.remove(&worker) {
            connection.send(Err(status));
        }
    }

    fn expel(&mut self, worker: WorkerId, status: &Status) {
        tracing::warn!("a worker is sent away: {}", status.message());
        self.close(worker, status.clone());
        self.decide(Event::Lost(worker, Loss::Disconnected(status.message().to_owned())));
    }

    fn report(&mut self, worker: WorkerId, report: &wire::Report) {
        if self.members.contains(&worker) && report.generation == self.engine.generation().0 {
            let (progress, line) = self.record.report(report);
            self.console.progress(&progress);
            let written = self.run_dir.append_metrics(&line);
            self.stop_if_broken(written);
        }
    }

    fn epoch_report(&mut self, worker: WorkerId, report: &wire::EpochReport) {
        if !self.members.contains(&worker) {
            return;
        }
        if let Some((text, line)) = self.record.epoch_report(report) {
            self.console.line(&text);
            let written = self.run_dir.append_metrics(&line);
            self.stop_if_broken(written);
        }
    }

    /// Stops the run, so that it can be resumed, when its directory cannot be written.
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
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Admit(worker, rank) => self.admit(worker, rank),
            Command::Refuse(worker, refusal) => {
                tracing::info!("a worker was turned away: {refusal}");
                if let Some(connection) = self.connections.remove(&worker) {
                    connection.send(Err(status::refusal(&refusal)));
                }
            }
            Command::Start(generation, members) => self.start(generation, &members),
            Command::Pause(generation) => {
                self.tell_members(&Body::Pause(wire::Pause { generation: generation.0 }));
            }
            Command::Abort(generation) => {
                tracing::info!(generation = generation.0, "generation aborted");
                self.tell_members(&Body::Abort(wire::Abort { generation: generation.0 }));
            }
            Command::Evict(worker) => {
                if let Some(rank) = self.ranks.get(&worker) {
                    self.children.kill(*rank);
                }
                self.close(worker, Status::aborted("given up: no sign of life"));
            }
            Command::Dismiss(worker) => self.close(worker, Status::cancelled("let go")),
            Command::Persist(worker) => self.tell(worker, Body::Persist(wire::Persist {})),
            Command::Finish(outcome) => self.finish(outcome),
        }
    }

    fn admit(&mut self, worker: WorkerId, rank: Rank) {
        self.ranks.insert(worker, rank);
        let Some(connection) = self.connections.get(&worker) else { return };
        tracing::info!(rank = rank.0, host = connection.host, "worker joined");
        self.console.line(&format!(
            "Rank {rank} joined from {} ({}/{})",
            connection.host,
            self.engine.present(),
            self.launch.config().operation.workers
        ));
        let heartbeat = self.launch.dead_after / HEARTBEATS_PER_DEATH;
        let info = &self.launch.info;
        let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
        connection.send(Ok(Body::Welcome(wire::Welcome {
            run_id: info.run_id.clone(),
            rank: rank.0,
            configuration_json: serde_json::to_string(&info.config).unwrap_or_default(),
            run_directory: path(self.run_dir.path()),
            checkpoint: self.launch.checkpoint().map(|(file, _)| path(file)),
            heartbeat_ms: u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX),
        })));
    }

    fn start(&mut self, generation: Generation, members: &[Member]) {
        // The number is used up before anybody hears of it.
        if let Err(error) = self.run_dir.journal_generation(generation) {
            return self.break_off(error);
        }
        tracing::info!(generation = generation.0, members = members.len(), "generation starts");
        self.console.begin(self.record.step(), self.record.steps());
        self.members = members.iter().map(|member| member.worker).collect();
        let member = |member: &Member| {
            let connection = self.connections.get(&member.worker);
            wire::Member {
                rank: member.rank.0,
                first_shard: member.shards.start,
                end_shard: member.shards.end,
                all_reduce_address: connection.map(|c| c.address.clone()).unwrap_or_default(),
                host: connection.map(|c| c.host.clone()).unwrap_or_default(),
            }
        };
        let members = members.iter().map(member).collect();
        let transport = match self.transport() {
            Ok(transport) => transport.into(),
            Err(error) => return self.break_off(error),
        };
        let start = wire::Start { generation: generation.0, members, transport };
        self.tell_members(&Body::Start(start));
    }

    /// Ends the run before its generation has begun, for an error of the coordinator's own.
    fn break_off(&mut self, error: anyhow::Error) {
        self.broken = Some(error);
        self.finish(Outcome::Interrupted(collective::Step(self.record.step())));
    }

    /// How the members exchange gradients: through memory if they can share it, unless the
    /// user says otherwise.
    fn transport(&self) -> Result<wire::Transport> {
        let domain = |worker| self.connections.get(worker).map(|c| c.memory_domain.as_str());
        let first = self.members.first().and_then(domain).filter(|domain| !domain.is_empty());
        let shared = first.is_some() && self.members.iter().all(|m| domain(m) == first);
        match self.launch.config().operation.collective {
            Collective::Auto | Collective::Shm if shared => Ok(wire::Transport::Shm),
            Collective::Auto | Collective::Grpc => Ok(wire::Transport::Grpc),
            Collective::Shm => Err(anyhow!(
                "--collective shm needs all workers on one host, as one user and in one \
                 container: use --collective auto or grpc"
            )),
        }
    }

    /// Tells the others where the leader's segment is.
    fn announce(&self, worker: WorkerId, segment: wire::Segment) {
        if let Some((leader, others)) = self.members.split_first()
            && *leader == worker
        {
            let rendezvous = printable(&segment.rendezvous);
            let segment = Body::Segment(wire::Segment { rendezvous, ..segment });
            others.iter().for_each(|other| self.tell(*other, segment.clone()));
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        let (success, message) = match (&self.broken, &outcome) {
            (Some(error), _) => (false, format!("{error:#}")),
            (None, Outcome::Completed(_) | Outcome::Interrupted(_)) => (true, outcome.to_string()),
            (None, _) => (false, outcome.to_string()),
        };
        let finish = Body::Finish(wire::Finish { success, message });
        for connection in self.connections.values() {
            connection.send(Ok(finish.clone()));
        }
        self.outcome = Some(outcome);
    }

    fn tell_members(&self, body: &Body) {
        self.members.iter().for_each(|worker| self.tell(*worker, body.clone()));
    }

    fn tell(&self, worker: WorkerId, body: Body) {
        if let Some(connection) = self.connections.get(&worker) {
            connection.send(Ok(body));
        }
    }
}
