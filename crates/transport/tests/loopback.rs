//! Members in one process, over real sockets: the sum is bitwise that of the shard tree.

use std::{net::SocketAddr, thread};

use collective::{
    AllReduce, Contribution, Control, Digest, Generation, Interrupted, Kind, Node, Outcome, Rank,
    Round, ShardRange, Share, Step, Tally,
};
use tokio::{net::TcpListener, runtime::Runtime};
use transport::{Abort, ConnectError, Endpoint, Group, Grpc, Peer};

const RUN: &str = "test";

/// A member's communication thread: its runtime and its listening endpoint.
struct Host {
    runtime: Runtime,
    endpoint: Endpoint,
    address: SocketAddr,
}

impl Host {
    fn start(shards: u32, length: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let endpoint = Endpoint::new(RUN, shards, length);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(endpoint.clone().serve(listener, std::future::pending()));
        Self { runtime, endpoint, address }
    }

    fn connect(&self, group: &Group) -> Result<Grpc, ConnectError> {
        self.runtime.block_on(self.endpoint.connect(group))
    }
}

fn group(hosts: &[Host], ranges: &[(u32, u32)], length: usize, generation: u64) -> Group {
    let peer = |((host, (start, end)), rank): ((&Host, &(u32, u32)), u32)| Peer {
        share: Share { rank: Rank(rank), shards: ShardRange { start: *start, end: *end } },
        address: host.address,
    };
    Group {
        run_id: RUN.into(),
        generation: Generation(generation),
        shards: ranges.last().unwrap().1,
        length,
        rank: Rank(0),
        peers: hosts.iter().zip(ranges).zip(0..).map(peer).collect(),
    }
}

/// Runs `member` on a thread each, on connected members of one generation.
fn with_members<T: Send>(
    ranges: &[(u32, u32)],
    length: usize,
    member: impl Fn(Rank, Grpc) -> T + Sync,
) -> Vec<T> {
    let shards = ranges.last().unwrap().1;
    let hosts: Vec<Host> = ranges.iter().map(|_| Host::start(shards, length)).collect();
    let group = group(&hosts, ranges, length, 1);
    let run = |(host, rank): (&Host, u32)| {
        let group = Group { rank: Rank(rank), ..group.clone() };
        member(Rank(rank), host.connect(&group).unwrap())
    };
    let run = &run;
    thread::scope(|scope| {
        let threads: Vec<_> =
            hosts.iter().zip(0..).map(|host| scope.spawn(move || run(host))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn gradient(step: u64, shard: u32, index: usize) -> f32 {
    let mixed =
        (step << 48 ^ u64::from(shard) << 32 ^ index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((mixed >> 40) as f32 - 8_388_608.0) * 2f32.powi((mixed & 31) as i32 - 32)
}

fn tree_sum(node: Node, step: u64, length: usize) -> Vec<f32> {
    match node.children() {
        None => (0..length).map(|index| gradient(step, node.start, index)).collect(),
        Some((left, right)) => {
            let (left, right) = (tree_sum(left, step, length), tree_sum(right, step, length));
            left.iter().zip(&right).map(|(left, right)| left + right).collect()
        }
    }
}

fn train(step: u64) -> Round {
    Round { step: Step(step), kind: Kind::Train }
}

fn contribute(grpc: &mut Grpc, step: u64, length: usize, control: Control) -> Contribution {
    let nodes = grpc.nodes().to_vec();
    for (index, node) in nodes.iter().enumerate() {
        grpc.partial_mut(index).copy_from_slice(&tree_sum(*node, step, length));
    }
    let tally = |node: &Node| Tally {
        terms: [f64::from(node.start); 3],
        images: u64::from(node.end - node.start),
        index_sum: u64::from(node.start),
    };
    Contribution { tallies: nodes.iter().map(tally).collect(), control, ..Default::default() }
}

#[test]
fn sums_are_those_of_the_tree_for_any_split_and_length() {
    let splits: [&[(u32, u32)]; 5] = [
        &[(0, 4)],
        &[(0, 2), (2, 4)],
        &[(0, 1), (1, 2), (2, 4)],
        &[(0, 1), (1, 2), (2, 3), (3, 4)],
        &[(0, 3), (3, 7)],
    ];
    for ranges in splits {
        for length in [0, 1, 40, 5_000, 600_000] {
            let expected: Vec<_> = (0..3)
                .map(|step| tree_sum(Node::root(ranges.last().unwrap().1), step, length))
                .collect();
            with_members(ranges, length, |rank, mut grpc| {
                for (step, expected) in (0..3).zip(&expected) {
                    let control = Control(1 << rank.0);
                    let contribution = contribute(&mut grpc, step, length, control);
                    let outcome = grpc.all_reduce(train(step), &contribution).unwrap();
                    assert!(
                        grpc.sum().iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits())
                    );
                    check_outcome(&outcome, ranges);
                }
                let round = Round { step: Step(3), kind: Kind::Evaluate };
                let contribution = contribute(&mut grpc, 3, length, Control::default());
                let outcome = grpc.all_reduce(round, &contribution).unwrap();
                assert_eq!(outcome.tally.images, u64::from(ranges.last().unwrap().1));
            });
        }
    }
}

fn check_outcome(outcome: &Outcome, ranges: &[(u32, u32)]) {
    assert_eq!(outcome.control.0, (1 << ranges.len()) - 1);
    assert_eq!(outcome.tally.images, u64::from(ranges.last().unwrap().1));
    assert_eq!(outcome.timings.len(), ranges.len());
}

#[test]
fn differing_digests_are_named_on_every_member() {
    let ranges = [(0, 1), (1, 2), (2, 3)];
    let errors = with_members(&ranges, 10, |rank, mut grpc| {
        let mut contribution = contribute(&mut grpc, 7, 10, Control::default());
        contribution.digest = Some(Digest([u8::from(rank == Rank(1)); 16]));
        grpc.all_reduce(train(7), &contribution).unwrap_err()
    });
    for error in errors {
        let Interrupted::Diverged(divergence) = error else { panic!("{error}") };
        assert_eq!(divergence.odd_ranks(), [Rank(1)]);
        assert_eq!(divergence.step, Step(7));
    }
}

#[test]
fn a_member_that_goes_away_interrupts_the_others_and_is_named() {
    let errors = with_members(&[(0, 1), (1, 2), (2, 3)], 1000, |rank, mut grpc| {
        if rank == Rank(2) {
            return None;
        }
        let contribution = contribute(&mut grpc, 0, 1000, Control::default());
        grpc.all_reduce(train(0), &contribution).err()
    });
    // Whoever notices first drops its own streams, so the other may see either of them go.
    let lost = |error: &Option<Interrupted>| matches!(error, Some(Interrupted::Lost { .. }));
    assert!(lost(&errors[0]) && lost(&errors[1]), "{errors:?}");
}

#[test]
fn an_abort_ends_the_wait_for_a_member_that_never_contributes() {
    let (sender, receiver) = std::sync::mpsc::channel::<Abort>();
    let receiver = std::sync::Mutex::new(receiver);
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let (done, wait) = (std::sync::Mutex::new(Some(done)), std::sync::Mutex::new(wait));
    with_members(&[(0, 1), (1, 2)], 10, |rank, mut grpc| {
        if rank == Rank(1) {
            let abort = receiver.lock().unwrap().recv().unwrap();
            Runtime::new().unwrap().block_on(abort.abort());
            // Its streams stay open until the other member has noticed the abort.
            let _closed = wait.lock().unwrap().recv();
            drop(grpc);
        } else {
            sender.send(grpc.abort_handle()).unwrap();
            let contribution = contribute(&mut grpc, 0, 10, Control::default());
            let error = grpc.all_reduce(train(0), &contribution).unwrap_err();
            assert_eq!(error, Interrupted::Aborted);
            drop(done.lock().unwrap().take());
        }
    });
}

#[test]
fn members_at_different_steps_are_told_apart() {
    let errors = with_members(&[(0, 1), (1, 2)], 10, |rank, mut grpc| {
        let contribution = contribute(&mut grpc, 0, 10, Control::default());
        grpc.all_reduce(train(u64::from(rank.0)), &contribution).unwrap_err()
    });
    assert!(errors.iter().any(|error| matches!(error, Interrupted::Protocol { .. })), "{errors:?}");
}

#[test]
fn streams_of_another_run_or_an_old_generation_are_refused() {
    let hosts: Vec<Host> = (0..2).map(|_| Host::start(2, 10)).collect();
    let ranges = [(0, 1), (1, 2)];
    let stranger =
        Group { rank: Rank(1), run_id: "another".into(), ..group(&hosts, &ranges, 10, 5) };
    let foreign = Endpoint::new("another", 2, 10);
    let error = hosts[1].runtime.block_on(foreign.connect(&stranger)).unwrap_err();
    assert!(error.to_string().contains("another run"), "{error}");

    let alone = Group { peers: vec![], ..group(&hosts, &ranges, 10, 5) };
    assert!(hosts[0].connect(&alone).is_err());
    let late = Group { rank: Rank(1), ..group(&hosts, &ranges, 10, 6) };
    let first = group(&hosts, &ranges, 10, 6);
    thread::scope(|scope| {
        let other = scope.spawn(|| hosts[1].connect(&late).unwrap());
        drop(hosts[0].connect(&first).unwrap());
        drop(other.join().unwrap());
    });
    let stale = Group { rank: Rank(1), ..group(&hosts, &ranges, 10, 3) };
    let error = hosts[1].connect(&stale).unwrap_err();
    assert!(error.to_string().contains("generation 3 is over"), "{error}");
}
