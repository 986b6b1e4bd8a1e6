//! Tests that every all-reduce must pass: the sum has the bits of the shard tree's sum, and every
//! error is named. A [`Transport`] connects the members.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Mutex, mpsc},
};

use collective::{
    AllReduce, Contribution, Control, Digest, Interrupted, Kind, Node, Outcome, Rank, Round,
    ShardRange, Share, Step, Tally,
};
use transport::Peer;

/// An all-reduce whose members live on threads of this process.
pub(crate) trait Transport {
    /// The training thread's side.
    type Member: AllReduce + Send;

    /// Connects the members of one generation, which own `ranges` of shards, and calls `member` for
    /// each of them on its own thread.
    fn with_members<T: Send>(
        ranges: &[(u32, u32)],
        length: usize,
        member: impl Fn(Rank, Self::Member) -> T + Sync,
    ) -> Vec<T>;

    /// A function that ends the generation.
    fn abort(member: &Self::Member) -> Box<dyn FnOnce() + Send>;
}

pub(crate) fn shares(ranges: &[(u32, u32)]) -> Vec<Share> {
    let share = |((start, end), rank): (&(u32, u32), u32)| Share {
        rank: Rank(rank),
        shards: ShardRange { start: *start, end: *end },
    };
    ranges.iter().zip(0..).map(share).collect()
}

/// The secret of all streams.
pub(crate) const SECRET: [u8; 32] = [7; 32];

/// Members that share memory and have no usable address.
pub(crate) fn peers(ranges: &[(u32, u32)]) -> Vec<Peer> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let secret = || SECRET.into();
    let peer =
        |share| Peer { share, address: address.into(), secret: secret(), memory_domain: Some(1) };
    shares(ranges).into_iter().map(peer).collect()
}

fn gradient(step: u64, shard: u32, index: usize) -> f32 {
    let mixed =
        (step << 48 ^ u64::from(shard) << 32 ^ index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((mixed >> 40) as f32 - 8_388_608.0) * 2f32.powi((mixed & 31) as i32 - 32)
}

/// The definition: the sum of a node is the sum of its children's sums.
pub(crate) fn tree_sum(node: Node, step: u64, length: usize) -> Vec<f32> {
    match node.children() {
        None => (0..length).map(|index| gradient(step, node.start, index)).collect(),
        Some((left, right)) => {
            let (left, right) = (tree_sum(left, step, length), tree_sum(right, step, length));
            left.iter().zip(&right).map(|(left, right)| left + right).collect()
        }
    }
}

pub(crate) fn train(step: u64) -> Round {
    Round { step: Step(step), kind: Kind::Train }
}

pub(crate) fn evaluate(step: u64) -> Round {
    Round { step: Step(step), kind: Kind::Evaluate }
}

/// Fills in the member's partials of a step, and returns its contribution.
pub(crate) fn contribute(
    member: &mut impl AllReduce,
    step: u64,
    length: usize,
    control: Control,
) -> Contribution {
    let nodes = member.nodes().to_vec();
    for (index, node) in nodes.iter().enumerate() {
        member.partial_mut(index).copy_from_slice(&tree_sum(*node, step, length));
    }
    Contribution { tallies: tallies(&nodes), control, ..Default::default() }
}

pub(crate) fn tallies(nodes: &[Node]) -> Vec<Tally> {
    let tally = |node: &Node| Tally {
        terms: [f64::from(node.start); 8],
        examples: u64::from(node.end - node.start),
        index_sum: u64::from(node.start),
    };
    nodes.iter().map(tally).collect()
}

pub(crate) fn same_bits(left: &[f32], right: &[f32]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(a, b)| a.to_bits() == b.to_bits())
}

pub(crate) fn sums_are_those_of_the_tree_for_any_split_and_length<T: Transport>() {
    let splits: [&[(u32, u32)]; 5] = [
        &[(0, 4)],
        &[(0, 2), (2, 4)],
        &[(0, 1), (1, 2), (2, 4)],
        &[(0, 1), (1, 2), (2, 3), (3, 4)],
        &[(0, 3), (3, 7)],
    ];
    for ranges in splits {
        let shards = ranges.last().unwrap().1;
        for length in [0, 1, 40, 5_000, 600_000] {
            let expected: Vec<_> =
                (0..3).map(|step| tree_sum(Node::root(shards), step, length)).collect();
            T::with_members(ranges, length, |rank, mut member| {
                for (step, expected) in (0..3).zip(&expected) {
                    let control = Control(1 << rank.0);
                    let contribution = contribute(&mut member, step, length, control);
                    let outcome = member.all_reduce(train(step), &contribution).unwrap();
                    assert!(same_bits(member.sum(), expected));
                    check_outcome(&outcome, ranges);
                    assert_eq!(member.contributions().len(), ranges.len());
                    assert_eq!(member.contributions()[rank.0 as usize], contribution);
                }
                let contribution = contribute(&mut member, 3, length, Control::default());
                let outcome = member.all_reduce(evaluate(3), &contribution).unwrap();
                assert_eq!(outcome.tally.examples, u64::from(shards));
            });
        }
    }
}

fn check_outcome(outcome: &Outcome, ranges: &[(u32, u32)]) {
    assert_eq!(outcome.control.0, (1 << ranges.len()) - 1);
    assert_eq!(outcome.tally.examples, u64::from(ranges.last().unwrap().1));
}

pub(crate) fn differing_digests_are_named_on_every_member<T: Transport>() {
    let ranges = [(0, 1), (1, 2), (2, 3)];
    let errors = T::with_members(&ranges, 10, |rank, mut member| {
        let mut contribution = contribute(&mut member, 7, 10, Control::default());
        contribution.digest = Some(Digest([u8::from(rank == Rank(1)); 16]));
        member.all_reduce(train(7), &contribution).unwrap_err()
    });
    for error in errors {
        let Interrupted::Diverged(divergence) = error else { panic!("{error}") };
        assert_eq!(divergence.odd_ranks(), [Rank(1)]);
        assert_eq!(divergence.step, Step(7));
    }
}

pub(crate) fn a_member_that_goes_away_interrupts_the_others_and_is_named<T: Transport>() {
    let errors = T::with_members(&[(0, 1), (1, 2), (2, 3)], 1000, |rank, mut member| {
        if rank == Rank(2) {
            return None;
        }
        let contribution = contribute(&mut member, 0, 1000, Control::default());
        member.all_reduce(train(0), &contribution).err()
    });
    // The first member to notice the loss ends too, so the other member may see either loss.
    let lost = |error: &Option<Interrupted>| matches!(error, Some(Interrupted::Lost { .. }));
    assert!(lost(&errors[0]) && lost(&errors[1]), "{errors:?}");
}

pub(crate) fn an_abort_ends_the_wait_for_a_member_that_never_contributes<T: Transport>() {
    let (sender, receiver) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
    let receiver = Mutex::new(receiver);
    let (done, wait) = mpsc::channel::<()>();
    let (done, wait) = (Mutex::new(Some(done)), Mutex::new(wait));
    T::with_members(&[(0, 1), (1, 2)], 10, |rank, mut member| {
        if rank == Rank(1) {
            let abort = receiver.lock().unwrap().recv().unwrap();
            abort();
            // This member stays until the other one has noticed the abort.
            let _closed = wait.lock().unwrap().recv();
            drop(member);
        } else {
            sender.send(T::abort(&member)).unwrap();
            let contribution = contribute(&mut member, 0, 10, Control::default());
            let error = member.all_reduce(train(0), &contribution).unwrap_err();
            assert_eq!(error, Interrupted::Aborted);
            drop(done.lock().unwrap().take());
        }
    });
}

pub(crate) fn members_at_different_steps_are_told_apart<T: Transport>() {
    let errors = T::with_members(&[(0, 1), (1, 2)], 10, |rank, mut member| {
        let contribution = contribute(&mut member, 0, 10, Control::default());
        member.all_reduce(train(u64::from(rank.0)), &contribution).unwrap_err()
    });
    assert!(errors.iter().any(|error| matches!(error, Interrupted::Protocol { .. })), "{errors:?}");
}
