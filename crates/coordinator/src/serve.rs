//! A run from the first open socket to the last exited worker.

use std::{io::ErrorKind, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result, anyhow};
use membership::Outcome;
use protocol::{CONTROL_MESSAGE_BYTES_MAX, door, wire::coordinator_server::CoordinatorServer};
use secure::Key;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Server, server::TcpIncoming},
};

use crate::{
    console::Console,
    control::{Control, Input},
    health::{self, Health},
    hints,
    journal::Entry,
    launch::{Launch, Start},
    run_dir::RunDir,
    service::Service,
    spawn::Children,
    undo::Undo,
};

/// Inputs that wait for the control loop; workers are slowed down beyond.
const INPUTS: usize = 1024;

/// Exit codes of a program that a signal stopped, by convention 128 plus its number.
const EXIT_SIGINT: u8 = 130;
const EXIT_SIGTERM: u8 = 143;

/// Where and how a run stopped.
#[derive(Debug)]
pub(crate) struct Stopped {
    /// None if the run never began: nothing of it is kept.
    pub(crate) run_dir: Option<PathBuf>,
    /// The exit code that stands for the interruption.
    pub(crate) exit_code: u8,
    /// What is left undone although the run has ended well.
    pub(crate) unfinished: Option<String>,
}

/// Carries out the run.
pub(crate) fn run(launch: &Launch, console: &Console) -> Result<(Outcome, Stopped)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(serve(launch, console));
    // Nothing is left to wait for but readers of pipes.
    runtime.shutdown_background();
    result
}

async fn serve(launch: &Launch, console: &Console) -> Result<(Outcome, Stopped)> {
    let listener = listen(launch.listen).await?;
    data::fetch::ensure(&launch.data_dir, launch.offline)?;
    let undo = Undo::new(&launch.run_dir);
    let started = start(launch, console, listener).await.inspect_err(|_| undo.undo())?;
    let Started { key, mut run_dir, mut children, health, received, stop_serving, .. } = started;
    let mut exit_code = started.exit_code;

    let console = console.clone();
    let control = Control::new(launch, key, &mut run_dir, &mut children, console, health);
    let ended = control.run(received).await;
    drop(stop_serving);
    children.finish().await;
    let exit_code = exit_code.try_recv().unwrap_or(EXIT_SIGTERM);
    let run_dir = (launch.is_known() || run_dir.has_begun()).then(|| run_dir.path().to_owned());
    if run_dir.is_none() {
        undo.undo();
    }
    let (outcome, unfinished) = ended?;
    Ok((outcome, Stopped { run_dir, exit_code, unfinished }))
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
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
    health: watch::Sender<Health>,
    received: mpsc::Receiver<Input>,
    stop_serving: oneshot::Sender<()>,
    exit_code: oneshot::Receiver<u8>,
}

async fn start(launch: &Launch, console: &Console, listener: TcpListener) -> Result<Started> {
    let address = listener.local_addr()?;
    let mut run_dir = launch.open_run_dir()?;
    // A run that could not be kept here must not stand in the store.
    launch.claim_storage().await?;
    run_dir.journal().note(&Entry::Listening(address))?;
    telemetry::note_run(&launch.info.run_id);
    let key = launch.history.key(run_dir.journal())?;
    introduce(launch, &run_dir, address, console);

    let (inputs, received) = mpsc::channel(INPUTS);
    let (stop_serving, stopped_serving) = oneshot::channel::<()>();
    let service = CoordinatorServer::new(Service::new(inputs.clone(), launch.data_dir.clone()))
        .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
    let service = InterceptedService::new(service, launch.security.doorkeeper());
    let (health, health_service) = health::service();
    let reflection = health::reflection()?;
    let incoming = door::guarded(TcpIncoming::from(listener).with_nodelay(Some(true)));
    let incoming = launch.security.accept(incoming);
    let server = Server::builder()
        .http2_keepalive_interval(Some(door::KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(door::KEEP_ALIVE_PATIENCE));
    let served = { server }
        .add_service(service)
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(incoming, async {
            let _dropped = stopped_serving.await;
        });
    tokio::spawn(served);
    let (code, exit_code) = oneshot::channel();
    tokio::spawn(stop_on_signal(inputs.clone(), code, launch.leave_on_sigterm)?);
    let children = match &launch.spawn {
        Some(spawn) => {
            Children::start(launch, spawn, address, console, &inputs, run_dir.journal())?
        }
        None => Children::default(),
    };
    Ok(Started { key, run_dir, children, health, received, stop_serving, exit_code })
}

/// Tells a person what is about to run and how to start the workers.
fn introduce(launch: &Launch, run_dir: &RunDir, address: SocketAddr, console: &Console) {
    let config = launch.config();
    let (training, model) = (&config.training, &config.training.model);
    let workers = config.operation.workers;
    console.line(&format!("Run directory: {}", run_dir.path().display()));
    console.line(&format!(
        "VAE {pixels}-{hidden}-{hidden}-{latent}, {} parameters; {} images, {} shards x {}, {} \
         epochs of {} steps",
        model.parameters(),
        training.train_images,
        training.shards,
        training.batch_size,
        config.operation.epochs,
        launch.steps_per_epoch(),
        pixels = config::PIXELS,
        hidden = model.hidden_dim,
        latent = model.latent_dim,
    ));
    match &launch.start {
        Start::Seed => {}
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
        console.line(&format!("Start {workers} workers, each with:"));
        console.line(&format!("  {}", hints::worker(launch, address)));
        if launch.security.has_tls() {
            console.line("On another host, name in --tls-dir the folder that was issued for it.");
        }
    }
}

/// Asks for a stop at the first SIGINT or SIGTERM, and exits at the second; where SIGTERM is no
/// reason to stop the run, exits at once, for what the next coordinator has to know is on the disk.
fn stop_on_signal(
    inputs: mpsc::Sender<Input>,
    code: oneshot::Sender<u8>,
    leave_on_sigterm: bool,
) -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    Ok(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => EXIT_SIGINT,
                _ = terminate.recv() => EXIT_SIGTERM,
            }
        };
        let first = next().await;
        if leave_on_sigterm && first == EXIT_SIGTERM {
            tracing::warn!("leaving the run to its workers, until a coordinator resumes it");
            std::process::exit(i32::from(first));
        }
        let _ended = code.send(first);
        let _ended = inputs.send(Input::Stop).await;
        let impatient = next().await;
        std::process::exit(i32::from(impatient));
    })
}
