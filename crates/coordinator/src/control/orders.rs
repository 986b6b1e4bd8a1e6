//! Carries out the engine's commands.

use std::{sync::Arc, time::Instant};

use collective::{Generation, Rank, Step};
use config::task::Precision;
use history::Event as Happened;
use membership::{Command, Loss, Member, Outcome, Refusal, WorkerId};
use protocol::{
    convert::{path_to_wire, printable},
    status,
    wire::{self, coordinator_message::Body},
};
use tonic::Status;

use super::{
    Connection, RunningCoordinator,
    call::{Call, Outbound},
    recovery::Recovered,
    topology::{self, Topology},
};
use crate::journal;

/// Heartbeats in the time after which a silent worker counts as dead.
const HEARTBEATS_PER_DEATH: u32 = 10;

impl RunningCoordinator<'_> {
    pub(super) fn carry_out(&mut self, command: Command) {
        match command {
            Command::Admit(worker, rank) => self.admit(worker, rank),
            Command::Adopt(worker, rank) => self.adopt(worker, rank),
            Command::Refuse(worker, refusal) => self.refuse(worker, &refusal),
            Command::Start(generation, members) => self.start(generation, &members),
            Command::Pause(generation, workers) => {
                self.detect("a pause, for a worker that comes or goes", false);
                let pause = Body::Pause(wire::Pause { generation: generation.0 });
                workers.iter().for_each(|worker| self.tell(*worker, pause.clone()));
            }
            Command::Abort(generation, workers) => {
                tracing::info!(generation = generation.0, "generation aborted");
                let abort = Body::Abort(wire::Abort { generation: generation.0 });
                workers.iter().for_each(|worker| self.tell(*worker, abort.clone()));
            }
            Command::Fetch { worker, donor } => self.fetch(worker, donor),
            Command::Evict(worker, loss) => self.evict(worker, &loss),
            Command::Dismiss(worker) => {
                self.lost(worker, &Loss::Left);
                self.close(worker, Status::cancelled("dismissed"));
            }
            Command::Persist(worker) => self.tell(worker, Body::Persist(wire::Persist {})),
            Command::Wait { present, needed } => {
                self.console.line(&format!("Waiting for workers: {present} of {needed} are ready"));
                let (present, needed) = (present.into(), needed.into());
                self.note(Happened::Waiting { present, needed });
            }
            Command::Finish(outcome) => self.finish(outcome),
        }
    }

    fn refuse(&mut self, worker: WorkerId, refusal: &Refusal) {
        match refusal {
            Refusal::MixedFingerprints { .. } | Refusal::OtherArithmetic { .. } => {
                tracing::warn!("a worker was turned away: {refusal}");
                self.turned_away = Some(refusal.to_string());
            }
            _ => tracing::info!("a worker was turned away: {refusal}"),
        }
        self.close(worker, status::refusal(refusal));
    }

    fn admit(&mut self, worker: WorkerId, rank: Option<Rank>) {
        self.assign(worker, rank);
        let Some(connection) = self.connections.get(&worker) else { return };
        let host = connection.process.host.clone();
        let process = connection.process.clone();
        let device = connection.device.clone();
        self.console.line(&match rank {
            Some(rank) => format!(
                "Rank {rank} joined from {host} ({}/{})",
                self.engine.present(),
                self.launch.config().operation.workers
            ),
            None => format!("A spare joined from {host}"),
        });
        self.welcome(worker, rank);
        self.children.note_joined(&process);
        let rank = rank.map(|rank| rank.0);
        let (process, device) = (process.id, Some(device).filter(|device| !device.is_empty()));
        self.note(Happened::Joined { rank, host, process, device });
    }

    /// Admits a member of the current generation again.
    fn adopt(&mut self, worker: WorkerId, rank: Rank) {
        tracing::info!(rank = rank.0, "worker is back");
        self.assign(worker, Some(rank));
        self.members.push((rank, worker));
        self.members.sort_unstable();
        self.has_begun = true;
        self.generation_began = Some(Instant::now());
        self.console.begin(self.record.progress());
        self.welcome(worker, Some(rank));
        let generation = self.engine.generation().0;
        self.note(Happened::Adopted { rank: rank.0, generation });
    }

    fn assign(&mut self, worker: WorkerId, rank: Option<Rank>) {
        if let Some(connection) = self.connections.get_mut(&worker) {
            connection.rank = rank;
        }
    }

    fn welcome(&self, worker: WorkerId, rank: Option<Rank>) {
        let Some(connection) = self.connections.get(&worker) else { return };
        let info = &self.launch.info;
        let millis =
            |time: std::time::Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        connection.send(Ok(Outbound::Plain(Body::Welcome(wire::Welcome {
            run_id: info.run_id.clone(),
            rank: rank.map(|rank| rank.0),
            configuration_json: info.configuration_json(),
            run_directory: path_to_wire(self.run_dir.path()),
            checkpoint: connection.checkpoint.as_deref().map(path_to_wire),
            heartbeat_ms: millis(self.launch.dead_after / HEARTBEATS_PER_DEATH),
            coordinator_timeout_ms: millis(self.launch.coordinator_timeout),
            state_secret: connection.state_secret.bytes().to_vec().into(),
            recorded: Some(self.record.recorded()),
        }))));
    }

    fn start(&mut self, generation: Generation, members: &[Member]) {
        // The number is in the journal before any worker hears of it, so that it is never used twice.
        let entry = |member: &Member| {
            let process = self.connections.get(&member.worker).map(|c| c.process.clone());
            Some(journal::Member { rank: member.rank.0, process: process? })
        };
        let entry = journal::Entry::Generation {
            number: generation.0,
            members: members.iter().filter_map(entry).collect(),
        };
        if let Err(error) = self.run_dir.journal().note(&entry) {
            return self.break_off(error);
        }
        crashpoint::reach!("coordinator.decided");
        self.recovery.start();
        self.tell_beginning(members.len());
        self.console.begin(self.record.progress());
        self.members = members.iter().map(|member| (member.rank, member.worker)).collect();
        members.iter().for_each(|member| self.assign(member.worker, Some(member.rank)));
        let topology = Topology::of(self.members.iter().map(|(_, worker)| {
            self.connections.get(worker).and_then(|worker| worker.memory_domain.as_deref())
        }));
        let gpus = self.members.iter().map(|(_, worker)| {
            let Connection { process, gpu, .. } = self.connections.get(worker)?;
            Some((process.host.as_str(), gpu.as_deref()?))
        });
        let asked = self.launch.config().operation.collective;
        let transport = match topology.transport(asked, gpus.collect()) {
            Ok(transport) => transport,
            Err(error) => return self.break_off(error),
        };
        if let Err(error) = self.launch.begin(self.run_dir) {
            return self.break_off(error);
        }
        tracing::info!(
            generation = generation.0,
            members = members.len(),
            hosts = topology.hosts(),
            collective = topology::name(transport),
            "generation starts"
        );
        self.transport = Some(transport);
        let computing = members.iter().filter_map(|member| self.connections.get(&member.worker));
        self.arithmetic.extend(computing.map(|connection| connection.arithmetic.clone()));
        let arithmetic = self.arithmetic.iter().cloned().collect();
        let stays_on_gpus = self.stays_on_gpus();
        let members = members.iter().zip(topology.memory_domains());
        let members = members.map(|(member, memory_domain)| {
            let connection = self.connections.get(&member.worker);
            wire::Member {
                rank: member.rank.0,
                first_shard: member.shards.start,
                end_shard: member.shards.end,
                all_reduce_address: connection.map(|c| c.address.clone()).unwrap_or_default(),
                host: connection.map(|c| c.process.host.clone()).unwrap_or_default(),
                memory_domain: *memory_domain,
                ..wire::Member::default()
            }
        });
        let (key, members) = (self.key, members.collect());
        let call = Call::new(key, generation, transport, members, arithmetic, stays_on_gpus);
        let call = Arc::new(call);
        for (rank, worker) in &self.members {
            if let Some(connection) = self.connections.get(worker) {
                connection.send(Ok(Outbound::Call(Arc::clone(&call), *rank)));
            }
        }
    }

    /// Whether the state stays on the members' GPUs: all members compute on GPUs, and the task has
    /// its own kernels for them.
    fn stays_on_gpus(&self) -> bool {
        let is_on_gpu = |(_, worker): &(Rank, WorkerId)| {
            self.connections.get(worker).is_some_and(|connection| connection.is_on_gpu)
        };
        let task = &self.launch.config().training.task;
        task.portable && task.precision == Precision::F32 && self.members.iter().all(is_on_gpu)
    }

    /// Ends the run before its generation has begun, because of an error in the coordinator.
    fn break_off(&mut self, error: anyhow::Error) {
        self.broken = Some(error);
        self.finish(Outcome::Interrupted(Step(self.record.step())));
    }

    /// Sends the rendezvous that the first member of a group has made to the other members of the
    /// group: those that share memory with it, or with NCCL all members.
    pub(super) fn announce(&self, worker: WorkerId, segment: wire::Segment) {
        let domain = |worker: &WorkerId| self.connections.get(worker)?.memory_domain.as_deref();
        let own = domain(&worker);
        let is_met = |member: &WorkerId| match self.transport {
            Some(wire::Transport::Nccl) => true,
            _ => own.is_some() && domain(member) == own,
        };
        let mut met = self.members.iter().map(|(_, member)| *member).filter(is_met);
        if met.next() == Some(worker) {
            let rendezvous = printable(&segment.rendezvous);
            let segment = Body::Segment(wire::Segment { rendezvous, ..segment });
            met.for_each(|other| self.tell(other, segment.clone()));
        }
    }

    fn fetch(&self, worker: WorkerId, donor: WorkerId) {
        let rank = self.rank(donor).map_or(0, |rank| rank.0);
        let mut fetch = wire::Fetch { donor: rank, ..wire::Fetch::default() };
        if let Some(donor) = self.connections.get(&donor) {
            fetch.address.clone_from(&donor.address);
            fetch.secret = donor.state_secret.bytes().to_vec().into();
        }
        self.tell(worker, Body::Fetch(fetch));
    }

    fn evict(&mut self, worker: WorkerId, loss: &Loss) {
        self.lost(worker, loss);
        if let Some(connection) = self.connections.get(&worker) {
            self.children.kill(&connection.process);
        }
        self.close(worker, Status::aborted(format!("evicted: {loss}")));
    }

    /// Prints and records that training goes on in a new generation.
    pub(super) fn recovered(&mut self, recovered: &Recovered, step: u64) {
        let Recovered { cause, is_told, agreement, transfer, connection } = recovered;
        let (generation, members) = (self.engine.generation().0, self.members.len());
        let total = (*agreement + *connection).as_millis();
        if let Some(cause) = cause {
            let workers = self.launch.config().operation.workers;
            let cause = if *is_told { String::new() } else { format!(" ({cause})") };
            self.console.line(&format!(
                "Going on with {members} of {workers} workers after {total} ms{cause}"
            ));
        }
        let ms = |time: &std::time::Duration| time.as_secs_f64() * 1e3;
        let ranks: Vec<u32> = self.members.iter().map(|(rank, _)| rank.0).collect();
        self.note(Happened::GenerationStarted {
            generation,
            ranks,
            step,
            collective: self.transport.map(|transport| topology::name(transport).to_owned()),
            cause: cause.clone(),
            agreement_ms: ms(agreement),
            transfer_ms: ms(transfer),
            connection_ms: ms(connection),
            ms: ms(agreement) + ms(connection),
        });
    }

    /// Adds to the outcome why workers are missing, if it is known.
    fn with_cause(&self, mut outcome: Outcome) -> Outcome {
        let turned_away = self.turned_away.as_ref();
        let turned_away = turned_away.map(|why| format!("one was turned away: {why}"));
        match &mut outcome {
            Outcome::WorkersMissing { cause, .. } => {
                *cause = turned_away.or_else(|| self.deaths.summary());
            }
            Outcome::WorkerFailed { message, .. } => {
                message.extend(turned_away.map(|why| format!("; {why}")));
            }
            _ => {}
        }
        outcome
    }

    fn finish(&mut self, outcome: Outcome) {
        self.note_checkpoint();
        let outcome = self.with_cause(outcome);
        let outcome = match outcome {
            Outcome::Interrupted(step) => Outcome::Interrupted(self.kept(step)),
            outcome => outcome,
        };
        let (success, message) = match (&self.broken, &outcome) {
            (Some(error), _) => (false, format!("{error:#}")),
            (None, Outcome::Completed(_) | Outcome::Interrupted(_)) => (true, outcome.to_string()),
            (None, _) => (false, outcome.to_string()),
        };
        self.note(Happened::Ended { success, reason: message.clone() });
        // Workers print this message as their last line.
        let message = match outcome {
            Outcome::Completed(_) => format!("the run is done: {message}"),
            Outcome::Interrupted(_) if success => format!("the run was stopped: {message}"),
            _ => message,
        };
        let finish = Body::Finish(wire::Finish { success, message });
        for connection in self.connections.values() {
            connection.send(Ok(Outbound::Plain(finish.clone())));
        }
        self.outcome = Some(outcome);
    }

    /// The step after which a run that is interrupted goes on, if its workers have saved or hold `step`.
    fn kept(&mut self, step: Step) -> Step {
        // The checkpoint that the run was resumed from is on the disk, even if no worker reported it.
        let step = step.max(Step(self.record.begun_at()));
        if step >= Step(self.record.step()) {
            return step;
        }
        // No worker was left that could save the newest state.
        self.is_unsaved = true;
        step.max(self.newest_checkpoint())
    }

    /// The step of the newest checkpoint in the run directory; 0 if there is none.
    pub(super) fn newest_checkpoint(&self) -> Step {
        let listed = self.run_dir.checkpoints().list().unwrap_or_default();
        Step(listed.last().map_or(0, |(step, _)| *step))
    }

    fn tell(&self, worker: WorkerId, body: Body) {
        if let Some(connection) = self.connections.get(&worker) {
            connection.send(Ok(Outbound::Plain(body)));
        }
    }
}
