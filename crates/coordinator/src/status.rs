//! `vae-coordinator status`: asks a running coordinator for the status of its run, and prints it.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use protocol::{
    convert::{path_from_wire, printable},
    status::{is_transient, reason},
    wire::{
        MetricValue, Phase, StatusReply, StatusRequest, WorkerStatus,
        coordinator_client::CoordinatorClient, coordinator_server::SERVICE_NAME,
    },
};
use secure::{Authorized, Security};
use serde_json::json;
use tonic::Status;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    args::{HealthArg, StatusArgs},
    terms::with_unit,
};

/// How long the coordinator may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the coordinator, and returns the text to print.
pub(crate) fn show(args: &StatusArgs) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    if let Some(whose) = args.health {
        return runtime.block_on(ask_health(args, whose));
    }
    let status = runtime.block_on(ask(args))?;
    Ok(if args.json { serde_json::to_string_pretty(&as_json(&status))? } else { text(&status) })
}

pub(crate) async fn ask(args: &StatusArgs) -> Result<StatusReply> {
    let answer = CoordinatorClient::new(connect(args).await?).status(StatusRequest {}).await;
    Ok(answer.map_err(|status| failed(args, &status))?.into_inner())
}

/// The word "serving" if the service is healthy, else an error.
async fn ask_health(args: &StatusArgs, whose: HealthArg) -> Result<String> {
    let service = match whose {
        HealthArg::Coordinator => SERVICE_NAME,
        HealthArg::Training => protocol::TRAINING_HEALTH,
    };
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(connect(args).await?).check(request).await;
    let answer = answer.map_err(|status| failed(args, &status))?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok("serving".into()),
        _ => bail!("{service} at {} is not serving", args.coordinator),
    }
}

fn failed(args: &StatusArgs, status: &Status) -> anyhow::Error {
    let is_plain = args.security.tls_dir.is_none() && is_transient(status.code());
    anyhow!("{}{}", reason(status), if is_plain { secure::NO_ANSWER_HINT } else { "" })
}

async fn connect(args: &StatusArgs) -> Result<Authorized> {
    let url = &args.coordinator;
    let security = args.security.load()?;
    let (endpoint, address) = security.coordinator(url)?;
    let endpoint = endpoint.connect_timeout(ANSWER_TIMEOUT).timeout(ANSWER_TIMEOUT);
    let channel = security.channel(&endpoint, &address).await;
    let channel = channel.map_err(|error| match Security::refused(&error) {
        Some(reason) => anyhow!("cannot ask the coordinator at {url}: {reason}"),
        None => anyhow!(
            "no coordinator answers at {url} ({}); the command `runs` shows runs that have ended",
            limits::cause(&error)
        ),
    })?;
    Ok(security.authorize(channel))
}

pub(crate) fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Idle => "idle",
        Phase::Connecting => "connecting",
        Phase::Computing => "computing",
        Phase::Waiting => "waiting",
        Phase::Saving => "saving",
    }
}

fn text(status: &StatusReply) -> String {
    let mut text = format!(
        "Run {} in {}\n{}: generation {}, epoch {}/{}, step {}/{}\n",
        status.run_id,
        printable(&path_from_wire(&status.run_directory).to_string_lossy()),
        printable(&status.phase),
        status.generation,
        status.epoch,
        status.epochs,
        status.step,
        status.steps,
    );
    if !status.waiting_for.is_empty() {
        let (what, seconds) = (printable(&status.waiting_for), status.waiting_seconds);
        let _infallible = writeln!(text, "  {what} ({seconds:.0} s)");
    }
    if let Some(reported) = reported(status) {
        let _infallible = writeln!(text, "  {reported}");
    }
    for worker in &status.connected {
        let _infallible = writeln!(text, "  {}", worker_line(worker));
    }
    for error in &status.recent_errors {
        let _infallible = writeln!(text, "  before: {}", printable(error));
    }
    text.truncate(text.trim_end().len());
    text
}

/// The numbers of the last report, with its step and age.
fn reported(status: &StatusReply) -> Option<String> {
    let metric = |metric: &MetricValue| {
        let (name, unit) = (printable(&metric.name), printable(&metric.unit));
        format!("{name} {}", with_unit(metric.value, &unit))
    };
    let example = printable(&status.example);
    let rate = status.examples_per_second.map(|rate| format!("{rate:.0} {example}s/s"));
    let numbers: Vec<String> = status.metrics.iter().map(metric).chain(rate).collect();
    let numbers = numbers.join(", ");
    let (step, ago) = (status.reported_step?, status.reported_seconds_ago?);
    Some(format!("{numbers} as of step {step}, {ago:.1} s ago")).filter(|_| !numbers.is_empty())
}

fn worker_line(worker: &WorkerStatus) -> String {
    let rank = worker.rank.map_or("spare".to_owned(), |rank| format!("rank {rank}"));
    let place = format!("{} (process {})", printable(&worker.host), worker.process);
    let (Some(step), Some(_)) = (worker.step, worker.phase) else {
        let silent = worker.silent_seconds;
        return format!("{rank:8} joined {silent:.1} s ago, not heard of since; {place}");
    };
    let state = if worker.member { phase_name(worker.phase()) } else { "not a member" };
    // Heartbeats come at different moments, so members at the same step may show different steps.
    format!("{rank:8} {state:12} at step {step:<8} {:.1} s ago; {place}", worker.silent_seconds)
}

fn as_json(status: &StatusReply) -> serde_json::Value {
    let workers = status.connected.iter().map(|worker| {
        json!({
            "rank": worker.rank,
            "host": worker.host,
            "process": worker.process,
            "member": worker.member,
            "step": worker.step,
            "phase": worker.phase.map(|_| phase_name(worker.phase())),
            "silent_seconds": worker.silent_seconds,
            "memory_bytes": worker.memory_bytes,
            "device": worker.device,
        })
    });
    let metrics = status
        .metrics
        .iter()
        .map(|metric| json!({ "name": metric.name, "unit": metric.unit, "value": metric.value }));
    json!({
        "run_id": status.run_id,
        "run_directory": path_from_wire(&status.run_directory).to_string_lossy(),
        "phase": status.phase,
        "generation": status.generation,
        "step": status.step,
        "steps": status.steps,
        "epoch": status.epoch,
        "epochs": status.epochs,
        "task": status.task,
        "example": status.example,
        "examples_per_second": status.examples_per_second,
        "loss": status.metrics.first().map(|loss| loss.value),
        "metrics": metrics.collect::<Vec<_>>(),
        "reported_step": status.reported_step,
        "reported_seconds_ago": status.reported_seconds_ago,
        "waiting_for": (!status.waiting_for.is_empty()).then_some(&status.waiting_for),
        "waiting_seconds": (!status.waiting_for.is_empty()).then_some(status.waiting_seconds),
        "workers": status.workers,
        "connected": workers.collect::<Vec<_>>(),
        "recent_errors": status.recent_errors,
    })
}
