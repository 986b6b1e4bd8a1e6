//! A state is taken over bit for bit, and what is no state of this run is refused.

use std::sync::Arc;

use collective::Tally;
use secure::{Secret, Security};
use tokio::{net::TcpListener, sync::mpsc};
use transport::{
    Endpoint,
    state::{Donor, Recipient, Snapshot, Source, fetch},
};

/// More than one chunk, and not a whole number of them.
const LENGTH: usize = protocol::CHUNK_FLOATS * 2 + 77;

fn snapshot() -> Snapshot {
    let vector = |salt: u32| {
        let bits = (0..LENGTH as u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9) ^ salt));
        Arc::new(bits.collect::<Vec<_>>())
    };
    let epochs = vec![Tally { terms: [1.5, -2.0, 1e300], images: 60_000, index_sum: u64::MAX }];
    Snapshot { step: 1234, epochs, vectors: [vector(0), vector(1), vector(2)] }
}

/// Serves a donor of run "a"; whoever asks it comes out of the other end.
async fn serve(places: usize) -> (Source, mpsc::Receiver<Recipient>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (recipients, asked) = mpsc::channel(places);
    let (donor, secret) = (Donor::new("a", recipients), Secret::random());
    donor.demand(secret);
    let endpoint = Endpoint::new("a", 1, LENGTH).donating(donor);
    tokio::spawn(endpoint.serve(listener, std::future::pending()));
    (Source { address: address.into(), secret, security: Security::default() }, asked)
}

fn bits(snapshot: &Snapshot) -> Vec<Vec<u32>> {
    let bits = |vector: &Arc<Vec<f32>>| vector.iter().map(|value| value.to_bits()).collect();
    snapshot.vectors.iter().map(bits).collect()
}

#[tokio::test]
async fn a_state_arrives_bit_for_bit() {
    let (source, mut asked) = serve(1).await;
    let donated = Arc::new(snapshot());
    let given = Arc::clone(&donated);
    tokio::spawn(async move { asked.recv().await.unwrap().send(given).unwrap() });
    let fetched = fetch(&source, "a", LENGTH).await.unwrap();
    assert_eq!((fetched.step, &fetched.epochs), (donated.step, &donated.epochs));
    assert!(bits(&fetched) == bits(&donated));
}

#[tokio::test]
async fn another_run_and_another_model_are_refused() {
    let (source, mut asked) = serve(1).await;
    let refusal = fetch(&source, "b", LENGTH).await.unwrap_err();
    assert!(refusal.to_string().contains("another run"), "{refusal}");
    tokio::spawn(async move { asked.recv().await.unwrap().send(Arc::new(snapshot())).unwrap() });
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
    tokio::spawn(endpoint.serve(listener, std::future::pending()));
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
    // Now nobody takes requests in any more.
    let refusal = fetch(&source, "a", LENGTH).await.unwrap_err();
    assert!(refusal.to_string().contains("too many"), "{refusal}");
}

#[tokio::test]
async fn nobody_is_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().into();
    let (secret, security) = (Secret::random(), Security::default());
    let source = Source { address, secret, security };
    drop(listener);
    let refusal = fetch(&source, "a", LENGTH).await.unwrap_err();
    assert!(refusal.to_string().contains("refused"), "{refusal}");
}
