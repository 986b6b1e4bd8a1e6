//! A crowd of workers without tensors, all in this process. Each exchanges messages with the
//! coordinator like a real worker, over its own connection.
//!
//! Their training is only a number of steps, which all share. [`worker`] has the behaviour of one
//! worker.

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

/// How many workers of a crowd report the same host.
const WORKERS_A_HOST: usize = 8;

/// The same values as for real workers; see `crates/worker/src/control.rs`.
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
    /// An empty crowd for the coordinator at `url`.
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

    /// Ends the workers with these ranks of the last generation, all at once and without a message.
    pub(crate) fn lose(&self, ranks: &[u32]) {
        // No worker can say that it has stopped until all are gone.
        let training = self.shared.training();
        ranks.iter().for_each(|rank| self.workers[training.numbers[rank]].abort());
    }

    /// Waits until a generation of so many members has begun after `before`, all of them have
    /// received its start, and it has done a step.
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

    /// Waits until all remaining workers have received the end of the run.
    pub(crate) fn wait(self) {
        wait_until("the crowd has gone", || self.workers.iter().all(JoinHandle::is_finished));
        assert_eq!(self.shared.training().failures, [] as [String; 0]);
    }
}

/// A generation, according to the start messages that its members received.
#[derive(Clone, Debug)]
pub(crate) struct Started {
    /// The ranks of the members, in the first start message.
    pub(crate) ranks: Vec<u32>,
    /// How many members have received a start message.
    called: usize,
    /// The time of the last start message.
    pub(crate) at: Instant,
    /// The XOR of all secrets that members received. A secret goes to two members, so this is zero
    /// at the end.
    secrets: u64,
    /// How many steps the generation has done.
    steps: u64,
}

impl Started {
    fn is_complete(&self) -> bool {
        self.called == self.ranks.len() && self.secrets == 0 && self.steps > 0
    }
}

/// The data that all workers of a crowd share.
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

/// The shared training state, as far as the coordinator can see it.
#[derive(Debug, Default)]
struct Training {
    /// The number of updates.
    step: u64,
    /// The generation that is training, if there is one.
    computing: Option<u64>,
    generations: BTreeMap<u64, Started>,
    /// The worker that last held each rank.
    numbers: BTreeMap<u32, usize>,
    failures: Vec<String>,
}

impl Training {
    /// Notes that a worker received the start of a generation; an error if the message is
    /// inconsistent.
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

    /// Does a step, if this generation is still training; returns whether it did.
    fn advance(&mut self, generation: u64) -> bool {
        let computes = self.computing == Some(generation);
        if computes {
            self.step += 1;
            self.generations.entry(generation).and_modify(|started| started.steps += 1);
        }
        computes
    }

    /// Ends a generation; returns the step after which its members stop.
    fn stop(&mut self, generation: u64) -> u64 {
        self.computing.take_if(|computing| *computing == generation);
        self.step
    }

    /// Whether a generation has done a step.
    fn has_stepped(&self, generation: u64) -> bool {
        self.generations.get(&generation).is_some_and(|started| started.steps > 0)
    }
}

/// The shared-memory segment of the members of a host, if the start is for the first of several
/// such members.
fn rendezvous(start: &Start) -> Option<Segment> {
    let own = start.members.iter().find(|member| member.rank == start.rank)?.memory_domain;
    let mut neighbours = start.members.iter().filter(|member| member.memory_domain == own);
    let is_first = own != 0 && neighbours.next()?.rank == start.rank;
    let has_others = neighbours.next().is_some();
    let rendezvous = format!("segment-{own}");
    (is_first && has_others).then_some(Segment { generation: start.generation, rendezvous })
}
