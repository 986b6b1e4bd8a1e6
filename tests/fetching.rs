//! Fetching behind a proxy that accepts connections and never answers: the coordinator reports this
//! within seconds, to the user and to waiting workers.

use std::net::TcpListener;

use crate::harness::{Place, coordinator_in, free_address, worker};

#[test]
fn a_dead_proxy_is_named_and_does_not_hold_up_for_long() {
    let place = Place::new();
    // The kernel completes connections to this listener, but the test never accepts them.
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = hole.local_addr().unwrap();
    let listen = free_address();
    let environment = format!(
        "ALL_PROXY=http://{proxy} HTTPS_PROXY=http://{proxy} HTTP_PROXY=http://{proxy} NO_PROXY= \
         no_proxy= PATH=/nowhere"
    );
    let flags = format!("--listen {listen} --run-dir run --data-dir data --workers 1");
    let coordinator = coordinator_in(&environment, &place, &flags);
    coordinator.wait_for_line("fetching 4 files of mnist into ");
    let line = coordinator.wait_for_line("Fetching https://");
    assert!(line.contains(&format!("by the proxy {proxy}")), "{line}");

    let waiting = worker(&format!("http://{listen}"), "--threads 1");
    let line = waiting.wait_for_line("waiting: the coordinator is getting ready: ");
    assert!(line.contains("etching") || line.contains("answer"), "{line}");

    coordinator.wait_for_line("no answer yet, after ");
    let proxied = format!("by the proxy {proxy}");
    let words = ["could not fetch", "no answer within ", &proxied, "npm is not installed"];
    let exit = coordinator.wait().failed_with(&words);
    assert_eq!(exit.lines().filter(|line| line.starts_with("Fetching https://")).count(), 2);
    assert!(!place.run_dir.exists(), "a run that cannot begin leaves nothing behind");
}
