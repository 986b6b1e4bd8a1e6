//! A state is fetched bit for bit, and bytes that are not a state of this run are refused.

use std::{future, sync::Arc};

use collective::{StateVectors, Tally};
use protocol::wire::{
    FetchRequest, StateFrame, StateHeader,
    state_frame::Body,
    state_transfer_client::StateTransferClient,
    state_transfer_server::{StateTransfer, StateTransferServer},
};
use secure::{Address, Secret, Security, connection};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use transport::{
    Endpoint,
    state::{Donor, Fetched, Recipient, Snapshot, Source, Vectors, fetch},
};

/// More than one chunk, and not a whole number of chunks.
const LENGTH: usize = protocol::CHUNK_FLOATS * 2 + 77;

fn snapshot() -> Snapshot {
    let vector = |salt: u32| {
        let bits = (0..LENGTH as u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9) ^ salt));
        bits.collect::<Vec<_>>()
    };
    let epochs = vec![Tally {
        terms: [1.5, -2.0, 1e300, 0.0, 0.0, 0.0, 0.0, 1.0],
        examples: 60_000,
        index_sum: u64::MAX,
    }];
    let validation = vec![201.5, 150.25];
    let vectors = Vectors::Held(Arc::new([vector(0), vector(1), vector(2)]));
    Snapshot { step: 1234, length: LENGTH, epochs, validation, vectors }
}

/// Serves a donor of run "a". The receiver gives the workers that request the state.
async fn serve(places: usize) -> (Source, mpsc::Receiver<Recipient>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (recipients, asked) = mpsc::channel(places);
    let (donor, secret) = (Donor::new("a", recipients), Secret::random());
    donor.demand(secret);
    let endpoint = Endpoint::new("a", 1, LENGTH).donating(donor);
    tokio::spawn(endpoint.serve(listener.into()));
    (source(address.into(), secret), asked)
}

/// The donor at an address, without shared memory, as if it were on another host.
fn source(address: Address, secret: Secret) -> Source {
    let (security, memory_domain) = (Security::default(), String::new());
    Source { address, secret, security, memory_domain }
}

fn held(snapshot: &Snapshot) -> Vec<Vec<u32>> {
    let Vectors::Held(vectors) = &snapshot.vectors else { panic!("{snapshot:?}") };
    bits(&**vectors)
}

fn bits(vectors: &dyn StateVectors) -> Vec<Vec<u32>> {
    let bits = |vector: &[f32]| vector.iter().map(|value| value.to_bits()).collect();
    vectors.vectors().into_iter().map(bits).collect()
}

#[tokio::test]
async fn a_state_arrives_bit_for_bit() {
    let (source, mut asked) = serve(1).await;
    let donated = Arc::new(snapshot());
    let given = Arc::clone(&donated);
    tokio::spawn(async move { asked.recv().await.unwrap().give(given) });
    let fetched = fetch(&source, "a", LENGTH).await.unwrap();
    assert_eq!((fetched.step, &fetched.epochs), (donated.step, &donated.epochs));
    assert!(bits(&fetched.vectors) == held(&donated));
}

#[tokio::test]
async fn another_run_and_another_model_are_refused() {
    let (source, mut asked) = serve(1).await;
    let refusal = fetch(&source, "b", LENGTH).await.unwrap_err();
    assert!(refusal.to_string().contains("another run"), "{refusal}");
    tokio::spawn(async move { asked.recv().await.unwrap().give(Arc::new(snapshot())) });
    let refusal = fetch(&source, "a", LENGTH + 1).await.unwrap_err();
    assert!(refusal.to_string().contains("instead of"), "{refusal}");
}

#[tokio::test]
async fn who_does_not_bring_the_secret_is_refused() {
    let (source, mut asked) = serve(1).await;
    for secret in [Secret::random(), Secret::from([0; 32])] {
        let refusal = fetch(&Source { secret, ..source.clone() }, "a", LENGTH).await.unwrap_err();
        assert!(refusal.to_string().contains("without the secret"), "{refusal}");
    }
    assert!(asked.try_recv().is_err(), "nobody has troubled the training thread");
    let (recipients, _asked) = mpsc::channel(1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().into();
    let endpoint = Endpoint::new("a", 1, LENGTH).donating(Donor::new("a", recipients));
    tokio::spawn(endpoint.serve(listener.into()));
    let source = Source { address, ..source };
    let refusal = fetch(&source, "a", LENGTH).await.unwrap_err();
    assert!(refusal.to_string().contains("without the secret"), "before there is one: {refusal}");
}

#[tokio::test]
async fn a_donor_without_a_state_or_without_time_says_so() {
    let (source, mut asked) = serve(1).await;
    tokio::spawn(async move { drop(asked.recv().await) });
    let refusal = fetch(&source, "a", LENGTH).await.unwrap_err();
    assert!(refusal.to_string().contains("no state to give"), "{refusal}");
    // Now nobody receives requests any more.
    let refusal = fetch(&source, "a", LENGTH).await.unwrap_err();
    assert!(refusal.to_string().contains("too many"), "{refusal}");
}

#[tokio::test]
async fn nobody_is_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().into();
    let source = source(address, Secret::random());
    drop(listener);
    let refusal = fetch(&source, "a", LENGTH).await.unwrap_err();
    assert!(refusal.to_string().contains("refused"), "{refusal}");
}

/// Generated code fetches a state.
#[tokio::test]
async fn the_wire_is_ordinary_for_one_who_asks() {
    let (source, mut asked) = serve(1).await;
    let given = Arc::new(snapshot());
    let donated = Arc::clone(&given);
    tokio::spawn(async move { asked.recv().await.unwrap().give(given) });
    let client = StateTransferClient::connect(format!("http://{}", source.address)).await.unwrap();
    let mut client = client.max_decoding_message_size(protocol::FRAME_BYTES_MAX);
    let secret = source.secret.bytes().to_vec().into();
    let request = FetchRequest { run_id: "a".into(), secret, ..FetchRequest::default() };
    let mut frames = client.fetch(request).await.unwrap().into_inner();
    let Some(Body::Header(header)) = frames.message().await.unwrap().unwrap().body else {
        panic!("no header");
    };
    assert_eq!((header.step, header.length), (donated.step, LENGTH as u64));
    let mut values = Vec::new();
    while let Some(frame) = frames.message().await.unwrap() {
        let Some(Body::Values(bytes)) = frame.body else { panic!("no values") };
        values.extend(bytes.as_chunks::<4>().0.iter().map(|value| u32::from_le_bytes(*value)));
    }
    assert!(values == held(&donated).concat());
}

/// A generated server that sends given frames.
struct Plain(Vec<StateFrame>);

#[tonic::async_trait]
impl StateTransfer for Plain {
    type FetchStream = tokio_stream::Iter<std::vec::IntoIter<Result<StateFrame, Status>>>;

    async fn fetch(&self, _: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let frames: Vec<_> = self.0.iter().cloned().map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(frames)))
    }
}

async fn fetched_from(frames: Vec<StateFrame>, length: usize) -> Result<Fetched, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().into();
    let source = source(address, Secret::random());
    let server = Server::builder().add_service(StateTransferServer::new(Plain(frames)));
    let incoming = Security::default().accept(TcpListenerStream::new(listener));
    tokio::spawn(connection::serve(server, incoming, Box::pin(future::pending())));
    fetch(&source, "a", length).await.map_err(|error| error.to_string())
}

fn header(length: u64) -> StateFrame {
    let header = StateHeader { step: 9, length, ..StateHeader::default() };
    StateFrame { body: Some(Body::Header(header)) }
}

fn values(floats: std::ops::Range<u16>) -> StateFrame {
    let bytes: Vec<u8> = floats.flat_map(|value| f32::from(value).to_le_bytes()).collect();
    StateFrame { body: Some(Body::Values(bytes.into())) }
}

#[tokio::test]
async fn the_wire_is_ordinary_for_one_who_gives() {
    let frames = [header(5), values(0..1), values(1..5), values(5..10), values(10..13)];
    let frames = frames.into_iter().chain([values(13..15)]).collect();
    let state = fetched_from(frames, 5).await.unwrap();
    let found: Vec<f32> = state.vectors.concat();
    assert_eq!((state.step, found), (9, (0..15_u16).map(f32::from).collect()));
}

#[tokio::test]
async fn what_is_no_state_is_named() {
    let bytes = |bytes: &'static [u8]| StateFrame { body: Some(Body::Values(bytes.into())) };
    for (frames, words) in [
        (vec![], "without a header"),
        (vec![values(0..5)], "without a header"),
        (vec![header(4)], "4 floats instead of 5"),
        (vec![header(5), header(5)], "two headers"),
        (vec![header(5), values(0..6)], "24 bytes where a state has no room"),
        (vec![header(5), values(0..4), values(4..6)], "8 bytes where a state has no room"),
        (vec![header(5), bytes(b"abc")], "3 bytes where a state has no room"),
        (vec![header(5), bytes(b"")], "0 bytes where a state has no room"),
        (vec![header(5), StateFrame { body: None }], "two headers"),
        (vec![header(5), values(0..5), values(5..10)], "cut off"),
    ] {
        let error = fetched_from(frames, 5).await.unwrap_err();
        assert!(error.contains(words), "{error} instead of {words}");
    }
}
