//! The communication side of a connected generation: sends, receives and adds up, one round after
//! the other, on the runtime of the streams. [`Hosts`] decides which floats go to which member.
//!
//! All additions are done here, directly from the bytes that arrived. The sum of a chunk is sent
//! while the next chunk still arrives. The training thread only waits.

use std::{
    future::poll_fn,
    ops::Range,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use collective::{
    Contribution, Header, Hosts, Interrupted, Kind, Outcome, Reducer, Round, hosts::Part,
};
use protocol::{
    ONE_HOP_BYTES_MAX, ONE_HOP_NODES_MAX,
    wire::{Frame, frame},
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    frames::{self, CHUNK_FLOATS, FLOAT_BYTES, Piece, Unsent},
    link::{Broken, Link},
    stream::PeerStream,
};

/// Floats added at a time, so that their sum is copied for sending while it is in the cache.
const BLOCK: usize = 2048;

/// A round to do. The training thread waits for `done`, so nothing else uses the vectors.
pub(super) struct Job {
    pub(super) round: Round,
    /// One contribution for each member of this host.
    pub(super) contributions: Vec<Contribution>,
    /// One flat gradient for each node of this host.
    pub(super) partials: Vec<Arc<Vec<f32>>>,
    /// The vector for the sum.
    pub(super) sum: Vec<f32>,
    pub(super) done: oneshot::Sender<Done>,
}

/// A finished round, with the vector of [`Job::sum`].
pub(super) struct Done {
    pub(super) outcome: Result<Outcome, Interrupted>,
    /// Every member's contribution, in rank order; undefined after an interrupted round.
    pub(super) contributions: Vec<Contribution>,
    pub(super) sum: Vec<f32>,
}

/// A generation's streams, and the progress of the additions in a round.
pub(super) struct Exchange {
    hosts: Arc<Hosts>,
    me: usize,
    /// The order of addition of the members' tallies.
    members_order: Reducer,
    /// The order of addition of the hosts' floats.
    hosts_order: Reducer,
    lanes: Vec<Lane>,
    /// The chunks that this member adds up, in order.
    chunks: Vec<Chunk>,
    /// The index of the current chunk, and the end of its finished part, in floats of the flat vector.
    chunk: usize,
    added: usize,
    /// Whether every member adds up the whole gradient, in one hop instead of two. This is so for a
    /// small gradient, and for two nodes in all, where one hop sends no more bytes.
    one_hop: bool,
    /// Whether the gradient is so small that it is copied for sending.
    small: bool,
    /// The reason why the generation ended.
    failure: Option<Interrupted>,
}

/// The exchange with one member of another host.
struct Lane {
    member: usize,
    link: Link,
    /// The part of the flat vector that this member adds up with the other member's partials.
    takes: Range<usize>,
    /// The part of the flat vector that the other member adds up with this member's partials.
    gives: Range<usize>,
}

/// A part of the flat vector that this member adds up, and whose sum it sends.
struct Chunk {
    /// The range of the chunk in the flat vector.
    range: Range<usize>,
    /// The lanes that bring the partials and get the sum: one of each other host, in host order.
    lanes: Vec<usize>,
    /// A copy of the sum. It does not change while a stream still sends it, which ends before the
    /// next round begins.
    sum: Arc<Vec<f32>>,
}

impl Exchange {
    pub(super) fn new(hosts: Arc<Hosts>, me: usize, streams: Vec<(usize, PeerStream)>) -> Self {
        let plan = hosts.plan();
        let small = plan.length() * FLOAT_BYTES <= ONE_HOP_BYTES_MAX;
        let nodes: usize = (0..hosts.count()).map(|host| hosts.nodes(host).len()).sum();
        let one_hop = hosts.are_apart() && (small || nodes == ONE_HOP_NODES_MAX);
        let passed = |from: usize, to: usize| {
            if one_hop { 0..plan.length() } else { hosts.passed(from, to) }
        };
        let lane = |(member, stream): (usize, PeerStream)| {
            let (host, takes) = (hosts.host(member), passed(member, me));
            let tallies = hosts.members(host).iter().map(|m| plan.nodes(*m).len()).collect();
            let link = Link::new(stream, tallies, hosts.nodes(host).len(), takes.len());
            Lane { member, link, takes, gives: passed(me, member) }
        };
        let lanes: Vec<Lane> = streams.into_iter().map(lane).collect();
        Self {
            me,
            members_order: plan.reducer(),
            hosts_order: hosts.reducer_between(),
            chunks: chunks_of(&hosts, me, &lanes, one_hop),
            lanes,
            chunk: 0,
            added: 0,
            one_hop,
            small,
            failure: None,
            hosts,
        }
    }

    /// Does all `jobs`, then ends the streams.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>, abort: watch::Receiver<bool>) {
        while let Some(mut job) = jobs.recv().await {
            let mut contributions = Vec::new();
            let outcome = self.do_round(&mut job, &mut contributions, abort.clone()).await;
            self.failure = outcome.as_ref().err().cloned();
            let Job { sum, done, partials, .. } = job;
            // After `done` the training thread writes to the partials again.
            drop(partials);
            // An error means that the training thread has dropped the generation.
            let _gone = done.send(Done { outcome, contributions, sum });
        }
        for lane in self.lanes {
            tokio::spawn(lane.link.into_stream().end());
        }
    }

    async fn do_round(
        &mut self,
        job: &mut Job,
        contributions: &mut Vec<Contribution>,
        mut abort: watch::Receiver<bool>,
    ) -> Result<Outcome, Interrupted> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let round = job.round;
        self.check(job)?;
        let waiting = tokio::select! {
            biased;
            // The training thread owns the sender, and waits for this round.
            _ = abort.wait_for(|abort| *abort) => return Err(Interrupted::Aborted),
            exchanged = self.exchange(job) => exchanged?,
        };
        self.collect(job, contributions);
        let plan = self.hosts.plan();
        let outcome = Outcome::combine(plan, &self.members_order, round.step, contributions)?;
        Ok(Outcome { waiting, ..outcome })
    }

    /// Checks that each contribution of this host's members has one tally per node of the plan.
    fn check(&self, job: &Job) -> Result<(), Interrupted> {
        let (plan, members) = (self.hosts.plan(), self.hosts.members(self.hosts.host(self.me)));
        for (member, contribution) in members.iter().zip(&job.contributions) {
            let (tallies, nodes) = (contribution.tallies.len(), plan.nodes(*member).len());
            if tallies != nodes {
                let reason = format!("{tallies} tallies for {nodes} nodes");
                let (rank, round) = (plan.rank(*member), job.round);
                return Err(Interrupted::Protocol { rank, round, reason });
            }
        }
        Ok(())
    }

    /// Ends the round, and collects every member's contribution, in rank order.
    fn collect(&mut self, job: &mut Job, contributions: &mut Vec<Contribution>) {
        let Self { hosts, lanes, me, .. } = self;
        contributions.resize(hosts.plan().members(), Contribution::default());
        for lane in lanes {
            let members = hosts.members(hosts.host(lane.member));
            for (member, header) in members.iter().zip(lane.link.finish_round()) {
                contributions[*member] = header.contribution;
            }
        }
        let own = hosts.members(hosts.host(*me));
        for (member, contribution) in own.iter().zip(job.contributions.drain(..)) {
            contributions[*member] = contribution;
        }
    }

    /// Queues the headers, and for every linked member the partials of the floats that it adds up.
    fn send_contributions(&self, job: &Job, unsent: &Unsent) -> Result<(), Interrupted> {
        let mut first = BytesMut::new();
        for contribution in &job.contributions {
            let header = Header { round: job.round, contribution: contribution.clone() };
            let body = Some(frame::Body::Header((&header).into()));
            frames::put_message(&mut first, &Frame { body });
        }
        let train = job.round.kind == Kind::Train;
        let copy = self.one_hop && self.small;
        if train && copy {
            put_copies(&mut first, &job.partials);
        }
        let first = first.freeze();
        for lane in &self.lanes {
            self.send(job.round, lane, first.clone())?;
        }
        if train && !copy {
            for lane in &self.lanes {
                self.send_partials(job, lane, unsent)?;
            }
        }
        Ok(())
    }

    /// Queues the partials chunk by chunk, so that the other member can add up the first chunks while
    /// later chunks are under way.
    fn send_partials(&self, job: &Job, lane: &Lane, unsent: &Unsent) -> Result<(), Interrupted> {
        for chunk in chunks(lane.gives.clone()) {
            for (partial, node) in job.partials.iter().zip(0..) {
                let head = chunk_head(Piece::Partial(node), &chunk, &lane.gives);
                self.send(job.round, lane, head)?;
                let floats = frames::counted_bytes_of(partial, chunk.clone(), unsent);
                self.send(job.round, lane, floats)?;
            }
        }
        Ok(())
    }

    /// Exchanges the round's frames. Returns how long it took until all others had begun the
    /// round.
    async fn exchange(&mut self, job: &mut Job) -> Result<Duration, Interrupted> {
        let (unsent, mut sent) = mpsc::channel(1);
        self.send_contributions(job, &unsent)?;
        drop(unsent);
        let begun = Instant::now();
        let mut waiting = None;
        (self.chunk, self.added) = (0, self.chunks.first().map_or(0, |chunk| chunk.range.start));
        self.add_up(job)?;
        poll_fn(|cx| {
            let received = self.poll_receive(cx, job);
            if waiting.is_none() && self.lanes.iter().all(|lane| lane.link.has_headers()) {
                waiting = Some(begun.elapsed());
            }
            received
        })
        .await?;
        // With one hop no sum proves that all partials were sent. So wait for it: afterwards the
        // training thread writes to the partials again.
        let None = sent.recv().await;
        Ok(waiting.unwrap_or_default())
    }

    /// Receives and adds up floats, until the round is complete.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        job: &mut Job,
    ) -> Poll<Result<(), Interrupted>> {
        let mut complete = true;
        for index in 0..self.lanes.len() {
            let Lane { member, link, gives, .. } = &mut self.lanes[index];
            let sum = if self.one_hop { 0..0 } else { gives.clone() };
            let member = *member;
            match link.poll_receive(cx, job.round, &mut job.sum[sum]) {
                Poll::Ready(received) => received.map_err(self.interrupted(job.round, member))?,
                Poll::Pending => complete = false,
            }
            crashpoint::reach!("all-reduce.grpc.received");
            self.add_up(job)?;
        }
        if complete { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Adds up the floats that have arrived from all hosts, and sends the sum of each complete chunk.
    fn add_up(&mut self, job: &mut Job) -> Result<(), Interrupted> {
        if job.round.kind != Kind::Train {
            return Ok(());
        }
        while let Some(chunk) = self.chunks.get(self.chunk) {
            let end = (self.added + BLOCK).min(chunk.range.end);
            let arrived = |lane: &usize| {
                let lane = &self.lanes[*lane];
                lane.takes.start + lane.link.floats() >= end
            };
            if !chunk.lanes.iter().all(arrived) {
                break;
            }
            let is_last = end == chunk.range.end;
            let range = self.added..end;
            self.add_block(job, range.clone());
            if !self.one_hop {
                self.keep_sum(&job.sum[range]);
                if is_last {
                    self.send_sum(job.round)?;
                }
            }
            self.added = end;
            self.chunk += usize::from(is_last);
        }
        Ok(())
    }

    /// Adds up the next block of the chunk, which is `range` of the flat vector, without a copy.
    fn add_block(&mut self, job: &mut Job, range: Range<usize>) {
        let Self { hosts, me, hosts_order, lanes, .. } = self;
        let sources = &self.chunks[self.chunk].lanes;
        for lane in sources {
            let partials = lanes[*lane].link.partials_mut();
            partials.iter_mut().for_each(|pieces| pieces.join(range.len()));
        }
        let mut terms = Vec::with_capacity(lanes.len() + job.partials.len());
        let mut others = sources.iter().map(|lane| &lanes[*lane].link);
        for host in 0..hosts.count() {
            if host == hosts.host(*me) {
                let own = job.partials.iter();
                terms.extend(own.map(|partial| frames::raw(&partial[range.clone()])));
            } else if let Some(link) = others.next() {
                terms.extend(link.partials().iter().map(|pieces| pieces.next(range.len())));
            }
        }
        hosts_order.add(|node| terms[node], &mut job.sum[range.clone()]);
        for lane in sources {
            let partials = lanes[*lane].link.partials_mut();
            partials.iter_mut().for_each(|pieces| pieces.skip(range.len()));
        }
    }

    /// Keeps the next part of the chunk's sum for sending.
    fn keep_sum(&mut self, sum: &[f32]) {
        let Chunk { range, sum: kept, .. } = &mut self.chunks[self.chunk];
        let begin = self.added - range.start;
        if begin == 0 && Arc::get_mut(kept).is_none_or(|kept| kept.len() != range.len()) {
            *kept = Arc::new(vec![0.0; range.len()]);
        }
        if let Some(kept) = Arc::get_mut(kept) {
            kept[begin..begin + sum.len()].copy_from_slice(sum);
        }
    }

    fn send_sum(&self, round: Round) -> Result<(), Interrupted> {
        let Chunk { range, lanes, sum } = &self.chunks[self.chunk];
        let values = frames::bytes_of(sum, 0..sum.len());
        for lane in lanes.iter().map(|lane| &self.lanes[*lane]) {
            self.send(round, lane, chunk_head(Piece::Sum, range, &lane.takes))?;
            self.send(round, lane, values.clone())?;
        }
        Ok(())
    }

    fn send(&self, round: Round, lane: &Lane, bytes: Bytes) -> Result<(), Interrupted> {
        lane.link.send(bytes).map_err(self.interrupted(round, lane.member))
    }

    fn interrupted(
        &self,
        round: Round,
        member: usize,
    ) -> impl FnOnce(Broken) -> Interrupted + use<> {
        let rank = self.hosts.plan().rank(member);
        move |broken| match broken {
            Broken::Lost(reason) => Interrupted::Lost { rank, round, reason },
            Broken::Protocol(reason) => Interrupted::Protocol { rank, round, reason },
        }
    }
}

/// The chunks that `me` adds up, each with the lanes that bring its partials.
fn chunks_of(hosts: &Hosts, me: usize, lanes: &[Lane], one_hop: bool) -> Vec<Chunk> {
    let chunk = |range, lanes: &[usize]| Chunk { range, lanes: lanes.into(), sum: Arc::default() };
    if one_hop {
        let all: Vec<usize> = (0..lanes.len()).collect();
        return chunks(0..hosts.plan().length()).map(|range| chunk(range, &all)).collect();
    }
    let cut = |part: Part| {
        let lane = |source: &usize| lanes.iter().position(|lane| lane.member == *source);
        let lanes: Vec<usize> = part.sources.iter().filter_map(lane).collect();
        chunks(part.range).map(move |range| chunk(range, &lanes))
    };
    hosts.parts(me).into_iter().flat_map(cut).collect()
}

/// The ranges of the chunks of a range of a vector.
fn chunks(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(CHUNK_FLOATS).map(move |start| start..(start + CHUNK_FLOATS).min(end))
}

/// The bytes before the floats of a chunk. `passed` is the range that goes to the other member.
fn chunk_head(piece: Piece, chunk: &Range<usize>, passed: &Range<usize>) -> Bytes {
    let mut head = BytesMut::new();
    frames::put_chunk_head(&mut head, piece, chunk.start - passed.start, chunk.len());
    head.freeze()
}

fn put_copies(bytes: &mut BytesMut, partials: &[Arc<Vec<f32>>]) {
    use zerocopy::IntoBytes as _;
    for (partial, node) in partials.iter().zip(0..) {
        for chunk in chunks(0..partial.len()) {
            frames::put_chunk_head(bytes, Piece::Partial(node), chunk.start, chunk.len());
            bytes.extend_from_slice(partial[chunk].as_bytes());
        }
    }
}
