//! With TLS and a join token a run behaves as without: workers die and are replaced, the
//! coordinator is restarted, and the final bytes are the same.

use std::{fs, path::PathBuf};

use rustix::process::Signal;
use secure::authority::{self, Validity};

use crate::{
    harness::{
        ENDLESS, Fleet, Place, Process, SMALL, assert_same_tensors, coordinator, coordinator_at,
        reference, wait_until,
    },
    hostile_peers::listening_ports,
    stop::stopped_with_the_same_bits,
};

/// Makes a certificate authority in `place`; returns the folder with a host's certificate.
pub(crate) fn host(place: &Place, authority: &str) -> PathBuf {
    let folder = place.path(authority);
    authority::init(&folder, Validity::days(1)).unwrap();
    authority::issue(&folder, &["a.example".into()], Validity::days(1)).unwrap()
}

/// The flag with which a program uses such a folder.
pub(crate) fn flag(folder: &std::path::Path) -> String {
    format!("--tls-dir {}", folder.display())
}

/// The number of connections to a worker's local socket.
fn local_connections(worker: &Process) -> usize {
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    let ports = listening_ports(worker.id());
    let names: Vec<_> = ports.iter().map(|port| format!("@lockstep 127.0.0.1:{port}")).collect();
    let is_connected = |line: &&str| line.split_whitespace().nth(5) == Some("03");
    let is_its = |line: &&str| names.iter().any(|name| line.ends_with(name.as_str()));
    table.lines().filter(is_connected).filter(is_its).count()
}

/// `more` are further flags of the workers.
fn survives(collective: &str, more: &str) {
    let place = Place::new();
    let tls = flag(&host(&place, "ca"));
    let flags = format!("{SMALL} {ENDLESS} --workers 3 --collective {collective} {tls}");
    let mut fleet = Fleet::without_workers(&place, &flags);
    assert!(fleet.url.starts_with("https://"), "{}", fleet.url);
    (0..3).for_each(|rank| fleet.add(&format!("--rank {rank} --threads 1 {tls} {more}")));
    fleet.wait_for_progress(&place);
    let local = if collective == "grpc" && more.is_empty() { 2 } else { 0 };
    assert_eq!(local_connections(&fleet.workers[0]), local);

    fleet.workers.remove(1).signal(Signal::KILL);
    fleet.wait_for_event(&place, "lost", 1);
    fleet.add(&format!("--threads 1 {tls} {more}"));
    fleet.workers[2].wait_for_line("training rank=");
    fleet.wait_for_progress(&place);

    fleet.coordinator.signal(Signal::KILL);
    let step = place.step();
    wait_until("the workers go on", || place.newest_step() > step + 94);
    let Fleet { task, coordinator: killed, url, workers, network } = fleet;
    killed.wait();
    let run_dir = place.run_dir.display();
    let again = coordinator(&place, &format!("--resume --run-dir {run_dir} {tls}"));
    again.wait_for_line(&format!("Listening on {url}"));
    let mut fleet = Fleet { task, coordinator: again, url, workers, network };
    fleet.wait_for_event(&place, "adopted", 3);
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
}

#[test]
fn over_grpc_all_goes_as_it_does_without() {
    survives("grpc", "--tcp-only");
}

/// On one host the gradients go over local sockets, without TLS.
#[test]
fn over_local_sockets_all_goes_as_it_does_without() {
    survives("grpc", "");
}

#[test]
fn through_shared_memory_all_goes_as_it_does_without() {
    survives("shm", "");
}

/// The coordinator passes its flags on to its workers, and users ask it with the same flags.
#[test]
fn spawned_workers_and_people_use_the_same_files() {
    let place = Place::new();
    let folder = host(&place, "ca");
    // The token is not beside the certificates, so the flag is needed.
    let token = place.path("secret-token");
    fs::rename(folder.join("token"), &token).unwrap();
    let flags = format!("{} --token-file {}", flag(&folder), token.display());
    let run = format!("{SMALL} {ENDLESS} --workers 2 --spawn --collective grpc {flags}");
    let mut run = coordinator_at(&place, &run);
    let line = run.wait_for_line("Listening on ");
    let url = line.rsplit(' ').next().unwrap();
    run.wait_until("the run makes progress", || place.newest_step() > 0);
    let status = coordinator(&place, &format!("status --coordinator {url} {flags}"));
    assert!(status.wait().succeeded().text().contains("training"));
    let secret = fs::read_to_string(&token).unwrap();
    for process in crate::harness::descendants(run.id()) {
        let id = process.as_raw_nonzero();
        let line = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap();
        assert!(line.contains("--token-file") && !line.contains(secret.trim()), "{line}");
    }
    run.signal(Signal::INT);
    let exit = run.wait().exited_with(130);
    assert!(!exit.text().contains(secret.trim()), "{exit}");
    for file in ["journal.jsonl", "events.jsonl", "config.json"] {
        assert!(!fs::read_to_string(place.file(file)).unwrap().contains(secret.trim()), "{file}");
    }
    let step = place.newest().metadata.step;
    let epochs = step / crate::harness::STEPS_PER_EPOCH + 1;
    let more = format!("--resume --epochs {epochs} --spawn {flags}");
    coordinator_at(&place, &more).wait().succeeded();
    assert_same_tensors(&place.newest(), &reference(epochs));
}
