//! Clients that may not take part in a run: each is refused with one line, and the run continues
//! undisturbed.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use protocol::wire::{
    FetchRequest, Frame, PeerHello, Returning, all_reduce_client::AllReduceClient,
    frame::Body as FrameBody, state_transfer_client::StateTransferClient,
};
use rustix::process::Signal;
use secure::authority::{self, Validity};
use tokio::{io::AsyncReadExt as _, time::timeout};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};
use tonic::{Code, Status};

use crate::{
    harness::{
        DEADLINE, ENDLESS, Fleet, Place, Process, Raw, SMALL, coordinator, hello, wait_until,
        worker,
    },
    hostile_peers::listening_ports,
    secured::{flag, host},
    stop::stopped_with_the_same_bits,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A certificate that was valid until yesterday.
fn expired(place: &Place, authority: &str) -> std::path::PathBuf {
    let yesterday = SystemTime::now() - DAY;
    let validity = Validity { not_before: yesterday - DAY, not_after: yesterday };
    authority::issue(&place.path(authority), &["old.example".into()], validity).unwrap()
}

/// Connects a client with this certificate, or without one. Returns the number of bytes that the
/// server sends, or the error.
fn show(address: &str, ca: &Path, certificate: Option<&Path>) -> std::io::Result<usize> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca.join("ca.crt")).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots);
    let config = match certificate {
        None => config.with_no_client_auth(),
        Some(folder) => {
            let chain = vec![CertificateDer::from_pem_file(folder.join("tls.crt")).unwrap()];
            let key = PrivateKeyDer::from_pem_file(folder.join("tls.key")).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    block_on(async {
        let socket = tokio::net::TcpStream::connect(address).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
        stream.read(&mut [0; 64]).await
    })
}

fn block_on<T>(task: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(async { timeout(DEADLINE, task).await.expect("it answers") })
}

fn address(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

/// Two workers in the middle of a run over TLS.
fn secured(place: &Place, tls: &str) -> Fleet {
    let flags = format!("{SMALL} {ENDLESS} --workers 2 --collective grpc {tls}");
    let mut fleet = Fleet::without_workers(place, &flags);
    (0..2).for_each(|rank| fleet.add(&format!("--rank {rank} --threads 1 {tls}")));
    fleet.wait_for_progress(place);
    fleet
}

fn undisturbed(place: &Place, mut fleet: Fleet) {
    fleet.wait_for_progress(place);
    assert!(place.events("lost").is_empty());
    assert_eq!(place.events("joined").len(), 2);
    assert_eq!(place.events("generation_started").len(), 1);
    stopped_with_the_same_bits(place, fleet);
}

#[test]
fn strangers_at_the_door_of_a_run_over_tls() {
    let place = Place::new();
    let (ours, theirs) = (host(&place, "ca"), host(&place, "other-ca"));
    let fleet = secured(&place, &flag(&ours));
    let refused =
        |flags: &str, words: &[&str]| drop(worker(&fleet.url, flags).wait().failed_with(words));
    refused(&flag(&theirs), &["certificate is not of the CA in ca.crt"]);
    refused(&flag(&expired(&place, "ca")), &["old.example/tls.crt", "has expired 24 hours ago"]);
    let wrong = theirs.join("token");
    refused(&format!("{} --token-file {}", flag(&ours), wrong.display()), &["wrong join token"]);
    let without = place.path("without-token");
    fs::create_dir(&without).unwrap();
    for file in ["ca.crt", "tls.crt", "tls.key"] {
        fs::copy(ours.join(file), without.join(file)).unwrap();
    }
    refused(&flag(&without), &["no join token", "--token-file"]);
    refused("", &["--coordinator", "asks for TLS", "--tls-dir"]);

    let plain = fleet.url.replace("https", "http");
    worker(&plain, "").wait().failed_with(&["speaks TLS", "--tls-dir"]);
    worker(&plain, &flag(&ours)).wait().failed_with(&["without TLS", "write https"]);
    let ask = |flags: &str| coordinator(&place, &format!("status {flags}"));
    ask(&format!("--coordinator {plain}")).wait().failed_with(&["speaks TLS", "--tls-dir"]);
    let secured = format!("--coordinator {} {}", fleet.url, flag(&without));
    ask(&secured).wait().failed_with(&["no join token"]);
    undisturbed(&place, fleet);
}

/// The servers of the control plane and of the data plane refuse such clients.
#[test]
fn clients_without_a_valid_certificate() {
    let place = Place::new();
    let ours = host(&place, "ca");
    let theirs = host(&place, "other-ca");
    let fleet = secured(&place, &flag(&ours));
    let (mine, old) = (place.path("ca"), expired(&place, "ca"));
    let knock = |address: &str, process: &Process| {
        let shown = [None, Some(old.as_path()), Some(theirs.as_path())];
        let words = ["it shows no certificate", "has expired", "is not of the CA"];
        for (certificate, words) in shown.into_iter().zip(words) {
            // The servers log only one refusal a second.
            wait_until(words, || {
                assert!(show(address, &mine, certificate).is_err(), "{words}");
                process.says("turned away", words)
            });
        }
        assert!(show(address, &mine, Some(ours.as_path())).unwrap() > 0, "a good one is let in");
    };
    knock(address(&fleet.url), &fleet.coordinator);
    for worker in &fleet.workers {
        for port in listening_ports(worker.id()) {
            knock(&format!("127.0.0.1:{port}"), worker);
            // A silent client delays no other client.
            drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
        }
    }
    undisturbed(&place, fleet);
}

#[test]
fn tls_at_the_door_of_a_run_without() {
    let place = Place::new();
    let tls = flag(&host(&place, "ca"));
    let flags = format!("{SMALL} {ENDLESS} --collective grpc");
    let mut fleet = Fleet::start(&place, 2, &flags);
    fleet.wait_for_progress(&place);
    let url = fleet.url.replace("http", "https");
    worker(&url, &tls).wait().failed_with(&["it does not speak TLS", "--tls-dir"]);
    fleet.coordinator.wait_for_line("it speaks TLS, and this side does not");
    undisturbed(&place, fleet);
}

fn code(refusal: Result<(), Status>, words: &str) {
    let refusal = refusal.unwrap_err();
    assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal}");
    assert!(refusal.message().contains(words), "{refusal}");
}

/// A client that knows the run, the generation and the rank, but has no secret from the
/// coordinator.
#[test]
fn streams_of_the_data_plane_without_the_coordinators_secret() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --collective grpc");
    let mut fleet = Fleet::start(&place, 2, &flags);
    fleet.wait_for_progress(&place);
    let run_id = place.json("config.json")["run_id"].as_str().unwrap().to_owned();
    for worker in &fleet.workers {
        for port in listening_ports(worker.id()) {
            let url = format!("http://127.0.0.1:{port}");
            for secret in [vec![], vec![0; 32], vec![7; 33]] {
                for rank in [0, 1] {
                    let (run_id, secret) = (run_id.clone(), secret.clone().into());
                    let hello = PeerHello { run_id, generation: 1, rank, secret };
                    let frame = Frame { body: Some(FrameBody::Hello(hello)) };
                    let answer = block_on(async {
                        let mut client = AllReduceClient::connect(url.clone()).await.unwrap();
                        client.exchange(tokio_stream::iter([frame])).await.map(drop)
                    });
                    code(answer, &format!("rank {rank} of generation 1, without the secret"));
                }
                let (run_id, secret) = (run_id.clone(), secret.into());
                let request = FetchRequest { run_id, secret, ..FetchRequest::default() };
                let answer = block_on(async {
                    let mut client = StateTransferClient::connect(url.clone()).await.unwrap();
                    client.fetch(request).await.map(drop)
                });
                code(answer, "without the secret");
            }
            worker.wait_for_line("turned away");
        }
    }
    undisturbed(&place, fleet);
}

/// A restarted coordinator adopts only workers that can prove their membership.
#[test]
fn one_that_pretends_to_come_back() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --collective grpc");
    let mut fleet = Fleet::start(&place, 2, &flags);
    fleet.wait_for_progress(&place);
    fleet.coordinator.signal(Signal::KILL);
    // The real workers are frozen, so that they return later.
    fleet.workers.iter().for_each(|worker| worker.signal(Signal::STOP));
    let Fleet { task, coordinator: killed, url, workers, network } = fleet;
    killed.wait();
    let again = coordinator(&place, &format!("--resume --run-dir {}", place.run_dir.display()));
    again.wait_for_line(&format!("Listening on {url}"));
    let run_id = place.json("config.json")["run_id"].as_str().unwrap().to_owned();
    for proof in [vec![], vec![0; 32]] {
        let returning = Returning { run_id: run_id.clone(), generation: 1, proof: proof.into() };
        let hello = protocol::wire::Hello { rank: Some(0), returning: Some(returning), ..hello() };
        let mut raw = Raw::join(&url, hello).unwrap();
        code(raw.recv().map(drop), "cannot prove");
    }
    again.wait_for_line("turned away: a worker: it cannot prove");
    assert!(place.events("adopted").is_empty());
    workers.iter().for_each(|worker| worker.signal(Signal::CONT));
    let mut fleet = Fleet { task, coordinator: again, url, workers, network };
    fleet.wait_for_event(&place, "adopted", 2);
    undisturbed(&place, fleet);
}

#[test]
fn nobody_connects_beyond_loopback_in_the_open() {
    let place = Place::new();
    let words =
        ["--coordinator 192.0.2.1:50051", "TLS and a join token", "--tls-dir", "--insecure"];
    worker("http://192.0.2.1:50051", "").wait().failed_with(&words);
    coordinator(&place, "status --coordinator http://192.0.2.1:50051").wait().failed_with(&words);
    worker("http://coordinator.example:50051", "").wait().failed_with(&words[1..]);
    let folder = host(&place, "ca");
    fs::remove_file(folder.join("token")).unwrap();
    let words = ["--coordinator 192.0.2.1:50051", "there is no token"];
    worker("https://192.0.2.1:50051", &flag(&folder)).wait().failed_with(&words);
}

#[test]
fn certificates_from_the_command_line() {
    let place = Place::new();
    let certs = |flags: &str| coordinator(&place, &format!("certs {flags}")).wait();
    certs("issue --dir ca --host a.example").failed_with(&["ca/ca.key", "certs init --dir ca"]);
    certs("init --dir ca").succeeded();
    certs("init --dir ca").failed_with(&["ca/ca.crt", "is there already"]);
    certs("issue --dir ca --host a/b").failed_with(&["--host", "a/b"]);
    certs("issue --dir ca --host a.example --days 0").failed_with(&["--days"]);
    let exit = certs("issue --dir ca --host a.example --host 10.0.0.7 --days 7").succeeded();
    assert!(exit.text().contains("ca/a.example"), "{exit}");
    let tls = flag(&place.path("ca/a.example"));
    let flags = format!("{SMALL} --workers 1 --spawn --epochs 1 --listen 127.0.0.1:0 {tls}");
    let run = coordinator(&place, &format!("{flags} --run-dir run"));
    let exit = run.wait().succeeded();
    // Whole days: seven within the second of the issue, six after that.
    let warns = |days: u32| exit.text().contains(&format!("expires in {days} days"));
    assert!(warns(6) || warns(7), "{exit}");
}

/// A worker that is sent to a server of another kind, such as the page of a run, says so.
#[test]
fn a_server_that_is_no_coordinator() {
    // Whoever closes a connection before the worker has written all takes the answer back, so this server waits until
    // the worker has closed it.
    let url = strange_server(|stream| {
        let _gone = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        let _gone = std::io::copy(stream, &mut std::io::sink());
    });
    worker(&url, "").wait().failed_with(&["is no coordinator", &url, "--coordinator"]);
    let url = strange_server(|_| {});
    worker(&url, "").wait().failed_with(&["before it answered", &url, "the coordinator's port"]);
}

/// Serves until the test program ends: reads what comes first on each connection, then does `answer`, then closes it.
fn strange_server(answer: fn(&mut TcpStream)) -> String {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", server.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            let _gone = stream.read(&mut [0; 1024]);
            answer(&mut stream);
        }
    });
    url
}
