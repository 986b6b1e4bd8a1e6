//! The board beyond loopback: over TLS, only for people with the view token.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::Arc,
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

use crate::{
    harness::{
        Browser, DEADLINE, ENDLESS, Fleet, Place, Process, SMALL, coordinator, coordinator_at,
    },
    secured::{flag, host},
};

/// The port of a board that listens beyond loopback.
fn port_of(coordinator: &Process) -> u16 {
    let line = coordinator.wait_for_line("Board, to those with the view token: https://");
    line.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap()
}

/// The status and the whole answer to a request, over TLS with the certificate checked.
fn answer(ca: &Path, port: u16, request: &str) -> (u16, String) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca.join("ca.crt")).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("a.example").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    // The other side ends the connection, with or without TLS's closing message.
    let _ended = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer to {request:?}: {text:?}")), text)
}

fn get(ca: &Path, port: u16, path: &str, headers: &str) -> (u16, String) {
    answer(ca, port, &format!("GET {path} HTTP/1.1\r\nHost: a.example:{port}\r\n{headers}\r\n"))
}

fn token(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap().trim().to_owned()
}

#[test]
fn beyond_loopback_a_board_answers_those_with_the_view_token() {
    let place = Place::new();
    let tls = host(&place, "ca");
    let flags = format!("{SMALL} {ENDLESS} --workers 1 --board 0.0.0.0:0 {}", flag(&tls));
    let shown = coordinator_at(&place, &flags);
    let port = port_of(&shown);
    let [join, view] = ["token", "view-token"].map(|name| token(&tls, name));
    let get = |path: &str, headers: &str| get(&tls, port, path, headers);
    let with = |token: &str| format!("Authorization: Bearer {token}\r\n");

    let (status, page) = get("/", "");
    assert!(status == 401 && page.contains("view token") && !page.contains("board.js"), "{page}");
    for path in ["/metrics", "/api/runs", "/api/live", "/api/csv", "/board.js", "/nothing"] {
        for headers in [String::new(), with(&join), with(""), with(&view[1..])] {
            let (status, said) = get(path, &headers);
            assert_eq!(status, 401, "{path} {said}");
        }
    }
    assert_eq!(get("/enter.js", "").0, 200);
    assert_eq!(get("/metrics", &with(&view)).0, 200);
    assert_eq!(get("/api/enter", &with(&join)).0, 401);

    let (status, said) = get("/api/enter", &with(&view));
    assert_eq!(status, 204, "{said}");
    let line = said.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    let (cookie, attributes) = line.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; Secure; HttpOnly; SameSite=Strict");
    assert!(!said.contains(&view), "the cookie tells the token");
    assert_eq!(get("/", &format!("Cookie: other=1; {cookie}\r\n")).0, 200);
    let (rest, last) = cookie.split_at(cookie.len() - 1);
    let other = if last == "0" { "1" } else { "0" };
    assert_eq!(get("/", &format!("Cookie: {rest}{other}\r\n")).0, 401);

    // With the cookie too, the board refuses foreign names, pages of other sites, and requests that
    // write.
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nHost: evil.example\r\nCOOKIE\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: a.example.evil.example:1\r\nCOOKIE\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: 192.0.2.1:50052\r\nCOOKIE\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: a.example\r\nSec-Fetch-Site: cross-site\r\nCOOKIE\r\n", 403),
        (
            "GET /api/live HTTP/1.1\r\nHost: a.example\r\nSec-Fetch-Site: same-site\r\nCOOKIE\r\n",
            403,
        ),
        ("POST /api/enter HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\nCOOKIE\r\n", 405),
    ] {
        let request = request.replace("COOKIE", &format!("Cookie: {cookie}\r\n"));
        assert_eq!(answer(&tls, port, &request).0, expected, "{request}");
    }
    // Without TLS there is no answer at all.
    let mut plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain.set_read_timeout(Some(DEADLINE)).unwrap();
    plain.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let _refused = plain.read_to_end(&mut said);
    assert!(!String::from_utf8_lossy(&said).contains("HTTP/1.1 200"));
}

#[test]
fn the_view_token_opens_no_run() {
    let place = Place::new();
    let tls = host(&place, "ca");
    let flags = format!("{SMALL} {ENDLESS} --workers 1 --no-board {}", flag(&tls));
    let run = coordinator_at(&place, &flags);
    let line = run.wait_for_line("Listening on ");
    let url = line.rsplit(' ').next().unwrap();
    let view = tls.join("view-token");
    let asked =
        format!("status --coordinator {url} {} --token-file {}", flag(&tls), view.display());
    coordinator(&place, &asked).wait().failed_with(&["wrong join token"]);
}

#[test]
fn a_board_beyond_loopback_is_refused_without_what_it_takes() {
    let place = Place::new();
    let tls = host(&place, "ca");
    let (tls_dir, run) = (flag(&tls), format!("{SMALL} {ENDLESS} --board 0.0.0.0:0"));
    let refused = |flags: &str, words: &[&str]| {
        coordinator(&place, flags).wait().failed_with(words);
    };
    refused(&run, &["--board 0.0.0.0:0", "TLS and a view token", "--tls-dir", "certs --help"]);
    // --insecure opens the coordinator, but not the board.
    refused(&format!("{run} --insecure"), &["--board 0.0.0.0:0", "--tls-dir"]);
    let board = "board . --listen 0.0.0.0:0";
    refused(board, &["--listen 0.0.0.0:0", "--tls-dir"]);
    fs::rename(tls.join("view-token"), tls.join("elsewhere")).unwrap();
    refused(&format!("{run} {tls_dir}"), &["no view token: give --view-token-file"]);
    let same = tls.join("token");
    let same = format!("{run} {tls_dir} --view-token-file {}", same.display());
    refused(&same, &["holds the join token"]);
    let moved = tls.join("elsewhere");
    let flags = format!("{board} {tls_dir} --view-token-file {}", moved.display());
    let shown = coordinator(&place, &flags);
    assert_eq!(get(&tls, port_of(&shown), "/", "").0, 401);
}

#[test]
fn a_person_brings_the_token_once() {
    let Some(browser) = Browser::new() else { return };
    let place = Place::new();
    let tls = host(&place, "ca");
    let more = flag(&tls);
    let flags = format!("{SMALL} {ENDLESS} --workers 1 --board 0.0.0.0:0 {more}");
    let mut fleet = Fleet::without_workers(&place, &flags);
    fleet.add(&format!("--threads 1 {more}"));
    let board = format!("https://localhost:{}", port_of(&fleet.coordinator));
    browser.resize(1280, 1000);
    browser.open(&board);
    browser.wait_for("document.querySelector('#token') !== null");
    let enter = |text: &str| {
        browser.eval("document.querySelector('#token').value = ''");
        browser.click("#token");
        browser.press(text);
        browser.click("button");
    };
    enter(&token(&tls, "token"));
    browser.wait_for("document.querySelector('#said').innerText.includes('not the view token')");
    browser.picture("board-enter");
    browser.assert_accessible("the page that asks for the token");
    enter(&token(&tls, "view-token"));
    browser.wait_for("document.querySelector('#phase')?.innerText === 'training'");
    assert_eq!(browser.eval("return document.cookie"), "", "scripts see the cookie");
    let kept = browser.cdp("Network.getCookies", json!({}));
    let kept = &kept["cookies"][0];
    assert_eq!((&kept["httpOnly"], &kept["secure"]), (&Value::Bool(true), &Value::Bool(true)));
    assert_eq!(kept["sameSite"], "Strict");
    assert_eq!(browser.complaints(), [""; 0]);
    let requests = browser.requests();
    assert!(requests.iter().all(|url| url.starts_with(&board)), "{requests:?}");
    browser.open(&board);
    browser.wait_for("document.querySelector('#link')?.innerText.includes('live')");

    // If the token changes, an open page asks for the new one.
    let Fleet { coordinator: killed, workers: _workers, .. } = fleet;
    killed.signal(Signal::KILL);
    killed.wait();
    fs::write(tls.join("view-token"), "another-view-token-of-many-characters\n").unwrap();
    let (port, run_dir) = (board.rsplit(':').next().unwrap(), place.run_dir.display());
    let again = format!("--resume --run-dir {run_dir} --board 0.0.0.0:{port} {more}");
    let _next = coordinator(&place, &again);
    browser.wait_for("document.querySelector('#token') !== null");
    enter(&token(&tls, "view-token"));
    browser.wait_for("document.querySelector('#phase')?.innerText === 'training'");
}
