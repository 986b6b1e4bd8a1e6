//! A run from the first open socket to the last exited worker.

use std::{io::ErrorKind, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result, anyhow};
use checkpoint::Directory;
use membership::Outcome;
use process::signals::Stop;
use protocol::{CONTROL_MESSAGE_BYTES_MAX, door, wire::coordinator_server::CoordinatorServer};
use secure::{Key, connection};
use stdout::counted;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Server, server::TcpIncoming},
};

use crate::{
    board::{self, Readings},
    console::Console,
    control::{self, Ended, Input, RunningCoordinator},
    dataset::Files,
    follow::Followers,
    health::{self, Health},
    hints,
    journal::Entry,
    launch::{Launch, Start},
    listen::ListenTarget,
    models::Models,
    preparation::Preparation,
    run_dir::RunDir,
    service::{Boards, Service},
    spawn::Children,
    stop::{self, Signals},
    undo::Undo,
};

/// The most inputs that wait for the control loop; beyond, workers are slowed down.
const INPUTS: usize = 1024;

/// Where and how a run stopped.
#[derive(Debug)]
pub(crate) struct Stopped {
    /// None if the run never began; its directory is then removed.
    pub(crate) run_dir: Option<PathBuf>,
    /// The exit code of the signal that interrupted the run.
    pub(crate) exit_code: u8,
    /// Why the last checkpoint could not be stored, if it could not.
    pub(crate) unfinished: Option<String>,
    /// Whether the run was interrupted before its state was saved.
    pub(crate) is_cut_short: bool,
}

/// Carries out the run.
pub(crate) fn run(launch: &Launch, console: &Console) -> Result<(Outcome, Stopped)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(serve(launch, console));
    // Only readers of pipes are left; they need no waiting.
    runtime.shutdown_background();
    result
}

async fn serve(launch: &Launch, console: &Console) -> Result<(Outcome, Stopped)> {
    let listener = listen(launch.listen).await?;
    let address = listener.local_addr()?;
    let (inputs, received) = mpsc::channel(INPUTS);
    let board = launch.board.listen()?;
    let (stop_serving, stopped_serving) = oneshot::channel::<()>();
    let preparation = Preparation::begin();
    let followers = Followers::new(&launch.info.run_id, &launch.resolved_run_dir()?);
    let service = service(launch, &inputs, &preparation, followers.clone())?;
    let health = answer(launch, service, listener, stopped_serving)?;
    let undo = Undo::new(&launch.run_dir);
    let (leaves, workers_wait) = (launch.leave_on_sigterm, launch.coordinator_timeout);
    let signals = stop::listen(undo.clone(), leaves, workers_wait, console.clone())?;
    fetch_dataset(launch, console, &preparation).await?;
    let readings = inputs.downgrade();
    let started = start(launch, console, address, inputs, &signals).await;
    let started = started.inspect_err(|_| undo.undo())?;
    preparation.end();
    health.send_replace(Health::Waiting);
    let Started { key, mut run_dir, mut children } = started;
    let asked = signals.asked.clone();
    let (stop_board, board_stopped) = oneshot::channel::<()>();
    if let Some(opened) = board {
        console.line(&opened.line()?);
        board::show(opened, Readings(readings), launch, run_dir.path(), board_stopped);
    }

    let (console, signals) = (console.clone(), asked.clone());
    let control =
        RunningCoordinator::new(launch, key, &mut run_dir, &mut children, console, health, signals);
    let ended = control.run(received).await;
    followers.finish().await;
    drop((stop_serving, stop_board));
    children.finish(asked.clone()).await;
    let exit_code = asked.borrow().last.unwrap_or(Stop::Terminate).exit_code();
    let run_dir = (launch.is_known() || run_dir.has_begun()).then(|| run_dir.path().to_owned());
    if run_dir.is_none() {
        undo.undo();
    }
    let Ended { outcome, unfinished, is_cut_short } = ended?;
    Ok((outcome, Stopped { run_dir, exit_code, unfinished, is_cut_short }))
}

fn service(
    launch: &Launch,
    inputs: &mpsc::Sender<Input>,
    preparation: &Preparation,
    followers: Followers,
) -> Result<Service> {
    let checkpoints = Directory::open(launch.checkpoints()?);
    let dataset = Files::new(launch.dataset().clone(), launch.data_dir.clone());
    let models = Models::new(launch.explorer(), &launch.info.run_id, &launch.resolved_run_dir()?);
    let (inputs, preparation) = (inputs.clone(), preparation.clone());
    Ok(Service::new(inputs, dataset, checkpoints, preparation, Boards { followers, models }))
}

async fn listen(target: ListenTarget) -> Result<TcpListener> {
    let ListenTarget { mut address, otherwise } = target;
    let mut bound = TcpListener::bind(address).await;
    if let (Err(error), Some(any)) = (&bound, otherwise) {
        tracing::warn!(
            "cannot listen on {address}, where workers of the previous coordinator look for it: \
             {error}; listening on another port, where they do not find this one"
        );
        (address, bound) = (any, TcpListener::bind(any).await);
    }
    bound.map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::AddrInUse => {
                "is another coordinator running? choose another --listen, or port 0 for any free \
                 one"
            }
            ErrorKind::AddrNotAvailable => {
                "this machine has no such address: choose another --listen"
            }
            ErrorKind::PermissionDenied => "choose another --listen, with a port above 1023",
            _ => "choose another --listen",
        };
        anyhow!("cannot listen on {address}: {error}; {advice}")
    })
}

/// A coordinator that workers can join.
struct Started {
    key: Key,
    run_dir: RunDir,
    children: Children,
}

async fn start(
    launch: &Launch,
    console: &Console,
    address: SocketAddr,
    inputs: mpsc::Sender<Input>,
    signals: &Signals,
) -> Result<Started> {
    let mut run_dir = launch.open_run_dir()?;
    // The store is claimed only after the run directory was made, so that a run that fails here
    // leaves no mark in the store.
    let url = launch.config().operation.checkpoint_url.as_deref().unwrap_or_default();
    let claimed = launch.claim_storage();
    control::during(console, &format!("Waiting for {url} to answer"), claimed).await?;
    run_dir.journal().note(&Entry::Listening(address))?;
    telemetry::note_run(&launch.info.run_id);
    let key = launch.history.key(run_dir.journal())?;
    // This comes before the address is printed: whoever knows the address may send a signal to stop.
    signals.prepared();
    introduce(launch, &run_dir, address, console);
    let mut children = Children::default();
    if let Some(spawn) = &launch.spawn
        && let Err(error) =
            children.start(launch, spawn, address, console, &inputs, run_dir.journal())
    {
        children.kill_all();
        children.finish(signals.asked.clone()).await;
        return Err(error);
    }
    Ok(Started { key, run_dir, children })
}

/// Answers connections from now on. Returns the sender of the run's health.
fn answer(
    launch: &Launch,
    service: Service,
    listener: TcpListener,
    stopped: oneshot::Receiver<()>,
) -> Result<watch::Sender<Health>> {
    let service =
        CoordinatorServer::new(service).max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
    let service = InterceptedService::new(service, launch.security.doorkeeper());
    let (health, health_service) = health::service();
    let reflection = health::reflection()?;
    let incoming = door::guarded(TcpIncoming::from(listener).with_nodelay(Some(true)));
    let incoming = launch.security.accept(incoming);
    let server = Server::builder()
        .http2_keepalive_interval(Some(door::KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(door::KEEP_ALIVE_TIMEOUT));
    let router =
        { server }.add_service(service).add_service(health_service).add_service(reflection);
    let shutdown = Box::pin(async {
        let _dropped = stopped.await;
    });
    tokio::spawn(connection::serve(router, incoming, shutdown));
    Ok(health)
}

/// Fetches the files of the data set that are missing. The progress is printed, and told to workers
/// that ask to join meanwhile.
async fn fetch_dataset(
    launch: &Launch,
    console: &Console,
    preparation: &Preparation,
) -> Result<()> {
    let (data_dir, offline) = (launch.data_dir.clone(), launch.offline);
    let manifest = launch.dataset().clone();
    let (console, preparation) = (console.clone(), preparation.clone());
    let fetching = move || {
        data::fetch::ensure(&data_dir, &manifest, offline, &|line| {
            console.line(line);
            preparation.note(line);
        })
    };
    tokio::task::spawn_blocking(fetching).await??;
    Ok(())
}

/// Prints a description of the run, and the command that starts its workers.
fn introduce(launch: &Launch, run_dir: &RunDir, address: SocketAddr, console: &Console) {
    let config = launch.config();
    let (training, task) = (&config.training, &config.training.task);
    let workers = config.operation.workers;
    console.line(&format!("Run directory: {}", run_dir.path().display()));
    console.line(&format!(
        "{}, {} parameters; {} {}, {} x {}, {} of {}",
        task.summary,
        task.size.parameters,
        training.learned_examples(),
        task.examples(),
        counted(training.shards.into(), "shard"),
        training.batch_size,
        counted(config.operation.epochs.into(), "epoch"),
        counted(launch.steps_per_epoch(), "step"),
    ));
    match &launch.start {
        Start::Seed => {}
        Start::Again if launch.history.has_checkpoint() => console.line(
            "The run's checkpoints are gone: it goes on from the state of its workers, if they are back",
        ),
        Start::Again => console.line("Beginning again: the run has no checkpoint yet"),
        Start::Checkpoint(path, metadata) => {
            let step = metadata.step;
            console.line(&format!("Going on after step {step}, from {}", path.display()));
        }
    }
    let scheme = launch.security.scheme();
    let told = launch.advertise.as_ref().and_then(|host| host.port(address.port()));
    let told = told.map_or_else(|| address.to_string(), |told| told.to_string());
    console.line(&format!("Listening on {scheme}://{told}"));
    if launch.spawn.is_none() {
        let started =
            if workers == 1 { "1 worker".into() } else { format!("{workers} workers, each") };
        console.line(&format!("Start {started} with:"));
        console.line(&format!("  {}", hints::worker(launch, address)));
        if launch.security.has_tls() {
            console.line("On another host, name in --tls-dir the folder that was issued for it.");
        }
    }
}
