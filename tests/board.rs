//! The board shows a run in a real browser and to Prometheus, also when workers and the coordinator
//! die. It refuses requests from other sites and other names.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    Browser, DEADLINE, ENDLESS, Fleet, Place, SMALL, board_of, coordinator, coordinator_at,
    free_port, wait_until,
};

/// The most streams that a board serves at a time.
const STREAMS_MAX: usize = 32;

/// Sends a request unchanged, and returns the stream with the answer.
fn ask(board: &str, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(board.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// The answer to a request: its status, and the whole answer as text.
pub(crate) fn answer(board: &str, request: &str) -> (u16, String) {
    let mut bytes = Vec::new();
    ask(board, request).read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer to {request:?}: {text:?}")), text)
}

pub(crate) fn get(board: &str, path: &str) -> (u16, String) {
    answer(board, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

/// The body of the answer for a path, without the head and without the sizes of chunks.
pub(crate) fn body(board: &str, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let (status, text) = answer(board, &request);
    assert_eq!(status, 200, "{path}: {text}");
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

pub(crate) fn json(board: &str, path: &str) -> Value {
    serde_json::from_str(&body(board, path)).unwrap()
}

#[test]
fn a_killed_worker_is_shown() {
    let Some(browser) = Browser::new() else { return };
    let place = Place::new();
    let mut fleet = Fleet::start(&place, 3, &format!("{SMALL} {ENDLESS} --board 127.0.0.1:0"));
    let board = board_of(&fleet.coordinator);
    browser.resize(1280, 1500);
    browser.prefer("light");
    browser.open(&board);
    browser.wait_for("document.querySelector('#phase').innerText === 'training'");
    browser.wait_for("document.querySelector('#chart-loss canvas') !== null");
    browser.wait_for("document.querySelectorAll('#workers tbody tr').length === 3");
    browser.wait_for("document.querySelectorAll('#ranks .rank').length === 3");
    browser.wait_for("document.querySelector('#sample').naturalWidth > 0");
    fleet.workers.pop().unwrap().signal(Signal::KILL);
    browser.wait_for("document.querySelector('#events').innerText.includes('Rank 2 is gone')");
    browser.wait_for("document.querySelectorAll('#workers tbody tr').length === 2");
    browser.wait_for("document.querySelectorAll('#generations .lost').length === 1");
    browser.wait_for("document.querySelector('#about').innerText.includes('2 of 3 workers')");
    browser.picture("board-light");
    browser.assert_accessible("the board");

    // The keyboard reaches the charts, and zooms in once there is a number to see.
    browser.wait_for("/\\d/.test(document.querySelector('#chart-loss').ariaLabel)");
    browser.eval("document.querySelector('#chart-loss').focus()");
    let all = browser.eval("return document.querySelector('#chart-loss').getAttribute('tabindex')");
    assert_eq!(all, "0");
    browser.press("++");
    browser.wait_for(
        "performance.getEntriesByType('resource').some(one => one.name.includes('&from='))",
    );
    browser.press("0");
    // A table has all numbers, for people who cannot see the charts.
    browser.eval("document.querySelector('#table-box').open = true");
    browser.wait_for("document.querySelectorAll('#table tbody tr').length > 3");

    let bright = browser.eval("return getComputedStyle(document.body).backgroundColor");
    browser.prefer("dark");
    let dark = browser.eval("return getComputedStyle(document.body).backgroundColor");
    assert_ne!(bright, dark);
    browser.picture("board-dark");
    browser.assert_accessible("the board in the dark");
    browser.resize(390, 844);
    browser.wait_for("innerWidth === 390 && document.documentElement.scrollWidth <= 390");
    browser.picture("board-phone");
    browser.resize(1280, 1000);
    browser.click("#to-compare");
    browser.wait_for("document.querySelector('#chart-compare canvas') !== null");
    browser.assert_accessible("the comparison");
    assert_eq!(browser.complaints(), [""; 0]);
    let requests = browser.requests();
    assert!(requests.len() > 8, "{requests:?}");
    assert!(requests.iter().all(|url| url.starts_with(&board)), "{requests:?}");
}

#[test]
fn the_page_goes_on_over_a_restarted_coordinator() {
    let Some(browser) = Browser::new() else { return };
    let place = Place::new();
    // A fixed port, so that the page finds the next coordinator there.
    let port = free_port();
    let flags = format!("{SMALL} {ENDLESS} --board 127.0.0.1:{port}");
    let mut fleet = Fleet::start(&place, 2, &flags);
    fleet.wait_for_progress(&place);
    let board = board_of(&fleet.coordinator);
    browser.open(&board);
    browser.wait_for("document.querySelector('#link').innerText.includes('live')");
    let shown = "document.querySelector('#tiles small').innerText";
    let before = browser.wait_for(&format!("{shown}.startsWith('step ') && {shown}"));
    fleet.coordinator.signal(Signal::KILL);
    browser.wait_for("document.querySelector('#link').innerText.includes('trying again')");
    let Fleet { coordinator: killed, workers: _workers, .. } = fleet;
    killed.wait();
    let run_dir = place.run_dir.display();
    let flags = format!("--resume --run-dir {run_dir} --board 127.0.0.1:{port}");
    let next = coordinator(&place, &flags);
    assert_eq!(board_of(&next), board);
    browser.wait_for("document.querySelector('#link').innerText.includes('live')");
    browser.wait_for("document.querySelector('#phase').innerText === 'training'");
    browser.wait_for(&format!("{shown} !== {before}"));
    let told = "document.querySelector('#events').innerText";
    browser.wait_for(&format!("{told}.includes('started again after generation 1')"));
    // A picture may have been asked for when the coordinator died.
    let picture = format!("error: {board}/api/sample");
    let complaints = browser.complaints();
    assert!(complaints.iter().all(|one| one.starts_with(&picture)), "{complaints:?}");
}

#[test]
fn nobody_from_elsewhere_is_answered() {
    let place = Place::new();
    let coordinator = coordinator_at(&place, &format!("{SMALL} {ENDLESS} --workers 1"));
    let board = board_of(&coordinator);
    let (status, page) = get(&board, "/");
    assert_eq!(status, 200);
    let policy = "content-security-policy: default-src 'none'; script-src 'self'";
    assert!(page.contains(policy), "{page}");
    let host = board.trim_start_matches("http://").to_owned();
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", 421),
        ("GET /metrics HTTP/1.1\r\nHost: example.org:50052\r\n\r\n", 421),
        ("GET /api/live HTTP/1.1\r\nHost: localhost.example.org\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n\r\n", 403),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-site\r\n\r\n", 403),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: none\r\n\r\n", 200),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 405),
        ("OPTIONS /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("GET /config.json HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /../config.json HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /api/chart?run=../.. HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /api/sample?epoch=9 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("GET /api/chart?x=y HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        ("HEAD /metrics HTTP/1.1\r\nHost: HOST\r\n\r\n", 200),
    ] {
        let (status, text) = answer(&board, &request.replace("HOST", &host));
        assert_eq!(status, expected, "{request}: {text}");
    }
    // Browsers that read nothing do no harm, and the number of streams is limited.
    let live = "GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let streams: Vec<TcpStream> = (0..STREAMS_MAX)
        .map(|_| {
            let mut stream = ask(&board, live);
            let mut first = [0; 15];
            stream.read_exact(&mut first).unwrap();
            assert_eq!(&first, b"HTTP/1.1 200 OK");
            stream
        })
        .collect();
    let (status, refused) = answer(&board, live);
    assert_eq!(status, 503, "{refused}");
    assert_eq!(get(&board, "/metrics").0, 200);
    drop(streams);
    wait_until("a stream is free again", || {
        let mut first = [0; 12];
        ask(&board, live).read_exact(&mut first).unwrap();
        &first == b"HTTP/1.1 200"
    });
}

#[test]
fn a_board_is_never_in_the_way() {
    let [one, other, third] = [Place::new(), Place::new(), Place::new()];
    let flags = format!("{SMALL} {ENDLESS} --workers 1");
    let first = coordinator_at(&one, &flags);
    let taken = board_of(&first);
    let address = taken.trim_start_matches("http://");
    let second = coordinator_at(&other, &format!("{flags} --board {address}"));
    assert_ne!(board_of(&second), taken);
    let without = coordinator_at(&third, &format!("{flags} --no-board"));
    without.wait_for_line("--coordinator");
    without.signal(Signal::TERM);
    let said = without.wait().text();
    assert!(!said.contains("Board:"), "{said}");
    let refused = coordinator(&third, &format!("{flags} --board 0.0.0.0:0"));
    refused.wait().failed_with(&["--board 0.0.0.0:0", "a view token"]);
}

#[test]
fn finished_runs_are_shown_from_their_files() {
    let place = Place::new();
    let flags = format!("{SMALL} --epochs 2 --no-board");
    Fleet::start(&place, 2, &flags).completed();
    let runs = place.path("").display().to_string();
    let shown = coordinator(&place, &format!("board {runs} --listen 127.0.0.1:0"));
    let board = board_of(&shown);
    let list = json(&board, "/api/runs");
    let run = &list[0];
    assert_eq!(run["summary"]["digest"], Value::from(place.digest()));
    let chart = json(&board, &format!("/api/chart?x=epoch&run={}", run["key"].as_str().unwrap()));
    let tests = chart["epochs"]["lines"]["test_loss"]["mean"].as_array().unwrap();
    let last = place.metrics("epoch")[1]["test_loss"].as_f64().unwrap();
    assert_eq!(tests.len(), 2);
    assert!((tests[1].as_f64().unwrap() - last).abs() < 1e-3 * last);
    let story = json(&board, "/api/story");
    assert_eq!(story["generations"][0]["ranks"], serde_json::json!([0, 1]));
    let table = body(&board, "/api/csv");
    assert!(table.starts_with("step,epoch,generation,time,"), "{table}");
    let rows = place.metrics("steps").len();
    assert_eq!(table.lines().count(), 1 + rows);
    let raw = body(&board, "/api/metrics");
    assert_eq!(raw.lines().count(), rows + 2);
    assert!(body(&board, "/api/events").contains("generation_started"));
    let (status, picture) = get(&board, "/api/sample?epoch=2");
    assert!(status == 200 && picture.contains("image/png"));
    let missing = coordinator(&place, "board nowhere");
    missing.wait().failed_with(&["nowhere is no folder of runs"]);
}

#[test]
fn a_run_is_scraped_as_prometheus_does() {
    let place = Place::new();
    let mut fleet = Fleet::start(&place, 2, &format!("{SMALL} {ENDLESS} --board 127.0.0.1:0"));
    let board = board_of(&fleet.coordinator);
    fleet.wait_for_progress(&place);
    let value = |name: &str| {
        let text = body(&board, "/metrics");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let series = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        series.map(|value| value.parse::<f64>().unwrap())
    };
    let is = |name: &str, expected: f64| value(name) == Some(expected);
    wait_until("the run trains", || is("lockstep_run_state{state=\"training\"}", 1.0));
    assert!(is("lockstep_members", 2.0) && is("lockstep_up", 1.0));
    let examples = value("lockstep_examples_total").unwrap();
    wait_until("examples are counted", || value("lockstep_examples_total").unwrap() > examples);
    assert!(value("lockstep_rank_seconds_total{rank=\"1\",phase=\"compute\"}").unwrap() > 0.0);
    assert!(value("process_resident_memory_bytes").unwrap() > 1e6);
    fleet.workers.pop().unwrap().signal(Signal::KILL);
    wait_until("the loss is counted", || {
        is("lockstep_workers_lost_total{reason=\"disconnected\"}", 1.0)
    });
    wait_until("the recovery is measured", || {
        is("lockstep_recovery_seconds_count{phase=\"agreement\"}", 1.0)
    });
    let (_, head) = get(&board, "/metrics");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
}
