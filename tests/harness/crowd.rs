//! A crowd of workers without tensors, all in this process: each speaks with the coordinator as a
//! real one does, over a connection of its own.
//!
//! Their training is a count of steps, the same for all. How one of them behaves is in [`worker`].

mod worker;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use protocol::wire::{Segment, Start};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};
use tonic::transport::Endpoint;

use super::{Process, wait_until};

/// Workers of a crowd that say that they are on one host.
const WORKERS_A_HOST: usize = 8;

/// As real workers have them; see `crates/worker/src/control.rs`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Workers, in the order in which they were added.
#[derive(Debug)]
pub(crate) struct Crowd {
    runtime: Runtime,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Nobody yet, for the coordinator at `url`.
    pub(crate) fn new(url: &str) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(url.to_owned())
            .unwrap()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let shared = Shared { endpoint, training: Mutex::default() };
        Self { runtime, shared: Arc::new(shared), workers: Vec::new() }
    }

    /// Adds workers, all at once; they ask for no rank.
    pub(crate) fn add(&mut self, workers: usize) {
        let first = self.workers.len();
        let spawn = |number| {
            let shared = Arc::clone(&self.shared);
            self.runtime.spawn(async move {
                if let Err(failure) = worker::take_part(&shared, number).await {
                    shared.training().failures.push(format!("worker {number}: {failure}"));
                }
            })
        };
        self.workers.extend((first..first + workers).map(spawn));
    }

    /// Has these ranks of the last generation vanish, all at once and without a word.
    pub(crate) fn lose(&self, ranks: &[u32]) {
        let gone: Vec<usize> = {
            let training = self.shared.training();
            ranks.iter().map(|rank| training.numbers[rank]).collect()
        };
        gone.into_iter().for_each(|number| self.workers[number].abort());
    }

    /// Waits until a generation of so many members has begun after `before`, all of them have
    /// heard of it, and it has done a step.
    #[track_caller]
    pub(crate) fn wait_for_generation(
        &self,
        coordinator: &Process,
        members: usize,
        before: u64,
    ) -> (u64, Started) {
        let what = format!("a generation of {members} members after {before}");
        let mut found = None;
        wait_until(&what, || {
            let training = self.shared.training();
            let failures = &training.failures;
            assert!(failures.is_empty(), "{what}: {failures:?}\n{}", coordinator.last_words());
            let mut later = training.generations.range(before + 1..);
            let entry = later.find(|(_, s)| s.ranks.len() == members && s.is_complete());
            found = entry.map(|(number, started)| (*number, started.clone()));
            found.is_some()
        });
        found.expect(&what)
    }

    /// Waits for all who were not lost to have heard that the run has ended.
    pub(crate) fn wait(self) {
        wait_until("the crowd has gone", || self.workers.iter().all(JoinHandle::is_finished));
        assert_eq!(self.shared.training().failures, [] as [String; 0]);
    }
}

/// A generation, as those who were called to it have heard.
#[derive(Clone, Debug)]
pub(crate) struct Started {
    /// Of its members, as the first of them was told.
    pub(crate) ranks: Vec<u32>,
    /// Members that were called.
    called: usize,
    /// When the last of them was.
    pub(crate) at: Instant,
    /// All secrets of pairs that anybody was told, in one sum: each is told to two, so that it is
    /// zero in the end.
    secrets: u64,
    /// Steps that it has done.
    steps: u64,
}

impl Started {
    fn is_complete(&self) -> bool {
        self.called == self.ranks.len() && self.secrets == 0 && self.steps > 0
    }
}

/// What all workers of a crowd know.
#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    training: Mutex<Training>,
}

impl Shared {
    fn training(&self) -> MutexGuard<'_, Training> {
        self.training.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state that all members have, as far as anybody asks.
#[derive(Debug, Default)]
struct Training {
    /// Updates that it has seen.
    step: u64,
    /// The generation that computes, if one does.
    computing: Option<u64>,
    generations: BTreeMap<u64, Started>,
    /// The worker that last held each rank.
    numbers: BTreeMap<u32, usize>,
    failures: Vec<String>,
}

impl Training {
    /// Notes that a worker was called to a generation; an error if that makes no sense.
    fn begin(&mut self, number: usize, start: &Start) -> Result<(), String> {
        let ranks: Vec<u32> = start.members.iter().map(|member| member.rank).collect();
        let mut shards: Vec<_> =
            start.members.iter().map(|member| (member.first_shard, member.end_shard)).collect();
        shards.sort_unstable();
        let joined = shards.windows(2).all(|pair| pair[0].1 == pair[1].0);
        let ascend = ranks.windows(2).all(|pair| pair[0] < pair[1]);
        let is_first = !self.generations.contains_key(&start.generation);
        let started = self.generations.entry(start.generation).or_insert_with(|| Started {
            ranks: ranks.clone(),
            called: 0,
            at: Instant::now(),
            secrets: 0,
            steps: 0,
        });
        if !ascend || !joined || !ranks.contains(&start.rank) || ranks != started.ranks {
            return Err(format!("a call to a generation that cannot be: {start:?}"));
        }
        started.called += 1;
        started.at = Instant::now();
        for member in start.members.iter().filter(|member| member.rank != start.rank) {
            let secret = member.secret.first_chunk().ok_or("a secret that is none")?;
            started.secrets ^= u64::from_le_bytes(*secret);
        }
        self.numbers.insert(start.rank, number);
        if is_first {
            self.computing = Some(start.generation);
        }
        Ok(())
    }

    /// Does a step, if all of this generation still can.
    fn advance(&mut self, generation: u64) -> bool {
        let computes = self.computing == Some(generation);
        if computes {
            self.step += 1;
            self.generations.entry(generation).and_modify(|started| started.steps += 1);
        }
        computes
    }

    /// Ends a generation; returns the step after which its members stop, unless its last one was
    /// in the middle of another.
    fn stop(&mut self, generation: u64) -> u64 {
        self.computing.take_if(|computing| *computing == generation);
        self.step
    }

    /// Whether a generation has done a step.
    fn has_stepped(&self, generation: u64) -> bool {
        self.generations.get(&generation).is_some_and(|started| started.steps > 0)
    }
}

/// Where the members of a host meet, if this is the call of the first of them.
fn rendezvous(start: &Start) -> Option<Segment> {
    let own = start.members.iter().find(|member| member.rank == start.rank)?.memory_domain;
    let mut neighbours = start.members.iter().filter(|member| member.memory_domain == own);
    let is_first = own != 0 && neighbours.next()?.rank == start.rank;
    let has_others = neighbours.next().is_some();
    let rendezvous = format!("segment-{own}");
    (is_first && has_others).then_some(Segment { generation: start.generation, rendezvous })
}
