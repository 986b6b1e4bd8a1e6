//! The communication thread: a worker's life from the first attempt to reach the coordinator
//! to the end of the run.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, thread, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use collective::{Control, Generation, Rank, Share};
use model::{Model as _, Vae};
use protocol::{
    convert::printable,
    wire::{
        CoordinatorMessage, Failed, Heartbeat, Leaving, Ready, Saved, Start, Transport,
        WorkerMessage, coordinator_message::Body as Told, worker_message::Body as Said,
    },
};
use tch::Device;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use transport::{Abort, Connected, Endpoint, Group, Peer};

use crate::{
    args::Args,
    bridge::{Assignment, Bridge, Event, Order, Shared},
    control::{self, Joined},
    dataset, device, generation, training,
};

/// How long the training thread may take to finish what it has in hand at the end.
const FAREWELL: Duration = Duration::from_secs(10);

/// The least time between two signs of life, whatever the coordinator asks for.
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);

/// Takes part in a run.
pub(crate) fn run(args: &Args) -> Result<()> {
    let device = args.device.resolve()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(take_part(args, device));
    // A training thread that does not come to an end must not keep the process alive.
    runtime.shutdown_background();
    result
}

async fn take_part(args: &Args, device: Device) -> Result<()> {
    let patience = Duration::from_secs(args.join_timeout_seconds.into());
    let mut client = control::reach(&args.coordinator, patience).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .context("cannot open a port for the other workers")?;
    let address = listener.local_addr()?;
    let fingerprint = device::fingerprint(device);
    let joined = control::join(&mut client, args.rank, address, fingerprint).await?;
    tracing::info!(rank = joined.rank.0, run_id = joined.welcome.run_id, ?device, "joined");

    let shared = Arc::new(Shared::default());
    let beat = Duration::from_millis(joined.welcome.heartbeat_ms.into()).max(HEARTBEAT_MIN);
    tokio::spawn(show_life(joined.outbound.clone(), Arc::clone(&shared), beat));
    let training = &joined.config.training;
    let length = Vae::new(&training.model)?.layout().len();
    let endpoint = Endpoint::new(&joined.welcome.run_id, training.shards, length);
    tokio::spawn(endpoint.clone().serve(listener, std::future::pending()));

    let data_dir = args.data_dir.clone().unwrap_or_else(data::default_dir);
    let data = Arc::new(dataset::load(data_dir, client, training).await?);
    let setup = training::Setup {
        rank: joined.rank,
        run_id: joined.welcome.run_id.clone(),
        config: joined.config.clone(),
        device,
        data,
        run_dir: PathBuf::from(&joined.welcome.run_directory),
        checkpoint: joined.welcome.checkpoint.as_ref().map(PathBuf::from),
    };
    let bridge = Bridge::start(setup, shared)?;
    let mut session =
        Session { joined, bridge, endpoint, length, threads: args.threads, phase: Phase::Idle };
    let result = session.converse().await;
    session.end_generation().await;
    if tokio::time::timeout(FAREWELL, session.bridge.finish()).await.is_err() {
        tracing::warn!("the training thread did not come to an end");
    }
    result
}

/// Sends signs of life until the stream is gone.
async fn show_life(outbound: mpsc::Sender<WorkerMessage>, shared: Arc<Shared>, interval: Duration) {
    let mut beats = tokio::time::interval(interval);
    loop {
        beats.tick().await;
        let heartbeat = Heartbeat { generation: shared.generation(), step: shared.step() };
        let message = WorkerMessage { body: Some(Said::Heartbeat(heartbeat)) };
        if outbound.send(message).await.is_err() {
            return;
        }
    }
}

/// A worker that has joined.
#[derive(Debug)]
struct Session {
    joined: Joined,
    bridge: Bridge,
    endpoint: Endpoint,
    length: usize,
    threads: Option<u32>,
    phase: Phase,
}

/// Where the worker is in a generation.
#[derive(Debug)]
enum Phase {
    /// In none.
    Idle,
    /// Connecting to the other members.
    Connecting(Connecting),
    /// Training.
    Training(Generation, Abort),
}

/// A generation that is being connected.
#[derive(Debug)]
struct Connecting {
    generation: Generation,
    ranks: Vec<Rank>,
    threads: u32,
    task: JoinHandle<Result<Connected>>,
    /// Takes where the leader's segment is, if this member waits for it.
    rendezvous: Option<oneshot::Sender<String>>,
}

/// What wakes the session.
enum Wake {
    Told(Result<Option<CoordinatorMessage>, tonic::Status>),
    Trained(Option<Event>),
    Connected(Result<Connected, String>),
    Signalled,
}

impl Session {
    /// Talks with the coordinator until the run ends.
    async fn converse(&mut self) -> Result<()> {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut failure = None;
        let mut leaving = false;
        loop {
            match self.wake(&mut interrupt, &mut terminate).await {
                Wake::Told(Ok(Some(CoordinatorMessage { body: Some(Told::Finish(finish)) }))) => {
                    return match failure {
                        Some(message) => Err(anyhow!("{message}")),
                        None if finish.success => Ok(()),
                        None => Err(anyhow!("the run has failed: {}", printable(&finish.message))),
                    };
                }
                Wake::Told(Ok(Some(CoordinatorMessage { body: Some(told) }))) => {
                    self.obey(told).await?;
                }
                Wake::Told(Ok(None) | Err(_)) if leaving && failure.is_none() => return Ok(()),
                Wake::Told(Ok(_)) => bail!("lost the coordinator: it closed the connection"),
                Wake::Told(Err(status)) => {
                    bail!("lost the coordinator: {}", printable(status.message()));
                }
                Wake::Trained(Some(event)) => self.pass_on(event, &mut failure).await?,
                Wake::Trained(None) if failure.is_none() => bail!("the training thread is gone"),
                Wake::Trained(None) => {}
                Wake::Connected(result) => self.connected(result),
                Wake::Signalled if leaving => bail!("stopped by a second signal"),
                Wake::Signalled => {
                    leaving = true;
                    tracing::info!("leaving the run");
                    self.say(Said::Leaving(Leaving {})).await?;
                }
            }
        }
    }

    async fn wake(&mut self, interrupt: &mut Signal, terminate: &mut Signal) -> Wake {
        let connecting = async {
            match &mut self.phase {
                Phase::Connecting(connecting) => match (&mut connecting.task).await {
                    Ok(result) => result.map_err(|error| format!("{error:#}")),
                    Err(error) => Err(error.to_string()),
                },
                _ => std::future::pending().await,
            }
        };
        let events = &mut self.bridge.events;
        tokio::select! {
            told = self.joined.inbound.message() => Wake::Told(told),
            event = events.recv(), if !events.is_closed() || !events.is_empty() => {
                Wake::Trained(event)
            }
            result = connecting => Wake::Connected(result),
            _ = interrupt.recv() => Wake::Signalled,
            _ = terminate.recv() => Wake::Signalled,
        }
    }

    async fn say(&self, body: Said) -> Result<()> {
        let message = WorkerMessage { body: Some(body) };
        self.joined.outbound.send(message).await.map_err(|_| anyhow!("lost the coordinator"))
    }

    async fn obey(&mut self, told: Told) -> Result<()> {
        match told {
            Told::Start(start) => return self.start(&start),
            Told::Pause(pause) if self.is_in(pause.generation) => {
                self.bridge.shared.request(Control::PAUSE);
            }
            Told::Abort(abort) if self.is_in(abort.generation) => {
                if let Phase::Connecting(connecting) = &self.phase {
                    connecting.task.abort();
                    self.phase = Phase::Idle;
                    self.bridge.order(Order::Report("the generation was ended".into()));
                } else {
                    self.end_generation().await;
                }
            }
            Told::Segment(segment) if self.is_in(segment.generation) => {
                if let Phase::Connecting(connecting) = &mut self.phase
                    && let Some(waiting) = connecting.rendezvous.take()
                {
                    let _gave_up = waiting.send(segment.rendezvous);
                }
            }
            Told::Persist(_) => self.bridge.order(Order::Persist),
            // A word about a generation that is over for this worker.
            Told::Pause(_) | Told::Abort(_) | Told::Segment(_) => {}
            Told::Welcome(_) | Told::Finish(_) => bail!("the coordinator broke the protocol"),
        }
        Ok(())
    }

    fn is_in(&self, generation: u64) -> bool {
        match &self.phase {
            Phase::Idle => false,
            Phase::Connecting(Connecting { generation: current, .. })
            | Phase::Training(current, _) => current.0 == generation,
        }
    }

    fn start(&mut self, start: &Start) -> Result<()> {
        if !matches!(self.phase, Phase::Idle) {
            bail!("the coordinator started a generation within another");
        }
        let peer = |member: &protocol::wire::Member| -> Result<Peer> {
            let address = member
                .all_reduce_address
                .parse()
                .with_context(|| format!("rank {} has no usable address", member.rank))?;
            Ok(Peer { share: Share::from(member), address })
        };
        let peers: Vec<Peer> = start.members.iter().map(peer).collect::<Result<_>>()?;
        let number = Generation(start.generation);
        self.bridge.shared.begin_generation(start.generation);
        let ranks: Vec<Rank> = peers.iter().map(|peer| peer.share.rank).collect();
        let threads = self.threads.unwrap_or_else(|| self.fair_share(start));
        let group = Group {
            run_id: self.joined.welcome.run_id.clone(),
            generation: number,
            shards: self.joined.config.training.shards,
            length: self.length,
            rank: self.joined.rank,
            peers,
        };
        let (rendezvous, announced) = oneshot::channel();
        let leads = ranks.first() == Some(&self.joined.rank);
        let task = match start.transport() {
            Transport::Grpc => tokio::spawn(generation::over_grpc(self.endpoint.clone(), group)),
            Transport::Shm if leads => {
                tokio::spawn(generation::share_segment(group, self.joined.outbound.clone()))
            }
            Transport::Shm => tokio::spawn(generation::open_segment(group, announced)),
            Transport::Unspecified => bail!("the coordinator asked for an unknown transport"),
        };
        let rendezvous = Some(rendezvous);
        self.phase =
            Phase::Connecting(Connecting { generation: number, ranks, threads, task, rendezvous });
        Ok(())
    }

    /// The cores of this host divided among the members on it, at least one.
    fn fair_share(&self, start: &Start) -> u32 {
        let mine = start.members.iter().find(|member| member.rank == self.joined.rank.0);
        let neighbours =
            start.members.iter().filter(|member| mine.is_some_and(|me| me.host == member.host));
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let share = cores / neighbours.count().max(1);
        u32::try_from(share.max(1)).unwrap_or(1)
    }

    fn connected(&mut self, result: Result<Connected, String>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        let Phase::Connecting(Connecting { generation, ranks, threads, .. }) = phase else {
            return;
        };
        match result {
            Ok(Connected { collective, abort }) => {
                self.phase = Phase::Training(generation, abort);
                let assignment = Assignment { generation, collective, ranks, threads };
                self.bridge.order(Order::Train(Box::new(assignment)));
            }
            Err(reason) => self.bridge.order(Order::Report(reason)),
        }
    }

    /// Has the training thread stop in the middle of a step.
    async fn end_generation(&mut self) {
        if let Phase::Training(_, abort) = &self.phase {
            abort.abort().await;
        }
    }

    async fn pass_on(&mut self, event: Event, failure: &mut Option<String>) -> Result<()> {
        let body = match event {
            Event::Ready(standing, interrupted) => {
                self.phase = Phase::Idle;
                let digest = standing.digest.0.to_vec().into();
                Said::Ready(Ready { step: standing.step.0, digest, interrupted })
            }
            Event::Saved(step) => Said::Saved(Saved { step }),
            Event::Failed(failed) => {
                *failure = Some(failed.message.clone());
                let membership::Failure { message, state_intact } = failed;
                Said::Failed(Failed { message, state_intact })
            }
            Event::Report(report) => Said::Report(report),
            Event::EpochReport(report) => Said::EpochReport(report),
        };
        self.say(body).await
    }
}
