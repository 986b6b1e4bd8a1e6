//! Fuzz targets: every reader of files or messages that may come from another program, as a
//! function that takes any bytes.
//!
//! No target may panic, or take more memory than its input justifies. On every run of the tests,
//! `tests/replay.rs` feeds the targets with `seeds/` and with mutations of the seeds. The package
//! in `fuzz/` gives the targets to cargo-fuzz: `cargo +nightly fuzz run idx` in this folder. The
//! targets do not interpret the bytes; the readers do.

use std::{fs, path::Path, sync::OnceLock};

use collective::{Header, Share, Tally};
use membership::{Failure, Join, Position, Progress, ReadyCause};
use prost::Message as _;
use protocol::{convert::printable, wire};
use tempfile::TempDir;

/// A target, with the name of its seeds' folder.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
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

/// The coordinator's reader of a worker's messages.
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

/// The worker's reader of its coordinator's messages.
pub fn coordinator_message(bytes: &[u8]) {
    use wire::coordinator_message::Body;
    let message = wire::CoordinatorMessage::decode(bytes);
    match message.ok().and_then(|message| message.body) {
        Some(Body::Start(start)) => {
            let shares: Vec<Share> = start.members.iter().map(Share::from).collect();
            // A small gradient: the worker knows its length, the message does not carry it.
            const LENGTH: usize = 64;
            const SHARDS: u32 = 8;
            drop(collective::Plan::new(SHARDS, LENGTH, &shares));
        }
        Some(Body::Finish(finish)) => drop(printable(&finish.message)),
        _ => {}
    }
}

/// A member's reader of another member's frames in an all-reduce.
pub fn frame(bytes: &[u8]) {
    use wire::frame::Body;
    if let Ok(wire::Frame { body: Some(Body::Header(header)) }) = wire::Frame::decode(bytes) {
        drop(Header::try_from(header));
    }
}

/// The worker's reader of the frames in which a donor sends its state.
pub fn state_frame(bytes: &[u8]) {
    use wire::state_frame::Body;
    if let Ok(wire::StateFrame { body: Some(Body::Header(header)) }) =
        wire::StateFrame::decode(bytes)
    {
        header.epochs.iter().for_each(|epoch| drop(Tally::try_from(epoch)));
    }
}

/// Writes the bytes to a file and calls a reader of files.
fn with_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("a temporary folder"));
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("a temporary file");
    read(&path);
}
