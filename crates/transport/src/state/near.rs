//! Fetches a state that may be in this host's shared memory. The donor gives the place, and the vectors
//! are copied from there. If training has overwritten the state during the copy, it is requested again.

use tokio::task::spawn_blocking;

use super::{FetchError, Fetched, STATE_VECTORS, Source, StateHeader, epochs, open, receive_all};
use crate::shm::{StatePlace, Takeover, TakeoverError};

/// The most attempts to copy a state. An attempt fails if training does about two steps during the copy.
/// After the last attempt the donor sends the state.
const ATTEMPTS: u32 = 8;

type Vectors = [Vec<f32>; STATE_VECTORS];

pub(super) async fn fetch(
    source: &Source,
    run_id: &str,
    length: usize,
) -> Result<Fetched, FetchError> {
    // The vectors are used for all attempts, because fresh memory is slow.
    let mut vectors: Vectors = std::array::from_fn(|_| vec![0.0; length]);
    for _ in 0..ATTEMPTS {
        let (header, inbound) = open(source, run_id, source.memory_domain.clone()).await?;
        if header.place.is_empty() {
            drop(vectors);
            return receive_all(header, inbound, length).await;
        }
        let epochs = epochs(&header, length)?;
        let StateHeader { step, validation, place, .. } = header;
        let copied = match place.parse() {
            Ok(place) => {
                let copied = spawn_blocking(move || copy(place, vectors)).await;
                copied.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
            }
            Err(unknown) => {
                tracing::debug!("{unknown}: {place:?}");
                break;
            }
        };
        match copied {
            Ok((vectors, true)) => {
                return Ok(Fetched { step, epochs, validation, vectors, bytes_sent: 0 });
            }
            Ok((overwritten, false)) => vectors = overwritten,
            Err(error) => {
                tracing::debug!("{error}: having the state sent");
                break;
            }
        }
    }
    let (header, inbound) = open(source, run_id, String::new()).await?;
    receive_all(header, inbound, length).await
}

/// Copies the vectors; tells whether they are the complete state.
fn copy(place: StatePlace, mut vectors: Vectors) -> Result<(Vectors, bool), TakeoverError> {
    let takeover = Takeover::open(place)?;
    takeover.copy(&mut vectors)?;
    let is_whole = takeover.is_there();
    Ok((vectors, is_whole))
}
