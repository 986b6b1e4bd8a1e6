//! What the board shows of a run: the coordinator's side of the crate `board`.
//!
//! The board has a thread and a runtime of its own: whatever is asked of it, the control loop only
//! tells now and then how the run stands.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    thread,
};

use ::board::{Metric, NoSource, Places, Reading, Source, Worker};
use anyhow::{Context as _, Result, ensure};
use protocol::{
    convert::printable,
    wire::{MetricValue, StatusReply, WorkerStatus},
};
use tokio::sync::{mpsc, oneshot};

use crate::{args::BoardArgs, control::Input, status::phase_name};

/// Where the board listens unless a flag says otherwise.
pub(crate) const DEFAULT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 50052);

/// File descriptors that a process must be allowed for a board that nobody asked for.
const DESCRIPTORS_MIN: u64 = 512;

/// Threads that read files for the board at the most.
const READERS_MAX: usize = 6;

/// Whether and where a run is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nowhere.
    Off,
    /// Where it usually is, if that can be.
    Usual,
    /// Where a person wants it, or not at all.
    At(SocketAddr),
}

impl Plan {
    /// What the flags ask for. A run is not shown beyond this machine.
    pub(crate) fn new(board: Option<SocketAddr>, no_board: bool) -> Result<Self> {
        match board {
            _ if no_board => Ok(Self::Off),
            Some(address) => permit("--board", address).map(|()| Self::At(address)),
            None => Ok(Self::Usual),
        }
    }

    /// Opens the board's port; none where it is not to be or, unless it was asked for, cannot be.
    pub(crate) fn listen(self) -> Result<Option<TcpListener>> {
        match self {
            Self::Off => Ok(None),
            Self::At(address) => listen("--board", address).map(Some),
            // Where descriptors are few, the workers need them.
            Self::Usual if descriptors() < DESCRIPTORS_MIN => Ok(None),
            Self::Usual => {
                let listener = listen("--board", DEFAULT);
                Ok(listener.inspect_err(|error| tracing::info!("no board: {error:#}")).ok())
            }
        }
    }
}

/// File descriptors that this process is allowed.
fn descriptors() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn permit(flag: &str, address: SocketAddr) -> Result<()> {
    ensure!(
        address.ip().is_loopback(),
        "{flag} {address}: the board listens on loopback alone: choose 127.0.0.1 or [::1], and \
         reach it from elsewhere through a tunnel, as by ssh -L"
    );
    Ok(())
}

/// Listens at an address; at any free port if that is taken.
fn listen(flag: &str, address: SocketAddr) -> Result<TcpListener> {
    let bound = match TcpListener::bind(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::new(address.ip(), 0))
        }
        bound => bound,
    };
    bound.with_context(|| format!("cannot listen on {address}: choose another {flag}"))
}

/// The address of the page.
pub(crate) fn url(listener: &TcpListener) -> Result<String> {
    Ok(format!("http://{}/", listener.local_addr()?))
}

/// Shows the run in `run_dir`, and those beside it, until `stopped` ends. A run is carried out also
/// where there is no thread left for that.
pub(crate) fn show(
    listener: TcpListener,
    readings: Readings,
    run_dir: &Path,
    stopped: oneshot::Receiver<()>,
) {
    let folder = run_dir.parent().map(Path::to_owned);
    let places = Places { current: Some(run_dir.to_owned()), folder };
    let thread = thread::Builder::new().name("board".into());
    let begun = thread.spawn(move || serve(listener, readings, places, stopped));
    if let Err(error) = begun {
        tracing::warn!("the board cannot be shown: {error}");
    }
}

fn serve(listener: TcpListener, source: impl Source, places: Places, stopped: impl Future) {
    let served = runtime().and_then(|runtime| {
        listener.set_nonblocking(true)?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            ::board::serve(listener, source, places, stopped).await;
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

/// `board`: shows finished runs, and those of others, until a signal ends the program.
pub(crate) fn show_runs(args: &BoardArgs) -> Result<String> {
    let address = args.listen.unwrap_or(DEFAULT);
    permit("--listen", address)?;
    let runs = &args.runs;
    let is_folder = runs.is_dir();
    ensure!(is_folder, "{} is no folder of runs: name one, or a run directory", runs.display());
    let listener = listen("--listen", address)?;
    stdout::say!("Board: {}", url(&listener)?);
    let places = Places { current: None, folder: Some(runs.clone()) };
    serve(listener, NoSource, places, std::future::pending::<()>());
    anyhow::bail!("the board has ended")
}

/// The control loop, as the board asks it.
#[derive(Clone, Debug)]
pub(crate) struct Readings(
    /// Weak: the control loop ends when all others that have something to tell are gone.
    pub(crate) mpsc::WeakSender<Input>,
);

impl Source for Readings {
    async fn read(&self) -> Option<Reading> {
        let (reply, status) = oneshot::channel();
        self.0.upgrade()?.send(Input::Status(reply)).await.ok()?;
        status.await.ok().map(reading)
    }
}

fn reading(status: StatusReply) -> Reading {
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
        let one = Plan::At("127.0.0.1:0".parse().unwrap()).listen().unwrap().unwrap();
        let taken = one.local_addr().unwrap();
        let other = Plan::At(taken).listen().unwrap().unwrap().local_addr().unwrap();
        assert!(other.ip().is_loopback() && other.port() != taken.port());
        assert!(Plan::Off.listen().unwrap().is_none());
    }

    #[test]
    fn a_run_is_not_shown_beyond_this_machine() {
        let refused = Plan::new(Some("0.0.0.0:50052".parse().unwrap()), false).unwrap_err();
        assert!(refused.to_string().contains("loopback alone"), "{refused}");
        assert_eq!(Plan::new(None, true).unwrap(), Plan::Off);
        assert_eq!(Plan::new(None, false).unwrap(), Plan::Usual);
    }
}
