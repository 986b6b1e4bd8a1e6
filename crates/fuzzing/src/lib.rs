//! Fuzz targets: everything that reads a file or a message which somebody else may have made,
//! as functions that take any bytes.
//!
//! None may panic, and none may take memory that its input does not justify. `tests/replay.rs`
//! feeds them with `seeds/` and mutations of these on every run of the tests; the package in
//! `fuzz/` hands them to cargo-fuzz: `cargo +nightly fuzz run idx` in this folder. What the bytes
//! mean is known where they are read.

use std::{fs, path::Path, sync::OnceLock};

use collective::{Header, Share, Tally};
use membership::{Failure, Join, Position, Progress, ReadyCause};
use prost::Message as _;
use protocol::{convert::printable, wire};
use tempfile::TempDir;

/// A target by the name of its seeds' folder.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 7] = [
    ("idx", idx),
    ("checkpoint", checkpoint),
    ("journal", journal),
    ("worker_message", worker_message),
    ("coordinator_message", coordinator_message),
    ("frame", frame),
    ("state_frame", state_frame),
];

/// The reader of the headers of IDX files.
pub fn idx(bytes: &[u8]) {
    if let Ok(header) = images::idx::Header::read(&mut &bytes[..]) {
        assert!(bytes.starts_with(&header.to_bytes()));
    }
}

/// The reader of checkpoints.
pub fn checkpoint(bytes: &[u8]) {
    with_file("checkpoint", bytes, |path| {
        let verified = checkpoint::verify(path).map(|verified| verified.sha256);
        let read = checkpoint::read(path).map(|checkpoint| checkpoint.sha256);
        assert_eq!(verified.ok(), read.ok());
    });
}

/// The reader of a coordinator's journal.
pub fn journal(bytes: &[u8]) {
    with_file("journal", bytes, |path| drop(coordinator::last_generation(path)));
}

/// What a coordinator takes in from a worker.
pub fn worker_message(bytes: &[u8]) {
    use wire::worker_message::Body;
    let message = wire::WorkerMessage::decode(bytes);
    match message.ok().and_then(|message| message.body) {
        Some(Body::Hello(hello)) => drop(Join::try_from(&hello)),
        Some(Body::Heartbeat(heartbeat)) => drop(Progress::from(&heartbeat)),
        Some(Body::Ready(ready)) => drop((Position::try_from(&ready), ReadyCause::from(&ready))),
        Some(Body::Failed(failed)) => drop(Failure::from(&failed)),
        Some(Body::Segment(segment)) => drop(printable(&segment.rendezvous)),
        Some(Body::Leaving(_) | Body::Saved(_) | Body::Report(_) | Body::EpochReport(_)) | None => {
        }
    }
}

/// What a worker takes in from its coordinator.
pub fn coordinator_message(bytes: &[u8]) {
    use wire::coordinator_message::Body;
    let message = wire::CoordinatorMessage::decode(bytes);
    match message.ok().and_then(|message| message.body) {
        Some(Body::Start(start)) => {
            let shares: Vec<Share> = start.members.iter().map(Share::from).collect();
            // Floats of a small gradient: its length is the worker's own.
            const LENGTH: usize = 64;
            const SHARDS: u32 = 8;
            drop(collective::Plan::new(SHARDS, LENGTH, &shares));
        }
        Some(Body::Finish(finish)) => drop(printable(&finish.message)),
        _ => {}
    }
}

/// What a member takes in from another in an all-reduce.
pub fn frame(bytes: &[u8]) {
    use wire::frame::Body;
    if let Ok(wire::Frame { body: Some(Body::Header(header)) }) = wire::Frame::decode(bytes) {
        drop(Header::try_from(header));
    }
}

/// What a worker takes in from the one whose state it takes over.
pub fn state_frame(bytes: &[u8]) {
    use wire::state_frame::Body;
    if let Ok(wire::StateFrame { body: Some(Body::Header(header)) }) =
        wire::StateFrame::decode(bytes)
    {
        header.epochs.iter().for_each(|epoch| drop(Tally::try_from(epoch)));
    }
}

/// Has a reader of files read the bytes.
fn with_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("a temporary folder"));
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("a temporary file");
    read(&path);
}
