//! `RUST_LOG` chooses what the programs log.

use crate::harness::{Fleet, Place, SMALL, coordinator_in, worker_in};

/// Words that a coordinator and a worker log at level info.
const COORDINATOR_INFO: &str = "generation starts";
const WORKER_INFO: &str = "training rank=";

/// Completes a small run with one worker; returns the output of both programs.
fn said(coordinator_environment: &str, worker_environment: &str) -> [String; 2] {
    let place = Place::new();
    let run_dir = place.run_dir.display();
    let flags = format!("--listen 127.0.0.1:0 --run-dir {run_dir} {SMALL} --workers 1 --epochs 1");
    let fleet = Fleet::of(coordinator_in(coordinator_environment, &place, &flags), None);
    let worker = worker_in(worker_environment, &format!("--threads 1 --coordinator {}", fleet.url));
    [fleet.completed().text(), worker.wait().succeeded().text()]
}

#[test]
fn rust_log_is_respected() {
    let [coordinator, worker] = said("", "");
    assert!(!coordinator.contains(COORDINATOR_INFO), "warnings and errors alone: {coordinator}");
    assert!(worker.contains(WORKER_INFO), "{worker}");
    let [coordinator, worker] = said("RUST_LOG=coordinator=info", "RUST_LOG=error");
    assert!(coordinator.contains(COORDINATOR_INFO), "{coordinator}");
    assert!(!worker.contains(WORKER_INFO), "{worker}");
}
