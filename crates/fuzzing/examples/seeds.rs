//! Writes `seeds/` anew: one or two sound inputs for each target.

use std::{fs, path::Path};

use checkpoint::{Directory, EpochLedger, Metadata, TensorView};
use prost::Message as _;
use protocol::wire::{
    self, Chunk, Fingerprint, Frame, Hello, Member, NodeTally, PeerHello, Ready, Returning,
    RoundHeader, Start, StateFrame, StateHeader, Transfer,
};

fn put(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&folder).expect("seeds/");
    fs::write(folder.join(name), bytes).expect("a seed");
}

fn from_worker(name: &str, body: wire::worker_message::Body) {
    put("worker_message", name, &wire::WorkerMessage { body: Some(body) }.encode_to_vec());
}

fn from_coordinator(name: &str, body: wire::coordinator_message::Body) {
    let message = wire::CoordinatorMessage { body: Some(body) };
    put("coordinator_message", name, &message.encode_to_vec());
}

fn main() {
    files();
    control();
    exchange();
}

fn files() {
    put(
        "idx",
        "images",
        &[&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2][..], &[7; 8]].concat(),
    );
    put("idx", "labels", &[0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ledger = EpochLedger {
        images: 10,
        index_sum: 45,
        loss_terms: vec![1.5, 1.0, 0.5],
        test_losses: vec![],
        validation_loss: Some(1.5),
    };
    let metadata =
        Metadata { run_id: "run".into(), step: 3, ledger: vec![ledger], ..Metadata::default() };
    let tensor = |name| TensorView { name, shape: &[2, 3], data: &[0.5; 6] };
    let path = Directory::open(folder.path()).write(&metadata, &[tensor("a.weight"), tensor("b")]);
    let bytes = fs::read(path.expect("a checkpoint")).expect("a checkpoint");
    put("checkpoint", "two-tensors", &bytes);
    let journal = concat!(
        "{\"listening\":\"127.0.0.1:50051\"}\n",
        "{\"spawned\":{\"slot\":0,\"process\":4194304}}\n",
        "{\"generation\":{\"number\":1,\"members\":[{\"rank\":0,\"process\":{\"host\":\"a\",\"id\":1}}]}}\n",
        "\"ended\"\n",
    );
    put("journal", "whole-run", journal.as_bytes());
}

fn control() {
    use wire::{coordinator_message::Body as CoordinatorMsg, worker_message::Body as WorkerMsg};
    let fingerprint = Fingerprint {
        device: "cpu".into(),
        instruction_set: "avx512".into(),
        precision: "f32".into(),
        libtorch: "2.11".into(),
    };
    let hello = Hello {
        protocol_version: protocol::PROTOCOL_VERSION,
        rank: Some(1),
        host: "host".into(),
        all_reduce_address: "127.0.0.1:7".into(),
        fingerprint: Some(fingerprint),
        memory_domain: "domain".into(),
        process: 7,
        returning: Some(Returning {
            run_id: "run".into(),
            generation: 2,
            proof: vec![7; 32].into(),
        }),
        gpu: "0000:01:00.0".into(),
        birth: String::new(),
        task: "vae".into(),
        task_revision: 1,
        program: vec![3; 32].into(),
        device_name: "CPU (AVX-512)".into(),
    };
    from_worker("hello", WorkerMsg::Hello(hello));
    let unexpected = wire::ready::Unexpected::Interrupted("lost rank 1".into());
    let transfer = Some(Transfer { bytes: 12, seconds: 0.5 });
    let probe = vec![4; 16].into();
    let ready = Ready {
        step: 9,
        digest: vec![7; 16].into(),
        unexpected: Some(unexpected),
        transfer,
        probe,
        is_last: true,
    };
    from_worker("ready", WorkerMsg::Ready(ready));
    let member = |rank| Member {
        rank,
        first_shard: rank * 4,
        end_shard: rank * 4 + 4,
        all_reduce_address: "127.0.0.1:7".into(),
        host: "host".into(),
        secret: vec![7; 32].into(),
        memory_domain: 1,
    };
    let members = vec![member(0), member(1)];
    let (proof, arithmetic) = (vec![7; 32].into(), vec!["cpu".into()]);
    let start = Start {
        generation: 3,
        members,
        transport: 1,
        rank: 1,
        proof,
        arithmetic,
        stays_on_gpus: false,
    };
    from_coordinator("start", CoordinatorMsg::Start(start));
    let message = "the run is over".into();
    from_coordinator("finish", CoordinatorMsg::Finish(wire::Finish { success: true, message }));
}

fn exchange() {
    use wire::{frame::Body, state_frame};
    let tally = NodeTally { terms: vec![1.0, 2.0, 3.0], examples: 4, index_sum: 6 };
    let header = RoundHeader {
        step: 5,
        kind: 1,
        digest: vec![7; 16].into(),
        tallies: vec![tally.clone(), tally.clone()],
        ..RoundHeader::default()
    };
    let hello =
        PeerHello { run_id: "run".into(), generation: 3, rank: 1, secret: vec![7; 32].into() };
    let chunk = Chunk { node: 1, offset: 0, values: vec![0; 32].into() };
    for (name, body) in [
        ("header", Body::Header(header)),
        ("hello", Body::Hello(hello)),
        ("chunk", Body::Partial(chunk)),
    ] {
        put("frame", name, &Frame { body: Some(body) }.encode_to_vec());
    }
    let (epochs, validation) = (vec![tally], vec![100.0]);
    let place = String::new();
    let header = StateHeader { step: 5, length: 8, epochs, validation, place };
    let body = Some(state_frame::Body::Header(header));
    put("state_frame", "header", &StateFrame { body }.encode_to_vec());
}
