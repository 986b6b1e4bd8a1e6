//! The board of a run: the coordinator's side of the crate `board`.
//!
//! The board has its own thread and its own runtime, so that its requests never delay the control
//! loop. The control loop only answers requests for the status of the run.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use ::board::{Metric, Places, Reading, Show, Source, Worker};
use anyhow::{Context as _, Result, ensure};
use protocol::{
    convert::printable,
    wire::{MetricValue, StatusReply, WorkerStatus},
};
use secure::{Security, Viewers, connection::BoxFuture};
use tokio::sync::{mpsc, oneshot};

use crate::{
    args::SecurityArgs, control::Input, launch::Launch, program::Program, relay::relay,
    status::phase_name,
};

/// Where the board listens unless a flag says otherwise.
pub(crate) const DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 50052);

/// Without a flag, the board is shown only if the process may open this many file descriptors.
const DESCRIPTORS_MIN: u64 = 512;

/// The most threads that read files for the board.
const READERS_MAX: usize = 6;

/// Whether and where a run is shown while it trains.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct BoardFlags {
    /// Show the run in a browser at this address, and as metrics for Prometheus at /metrics; if the
    /// port is taken, at any free one. Beyond loopback this needs --tls-dir and a view token
    /// [default: 127.0.0.1:50052]
    #[arg(long, value_name = "IP:PORT", conflicts_with = "no_board", value_parser = ip_and_port)]
    pub(crate) board: Option<SocketAddr>,
    /// Do not show the run in a browser
    #[arg(long)]
    pub(crate) no_board: bool,
    /// File with the token that a viewer beyond loopback must give; the join token does not open
    /// the board [default: view-token in --tls-dir, if there is one]
    #[arg(long, value_name = "FILE", conflicts_with = "no_board")]
    pub(crate) view_token_file: Option<PathBuf>,
}

/// Which runs to show, and where.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BoardArgs {
    /// Folder of runs, or one run directory
    #[arg(default_value = "runs", conflicts_with = "coordinator")]
    runs: PathBuf,
    /// Show the run of this coordinator, on this machine or another: HOST:PORT or a URL
    #[arg(long, value_name = "ADDRESS")]
    coordinator: Option<String>,
    /// Folder with the files of the runs' data set, for the page of the latent space [default: the
    /// user's cache]
    #[arg(long, value_name = "DIR", conflicts_with = "coordinator")]
    data_dir: Option<PathBuf>,
    /// Address to listen on; if the port is taken, any free port. Beyond loopback this needs
    /// --tls-dir and a view token [default: 127.0.0.1:50052]
    #[arg(long, value_name = "IP:PORT", value_parser = ip_and_port)]
    listen: Option<SocketAddr>,
    /// File with the token that a viewer beyond loopback must give [default: view-token in
    /// --tls-dir, if there is one]
    #[arg(long, value_name = "FILE")]
    view_token_file: Option<PathBuf>,
    #[command(flatten)]
    security: SecurityArgs,
}

fn ip_and_port(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("an IP address and a port are needed, such as {DEFAULT}"))
}

/// Whether and where a run is shown.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    /// Nowhere.
    Off,
    /// At the default address; without a board if that fails.
    Usual,
    /// At the address that a flag names; if that fails, the coordinator ends with an error.
    At(SocketAddr, Option<Viewers>),
}

impl Plan {
    /// The plan that the flags ask for. Beyond this machine a viewer needs the view token.
    pub(crate) fn new(flags: &BoardFlags, security: &Security) -> Result<Self> {
        let file = flags.view_token_file.as_deref();
        match flags.board {
            _ if flags.no_board => Ok(Self::Off),
            None if file.is_none() => Ok(Self::Usual),
            address => {
                let address = address.unwrap_or(DEFAULT);
                let viewers = security.viewers("--board", &address.into(), file)?;
                Ok(Self::At(address, viewers))
            }
        }
    }

    /// Opens the board's port; none if the board is off, or if the default board cannot be opened.
    ///
    /// # Errors
    /// When a board that a flag asks for cannot be opened.
    pub(crate) fn listen(&self) -> Result<Option<Opened>> {
        match self {
            Self::Off => Ok(None),
            Self::At(address, viewers) => {
                Opened::at("--board", *address, viewers.clone()).map(Some)
            }
            // If only a few descriptors are allowed, the workers need them.
            Self::Usual if descriptors() < DESCRIPTORS_MIN => Ok(None),
            Self::Usual => {
                let opened = Opened::at("--board", DEFAULT, None);
                Ok(opened.inspect_err(|error| tracing::info!("no board: {error:#}")).ok())
            }
        }
    }
}

/// A board's open port, and its check of viewers.
#[derive(Debug)]
pub(crate) struct Opened {
    listener: TcpListener,
    viewers: Option<Viewers>,
}

impl Opened {
    /// Listens at an address; at any free port of that address if the port is taken.
    fn at(flag: &str, address: SocketAddr, viewers: Option<Viewers>) -> Result<Self> {
        let bound = match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                TcpListener::bind(SocketAddr::new(address.ip(), 0))
            }
            bound => bound,
        };
        let listener =
            bound.with_context(|| format!("cannot listen on {address}: choose another {flag}"))?;
        Ok(Self { listener, viewers })
    }

    /// The line that tells a person the address of the page.
    pub(crate) fn line(&self) -> Result<String> {
        let address = self.listener.local_addr()?;
        Ok(match self.viewers {
            None => format!("Board: http://{address}/"),
            Some(_) => format!("Board, to those with the view token: https://{address}/"),
        })
    }
}

/// The number of file descriptors that this process may open.
fn descriptors() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Shows the run in `run_dir`, and the runs beside it, until `stopped` ends. If no thread can be
/// started, the run goes on without a board.
pub(crate) fn show(
    opened: Opened,
    readings: Readings,
    launch: &Launch,
    run_dir: &Path,
    stopped: oneshot::Receiver<()>,
) {
    let folder = run_dir.parent().map(Path::to_owned);
    let places = Places { current: Some(run_dir.to_owned()), folder };
    let show = Show { source: Some(Arc::new(readings)), places, explorer: launch.explorer() };
    if let Err(error) = show_at(opened, show, stopped) {
        tracing::warn!("the board cannot be shown: {error}");
    }
}

/// Shows runs from a new thread.
pub(crate) fn show_at(
    opened: Opened,
    show: Show,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let thread = thread::Builder::new().name("board".into());
    thread.spawn(move || serve(opened, show, stopped)).map(drop)
}

fn serve(opened: Opened, show: Show, stopped: impl Future) {
    let Opened { listener, viewers } = opened;
    let served = runtime().and_then(|runtime| {
        listener.set_nonblocking(true)?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::select! {
                () = ::board::serve(listener, viewers, show) => {}
                _ = stopped => {}
            }
            Ok(())
        })
    });
    if let Err(error) = served {
        tracing::warn!("the board cannot be shown: {error}");
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(READERS_MAX)
        .build()
}

/// `board`: shows the runs in a folder, or the run of a coordinator, until a signal ends the program.
pub(crate) fn show_runs(args: &BoardArgs, program: &dyn Program) -> Result<String> {
    let address = args.listen.unwrap_or(DEFAULT);
    let security = args.security.load()?;
    let viewers = security.viewers("--listen", &address.into(), args.view_token_file.as_deref())?;
    if let Some(url) = &args.coordinator {
        let opened = Opened::at("--listen", address, viewers)?;
        return relay(url, security, opened, program.explorer(None));
    }
    let runs = &args.runs;
    let is_folder = runs.is_dir();
    ensure!(is_folder, "{} is no folder of runs: name one, or a run directory", runs.display());
    let opened = Opened::at("--listen", address, viewers)?;
    stdout::say!("{}", opened.line()?);
    let places = Places { current: None, folder: Some(runs.clone()) };
    let explorer = program.explorer(args.data_dir.clone());
    serve(opened, Show { source: None, places, explorer }, std::future::pending::<()>());
    anyhow::bail!("the board has ended")
}

/// The board's way to ask the control loop.
#[derive(Clone, Debug)]
pub(crate) struct Readings(
    /// Weak: the control loop ends when all strong senders are gone, so the board must not hold one.
    pub(crate) mpsc::WeakSender<Input>,
);

impl Readings {
    /// The status of the run; none when the control loop has ended.
    pub(crate) async fn status(&self) -> Option<StatusReply> {
        let (reply, status) = oneshot::channel();
        self.0.upgrade()?.send(Input::Status(reply)).await.ok()?;
        status.await.ok()
    }
}

impl Source for Readings {
    fn read(&self) -> BoxFuture<'static, Option<Reading>> {
        let readings = self.clone();
        Box::pin(async move { readings.status().await.map(reading) })
    }
}

/// Converts the status of a run into the board's type.
pub(crate) fn reading(status: StatusReply) -> Reading {
    let metric = |metric: &MetricValue| Metric {
        name: printable(&metric.name).to_string(),
        unit: printable(&metric.unit).to_string(),
        value: metric.value,
    };
    let worker = |worker: &WorkerStatus| Worker {
        rank: worker.rank,
        host: printable(&worker.host).to_string(),
        process: worker.process,
        device: Some(printable(&worker.device).to_string()).filter(|device| !device.is_empty()),
        memory_bytes: worker.memory_bytes,
        state: worker.phase.map_or("unknown", |_| phase_name(worker.phase())),
        is_member: worker.member,
        step: worker.step,
        silent_seconds: worker.silent_seconds,
    };
    let is_waiting = !status.waiting_for.is_empty();
    Reading {
        run_id: status.run_id,
        task: status.task,
        state: status.phase,
        generation: status.generation,
        step: status.step,
        steps: status.steps,
        epoch: status.epoch,
        epochs: status.epochs,
        examples_per_second: status.examples_per_second,
        metrics: status.metrics.iter().map(metric).collect(),
        reported_seconds_ago: status.reported_seconds_ago,
        waiting_for: is_waiting.then_some(status.waiting_for),
        waiting_seconds: is_waiting.then_some(status.waiting_seconds),
        workers_wanted: status.workers,
        workers: status.connected.iter().map(worker).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_not_in_the_way() {
        let listen = |plan: Plan| plan.listen().unwrap().unwrap().listener.local_addr().unwrap();
        let one = Plan::At("127.0.0.1:0".parse().unwrap(), None).listen().unwrap().unwrap();
        let taken = one.listener.local_addr().unwrap();
        let other = listen(Plan::At(taken, None));
        assert!(other.ip().is_loopback() && other.port() != taken.port());
        assert!(Plan::Off.listen().unwrap().is_none());
    }

    #[test]
    fn a_run_is_not_shown_beyond_this_machine_without_tls_and_a_token() {
        let flags = |board: Option<&str>, no_board| BoardFlags {
            board: board.map(|address| address.parse().unwrap()),
            no_board,
            view_token_file: None,
        };
        for insecure in [false, true] {
            let open = Security::load(None, None, insecure).unwrap();
            let refused = Plan::new(&flags(Some("0.0.0.0:50052"), false), &open).unwrap_err();
            assert!(refused.to_string().contains("no TLS: give --tls-dir"), "{refused}");
        }
        let open = Security::default();
        assert!(matches!(Plan::new(&flags(None, true), &open), Ok(Plan::Off)));
        assert!(matches!(Plan::new(&flags(None, false), &open), Ok(Plan::Usual)));
    }
}
