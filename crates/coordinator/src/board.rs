//! What the board shows of a run: the coordinator's side of the crate `board`.

use std::net::SocketAddr;

use ::board::{Metric, Reading, Source, Worker};
use anyhow::{Context as _, Result, ensure};
use protocol::{
    convert::printable,
    wire::{MetricValue, StatusReply, WorkerStatus},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};

use crate::{control::Input, status::phase_name};

/// Refuses to show a run beyond this machine.
pub(crate) fn permit(address: SocketAddr) -> Result<()> {
    ensure!(
        address.ip().is_loopback(),
        "--board {address}: the board listens on loopback alone: choose 127.0.0.1 or [::1], and \
         reach it from elsewhere through a tunnel, as by ssh -L"
    );
    Ok(())
}

/// Opens the board's port; any free one if that is taken.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let bound = match TcpListener::bind(address).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::new(address.ip(), 0)).await
        }
        bound => bound,
    };
    bound.with_context(|| format!("cannot listen on {address}: choose another --board"))
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
        state: worker.phase.map_or("unknown", |_| phase_name(worker.phase())),
        is_member: worker.member,
        step: worker.step,
        silent_seconds: worker.silent_seconds,
    };
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
        waiting_seconds: (!status.waiting_for.is_empty()).then_some(status.waiting_seconds),
        workers_wanted: status.workers,
        workers: status.connected.iter().map(worker).collect(),
    }
}
