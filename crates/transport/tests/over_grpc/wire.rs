//! The wire is ordinary gRPC: a member made of generated code takes part in a generation, as client
//! or as server, and its mistakes are named.

use std::{future, net::SocketAddr};

use collective::{
    AllReduce as _, Contribution, Control, Generation, Header, Interrupted, Node, Plan, Rank,
};
use protocol::wire::{
    Chunk, Frame, PeerHello, RoundHeader,
    all_reduce_client::AllReduceClient,
    all_reduce_server::{AllReduce, AllReduceServer},
    frame::Body,
};
use secure::{Security, connection};
use tokio::{net::TcpListener, sync::mpsc, task::spawn_blocking};
use tokio_stream::{
    StreamExt as _,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};
use transport::{Endpoint, Group, Grpc, Peer};

use crate::stories;

const RUN: &str = "wire";
/// Shards of two members with one node each; they exchange everything in one hop.
const ONE_HOP: Ranges = [(0, 1), (1, 2)];
/// Shards of two members, the second with two nodes; they use two hops.
const TWO_HOPS: Ranges = [(0, 1), (1, 3)];
/// Another chunk size than that of the real members.
const CHUNK: usize = 100_003;
const QUEUE: usize = 64;

type Ranges = [(u32, u32); 2];

/// The queue of frames to send.
type Outbound = mpsc::Sender<Result<Frame, Status>>;

/// A member made of generated code.
struct Plain {
    me: usize,
    plan: Plan,
    frames: Outbound,
    inbound: Streaming<Frame>,
}

/// The generated server: gives each call to the receiver.
struct Host(mpsc::Sender<(Outbound, Streaming<Frame>)>);

#[tonic::async_trait]
impl AllReduce for Host {
    type ExchangeStream = ReceiverStream<Result<Frame, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (frames, outbound) = mpsc::channel(QUEUE);
        self.0.send((frames, request.into_inner())).await.unwrap();
        Ok(Response::new(ReceiverStream::new(outbound)))
    }
}

fn plan(ranges: Ranges, length: usize) -> Plan {
    Plan::new(ranges[1].1, length, &stories::shares(&ranges)).unwrap()
}

fn group(ranges: Ranges, length: usize, rank: u32, addresses: [SocketAddr; 2]) -> Group {
    let peers = stories::peers(&ranges).into_iter().zip(addresses);
    Group {
        run_id: RUN.into(),
        shares_state: false,
        generation: Generation(1),
        shards: ranges[1].1,
        length,
        rank: Rank(rank),
        peers: peers.map(|(peer, address)| Peer { address: address.into(), ..peer }).collect(),
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn message(body: Body) -> Frame {
    Frame { body: Some(body) }
}

fn hello() -> Frame {
    let secret = stories::SECRET.to_vec().into();
    message(Body::Hello(PeerHello { run_id: RUN.into(), generation: 1, rank: 1, secret }))
}

/// A plain member of rank 1 that opens the stream to a worker of rank 0.
async fn plain_client(ranges: Ranges, length: usize) -> (Grpc, Plain) {
    let (listener, address) = listen().await;
    let endpoint = Endpoint::new(RUN, ranges[1].1, length);
    tokio::spawn(endpoint.clone().serve(listener.into()));
    let group = group(ranges, length, 0, [address; 2]);
    let worker = tokio::spawn(async move { endpoint.connect(&group).await.unwrap() });
    let (frames, outbound) = mpsc::channel(QUEUE);
    frames.send(Ok(hello())).await.unwrap();
    let (url, to) = Security::default().coordinator(&format!("http://{address}")).unwrap();
    let channel = Security::default().channel(&url, &to).await.unwrap();
    let mut client = AllReduceClient::new(channel);
    let outbound = ReceiverStream::new(outbound).filter_map(Result::ok);
    let inbound = client.exchange(outbound).await.unwrap().into_inner();
    (worker.await.unwrap(), Plain { me: 1, plan: plan(ranges, length), frames, inbound })
}

/// A plain member of rank 0 that a worker of rank 1 opens the stream to.
async fn plain_server(ranges: Ranges, length: usize) -> (Grpc, Plain) {
    let (listener, address) = listen().await;
    let (calls, mut called) = mpsc::channel(1);
    let service = AllReduceServer::new(Host(calls));
    let incoming = Security::default().accept(TcpListenerStream::new(listener));
    let router = Server::builder().add_service(service);
    tokio::spawn(connection::serve(router, incoming, Box::pin(future::pending())));
    let endpoint = Endpoint::new(RUN, ranges[1].1, length);
    let worker = endpoint.connect(&group(ranges, length, 1, [address; 2])).await.unwrap();
    let (frames, mut inbound) = called.recv().await.unwrap();
    assert_eq!(inbound.message().await.unwrap(), Some(hello()));
    (worker, Plain { me: 0, plan: plan(ranges, length), frames, inbound })
}

impl Plain {
    async fn send(&self, body: Body) {
        self.frames.send(Ok(message(body))).await.unwrap();
    }

    async fn send_chunks(&self, node: u32, floats: &[f32], body: impl Fn(Chunk) -> Body) {
        for (floats, offset) in floats.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
            let values = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
            self.send(body(Chunk { node, offset, values })).await;
        }
    }

    fn header(&self, step: u64) -> RoundHeader {
        let tallies = stories::tallies(self.plan.nodes(self.me));
        let contribution = Contribution { tallies, ..Default::default() };
        (&Header { round: stories::train(step), contribution }).into()
    }

    /// Receives the next message, which must be the header of a step.
    async fn receive_header(&mut self, step: u64) {
        match self.inbound.message().await.unwrap() {
            Some(Frame { body: Some(Body::Header(header)) }) => assert_eq!(header.step, step),
            other => panic!("{other:?} instead of a header"),
        }
    }

    /// Receives the floats of `nodes` nodes, in consecutive chunks.
    async fn receive(&mut self, length: usize, nodes: usize, is_sum: bool) -> Vec<Vec<f32>> {
        let mut floats = vec![Vec::new(); nodes];
        while floats.iter().any(|floats| floats.len() < length) {
            let body = self.inbound.message().await.unwrap().and_then(|frame| frame.body);
            let chunk = match body {
                Some(Body::Sum(chunk)) if is_sum => chunk,
                Some(Body::Partial(chunk)) if !is_sum => chunk,
                other => panic!("{other:?} instead of a chunk"),
            };
            let floats = &mut floats[chunk.node as usize];
            assert_eq!(chunk.offset as usize, floats.len());
            let (values, rest) = chunk.values.as_chunks();
            assert!(rest.is_empty());
            floats.extend(values.iter().map(|value| f32::from_le_bytes(*value)));
        }
        floats
    }

    /// A round as `worker.proto` describes it. Returns the sum.
    async fn round(&mut self, step: u64) -> Vec<f32> {
        let (length, other) = (self.plan.length(), 1 - self.me);
        let partials = |member: usize| -> Vec<Vec<f32>> {
            let nodes = self.plan.nodes(member).iter();
            nodes.map(|node| stories::tree_sum(*node, step, length)).collect()
        };
        let [own, others] = [self.me, other].map(partials);
        let one_hop = length * 4 <= protocol::ONE_HOP_BYTES_MAX || own.len() + others.len() == 2;
        let [mine, theirs] = [self.me, other]
            .map(|member| if one_hop { 0..length } else { self.plan.segment(member) });
        self.send(Body::Header(self.header(step))).await;
        for (partial, node) in own.iter().zip(0..) {
            self.send_chunks(node, &partial[theirs.clone()], Body::Partial).await;
        }
        self.receive_header(step).await;
        let received = self.receive(mine.len(), others.len(), false).await;
        for (received, partial) in received.iter().zip(&others) {
            assert!(stories::same_bits(received, &partial[mine.clone()]), "step {step}");
        }
        // The sum of all partials in tree order.
        let shards = self.plan.shards(1).end;
        let mut sum = stories::tree_sum(Node::root(shards), step, length);
        if !one_hop {
            self.send_chunks(0, &sum[mine], Body::Sum).await;
            let received = self.receive(theirs.len(), 1, true).await;
            sum[theirs].copy_from_slice(&received[0]);
        }
        sum
    }
}

async fn do_rounds(worker: Grpc, mut plain: Plain) -> (Grpc, Plain) {
    let length = plain.plan.length();
    let root = Node::root(plain.plan.shards(1).end);
    let training = spawn_blocking(move || {
        let mut worker = worker;
        for step in 0..3 {
            let contribution = stories::contribute(&mut worker, step, length, Control::default());
            worker.all_reduce(stories::train(step), &contribution).unwrap();
            let expected = stories::tree_sum(root, step, length);
            assert!(stories::same_bits(worker.sum(), &expected), "step {step}");
        }
        worker
    });
    for step in 0..3 {
        let expected = stories::tree_sum(root, step, length);
        assert!(stories::same_bits(&plain.round(step).await, &expected), "step {step}");
    }
    (training.await.unwrap(), plain)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_client_gets_the_right_bits() {
    for ranges in [ONE_HOP, TWO_HOPS] {
        for length in [0, 1, 5_000, 8_192, 8_193, 600_001] {
            let (worker, plain) = plain_client(ranges, length).await;
            let (worker, mut plain) = do_rounds(worker, plain).await;
            drop(worker);
            assert_eq!(plain.inbound.message().await.unwrap(), None, "it ends in good order");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_server_gets_the_right_bits_and_its_status_is_understood() {
    for (ranges, length) in
        [(ONE_HOP, 1), (TWO_HOPS, 5_000), (ONE_HOP, 600_001), (TWO_HOPS, 600_001)]
    {
        let (worker, plain) = plain_server(ranges, length).await;
        let (mut worker, plain) = do_rounds(worker, plain).await;
        plain.frames.send(Err(Status::aborted("enough of it"))).await.unwrap();
        let lost = spawn_blocking(move || {
            let contribution = stories::contribute(&mut worker, 3, length, Control::default());
            worker.all_reduce(stories::train(3), &contribution).unwrap_err()
        });
        match lost.await.unwrap() {
            Interrupted::Lost { rank: Rank(0), reason, .. } => assert_eq!(reason, "enough of it"),
            other => panic!("{other}"),
        }
    }
}

/// The worker's error when rank 1 sends `frames`.
async fn verdict(frames: Vec<Frame>) -> Interrupted {
    const LENGTH: usize = 20_000;
    let (mut worker, plain) = plain_client(TWO_HOPS, LENGTH).await;
    for frame in frames {
        plain.frames.send(Ok(frame)).await.unwrap();
    }
    let training = spawn_blocking(move || {
        let contribution = stories::contribute(&mut worker, 0, LENGTH, Control::default());
        worker.all_reduce(stories::train(0), &contribution).unwrap_err()
    });
    training.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_the_protocol_is_named() {
    let tallies = stories::tallies(&[Node { start: 1, end: 2 }, Node { start: 2, end: 3 }]);
    let contribution = Contribution { tallies, ..Default::default() };
    let header: RoundHeader = (&Header { round: stories::train(0), contribution }).into();
    let chunk = |node, offset, bytes| Chunk { node, offset, values: vec![0; bytes].into() };
    let begun = |body| vec![message(Body::Header(header.clone())), message(body)];
    let late = RoundHeader { step: 9, ..header.clone() };
    let none = RoundHeader { tallies: vec![], ..header.clone() };
    let unknown = RoundHeader { kind: 0, ..header.clone() };
    let cases = [
        (vec![message(Body::Partial(chunk(0, 0, 4)))], "a chunk outside a training round"),
        (vec![message(Body::Sum(chunk(0, 0, 4)))], "a chunk outside a training round"),
        (vec![message(Body::Header(late))], "it is at step 9"),
        (vec![message(Body::Header(none))], "0 tallies for 2 nodes"),
        (vec![message(Body::Header(unknown))], "unknown kind"),
        (vec![hello()], "a second hello"),
        (vec![Frame::default()], "a frame without a body"),
        (begun(Body::Header(header.clone())), "it is at step 0"),
        (begun(Body::Partial(chunk(7, 0, 4))), "a partial of node 7"),
        (begun(Body::Partial(chunk(0, 5, 4))), "a chunk of 4 bytes at 5 where 0 of"),
        (begun(Body::Partial(chunk(0, 0, 40_064))), "a chunk of 40064 bytes at 0"),
        (begun(Body::Partial(chunk(0, u32::MAX, 4))), "a chunk of 4 bytes at 4294967295"),
        (begun(Body::Partial(chunk(0, 0, 6))), "a chunk of 6 bytes"),
        (begun(Body::Partial(chunk(0, 0, 0))), "a chunk of 0 bytes"),
        (begun(Body::Sum(chunk(0, 0, 40_064))), "a chunk of 40064 bytes at 0"),
        (begun(Body::Sum(chunk(0, 0, 2_000_000))), "a message of"),
    ];
    for (frames, expected) in cases {
        match verdict(frames).await {
            Interrupted::Protocol { rank: Rank(1), reason, .. } => {
                assert!(reason.contains(expected), "{reason}, not {expected}");
            }
            other => panic!("{other}, not {expected}"),
        }
    }
}
