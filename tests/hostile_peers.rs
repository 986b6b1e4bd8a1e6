//! Peers that are silent, send garbage or break the protocol disturb no step.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use protocol::wire::{
    Frame, Hello, PeerHello, Ready, all_reduce_client::AllReduceClient, frame, worker_message::Body,
};
use rustix::process::Pid;
use tokio::{runtime::Runtime, sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::{
    harness::{
        DEADLINE, ENDLESS, Fleet, Place, Process, Raw, SMALL, assert_same_tensors, hello, programs,
        reference,
    },
    stop::stopped_with_the_same_bits,
};

const EPOCHS: u64 = 4;

/// Bytes that belong to no protocol.
const GARBAGE: [u8; 4096] = [0xa5; 4096];

fn gathering(place: &Place) -> Fleet {
    Fleet::without_workers(place, &format!("{SMALL} --workers 2 --epochs {EPOCHS}"))
}

fn completes_with_the_same_bits(place: &Place, fleet: Fleet) {
    let exit = fleet.completed();
    assert!(!exit.text().contains("panicked"), "{exit}");
    assert_same_tensors(&place.newest(), &reference(EPOCHS));
}

/// Connects a silent peer, a peer that sends garbage, a peer that sends garbage after HTTP/2's
/// preface, and a peer that disconnects at once.
fn pester(address: &str) -> Vec<TcpStream> {
    let silent = TcpStream::connect(address).unwrap();
    let mut garbage = TcpStream::connect(address).unwrap();
    // The server may close the connection at any moment.
    let _closed = garbage.write_all(&GARBAGE);
    let mut preface = TcpStream::connect(address).unwrap();
    let _closed = preface.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let _closed = preface.write_all(&GARBAGE);
    drop(TcpStream::connect(address).unwrap());
    vec![silent, garbage, preface]
}

#[test]
fn silence_and_garbage_on_every_port() {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} {ENDLESS} --workers 2"));
    let address = fleet.url.strip_prefix("http://").unwrap().to_owned();
    let mut peers = pester(&address);
    (0..2).for_each(|_| fleet.add("--threads 1"));
    fleet.wait_for_progress(&place);
    peers.extend(pester(&address));
    for worker in &fleet.workers {
        let ports = listening_ports(worker.id());
        assert!(!ports.is_empty(), "a worker listens for the others");
        ports.iter().for_each(|port| peers.extend(pester(&format!("127.0.0.1:{port}"))));
    }
    stopped_with_the_same_bits(&place, fleet);
    // The server closes the remaining connections.
    for mut peer in peers {
        let _reset = peer.read_to_end(&mut Vec::new());
    }
}

/// A stranger's first message is no hello, or an incomplete one.
#[test]
fn first_messages_that_are_no_hello() {
    let place = Place::new();
    let mut fleet = gathering(&place);
    let ready = Body::Ready(Ready { digest: vec![0; 16].into(), ..Ready::default() });
    let bare = Body::Hello(Hello { fingerprint: None, ..hello() });
    for first in [None, Some(ready), Some(bare)] {
        let refusal = Raw::open(&fleet.url, first).unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
    }
    (0..2).for_each(|_| fleet.add("--threads 1"));
    completes_with_the_same_bits(&place, fleet);
}

/// A worker that has joined and breaks the protocol loses its rank to the next worker.
#[test]
fn malformed_messages_after_a_good_hello() {
    let place = Place::new();
    let mut fleet = gathering(&place);
    let short = Ready { digest: vec![1, 2, 3].into(), ..Ready::default() };
    let cases = [
        (Some(Body::Ready(short)), "3 bytes"),
        (Some(Body::Hello(hello())), "second hello"),
        (None, ""),
    ];
    for (message, words) in cases {
        let mut raw = Raw::join(&fleet.url, hello()).unwrap();
        assert!(matches!(raw.recv(), Ok(Some(_))), "a welcome");
        raw.say(message);
        match raw.recv() {
            Err(refusal) => assert!(refusal.message().contains(words), "{refusal}"),
            Ok(message) => assert!(words.is_empty() && message.is_none(), "{message:?}"),
        }
    }
    (0..2).for_each(|_| fleet.add("--threads 1"));
    completes_with_the_same_bits(&place, fleet);
}

/// A worker that joins and then sends no message loses its rank after `--dead-after-seconds`.
#[test]
fn a_member_that_falls_silent_before_the_run_begins() {
    let place = Place::new();
    let flags = format!("{SMALL} --workers 2 --epochs {EPOCHS} --dead-after-seconds 1");
    let mut fleet = Fleet::without_workers(&place, &flags);
    let mut raw = Raw::join(&fleet.url, hello()).unwrap();
    assert!(matches!(raw.recv(), Ok(Some(_))), "a welcome");
    let refusal = raw.recv().unwrap_err();
    assert!(refusal.message().contains("no sign of life"), "{refusal}");
    (0..2).for_each(|_| fleet.add("--threads 1"));
    completes_with_the_same_bits(&place, fleet);
}

/// An HTTP/2 connection, written byte by byte, with the first half of a message to a method of the
/// server.
fn half_a_message(address: &str, path: &str) -> TcpStream {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    // HPACK: POST and http from its static table, then the path, two headers with names from the
    // table, and one with its own name.
    let headers = [
        vec![0x83, 0x86, 0x04],
        text(path),
        [vec![0x01], text(address)].concat(),
        [vec![0x0f, 0x10], text("application/grpc")].concat(),
        [vec![0x00], text("te"), text("trailers")].concat(),
    ];
    let mut stream = TcpStream::connect(address).unwrap();
    let words = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, &headers.concat()),
        // Ten bytes of a message of a thousand bytes.
        frame(0, 0, 1, &[&[0, 0, 0, 3, 0xe8][..], &[0x0a; 10]].concat()),
    ];
    stream.write_all(&words.concat()).unwrap();
    stream
}

#[test]
fn half_a_message_on_every_port() {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} {ENDLESS} --workers 2"));
    let address = fleet.url.strip_prefix("http://").unwrap().to_owned();
    let mut peers = vec![half_a_message(&address, "/lockstep.v1.Coordinator/Join")];
    (0..2).for_each(|_| fleet.add("--threads 1"));
    fleet.wait_for_progress(&place);
    peers.push(half_a_message(&address, "/lockstep.v1.Coordinator/Status"));
    for worker in &fleet.workers {
        let address = format!("127.0.0.1:{}", listening_ports(worker.id())[0]);
        peers.push(half_a_message(&address, "/lockstep.v1.AllReduce/Exchange"));
        peers.push(half_a_message(&address, "/lockstep.v1.StateTransfer/Fetch"));
    }
    assert_no_step_was_missed(&place);
    stopped_with_the_same_bits(&place, fleet);
}

/// Asserts that no worker was lost, and that the first generation lasted to the end.
fn assert_no_step_was_missed(place: &Place) {
    assert_eq!(place.events("lost"), [] as [serde_json::Value; 0]);
    assert_eq!(place.events("generation_started").len(), 1);
}

/// A worker's answer to a stranger that opens a stream with this hello.
fn refused(runtime: &Runtime, port: u16, hello: PeerHello) -> Status {
    let (outbound, frames) = mpsc::channel(4);
    runtime.block_on(async {
        let first = Frame { body: Some(frame::Body::Hello(hello)) };
        outbound.send(first).await.unwrap();
        let address = format!("http://127.0.0.1:{port}");
        let mut client = AllReduceClient::connect(address).await.unwrap();
        let opened = client.exchange(ReceiverStream::new(frames));
        timeout(DEADLINE, opened).await.expect("the worker answers").unwrap_err()
    })
}

/// Strangers in the members' all-reduce: one from another run, one from an ended generation, and
/// one that claims to be a member.
#[test]
fn strangers_in_the_all_reduce() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --workers 2 --collective grpc");
    let mut fleet = Fleet::without_workers(&place, &flags);
    (0..2).for_each(|rank| fleet.add(&format!("--rank {rank} --threads 1")));
    fleet.wait_for_progress(&place);
    let run_id = place.json("config.json")["run_id"].as_str().unwrap().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for worker in &fleet.workers {
        let port = listening_ports(worker.id())[0];
        let run_id = run_id.clone();
        let member = PeerHello { run_id, generation: 1, rank: 1, ..PeerHello::default() };
        let foreign = PeerHello { run_id: "another".into(), ..member.clone() };
        let refusal = refused(&runtime, port, foreign);
        assert!(refusal.message().contains("another run"), "{refusal}");
        let stale = PeerHello { generation: 0, ..member.clone() };
        let refusal = refused(&runtime, port, stale);
        assert!(refusal.message().contains("is over"), "{refusal}");
        // The rank of another member, with a wrong secret.
        for secret in [vec![], vec![7; 32]] {
            let hello = PeerHello { secret: secret.into(), ..member.clone() };
            let refusal = refused(&runtime, port, hello);
            assert!(refusal.message().contains("without the secret"), "{refusal}");
        }
    }
    fleet.wait_for_progress(&place);
    assert_no_step_was_missed(&place);
    stopped_with_the_same_bits(&place, fleet);
}

/// The total number of connections of a crowd.
const CROWD: usize = 10_000;

/// Connections that are made to one port at a time; twice as many are held open.
const BATCH: usize = 250;

/// The limit of file descriptors of the servers, so that only a part of the connections fits.
const FEW_DESCRIPTORS: u32 = 320;

/// Starts a program with a low limit of file descriptors.
fn cramped(name: &str, arguments: &str) -> Process {
    let mut command = Command::new("sh");
    let limited = format!("ulimit -n {FEW_DESCRIPTORS} && exec \"$@\"");
    command.args(["-c", &limited, "sh"]).arg(programs().join(name));
    command.args(arguments.split_whitespace());
    Process::start(name, &mut command)
}

/// Leaves others most of the time of the cores: the reference must be trained as far as this worker trains.
fn train_slowly(worker: &Process) {
    for thread in fs::read_dir(format!("/proc/{}/task", worker.id())).unwrap() {
        let id = thread.unwrap().file_name().to_str().unwrap().parse().unwrap();
        // A thread may have ended.
        let _gone = rustix::process::setpriority_process(Pid::from_raw(id), 10);
    }
}

/// Ten thousand silent connections, to servers that can hold only a few.
#[test]
fn a_silent_crowd_keeps_nobody_out() {
    let place = Place::new();
    let run_dir = place.run_dir.display();
    let flags = format!("--listen 127.0.0.1:0 --run-dir {run_dir} {SMALL} {ENDLESS} --workers 2");
    let mut fleet = Fleet::of(cramped("vae-coordinator", &flags), None);
    for rank in 0..2 {
        let flags = format!("--coordinator {} --rank {rank} --threads 1", fleet.url);
        fleet.workers.push(cramped("vae-worker", &flags));
    }
    fleet.wait_for_progress(&place);
    fleet.workers.iter().for_each(train_slowly);
    let mut addresses = vec![fleet.url.strip_prefix("http://").unwrap().to_owned()];
    for worker in &fleet.workers {
        addresses.push(format!("127.0.0.1:{}", listening_ports(worker.id())[0]));
    }
    let mut crowd: Vec<Vec<TcpStream>> = Vec::new();
    for batch in 0..CROWD.div_ceil(BATCH) {
        let address = &addresses[batch % addresses.len()];
        // Two batches to each port are open at a time.
        if crowd.len() == 2 * addresses.len() {
            crowd.remove(0);
        }
        crowd.push((0..BATCH).map(|_| TcpStream::connect(address).unwrap()).collect());
    }
    // While the last connections are still open, other clients are served.
    let mut status = Command::new(programs().join("vae-coordinator"));
    status.args(["status", "--coordinator", &fleet.url]);
    Process::start("status", &mut status).wait().succeeded();
    fleet.add("--threads 1");
    fleet.wait_for_event(&place, "state_transferred", 1);
    fleet.wait_for_progress(&place);
    assert_no_step_was_missed(&place);
    drop(crowd);
    stopped_with_the_same_bits(&place, fleet);
}

/// The TCP ports on which a process listens.
pub(crate) fn listening_ports(id: u32) -> Vec<u16> {
    let sockets: Vec<String> = fs::read_dir(format!("/proc/{id}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok()?.into_os_string().into_string().ok())
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = fs::read_to_string(format!("/proc/{id}/net/tcp")).unwrap();
    let port = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Local address, state (0A listens) and inode.
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let is_own = *state == "0A" && sockets.iter().any(|socket| socket == inode);
        is_own.then(|| u16::from_str_radix(local.rsplit(':').next()?, 16).ok())?
    };
    table.lines().filter_map(port).collect()
}
