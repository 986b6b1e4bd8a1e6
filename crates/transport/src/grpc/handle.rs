//! The training thread's side of a connected generation.

use std::sync::Arc;

use collective::{AllReduce, Contribution, Hosts, Interrupted, Node, Outcome, Round};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    exchange::{Done, Exchange, Job},
    stream::PeerStream,
};

/// All-reduce over one generation's gRPC streams.
#[derive(Debug)]
pub struct Grpc {
    hosts: Arc<Hosts>,
    me: usize,
    /// One flat gradient for each node of this member's host. It has another owner while a stream still
    /// sends from it.
    partials: Vec<Arc<Vec<f32>>>,
    sum: Vec<f32>,
    /// Every member's contribution to the last round.
    contributions: Vec<Contribution>,
    jobs: mpsc::Sender<Job>,
    abort: Abort,
}

/// Ends a generation from outside its training thread.
#[derive(Clone, Debug)]
pub struct Abort(Arc<watch::Sender<bool>>);

impl Abort {
    /// Makes the current round, or else the next one, end with [`Interrupted::Aborted`].
    pub fn abort(&self) {
        self.0.send_replace(true);
    }
}

impl Grpc {
    /// The all-reduce of the member with index `me`, with the streams to its linked members. Call it
    /// on the runtime of the streams.
    pub(super) fn new(hosts: Hosts, me: usize, streams: Vec<(usize, PeerStream)>) -> Self {
        let hosts = Arc::new(hosts);
        let (abort, aborted) = watch::channel(false);
        // One place is enough: the training thread waits for a round before it asks for the next.
        let (jobs, queue) = mpsc::channel(1);
        tokio::spawn(Exchange::new(Arc::clone(&hosts), me, streams).run(queue, aborted));
        let length = hosts.plan().length();
        let partial = |_: &Node| Arc::new(vec![0.0; length]);
        Self {
            me,
            partials: hosts.nodes(hosts.host(me)).iter().map(partial).collect(),
            sum: vec![0.0; length],
            contributions: Vec::new(),
            jobs,
            abort: Abort(Arc::new(abort)),
            hosts,
        }
    }

    /// A handle that ends this generation.
    #[must_use]
    pub fn abort_handle(&self) -> Abort {
        self.abort.clone()
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// This member's index.
    pub(crate) fn me(&self) -> usize {
        self.me
    }

    /// Adds up the hosts' partials. `contributions` are those of this host's members. Only this
    /// member's lanes of the partials are read, and only its lanes of the sum are written.
    pub(crate) fn exchange(
        &mut self,
        round: Round,
        contributions: Vec<Contribution>,
    ) -> Result<Outcome, Interrupted> {
        let (done, finished) = oneshot::channel();
        let partials = self.partials.clone();
        let sum = std::mem::take(&mut self.sum);
        let job = Job { round, contributions, partials, sum, done };
        // If the communication thread is gone, the generation is over.
        let sent = self.jobs.blocking_send(job).ok();
        let answer = sent.and_then(|()| finished.blocking_recv().ok());
        let Some(Done { outcome, contributions, sum }) = answer else {
            self.sum = vec![0.0; self.hosts.plan().length()];
            return Err(Interrupted::Aborted);
        };
        crashpoint::reach!("all-reduce.grpc.done");
        (self.sum, self.contributions) = (sum, contributions);
        outcome
    }
}

impl AllReduce for Grpc {
    fn nodes(&self) -> &[Node] {
        self.hosts.nodes(self.hosts.host(self.me))
    }

    fn partial_mut(&mut self, index: usize) -> &mut [f32] {
        // A peer that has sent its part of the sum has received its part of this vector. So after a
        // round the vector has no other owner, and nothing is copied. After an interrupted round the
        // queue may still hold the old vector; then `make_mut` copies it.
        Arc::make_mut(&mut self.partials[index]).as_mut_slice()
    }

    fn all_reduce(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        self.exchange(round, vec![contribution.clone()])
    }

    fn contributions(&self) -> &[Contribution] {
        &self.contributions
    }

    fn sum(&self) -> &[f32] {
        &self.sum
    }
}
