//! Peers that are silent, talk nonsense or break the protocol disturb no step.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use protocol::wire::{Hello, Ready, worker_message::Body};
use tonic::Code;

use crate::harness::{Fleet, Place, Raw, SMALL, assert_same_tensors, hello, reference};

const EPOCHS: u64 = 4;

/// Bytes that are neither HTTP nor anything else.
const GARBAGE: [u8; 4096] = [0xa5; 4096];

fn gathering(place: &Place) -> Fleet {
    Fleet::without_workers(place, &format!("{SMALL} --workers 2 --epochs {EPOCHS}"))
}

fn completes_with_the_same_bits(place: &Place, fleet: Fleet) {
    let exit = fleet.completed();
    assert!(!exit.text().contains("panicked"), "{exit}");
    assert_same_tensors(&place.newest(), &reference(EPOCHS));
}

/// One that says nothing, one that talks garbage and one that hangs up in the middle of it.
fn pester(address: &str) -> Vec<TcpStream> {
    let silent = TcpStream::connect(address).unwrap();
    let mut garbage = TcpStream::connect(address).unwrap();
    // It may be closed in our face at any moment.
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
    let mut fleet = gathering(&place);
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
    completes_with_the_same_bits(&place, fleet);
    // Whoever is still there has heard nothing but refusals, and is let go.
    for mut peer in peers {
        let _reset = peer.read_to_end(&mut Vec::new());
    }
}

/// What a stranger says first instead of a hello, or as a hello.
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

/// A member of the gathering that breaks the protocol loses its rank to the next comer.
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
        assert!(matches!(raw.hear(), Ok(Some(_))), "a welcome");
        raw.say(message);
        match raw.hear() {
            Err(refusal) => assert!(refusal.message().contains(words), "{refusal}"),
            Ok(message) => assert!(words.is_empty() && message.is_none(), "{message:?}"),
        }
    }
    (0..2).for_each(|_| fleet.add("--threads 1"));
    completes_with_the_same_bits(&place, fleet);
}

/// One that takes a rank and is never heard of again loses it after a while.
#[test]
fn a_member_that_falls_silent_before_the_run_begins() {
    let place = Place::new();
    let flags = format!("{SMALL} --workers 2 --epochs {EPOCHS} --dead-after-seconds 1");
    let mut fleet = Fleet::without_workers(&place, &flags);
    let mut raw = Raw::join(&fleet.url, hello()).unwrap();
    assert!(matches!(raw.hear(), Ok(Some(_))), "a welcome");
    let refusal = raw.hear().unwrap_err();
    assert!(refusal.message().contains("no sign of life"), "{refusal}");
    (0..2).for_each(|_| fleet.add("--threads 1"));
    completes_with_the_same_bits(&place, fleet);
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
