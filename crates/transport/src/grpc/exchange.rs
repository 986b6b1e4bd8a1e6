//! The communication side of a connected generation: sends, takes in and adds up, one round
//! after the other, on the runtime that the streams live on.
//!
//! Everything is added here, straight from the bytes that arrived, and the sum of a chunk is
//! under way while the next one still comes in. The training thread only waits.

use std::{
    future::poll_fn,
    ops::Range,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use collective::{Contribution, Header, Interrupted, Kind, Outcome, Plan, Reducer, Round};
use protocol::{
    ONE_HOP_BYTES_MAX,
    wire::{Frame, frame},
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    frames::{self, CHUNK_FLOATS, FLOAT_BYTES, Piece},
    link::{Broken, Link},
    stream::PeerStream,
};

/// Floats added at a time, so that what is copied together for it stays in the cache.
const BLOCK: usize = 2048;

/// A round to do. The training thread waits for `done`, so nothing else uses the vectors.
pub(super) struct Job {
    pub(super) round: Round,
    pub(super) contribution: Contribution,
    /// One flat gradient for each own node.
    pub(super) partials: Vec<Arc<Vec<f32>>>,
    /// Where the sum goes.
    pub(super) sum: Vec<f32>,
    pub(super) done: oneshot::Sender<Done>,
}

/// A round that was done, and the vector of [`Job::sum`].
pub(super) struct Done {
    pub(super) outcome: Result<Outcome, Interrupted>,
    /// What every member brought, in rank order; of no use after an interrupted round.
    pub(super) contributions: Vec<Contribution>,
    pub(super) sum: Vec<f32>,
}

/// A generation's streams, and what of a round has been added up.
pub(super) struct Exchange {
    plan: Arc<Plan>,
    me: usize,
    reducer: Reducer,
    /// By member; none for this one.
    links: Vec<Option<Link>>,
    /// Copies of the chunks of this member's segment of the sum: they stay as they are for as
    /// long as a stream still sends them, which is never beyond the next round's beginning.
    sums: Vec<Arc<Vec<f32>>>,
    /// One block for each of the others' nodes.
    blocks: Vec<Vec<f32>>,
    /// Floats added up in this round, from the start of this member's span.
    added: usize,
    /// What ended the generation.
    failure: Option<Interrupted>,
}

/// Whether the gradient is so small that every member adds up all of it: more bytes, but one
/// hop instead of two.
fn is_one_hop(plan: &Plan) -> bool {
    plan.length() * FLOAT_BYTES <= ONE_HOP_BYTES_MAX
}

/// What `member` adds up.
fn span(plan: &Plan, member: usize) -> Range<usize> {
    if is_one_hop(plan) { 0..plan.length() } else { plan.segment(member) }
}

/// What `member` sends the sum of.
fn segment(plan: &Plan, member: usize) -> Range<usize> {
    if is_one_hop(plan) { 0..0 } else { plan.segment(member) }
}

impl Exchange {
    pub(super) fn new(plan: Arc<Plan>, me: usize, streams: Vec<Option<PeerStream>>) -> Self {
        let length = span(&plan, me).len();
        let link = |(member, stream): (usize, Option<_>)| {
            stream.map(|stream| Link::new(stream, plan.nodes(member).len(), length))
        };
        let links = streams.into_iter().enumerate().map(link).collect();
        let sums = segment(&plan, me).len().div_ceil(CHUNK_FLOATS);
        let others = (0..plan.members()).filter(|member| *member != me);
        let blocks = others.map(|member| plan.nodes(member).len()).sum();
        Self {
            me,
            reducer: plan.reducer(),
            links,
            sums: vec![Arc::default(); sums],
            blocks: vec![vec![0.0; BLOCK]; blocks],
            added: 0,
            failure: None,
            plan,
        }
    }

    /// Does `jobs` until there are no more; then the streams end.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>, abort: watch::Receiver<bool>) {
        while let Some(mut job) = jobs.recv().await {
            let mut contributions = Vec::new();
            let outcome = self.do_round(&mut job, &mut contributions, abort.clone()).await;
            self.failure = outcome.as_ref().err().cloned();
            let Job { sum, done, partials, .. } = job;
            // The training thread writes to them when it is told that the round is done.
            drop(partials);
            // An error says that the training thread has let go already.
            let _gone = done.send(Done { outcome, contributions, sum });
        }
        for link in self.links.into_iter().flatten() {
            tokio::spawn(link.into_stream().end());
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
        let (tallies, nodes) = (job.contribution.tallies.len(), job.partials.len());
        if tallies != nodes {
            let reason = format!("{tallies} tallies for {nodes} nodes");
            return Err(Interrupted::Protocol { rank: self.plan.rank(self.me), round, reason });
        }
        let (headers, waiting) = tokio::select! {
            biased;
            // The sender goes only with the training thread, which waits for this round.
            _ = abort.wait_for(|abort| *abort) => return Err(Interrupted::Aborted),
            exchanged = self.exchange(job) => exchanged?,
        };
        contributions.extend(headers.into_iter().map(|header| {
            header.map_or_else(|| job.contribution.clone(), |header| header.contribution)
        }));
        let outcome = Outcome::combine(&self.plan, &self.reducer, round.step, contributions)?;
        Ok(Outcome { waiting, ..outcome })
    }

    /// Queues for every other member this member's partials of what that one adds up.
    fn send_contribution(&mut self, job: &Job) -> Result<(), Interrupted> {
        let contribution = job.contribution.clone();
        let header = frame::Body::Header((&Header { round: job.round, contribution }).into());
        let mut first = BytesMut::new();
        frames::put_message(&mut first, &Frame { body: Some(header) });
        let train = job.round.kind == Kind::Train;
        if train && is_one_hop(&self.plan) {
            // A copy, because that others have added it up does not say that it was sent.
            put_copies(&mut first, &job.partials);
        }
        let first = first.freeze();
        for member in self.others() {
            self.send(job.round, member, first.clone())?;
        }
        if train && !is_one_hop(&self.plan) {
            for member in self.others() {
                self.send_partials(job, member)?;
            }
        }
        Ok(())
    }

    /// Queues the partials of `member`'s segment chunk by chunk, so that it can add up the
    /// first ones while the others are under way.
    fn send_partials(&self, job: &Job, member: usize) -> Result<(), Interrupted> {
        let segment = segment(&self.plan, member);
        for chunk in chunks(segment.len()) {
            for (partial, node) in job.partials.iter().zip(0..) {
                let head = chunk_head(Piece::Partial(node), &chunk);
                self.send(job.round, member, head)?;
                let range = segment.start + chunk.start..segment.start + chunk.end;
                self.send(job.round, member, frames::bytes_of(partial, range))?;
            }
        }
        Ok(())
    }

    /// Exchanges the round's frames. Returns the others' headers by member, and how long it
    /// took until all of them had begun the round.
    async fn exchange(
        &mut self,
        job: &mut Job,
    ) -> Result<(Vec<Option<Header>>, Duration), Interrupted> {
        self.send_contribution(job)?;
        let begun = Instant::now();
        let mut waiting = None;
        self.added = 0;
        self.add_up(job)?;
        poll_fn(|cx| {
            let received = self.poll_receive(cx, job);
            if waiting.is_none() && self.links.iter().flatten().all(Link::has_header) {
                waiting = Some(begun.elapsed());
            }
            received
        })
        .await?;
        let finish = |link: &mut Option<Link>| link.as_mut().and_then(Link::finish_round);
        Ok((self.links.iter_mut().map(finish).collect(), waiting.unwrap_or_default()))
    }

    /// Takes in and adds up what has come, until the round is complete.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        job: &mut Job,
    ) -> Poll<Result<(), Interrupted>> {
        let mut complete = true;
        for member in self.others() {
            let Some(link) = &mut self.links[member] else { continue };
            let sum = &mut job.sum[segment(&self.plan, member)];
            match link.poll_receive(cx, job.round, sum) {
                Poll::Ready(received) => received.map_err(self.interrupted(job.round, member))?,
                Poll::Pending => complete = false,
            }
            crashpoint::reach!("all-reduce.grpc.received");
            self.add_up(job)?;
        }
        if complete { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Adds up as much as has come from all members, and sends each chunk that is complete.
    fn add_up(&mut self, job: &mut Job) -> Result<(), Interrupted> {
        if job.round.kind != Kind::Train {
            return Ok(());
        }
        let span = span(&self.plan, self.me);
        let arrived = self.links.iter().flatten().map(Link::floats).min().unwrap_or(span.len());
        let two_hops = !is_one_hop(&self.plan);
        while self.added < arrived {
            let chunk = self.added / CHUNK_FLOATS;
            let chunk_end = ((chunk + 1) * CHUNK_FLOATS).min(span.len());
            let end = (self.added + BLOCK).min(chunk_end);
            if end > arrived {
                return Ok(());
            }
            let added = span.start + self.added..span.start + end;
            self.add_block(job, added.clone());
            if two_hops {
                self.keep_sum(chunk, chunk_end - chunk * CHUNK_FLOATS, &job.sum[added]);
            }
            self.added = end;
            if two_hops && end == chunk_end {
                self.send_sum(job.round, chunk)?;
            }
        }
        Ok(())
    }

    /// Adds up the next block of the span, which is `range` of the flat vector.
    fn add_block(&mut self, job: &mut Job, range: Range<usize>) {
        let mut blocks = self.blocks.iter_mut();
        for pieces in self.links.iter_mut().flatten().flat_map(Link::partials_mut) {
            if let Some(block) = blocks.next() {
                pieces.take(&mut block[..range.len()]);
            }
        }
        let mut blocks = self.blocks.iter().map(|block| &block[..range.len()]);
        let mut terms: Vec<&[f32]> = Vec::with_capacity(self.blocks.len() + job.partials.len());
        for member in 0..self.plan.members() {
            if member == self.me {
                terms.extend(job.partials.iter().map(|partial| &partial[range.clone()]));
            } else {
                terms.extend(blocks.by_ref().take(self.plan.nodes(member).len()));
            }
        }
        self.reducer.add(|node| terms[node], &mut job.sum[range]);
    }

    /// Keeps a part of the sum for sending; `length` is that of its chunk.
    fn keep_sum(&mut self, chunk: usize, length: usize, sum: &[f32]) {
        let begin = self.added - chunk * CHUNK_FLOATS;
        let kept = &mut self.sums[chunk];
        if begin == 0 && Arc::get_mut(kept).is_none_or(|kept| kept.len() != length) {
            *kept = Arc::new(vec![0.0; length]);
        }
        if let Some(kept) = Arc::get_mut(kept) {
            kept[begin..begin + sum.len()].copy_from_slice(sum);
        }
    }

    fn send_sum(&self, round: Round, chunk: usize) -> Result<(), Interrupted> {
        let sum = &self.sums[chunk];
        let begin = chunk * CHUNK_FLOATS;
        let head = chunk_head(Piece::Sum, &(begin..begin + sum.len()));
        let values = frames::bytes_of(sum, 0..sum.len());
        for member in self.others() {
            self.send(round, member, head.clone())?;
            self.send(round, member, values.clone())?;
        }
        Ok(())
    }

    fn send(&self, round: Round, member: usize, bytes: Bytes) -> Result<(), Interrupted> {
        let Some(link) = &self.links[member] else { return Ok(()) };
        link.send(bytes).map_err(self.interrupted(round, member))
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.plan.members()).filter(move |member| *member != me)
    }

    fn interrupted(&self, round: Round, member: usize) -> impl FnOnce(Broken) -> Interrupted {
        let rank = self.plan.rank(member);
        move |broken| match broken {
            Broken::Lost(reason) => Interrupted::Lost { rank, round, reason },
            Broken::Protocol(reason) => Interrupted::Protocol { rank, round, reason },
        }
    }
}

/// The ranges of the chunks of a vector of `length` floats.
fn chunks(length: usize) -> impl Iterator<Item = Range<usize>> {
    (0..length).step_by(CHUNK_FLOATS).map(move |start| start..(start + CHUNK_FLOATS).min(length))
}

fn chunk_head(piece: Piece, chunk: &Range<usize>) -> Bytes {
    let mut head = BytesMut::new();
    frames::put_chunk_head(&mut head, piece, chunk.start, chunk.len());
    head.freeze()
}

fn put_copies(bytes: &mut BytesMut, partials: &[Arc<Vec<f32>>]) {
    use zerocopy::IntoBytes as _;
    for (partial, node) in partials.iter().zip(0..) {
        for chunk in chunks(partial.len()) {
            frames::put_chunk_head(bytes, Piece::Partial(node), chunk.start, chunk.len());
            bytes.extend_from_slice(partial[chunk].as_bytes());
        }
    }
}
