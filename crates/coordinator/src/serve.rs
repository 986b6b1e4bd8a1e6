//! A run from the first open socket to the last exited worker.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use membership::Outcome;
use protocol::{CONTROL_MESSAGE_BYTES_MAX, door, wire::coordinator_server::CoordinatorServer};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Server, server::TcpIncoming},
};

use crate::{
    console::Console,
    control::{Control, Input},
    health,
    journal::{self, Entry},
    launch::{Launch, Start},
    run_dir::RunDir,
    service::Service,
    spawn::Children,
};

/// Inputs that wait for the control loop; workers are slowed down beyond.
const INPUTS: usize = 1024;

/// Exit codes of a program that a signal stopped, by convention 128 plus its number.
const EXIT_SIGINT: u8 = 130;
const EXIT_SIGTERM: u8 = 143;

/// Where and how a run stopped.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) run_dir: PathBuf,
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
    let listener = TcpListener::bind(launch.listen).await.with_context(|| {
        format!(
            "cannot listen on {}: is another coordinator running? choose another --listen, or \
             port 0 for any free one",
            launch.listen
        )
    })?;
    let address = listener.local_addr()?;
    data::fetch::ensure(&launch.data_dir, launch.offline)?;
    launch.claim_storage().await?;
    let mut run_dir = launch.open_run_dir()?;
    run_dir.journal().note(&Entry::Listening(address))?;
    telemetry::note_run(&launch.info.run_id);
    let key = launch.history.key(run_dir.journal())?;
    let advertised = launch.advertise.map_or(address, |ip| (ip, address.port()).into());
    introduce(launch, &run_dir, advertised, console);

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
    let mut children = if launch.spawn {
        Children::start(launch, address, console, &inputs, run_dir.journal())?
    } else {
        Children::default()
    };

    let console = console.clone();
    let control = Control::new(launch, key, &mut run_dir, &mut children, console, health);
    let ended = control.run(received).await;
    drop(stop_serving);
    children.finish().await;
    let mut exit_code = exit_code;
    let exit_code = exit_code.try_recv().unwrap_or(EXIT_SIGTERM);
    let (outcome, unfinished) = ended?;
    Ok((outcome, Stopped { run_dir: run_dir.path().to_owned(), exit_code, unfinished }))
}

/// Tells a person what is about to run and how to start the workers.
fn introduce(launch: &Launch, run_dir: &RunDir, address: std::net::SocketAddr, console: &Console) {
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
    console.line(&format!("Listening on {scheme}://{address}"));
    if !launch.spawn {
        let place = if address.ip().is_unspecified() {
            format!("{}:{}", journal::host(), address.port())
        } else {
            address.to_string()
        };
        let more = if launch.security.has_tls() { " --tls-dir DIR" } else { "" };
        console.line(&format!("Start {workers} workers, each with:"));
        console.line(&format!("  vae-worker --coordinator {scheme}://{place}{more}"));
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
