//! The communication thread: a worker's life from the first attempt to reach the coordinator
//! to the end of the run.
//!
//! Messages of the coordinator are handled in [`participation`]. A lost connection ends nothing:
//! see [`reconnect`]. The end is in [`shutdown`].

mod link;
mod participation;
mod pending;
mod reconnect;
mod shutdown;
mod waiting;

use std::{io::ErrorKind, net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use collective::Rank;
use config::RunConfig;
use model::{Device, Library};
use process::signals::{self, Listening, Stop};
use protocol::{
    convert::{path_from_wire, printable, unexpected},
    status,
    wire::{
        Failed, Leaving, Ready, Saved, Transfer, coordinator_message::Body as CoordinatorMsg,
        worker_message::Body as WorkerMsg,
    },
};
use secure::{Address, Security};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
};
use tonic::{Code, Status};
use transport::{
    Connected, Endpoint, Listener,
    state::{Donor, Fetched, Recipient},
};

use self::{
    link::Link, participation::Participation, pending::PendingReports, shutdown::Shutdown,
    waiting::Wait,
};

use crate::{
    Program,
    args::Args,
    bridge::{self, Bridge, Event, Order, Shared},
    control::{self, Client, Identity, Joined, Route},
    dataset,
    device::{self, Candidates},
    discovery::{self, Found, Source},
    erased::AnyTask,
    generation,
    kubeflow::Kubeflow,
    needs,
    setup::{self, RunContext},
};

/// How long the training thread may take to finish its work at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The most workers that may request the state at the same time.
const RECIPIENTS: usize = 64;

/// The most signals that wait to be handled; only the first two matter.
const SIGNALS: usize = 4;

/// Takes part in a run. Returns the exit code. It is 0 only if the run has ended, so that a scheduler
/// that stops this worker knows that the run still needs a worker.
pub(crate) fn run(task: &dyn AnyTask, program: &Program, args: &Args) -> Result<u8> {
    needs::check(args.threads)?;
    let found =
        discovery::find(args.rank, args.coordinator.as_deref(), |name| std::env::var(name).ok())?;
    let candidates = args.device.candidates()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(take_part(task, program, args, found, candidates));
    // A training thread that does not end must not keep the process alive.
    runtime.shutdown_background();
    result
}

/// Logs the rank and the coordinator, with the source of each.
fn log_place(found: &Found) {
    match found.rank {
        Some(rank) => tracing::info!("asking for rank {rank}, by {}", found.rank_from),
        None => tracing::debug!("asking for any rank"),
    }
    if found.coordinator_from != Source::Default {
        tracing::info!("the coordinator is {}, by {}", found.coordinator, found.coordinator_from);
    }
}

async fn take_part(
    task: &dyn AnyTask,
    program: &Program,
    args: &Args,
    found: Found,
    candidates: Candidates,
) -> Result<u8> {
    log_place(&found);
    let timeout = Duration::from_secs(args.join_timeout_seconds.into());
    let security = args.security.load()?;
    let route = Route::new(&found.url(security.scheme()), &security)?;
    let mut client = route.reach(timeout).await?;
    let place = args.local_rank.or(found.local_rank);
    let device = device(task, program, candidates, place, (&mut client, &route), timeout).await?;
    let (listener, address) = listen(args, &route, &security).await?;
    let identity = identity(task, found.rank, address, device, program.library)?;
    let mut joined = control::join_when_ready(&mut client, &route, &identity, timeout).await?;
    let (config, welcome) = (joined.config()?, joined.welcome.clone());
    let options = task.options(&config.training.task)?;
    needs::check_run(&config)?;
    let place = welcome.rank.map_or("spare".to_owned(), |rank| format!("rank {rank}"));
    tracing::info!(run_id = welcome.run_id, ?device, "joined as {place}");

    telemetry::note_run(&welcome.run_id);
    let shared = Arc::new(Shared::default());
    joined.send_heartbeats(&shared);
    // A model may take long to build, and heartbeats must go on meanwhile.
    let built = spawn_blocking(move || options.length().map(|length| (options, length)));
    let (options, length) = built.await??;
    let (recipients, requests) = mpsc::channel(RECIPIENTS);
    let donor = Donor::new(&welcome.run_id, recipients).within(&generation::memory_domain());
    donor.demand(joined.state_secret()?);
    let endpoint = Endpoint::new(&welcome.run_id, config.training.shards, length)
        .secured(security.clone())
        .donating(donor.clone());
    tokio::spawn(endpoint.clone().serve(listener));

    let timeout = Duration::from_millis(welcome.coordinator_timeout_ms.into());
    let source = dataset::Source { route: route.clone(), client, timeout };
    let examples = dataset::load(args.data_dir.clone(), &config, options, source).await?;
    let context = RunContext {
        run_id: welcome.run_id.clone(),
        config: config.clone(),
        device,
        run_dir: path_from_wire(&welcome.run_directory),
        is_first: welcome.rank == Some(0),
        checkpoint: welcome.checkpoint.as_deref().map(path_from_wire),
    };
    let bridge = Bridge::start(shared, move |channel| examples.train(context, &channel))?;
    let (_listening, signals) = listen_for_signals()?;
    let rank = welcome.rank.map(Rank).or(identity.rank);
    let kubeflow = Kubeflow::from_environment(&config);
    let mut session = Session {
        route,
        security,
        identity: Identity { rank, ..identity },
        is_spare: welcome.rank.is_none(),
        run_id: welcome.run_id,
        config,
        link: Link::Up(Box::new(joined)),
        pending: PendingReports::default(),
        bridge,
        endpoint,
        donor,
        requests,
        device,
        length,
        threads: args.threads,
        participation: Participation::Idle,
        signals,
        wait: Wait::default(),
        kubeflow,
    };
    let ended = session.run().await;
    session.shut_down(ended).await
}

/// The device to compute on. The run's task may decide about it, and about the program that takes part.
async fn device(
    task: &dyn AnyTask,
    program: &Program,
    candidates: Candidates,
    place: Option<u32>,
    (client, route): (&mut Client, &Route),
    timeout: Duration,
) -> Result<Device> {
    let run = if program.asks_first() || candidates.depend_on_task() {
        setup::task(&control::configuration(client, route, timeout).await?)
    } else {
        None
    };
    program.become_other(run.as_ref())?;
    let support = || task.gpu_support(run.as_ref());
    Ok(candidates.choose(place, support, program.library))
}

fn identity(
    task: &dyn AnyTask,
    rank: Option<u32>,
    address: Address,
    device: Device,
    library: Option<Library>,
) -> Result<Identity> {
    let fingerprint = device::fingerprint(device, library)?;
    Ok(Identity {
        rank: rank.map(Rank),
        address,
        proof: None,
        device_name: device::name(device, &fingerprint),
        fingerprint,
        gpu: device::gpu(device),
        task: task.identity(),
    })
}

/// Handles signals from now on, because the worker is now in a run and can leave it. Before, a signal
/// ends the process at once.
fn listen_for_signals() -> Result<(Listening, mpsc::Receiver<Stop>)> {
    let (sender, signals) = mpsc::channel(SIGNALS);
    let handle = move |stop| {
        let _more_than_matter = sender.try_send(stop);
    };
    Ok((signals::listen(handle).context("cannot listen for signals")?, signals))
}

/// Opens a port for the other workers: at the advertised address if it belongs to this host, else at
/// the address from which the coordinator is reached, because the other workers are in the same
/// network. Workers on this host can also use a local socket.
async fn listen(args: &Args, route: &Route, security: &Security) -> Result<(Listener, Address)> {
    let own: IpAddr = route.own_address().await?;
    let advertised = args.advertise.as_ref().and_then(|host| host.parse().ok());
    let listener = match TcpListener::bind((advertised.unwrap_or(own), 0)).await {
        // The advertised address belongs to another machine, which forwards to this host.
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
            TcpListener::bind((own, 0)).await
        }
        bound => bound,
    };
    let listener = listener.context("cannot open a port for the other workers")?;
    let bound = listener.local_addr()?;
    let address = match &args.advertise {
        Some(host) => Address::on(host, bound.port()).context("--advertise")?,
        None => bound.into(),
    };
    security.permit("the address for the other workers,", &bound.into())?;
    security
        .check_name(&address)
        .with_context(|| format!("other workers will connect to this one at {address}"))?;
    control::until_known(&address, Duration::from_secs(args.join_timeout_seconds.into())).await;
    let listener = Listener::from(listener);
    Ok((if args.tcp_only { listener } else { listener.and_near(&address) }, address))
}

/// A worker that has joined.
struct Session {
    route: Route,
    security: Security,
    identity: Identity,
    /// Whether the worker has no rank: it joined while others had all ranks, and no generation has
    /// begun with it yet.
    is_spare: bool,
    run_id: String,
    config: RunConfig,
    link: Link,
    pending: PendingReports,
    bridge: Bridge,
    endpoint: Endpoint,
    donor: Donor,
    /// Requests of other workers for the state.
    requests: mpsc::Receiver<Recipient>,
    device: Device,
    length: usize,
    threads: Option<u32>,
    participation: Participation,
    /// The signals that ask this worker to leave.
    signals: mpsc::Receiver<Stop>,
    wait: Wait,
    /// Posts the status of a TrainJob, if this worker is part of one.
    kubeflow: Option<Kubeflow>,
}

/// An event that wakes the session.
enum Wake {
    Message(Result<Option<CoordinatorMsg>, Status>),
    Reconnected(Result<Box<Joined>>),
    Event(Option<Event>),
    Connected(Result<Connected, String>),
    Fetched(Result<(Fetched, Transfer), String>),
    StateRequest(Recipient),
    Signalled(Stop),
    /// A wait has lasted so long that it is logged.
    Waited(&'static str, Duration),
}

impl Session {
    /// Handles messages and events until the run ends or this worker leaves it.
    async fn run(&mut self) -> Result<Shutdown> {
        let mut failure = None;
        let mut leaving = None;
        loop {
            match self.wake().await {
                Wake::Message(Ok(Some(CoordinatorMsg::Finish(finish)))) => {
                    return match failure {
                        Some(message) => Err(anyhow!("{message}")),
                        None if finish.success => {
                            tracing::info!("{}", printable(&finish.message));
                            Ok(Shutdown::RunEnded)
                        }
                        None => Err(anyhow!("the run has failed: {}", printable(&finish.message))),
                    };
                }
                Wake::Message(Ok(Some(message))) => self.handle(message)?,
                Wake::Message(Ok(None) | Err(_))
                    if let (Some(left), None) = (leaving, &failure) =>
                {
                    return Ok(Shutdown::Signalled(left));
                }
                Wake::Message(Ok(None)) => self.lose_link("it closed the connection"),
                Wake::Message(Err(status)) => {
                    let message = status::cause(&status);
                    if !status::is_transient(status.code()) && status.code() != Code::Aborted {
                        bail!("the coordinator ended this worker's part in the run: {message}");
                    }
                    self.lose_link(&message);
                }
                Wake::Reconnected(joined) => match joined {
                    Ok(joined) => self.regain_link(joined).await?,
                    Err(error) => {
                        self.save_alone().await;
                        return Err(error.context("lost the coordinator"));
                    }
                },
                Wake::Event(Some(Event::Died(cause))) => bail!("{cause}"),
                Wake::Event(Some(event)) => self.pass_on(event, &mut failure),
                Wake::Event(None) if failure.is_none() => bail!("the training thread is gone"),
                Wake::Event(None) => {}
                Wake::Connected(result) => self.connected(result),
                Wake::Fetched(result) => self.fetched(result),
                Wake::Waited(what, waited) => {
                    tracing::info!("waiting for {what} ({} s)", waited.as_secs());
                }
                Wake::StateRequest(recipient) => self.bridge.order(Order::Donate(recipient)),
                Wake::Signalled(stop) if leaving.is_some() => {
                    signals::end_at_next();
                    tracing::warn!("stopped by a second signal");
                    return Ok(Shutdown::SignalledTwice(stop));
                }
                Wake::Signalled(stop) if matches!(self.link, Link::Down(_)) => {
                    return Ok(Shutdown::Signalled(stop));
                }
                Wake::Signalled(left) => {
                    leaving = Some(left);
                    tracing::info!("leaving the run");
                    self.send(WorkerMsg::Leaving(Leaving {}));
                }
            }
            if let (Link::Down(_), Some(failure)) = (&self.link, &failure) {
                bail!("{failure}");
            }
        }
    }

    async fn wake(&mut self) -> Wake {
        self.wait.enter(self.waits_for());
        let Self { link, participation, requests, bridge, signals, wait, .. } = self;
        let coordinator = async {
            match link {
                Link::Up(joined) => Wake::Message(joined.recv().await),
                Link::Down(attempts) => Wake::Reconnected(attempts.await),
            }
        };
        let at_work = async {
            match participation {
                Participation::Connecting(connecting) => {
                    Wake::Connected(flat(&mut connecting.task).await)
                }
                Participation::Fetching(task) => Wake::Fetched(flat(task).await),
                Participation::Idle | Participation::Training(..) => std::future::pending().await,
            }
        };
        tokio::select! {
            wake = coordinator => wake,
            event = bridge.next_event() => Wake::Event(event),
            wake = at_work => wake,
            Some(recipient) = requests.recv() => Wake::StateRequest(recipient),
            Some(stop) = signals.recv() => Wake::Signalled(stop),
            (what, waited) = wait.due() => Wake::Waited(what, waited),
        }
    }

    fn pass_on(&mut self, event: Event, failure: &mut Option<String>) {
        match event {
            Event::Ready(bridge::Ready { position, cause, transfer, probe, is_last }) => {
                self.participation = Participation::Idle;
                let digest = position.digest.0.to_vec().into();
                let unexpected = unexpected(cause);
                let step = position.step.0;
                let probe = probe.map_or_else(Bytes::new, |probe| probe.0.to_vec().into());
                let ready = Ready { step, digest, unexpected, transfer, probe, is_last };
                self.pending.ready = Some(ready.clone());
                self.send(WorkerMsg::Ready(ready));
            }
            Event::Saved(_) => self.send(WorkerMsg::Saved(Saved {})),
            // The worker exits before it sends anything more.
            Event::Died(_) => {}
            Event::Failed(failed) => {
                *failure = Some(failed.message.clone());
                let membership::Failure { message, state_intact, recurs } = failed;
                self.send(WorkerMsg::Failed(Failed { message, state_intact, recurs }));
            }
            Event::Report(report) => {
                if let Some(kubeflow) = &mut self.kubeflow {
                    kubeflow.report(&report);
                }
                self.pending.keep_steps(&report, matches!(self.link, Link::Up(_)));
                self.send(WorkerMsg::Report(report));
            }
            Event::EpochReport(report) => {
                self.pending.keep_epoch(&report);
                self.send(WorkerMsg::EpochReport(report));
            }
        }
    }
}

/// The result of a task, with an error as text.
async fn flat<T, E: Into<anyhow::Error>>(task: &mut JoinHandle<Result<T, E>>) -> Result<T, String> {
    match task.await {
        Ok(result) => result.map_err(|error| limits::told(error.into().as_ref())),
        Err(error) => Err(error.to_string()),
    }
}
