//! Sends the model of the run's newest checkpoint to boards on other machines. The coordinator reads
//! the model, so that such a board needs neither the checkpoint nor the data set.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use board::{Exploration, Explorer};
use bytes::Bytes;
use protocol::{
    FILE_CHUNK_BYTES,
    wire::{ExploreReply, ExploreRequest, ExploredModel, explore_reply::Part},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
    time::timeout,
};
use tonic::Status;

/// The most parts that wait to be sent.
const PARTS: usize = 4;

/// How long a board may take to receive a model; other boards wait meanwhile.
const SENDING_TIMEOUT: Duration = Duration::from_secs(300);

/// The messages for a board.
pub(crate) type Replies = mpsc::Receiver<Result<ExploreReply, Status>>;

/// The models of a run.
#[derive(Debug)]
pub(crate) struct Models {
    explorer: Option<Arc<dyn Explorer>>,
    run_id: String,
    run_dir: PathBuf,
    /// Only one model is in memory at a time.
    turn: Arc<Semaphore>,
}

impl Models {
    /// The models of a run that is, or will be, in this directory.
    pub(crate) fn new(explorer: Option<Arc<dyn Explorer>>, run_id: &str, run_dir: &Path) -> Self {
        let turn = Arc::new(Semaphore::new(1));
        Self { explorer, run_id: run_id.to_owned(), run_dir: run_dir.to_owned(), turn }
    }

    /// Reads the model of the newest checkpoint and begins to send it.
    pub(crate) async fn send_newest(&self, request: ExploreRequest) -> Result<Replies, Status> {
        if request.run_id != self.run_id {
            return Err(Status::failed_precondition("the coordinator has another run by now"));
        }
        let explorer = self.explorer.clone();
        let explorer =
            explorer.ok_or_else(|| Status::not_found("models of this task have no page"))?;
        let broken = |error: String| Status::internal(error);
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let turn = turn.map_err(|error| broken(error.to_string()))?;
        let run_dir = self.run_dir.clone();
        let read = spawn_blocking(move || explorer.open(&run_dir)).await;
        let read = read.map_err(|error| broken(error.to_string()))?;
        let exploration = read.map_err(Status::failed_precondition)?;
        let (sender, replies) = mpsc::channel(PARTS);
        tokio::spawn(async move {
            // For a board that stops reading, the stream ends at the timeout.
            let _sent_or_late = timeout(SENDING_TIMEOUT, send(&sender, exploration)).await;
            drop(turn);
        });
        Ok(replies)
    }
}

async fn send(
    sender: &mpsc::Sender<Result<ExploreReply, Status>>,
    exploration: Exploration,
) -> Result<(), mpsc::error::SendError<Result<ExploreReply, Status>>> {
    let say = async |part: Part| sender.send(Ok(ExploreReply { part: Some(part) })).await;
    let Exploration { step, meta, parameters, levels, labels } = exploration;
    say(Part::Model(ExploredModel { step, meta })).await?;
    let (levels, labels) = (parts(&levels).map(Part::Levels), parts(&labels).map(Part::Labels));
    for part in parts(&parameters).map(Part::Parameters).chain(levels).chain(labels) {
        say(part).await?;
    }
    Ok(())
}

/// Splits an array into the parts of messages, without a copy.
fn parts(array: &Bytes) -> impl Iterator<Item = Bytes> {
    array.chunks(FILE_CHUNK_BYTES).map(|part| array.slice_ref(part))
}
