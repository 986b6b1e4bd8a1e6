//! The training thread's side of a connected generation: one round after the other.

use std::{collections::VecDeque, time::Instant};

use collective::{
    AllReduce, Contribution, Header, Interrupted, Kind, Node, Outcome, Plan, Reducer, Round,
};
use protocol::wire::{Chunk, Frame, frame};
use tokio::sync::mpsc::{self, error::TrySendError};
use tonic::Status;

use super::{
    frames::{self, Filling},
    inbox::{Arrival, Delivery, Inbox},
};

/// All-reduce over one generation's gRPC streams.
#[derive(Debug)]
pub struct Grpc {
    plan: Plan,
    me: usize,
    reducer: Reducer,
    /// One flat gradient for each own node.
    partials: Vec<Vec<f32>>,
    sum: Vec<f32>,
    /// By member; none for this one.
    links: Vec<Option<Link>>,
    inbox: Inbox,
    deliveries: mpsc::Receiver<Delivery>,
    /// Most frames of a round that may come early from one peer.
    early_max: usize,
}

/// The stream with one other member, and what has come over it in this round.
#[derive(Debug)]
struct Link {
    outbound: mpsc::Sender<Result<Frame, Status>>,
    /// Frames of the round after this one: a peer can be ahead by as much.
    early: VecDeque<Arrival>,
    header: Option<Header>,
    /// The peer's partials of this member's segment, by the peer's nodes.
    partials: Vec<(Vec<f32>, Filling)>,
    sum: Filling,
}

/// Ends a generation from outside its training thread.
#[derive(Clone, Debug)]
pub struct Abort(Inbox);

impl Abort {
    /// Makes the current round, or else the next one, end with [`Interrupted::Aborted`].
    pub async fn abort(&self) {
        self.0.abort().await;
    }
}

impl Grpc {
    pub(super) fn new(
        plan: Plan,
        me: usize,
        outbound: Vec<Option<mpsc::Sender<Result<Frame, Status>>>>,
        inbox: Inbox,
        deliveries: mpsc::Receiver<Delivery>,
        early_max: usize,
    ) -> Self {
        let segment = plan.segment(me).len();
        let link = |(member, outbound): (usize, Option<_>)| {
            let empty = || (vec![0.0; segment], Filling::default());
            outbound.map(|outbound| Link {
                outbound,
                early: VecDeque::new(),
                header: None,
                partials: plan.nodes(member).iter().map(|_| empty()).collect(),
                sum: Filling::default(),
            })
        };
        Self {
            me,
            reducer: plan.reducer(),
            partials: plan.nodes(me).iter().map(|_| vec![0.0; plan.length()]).collect(),
            sum: vec![0.0; plan.length()],
            links: outbound.into_iter().enumerate().map(link).collect(),
            inbox,
            deliveries,
            early_max,
            plan,
        }
    }

    /// A handle that ends this generation.
    #[must_use]
    pub fn abort_handle(&self) -> Abort {
        Abort(self.inbox.clone())
    }

    fn send(&self, round: Round, member: usize, body: frame::Body) -> Result<(), Interrupted> {
        let Some(link) = &self.links[member] else { return Ok(()) };
        let rank = self.plan.rank(member);
        link.outbound.try_send(Ok(Frame { body: Some(body) })).map_err(|error| {
            let reason = match error {
                TrySendError::Full(_) => "it does not take in what it is sent",
                TrySendError::Closed(_) => "the stream is closed",
            };
            Interrupted::Lost { rank, round, reason: reason.into() }
        })
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.plan.members()).filter(move |member| *member != me)
    }

    /// Sends every other member its segment of this member's partials.
    fn send_contribution(
        &self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<(), Interrupted> {
        let header = Header { round, contribution: contribution.clone() };
        for member in self.others() {
            self.send(round, member, frame::Body::Header((&header).into()))?;
            if round.kind == Kind::Evaluate {
                continue;
            }
            let segment = self.plan.segment(member);
            for (partial, node) in self.partials.iter().zip(0..) {
                for chunk in frames::chunks(node, &partial[segment.clone()]) {
                    self.send(round, member, frame::Body::Partial(chunk))?;
                }
            }
        }
        Ok(())
    }

    /// Adds up this member's segment and sends the sum to every other member.
    fn reduce(&mut self, round: Round) -> Result<(), Interrupted> {
        let segment = self.plan.segment(self.me);
        let own = self.partials.iter().map(|partial| &partial[segment.clone()]);
        let own: Vec<&[f32]> = own.collect();
        let mut terms: Vec<&[f32]> = Vec::new();
        for link in &self.links {
            match link {
                Some(link) => terms.extend(link.partials.iter().map(|(partial, _)| &partial[..])),
                None => terms.extend(&own),
            }
        }
        self.reducer.add(&terms, &mut self.sum[segment.clone()]);
        for chunk in frames::chunks(0, &self.sum[segment]) {
            for member in self.others() {
                self.send(round, member, frame::Body::Sum(chunk.clone()))?;
            }
        }
        Ok(())
    }

    /// Waits until `done` holds for every link.
    fn receive_until(
        &mut self,
        round: Round,
        done: impl Fn(&Link, usize) -> bool,
    ) -> Result<(), Interrupted> {
        for member in self.others() {
            let segment = self.plan.segment(member).len();
            while !self.links[member].as_ref().is_none_or(|link| done(link, segment)) {
                let early = self.links[member].as_mut().and_then(|link| link.early.pop_front());
                if let Some(arrival) = early {
                    self.take_in(round, member, arrival)?;
                } else {
                    self.receive_one(round)?;
                }
            }
        }
        Ok(())
    }

    fn receive_one(&mut self, round: Round) -> Result<(), Interrupted> {
        let Some(Delivery::From(member, arrival)) = self.deliveries.blocking_recv() else {
            return Err(Interrupted::Aborted);
        };
        let segment = self.plan.segment(member).len();
        match &mut self.links[member] {
            Some(link) if link.early.len() >= self.early_max => {
                let (rank, reason) = (self.plan.rank(member), "it is rounds ahead".into());
                Err(Interrupted::Protocol { rank, round, reason })
            }
            Some(link) if link.is_complete(round, segment) || !link.early.is_empty() => {
                link.early.push_back(arrival);
                Ok(())
            }
            _ => self.take_in(round, member, arrival),
        }
    }

    fn take_in(
        &mut self,
        round: Round,
        member: usize,
        arrival: Arrival,
    ) -> Result<(), Interrupted> {
        let rank = self.plan.rank(member);
        let segment = self.plan.segment(member);
        let nodes = self.plan.nodes(member).len();
        let Some(link) = &mut self.links[member] else { return Ok(()) };
        let taken = match arrival {
            Arrival::Header(header) => link.take_header(round, nodes, header),
            Arrival::Partial(chunk) => link.take_partial(&chunk),
            Arrival::Sum(chunk) => link.take_sum(&mut self.sum[segment], &chunk),
            Arrival::Malformed(malformed) => Err(malformed.to_string()),
            Arrival::Closed(reason) => return Err(Interrupted::Lost { rank, round, reason }),
        };
        taken.map_err(|reason| Interrupted::Protocol { rank, round, reason })
    }
}

impl Link {
    fn take_header(&mut self, round: Round, nodes: usize, header: Header) -> Result<(), String> {
        if header.round != round || self.header.is_some() {
            return Err(format!("it is at {}", header.round));
        }
        let tallies = header.contribution.tallies.len();
        if tallies != nodes {
            return Err(format!("{tallies} tallies for {nodes} nodes"));
        }
        self.header = Some(header);
        Ok(())
    }

    fn take_partial(&mut self, chunk: &Chunk) -> Result<(), String> {
        self.after_header()?;
        let node = chunk.node;
        let (partial, filling) = self
            .partials
            .get_mut(node as usize)
            .ok_or_else(|| format!("a partial of node {node}, which it does not have"))?;
        filling.put(partial, chunk)
    }

    fn take_sum(&mut self, sum: &mut [f32], chunk: &Chunk) -> Result<(), String> {
        self.after_header()?;
        self.sum.put(sum, chunk)
    }

    fn after_header(&self) -> Result<(), String> {
        match &self.header {
            Some(header) if header.round.kind == Kind::Train => Ok(()),
            _ => Err("a chunk outside a training round".into()),
        }
    }

    fn has_partials(&self) -> bool {
        self.header.is_some()
            && self.partials.iter().all(|(partial, filling)| filling.is_complete(partial.len()))
    }

    /// Whether all of the round has come; `segment` is the length of the peer's.
    fn is_complete(&self, round: Round, segment: usize) -> bool {
        match round.kind {
            Kind::Train => self.has_partials() && self.sum.is_complete(segment),
            Kind::Evaluate => self.header.is_some(),
        }
    }

    fn finish_round(&mut self) -> Option<Header> {
        self.sum.restart();
        self.partials.iter_mut().for_each(|(_, filling)| filling.restart());
        self.header.take()
    }
}

impl AllReduce for Grpc {
    fn nodes(&self) -> &[Node] {
        self.plan.nodes(self.me)
    }

    fn partial_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.partials[index]
    }

    fn all_reduce(
        &mut self,
        round: Round,
        contribution: &Contribution,
    ) -> Result<Outcome, Interrupted> {
        self.send_contribution(round, contribution)?;
        let sent = Instant::now();
        self.receive_until(round, |link, _| link.header.is_some())?;
        let waiting = sent.elapsed();
        if round.kind == Kind::Train {
            self.receive_until(round, |link, _| link.has_partials())?;
            self.reduce(round)?;
        }
        self.receive_until(round, |link, segment| link.is_complete(round, segment))?;
        let headers: Vec<Option<Header>> =
            self.links.iter_mut().map(|link| link.as_mut().and_then(Link::finish_round)).collect();
        let contributions: Vec<&Contribution> = headers
            .iter()
            .map(|header| header.as_ref().map_or(contribution, |header| &header.contribution))
            .collect();
        let outcome = Outcome::combine(&self.plan, &self.reducer, round.step, &contributions)?;
        Ok(Outcome { waiting, ..outcome })
    }

    fn sum(&self) -> &[f32] {
        &self.sum
    }
}
