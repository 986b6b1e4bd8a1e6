//! Tests of a door with room for two connections, on streams in memory. The limit for silence is short.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_stream::StreamExt as _;

use super::*;

type Arrivals = tokio::sync::mpsc::UnboundedSender<io::Result<DuplexStream>>;

/// A door for two connections, and the channel through which connections arrive.
fn door_for_two() -> (Arrivals, impl Stream<Item = io::Result<Guest<DuplexStream>>> + Unpin) {
    let (arrivals, arrived) = tokio::sync::mpsc::unbounded_channel();
    let door = guarded(tokio_stream::wrappers::UnboundedReceiverStream::new(arrived));
    (arrivals, Door { room: 2, ..door })
}

fn knock(arrivals: &Arrivals) -> DuplexStream {
    let (theirs, ours) = duplex(1024);
    arrivals.send(Ok(ours)).unwrap();
    theirs
}

/// Reads as a server does; an error means that the door closed the connection.
async fn serve(mut guest: Guest<DuplexStream>) -> io::Result<usize> {
    let mut bytes = 0;
    loop {
        match guest.read(&mut [0; 64]).await? {
            0 => return Ok(bytes),
            read => bytes += read,
        }
    }
}

#[tokio::test]
async fn who_says_nothing_goes_in_time_and_who_speaks_stays() {
    let (arrivals, mut door) = door_for_two();
    let silent = knock(&arrivals);
    let mut speaker = knock(&arrivals);
    let quiet = tokio::spawn(serve(door.next().await.unwrap().unwrap()));
    let heard = tokio::spawn(serve(door.next().await.unwrap().unwrap()));
    speaker.write_all(&[1; WORDS_BYTES]).await.unwrap();
    assert!(quiet.await.unwrap().is_err());
    // The speaker sends more after a silence longer than the limit for new connections.
    tokio::time::sleep(SILENCE_MAX * 2).await;
    speaker.write_all(&[1; 7]).await.unwrap();
    drop((speaker, silent));
    assert_eq!(heard.await.unwrap().unwrap(), WORDS_BYTES + 7);
}

#[tokio::test]
async fn the_oldest_silent_one_makes_room_and_nobody_else() {
    let (arrivals, mut door) = door_for_two();
    let mut speaker = knock(&arrivals);
    let speaks = tokio::spawn(serve(door.next().await.unwrap().unwrap()));
    speaker.write_all(&[1; WORDS_BYTES]).await.unwrap();
    tokio::task::yield_now().await;
    let _first = knock(&arrivals);
    let first = tokio::spawn(serve(door.next().await.unwrap().unwrap()));
    let mut second = knock(&arrivals);
    let begun = tokio::time::Instant::now();
    let guest = tokio::spawn(serve(door.next().await.unwrap().unwrap()));
    assert!(first.await.unwrap().is_err());
    assert!(begun.elapsed() < SILENCE_MAX, "it was told to go");
    second.write_all(&[1; WORDS_BYTES]).await.unwrap();
    tokio::task::yield_now().await;
    // Now both places are taken, and the next connection is refused.
    let mut turned_away = knock(&arrivals);
    let mut nothing = [0; 1];
    tokio::select! {
        biased;
        _ = door.next() => panic!("there is no room"),
        read = turned_away.read(&mut nothing) => assert_eq!(read.unwrap(), 0),
    }
    drop(speaker);
    speaks.await.unwrap().unwrap();
    let _next = knock(&arrivals);
    assert!(door.next().await.unwrap().is_ok());
    drop(second);
    guest.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_error_of_the_listener_is_waited_out() {
    let (arrivals, mut door) = door_for_two();
    for _ in 0..3 {
        arrivals.send(Err(io::Error::from_raw_os_error(24))).unwrap();
    }
    let _guest = knock(&arrivals);
    assert!(door.next().await.unwrap().is_ok());
    drop(arrivals);
    assert!(door.next().await.is_none());
}
