//! Members in one process over a stand-in for NCCL (`examples/nccl_stand_in.rs`): the sum has the
//! bits of the shard tree's sum, and every error is named. The real library is tested on machines
//! with GPUs.

use std::{
    env,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use collective::{
    AllReduce, Contribution, Control, DeviceExchange, DeviceMemory, DeviceQueue, Generation,
    Interrupted, Kind, Node, Outcome, Rank, Round, tree::merges,
};
use transport::{
    Group, Peer,
    nccl::{Libraries, Nccl, UniqueId},
};

use crate::{
    hosts::{Host, RUN, Way},
    stories::{self, Transport},
};

/// The stand-in library, which is built beside the tests.
fn libraries() -> Libraries {
    let test = env::current_exe().unwrap();
    let built: PathBuf = test.parent().unwrap().parent().unwrap().join("examples");
    Libraries::at(&built.join("libnccl_stand_in.so")).unwrap()
}

/// Every member has its own GPU, and its partials in the host's memory.
struct Gpus;

impl Transport for Gpus {
    type Member = Nccl;

    fn with_members<T: Send>(
        ranges: &[(u32, u32)],
        length: usize,
        member: impl Fn(Rank, Nccl) -> T + Sync,
    ) -> Vec<T> {
        with_members_on(
            |rank| rank as usize,
            ranges,
            length,
            |rank, mut nccl| {
                nccl.open(stories::train(0), None).unwrap();
                member(rank, nccl)
            },
        )
    }

    fn abort(member: &Nccl) -> Box<dyn FnOnce() + Send> {
        let abort = member.abort_handle();
        Box::new(move || abort.abort())
    }
}

/// Every member has its partials in its GPU's memory.
struct OnDevices;

impl Transport for OnDevices {
    type Member = OnDevice;

    fn with_members<T: Send>(
        ranges: &[(u32, u32)],
        length: usize,
        member: impl Fn(Rank, OnDevice) -> T + Sync,
    ) -> Vec<T> {
        let device = |rank: u32| rank as usize;
        with_members_on(device, ranges, length, |rank, nccl| {
            member(rank, OnDevice::open(nccl, length))
        })
    }

    fn abort(member: &OnDevice) -> Box<dyn FnOnce() + Send> {
        let abort = member.nccl.abort_handle();
        Box::new(move || abort.abort())
    }
}

/// A GPU's memory, simulated in this process.
struct Floats {
    bits: Box<[AtomicU32]>,
    has_failed: AtomicBool,
}

impl DeviceQueue for Floats {
    fn enter(&self) -> Result<(), String> {
        Ok(())
    }

    fn handle(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    fn is_idle(&self) -> Result<bool, String> {
        if self.has_failed.load(Ordering::Relaxed) { Err("it fell off".into()) } else { Ok(true) }
    }
}

impl DeviceMemory for Floats {
    fn address(&self) -> usize {
        self.bits.as_ptr() as usize
    }

    fn floats(&self) -> usize {
        self.bits.len()
    }
}

/// A member whose device adds up the partials as a GPU's kernel does.
struct OnDevice {
    nccl: Nccl,
    memory: Arc<Floats>,
    all: Vec<Node>,
    partials: Vec<Vec<f32>>,
    sum: Vec<f32>,
}

impl OnDevice {
    fn open(mut nccl: Nccl, length: usize) -> Self {
        let all = nccl.all_nodes();
        // Floats that were not received are NaN.
        let bits = (0..all.len() * length).map(|_| AtomicU32::new(u32::MAX)).collect();
        let memory = Arc::new(Floats { bits, has_failed: AtomicBool::new(false) });
        nccl.open(stories::train(0), Some(Arc::clone(&memory) as _)).unwrap();
        let partials = vec![vec![0.0; length]; nccl.nodes().len()];
        Self { nccl, memory, all, partials, sum: vec![0.0; length] }
    }

    fn contribute(&self) {
        let length = self.sum.len();
        for (node, partial) in self.nccl.nodes().iter().zip(&self.partials) {
            let place = self.all.iter().position(|other| other == node).unwrap();
            let bits = &self.memory.bits[place * length..(place + 1) * length];
            bits.iter()
                .zip(partial)
                .for_each(|(bits, p)| bits.store(p.to_bits(), Ordering::Relaxed));
        }
    }

    fn add_up(&mut self) {
        let root = Node::root(self.all.last().unwrap().end);
        let merges = merges(&[root], &self.all);
        let length = self.sum.len();
        for (i, sum) in self.sum.iter_mut().enumerate() {
            let mut stack = Vec::new();
            for (leaf, merges) in merges.iter().enumerate() {
                let bits = self.memory.bits[leaf * length + i].load(Ordering::Relaxed);
                stack.push(f32::from_bits(bits));
                for _ in 0..*merges {
                    let right = stack.pop().unwrap();
                    *stack.last_mut().unwrap() += right;
                }
            }
            assert_eq!(stack.len(), 1, "the tree has one root");
            *sum = stack[0];
        }
    }
}

impl AllReduce for OnDevice {
    fn nodes(&self) -> &[Node] {
        self.nccl.nodes()
    }

    fn partial_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.partials[index]
    }

    fn all_reduce(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        if round.kind != Kind::Train {
            return self.nccl.all_reduce(round, contribution);
        }
        self.contribute();
        self.nccl.begin(round)?;
        let outcome = self.nccl.finish(round, contribution)?;
        self.add_up();
        Ok(outcome)
    }

    fn contributions(&self) -> &[Contribution] {
        self.nccl.contributions()
    }

    fn sum(&self) -> &[f32] {
        &self.sum
    }
}

/// Members whose GPUs are chosen by their ranks.
fn with_members_on<T: Send>(
    gpu: impl Fn(u32) -> usize + Sync,
    ranges: &[(u32, u32)],
    length: usize,
    member: impl Fn(Rank, Nccl) -> T + Sync,
) -> Vec<T> {
    let shards = ranges.last().unwrap().1;
    let hosts: Vec<Host> = ranges.iter().map(|_| Host::start(Way::Tcp, shards, 0)).collect();
    let peers = hosts.iter().zip(stories::peers(ranges));
    let group = Group {
        run_id: RUN.into(),
        shares_state: false,
        generation: Generation(1),
        shards,
        length,
        rank: Rank(0),
        peers: peers.map(|(host, peer)| Peer { address: host.address.clone(), ..peer }).collect(),
    };
    let id = UniqueId::new(libraries()).unwrap();
    let run = |(host, rank): (&Host, u32)| {
        let group = Group { rank: Rank(rank), ..group.clone() };
        let headers = Group { length: 0, ..group.clone() };
        let headers = host.runtime.block_on(host.endpoint.connect(&headers)).unwrap();
        member(Rank(rank), Nccl::new(libraries(), gpu(rank), &group, id, headers))
    };
    let run = &run;
    thread::scope(|scope| {
        let threads: Vec<_> =
            hosts.iter().zip(0..).map(|host| scope.spawn(move || run(host))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// A member's GPU fails during a copy. Its memory must not be freed before the copies are done; the
/// stand-in checks this. The other member waits until its generation is aborted.
fn fails_in_the_middle_of_an_exchange(gpu: usize) {
    let (length, others) = (5_000, OnceLock::new());
    let gpu_of = |rank| if rank == 1 { gpu } else { 0 };
    with_members_on(gpu_of, &[(0, 2), (2, 4)], length, |rank, mut member| {
        if rank == Rank(0) {
            others.set(member.abort_handle()).unwrap();
        }
        member.open(stories::train(0), None).unwrap();
        let contribution = stories::contribute(&mut member, 0, length, Control::default());
        let interrupted = member.all_reduce(stories::train(0), &contribution).unwrap_err();
        drop(member);
        if rank == Rank(0) {
            assert_eq!(interrupted, Interrupted::Aborted);
        } else {
            let reason = interrupted.to_string();
            assert!(reason.contains("cudaStreamQuery: unspecified launch failure"), "{reason}");
            others.wait().abort();
        }
    });
}

#[test]
fn memory_outlives_the_copies_of_a_gpu_that_fails() {
    fails_in_the_middle_of_an_exchange(8);
}

#[test]
fn memory_of_a_gpu_that_is_lost_is_never_freed() {
    fails_in_the_middle_of_an_exchange(9);
}

/// The memory is not freed when its owner drops it, because the GPU may still use it.
#[test]
fn partials_on_a_gpu_that_is_lost_are_never_freed() {
    let length = 5_000;
    OnDevices::with_members(&[(0, 2), (2, 4)], length, |rank, mut member| {
        let contribution = stories::contribute(&mut member, 0, length, Control::default());
        member.memory.has_failed.store(rank == Rank(1), Ordering::Relaxed);
        let ended = member.all_reduce(stories::train(0), &contribution);
        let memory = Arc::downgrade(&member.memory);
        drop(member);
        assert_eq!(memory.strong_count(), rank.0 as usize);
        if rank == Rank(1) {
            let reason = ended.unwrap_err().to_string();
            assert!(reason.contains("the GPU: it fell off"), "{reason}");
        }
    });
}

/// The stand-in checks that communicators are destroyed only after all members have left, and that none is
/// aborted afterwards.
#[test]
fn members_that_agree_on_the_end_leave_together() {
    let length = 50;
    OnDevices::with_members(&[(0, 1), (1, 2), (2, 4)], length, |rank, mut member| {
        let contribution = stories::contribute(&mut member, 0, length, Control::default());
        member.all_reduce(stories::train(0), &contribution).unwrap();
        member.nccl.close();
        let ended = member.nccl.begin(stories::train(1));
        assert_eq!(ended, Err(Interrupted::Aborted), "{rank:?} exchanges nothing more");
    });
}

/// A member that leaves waits no longer than its generation lasts.
#[test]
fn a_member_that_leaves_alone_is_released_by_an_abort() {
    let (length, waiting) = (50, OnceLock::new());
    OnDevices::with_members(&[(0, 2), (2, 4)], length, |rank, mut member| {
        let contribution = stories::contribute(&mut member, 0, length, Control::default());
        member.all_reduce(stories::train(0), &contribution).unwrap();
        if rank == Rank(0) {
            waiting.set(member.nccl.abort_handle()).unwrap();
            member.nccl.close();
        } else {
            waiting.wait().abort();
        }
    });
}

/// Tests all stories with partials in the host's memory and on the devices.
macro_rules! told_of_both {
    ($($story:ident),* $(,)?) => {
        mod hosted {
            $(#[test]
            fn $story() {
                super::stories::$story::<super::Gpus>();
            })*
        }

        mod on_device {
            $(#[test]
            fn $story() {
                super::stories::$story::<super::OnDevices>();
            })*
        }
    };
}

told_of_both! {
    sums_are_those_of_the_tree_for_any_split_and_length,
    differing_digests_are_named_on_every_member,
    a_member_that_goes_away_interrupts_the_others_and_is_named,
    an_abort_ends_the_wait_for_a_member_that_never_contributes,
    members_at_different_steps_are_told_apart,
}

#[test]
fn ids_travel_as_text() {
    let id = UniqueId::new(libraries()).unwrap();
    assert_eq!(id.to_string().parse(), Ok(id));
    for wrong in ["", "12", &id.to_string()[1..], &id.to_string().replace('0', "x")] {
        assert!(wrong.parse::<UniqueId>().is_err(), "{wrong}");
    }
}

#[test]
fn what_is_not_there_is_named() {
    let nowhere = Libraries::at("/nowhere/libnccl.so.2".as_ref()).unwrap_err();
    assert!(nowhere.to_string().contains("/nowhere/libnccl.so.2"), "{nowhere}");
    with_members_on(
        |_| 99,
        &[(0, 1)],
        10,
        |_, mut nccl| {
            let no_gpu = nccl.open(stories::train(0), None).unwrap_err().to_string();
            assert!(no_gpu.contains("cudaSetDevice: invalid device"), "{no_gpu}");
        },
    );
}
