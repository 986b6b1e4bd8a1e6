//! A board on this machine shows a run on another machine: `board --coordinator`, over TLS with the
//! join token, also after a restart of the coordinator.

use std::{fs, path::Path};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    board::{answer, body, get, json},
    harness::{
        Browser, ENDLESS, Fleet, Place, Process, SMALL, board_of, coordinator, coordinator_at,
        wait_until,
    },
    secured::{flag, host},
};

/// A board that shows the run of the coordinator at `url`.
fn relay(place: &Place, url: &str, tls: &str) -> (Process, String) {
    let shown =
        coordinator(place, &format!("board --coordinator {url} {tls} --listen 127.0.0.1:0"));
    let board = board_of(&shown);
    (shown, board)
}

/// The rows of a run's metrics, from its board.
fn rows(board: &str) -> Vec<Value> {
    let text = body(board, "/api/metrics");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn key(row: &Value) -> (u64, u64, String) {
    let number = |name: &str| row[name].as_u64().unwrap_or_default();
    (number("generation"), number("step"), row["kind"].to_string())
}

fn temporary_folder_of(relay: &Process) -> Vec<String> {
    let files = fs::read_dir(format!("/proc/{}/fd", relay.id())).unwrap().flatten();
    let links = files.filter_map(|file| fs::read_link(file.path()).ok());
    let links = links.map(|link| link.display().to_string());
    links.filter(|link| link.contains("lockstep-board-")).collect()
}

#[test]
fn a_remote_run_is_shown_here_and_goes_on_over_a_restarted_coordinator() {
    let Some(browser) = Browser::new() else { return };
    let place = Place::new();
    let tls = flag(&host(&place, "ca"));
    let flags = format!("{SMALL} {ENDLESS} --workers 2 --no-board {tls}");
    let mut fleet = Fleet::without_workers(&place, &flags);
    (0..2).for_each(|_| fleet.add(&format!("--threads 1 {tls}")));
    fleet.wait_for_progress(&place);
    let (relay, board) = relay(&place, &fleet.url, &tls);
    relay.wait_for_line("Following run ");
    browser.resize(1280, 1000);
    browser.open(&board);
    browser.wait_for("document.querySelector('#phase').innerText === 'training'");
    browser.wait_for("document.querySelector('#chart-loss canvas') !== null");
    browser.wait_for("document.querySelectorAll('#workers tbody tr').length === 2");
    browser.wait_for("document.querySelector('#sample').naturalWidth > 0");
    browser.picture("board-relay");
    let list = json(&board, "/api/runs");
    let run_dir = place.run_dir.file_name().unwrap().to_str().unwrap();
    assert_eq!(list[0]["name"], run_dir, "by the name that it has there");

    // The board answers only requests that read, so none of them changes the coordinator.
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let request =
            format!("{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(answer(&board, &request).0, 405, "{method}");
    }

    fleet.coordinator.signal(Signal::KILL);
    browser.wait_for("document.querySelector('#phase').innerText === 'no coordinator'");
    let Fleet { coordinator: killed, url, workers: _workers, .. } = fleet;
    killed.wait();
    let before = rows(&board).len();
    let run_dir = place.run_dir.display();
    let next = coordinator(&place, &format!("--resume --run-dir {run_dir} --no-board {tls}"));
    next.wait_for_line(&format!("Listening on {url}"));
    browser.wait_for("document.querySelector('#phase').innerText === 'training'");
    wait_until("rows come again", || rows(&board).len() > before + 2);
    assert_eq!(browser.complaints(), [""; 0]);
    // Each row comes once, in the order in which the rows were written.
    let here: Vec<_> = rows(&board).iter().map(key).collect();
    let text = fs::read_to_string(place.file("metrics.jsonl")).unwrap();
    let there: Vec<_> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let there: Vec<_> = there.iter().map(key).collect();
    assert_eq!(here[..], there[..here.len()]);
    assert_eq!(json(&board, "/api/runs").as_array().unwrap().len(), 1);

    // The relay's temporary files are removed at its end.
    let kept = temporary_folder_of(&relay);
    assert!(!kept.is_empty());
    relay.signal(Signal::TERM);
    relay.wait().exited_with(143);
    assert!(kept.iter().all(|file| !Path::new(file).exists()), "{kept:?}");
}

#[test]
fn a_run_that_ends_is_told_to_its_end() {
    let place = Place::new();
    let fleet =
        Fleet::without_workers(&place, &format!("{SMALL} --epochs 3 --workers 1 --no-board"));
    let (relay, board) = relay(&place, &fleet.url, "");
    relay.wait_for_line("Following run ");
    let mut fleet = fleet;
    fleet.add("--threads 1");
    fleet.completed();
    wait_until("the summary has come", || {
        json(&board, "/api/runs")[0]["summary"]["digest"] == place.digest().as_str()
    });
    let written = fs::read_to_string(place.file("metrics.jsonl")).unwrap();
    assert_eq!(rows(&board).len(), written.lines().count());
    assert!(body(&board, "/api/events").contains("ended"));
    wait_until("the last sample has come", || get(&board, "/api/sample?epoch=3").0 == 200);
}

#[test]
fn only_those_with_certificate_and_token_follow() {
    let place = Place::new();
    let ours = host(&place, "ca");
    let tls = flag(&ours);
    let run = coordinator_at(&place, &format!("{SMALL} {ENDLESS} --workers 1 --no-board {tls}"));
    let line = run.wait_for_line("Listening on ");
    let url = line.rsplit(' ').next().unwrap();
    let refused = |flags: &str, words: &[&str]| {
        let asked = format!("board --coordinator {url} {flags} --listen 127.0.0.1:0");
        coordinator(&place, &asked).wait().failed_with(words);
    };
    refused(&flag(&host(&place, "other-ca")), &["cannot follow the coordinator", "certificate"]);
    let view = ours.join("view-token");
    refused(&format!("{tls} --token-file {}", view.display()), &["wrong join token"]);
    refused("", &["asks for TLS, which takes --tls-dir"]);
    let nobody = "board --coordinator 127.0.0.1:9 --listen 127.0.0.1:0";
    coordinator(&place, nobody).wait().failed_with(&["no coordinator answers at 127.0.0.1:9"]);
    let both = "board runs --coordinator 127.0.0.1:9";
    coordinator(&place, both).wait().failed_with(&["cannot be used with"]);
}
