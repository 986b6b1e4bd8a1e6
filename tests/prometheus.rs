//! Debian's Prometheus scrapes the board of a run.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use serde_json::Value;

use crate::harness::{
    DEADLINE, ENDLESS, Fleet, Place, Process, SMALL, board_of, free_address, leave_out, wait_until,
};

/// This variable is set if tests with Prometheus must not be left out.
const REQUIRED: &str = "LOCKSTEP_PROMETHEUS_REQUIRED";

/// Whether Prometheus is installed; if not, notes that the test is left out.
fn is_here() -> bool {
    let is_here = Command::new("prometheus").arg("--version").output().is_ok();
    if !is_here {
        let reason = "there is no prometheus; on Debian, install the package of that name";
        leave_out(REQUIRED, "a real Prometheus", reason);
    }
    is_here
}

/// The value of a query in Prometheus; none until there is one.
fn value(address: &str, query: &str) -> Option<f64> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    let request = format!("GET /api/v1/query?query={query} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let answer: Value = serde_json::from_str(body).ok()?;
    answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
}

#[test]
fn prometheus_has_the_step_and_the_losses_of_a_run() {
    if !is_here() {
        return;
    }
    let place = Place::new();
    let fleet = Fleet::start(&place, 2, &format!("{SMALL} {ENDLESS} --board 127.0.0.1:0"));
    let board = board_of(&fleet.coordinator);
    let scrape = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: lockstep\n  \
         static_configs: [{{targets: ['{}']}}]\n",
        board.trim_start_matches("http://")
    );
    let config = place.path("prometheus.yml");
    fs::write(&config, scrape).unwrap();
    // Prometheus does not accept port 0.
    let address = free_address();
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", place.path("metrics").display()));
    command.arg(format!("--web.listen-address={address}"));
    let _prometheus = Process::start("prometheus", &mut command);
    wait_until("Prometheus knows that the run goes on", || {
        value(&address, "lockstep_step").is_some_and(|step| step > 0.0)
    });
    for query in
        ["up{job=%22lockstep%22}", "lockstep_members", "lockstep_training_mean{name=%22kl%22}"]
    {
        wait_until(query, || value(&address, query).is_some_and(|value| value > 0.0));
    }
    drop(fleet);
}
