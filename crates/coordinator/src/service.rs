//! The gRPC service: turns streams into inputs for the control loop. It decides nothing.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use checkpoint::Directory;
use membership::{Join, Loss, WorkerId};
use protocol::{
    Malformed, PROTOCOL_VERSION, status,
    wire::{
        CoordinatorMessage, ExploreReply, ExploreRequest, FetchFileRequest, FileChunk, FollowReply,
        FollowRequest, Hello, StatusReply, StatusRequest, WorkerMessage,
        coordinator_server::Coordinator, worker_message::Body,
    },
};
use secure::Address;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::spawn_blocking,
    time::timeout,
};
use tokio_stream::{StreamExt as _, adapters::Map, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    board::Readings,
    control::{Connection, Input, Outbound},
    dataset::Files,
    follow::Followers,
    models::Models,
    preparation::Preparation,
};

/// How long a new stream may take until its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take to list the checkpoints of the run directory. A worker waits longer for its
/// welcome.
const LISTING_TIMEOUT: Duration = Duration::from_secs(5);

/// Messages to a worker that wait to be sent; a worker that lets more pile up is lost.
const OUTBOUND_MESSAGES: usize = 64;

/// A message to a worker, or the status that ends its stream: in the queue, and as it is sent.
type Queued = Result<Outbound, Status>;
type Sent = Result<CoordinatorMessage, Status>;

/// The service's side of the control loop.
#[derive(Debug)]
pub(crate) struct Service {
    inputs: mpsc::Sender<Input>,
    dataset: Files,
    checkpoints: Directory,
    /// The checkpoints are listed once at a time: a disk that hangs must not block all threads.
    listing: Arc<Semaphore>,
    preparation: Preparation,
    boards: Boards,
    next_worker: AtomicU64,
}

/// Answers the requests of boards on other machines.
#[derive(Debug)]
pub(crate) struct Boards {
    pub(crate) followers: Followers,
    pub(crate) models: Models,
}

impl Service {
    pub(crate) fn new(
        inputs: mpsc::Sender<Input>,
        dataset: Files,
        checkpoints: Directory,
        preparation: Preparation,
        boards: Boards,
    ) -> Self {
        let (listing, next_worker) = (Arc::new(Semaphore::new(1)), AtomicU64::new(0));
        Self { inputs, dataset, checkpoints, listing, preparation, boards, next_worker }
    }

    /// The newest checkpoint in the run directory, from which a worker begins. So a run continues
    /// from the disk even if all other workers are lost. The worker verifies the checkpoint; the
    /// coordinator only lists it, because reading it would delay the run.
    async fn newest_checkpoint(&self) -> Result<Option<PathBuf>, Status> {
        let (checkpoints, listing) = (self.checkpoints.clone(), Arc::clone(&self.listing));
        let listed = async move {
            // The semaphore is never closed, so this never fails.
            let turn = listing.acquire_owned().await.ok();
            let list = move || {
                let list = checkpoints.list();
                drop(turn);
                list
            };
            spawn_blocking(list).await
        };
        match timeout(LISTING_TIMEOUT, listed).await {
            Ok(Ok(Ok(mut list))) => Ok(list.pop().map(|(_, newest)| newest)),
            Ok(Ok(Err(error))) => {
                tracing::warn!("a worker begins without the checkpoints: {error}");
                Ok(None)
            }
            Ok(Err(_)) | Err(_) => Err(Status::unavailable("the run directory does not answer")),
        }
    }
}

#[tonic::async_trait]
impl Coordinator for Service {
    type JoinStream = Map<ReceiverStream<Queued>, fn(Queued) -> Sent>;
    type FetchFileStream = ReceiverStream<Result<FileChunk, Status>>;
    type FollowStream = ReceiverStream<Result<FollowReply, Status>>;
    type ExploreStream = ReceiverStream<Result<ExploreReply, Status>>;

    async fn join(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        self.preparation.check()?;
        let mut inbound = request.into_inner();
        let hello = receive_hello(&mut inbound).await?;
        let join = Join::try_from(&hello).map_err(|error| status::malformed(&error))?;
        hello.all_reduce_address.parse::<Address>().map_err(|error| {
            status::malformed(&Malformed(format!("a worker's address: {error}")))
        })?;
        let worker = WorkerId(self.next_worker.fetch_add(1, Ordering::Relaxed));
        let (outbound, messages) = mpsc::channel(OUTBOUND_MESSAGES);
        // A worker that reconnects still has its state.
        let checkpoint =
            if hello.returning.is_some() { None } else { self.newest_checkpoint().await? };
        let connection = Connection::new(&hello, &join, outbound, checkpoint);
        let joined = Input::Joined(worker, join, connection, hello.returning);
        self.inputs.send(joined).await.map_err(|_| ended())?;
        tokio::spawn(forward(worker, inbound, self.inputs.clone()));
        Ok(Response::new(ReceiverStream::new(messages).map(tell)))
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusReply>, Status> {
        self.preparation.check()?;
        let (reply, status) = oneshot::channel();
        self.inputs.send(Input::Status(reply)).await.map_err(|_| ended())?;
        Ok(Response::new(status.await.map_err(|_| ended())?))
    }

    async fn fetch_file(
        &self,
        request: Request<FetchFileRequest>,
    ) -> Result<Response<Self::FetchFileStream>, Status> {
        self.preparation.check()?;
        let chunks = self.dataset.send(request.into_inner()).await?;
        Ok(Response::new(ReceiverStream::new(chunks)))
    }

    async fn follow(
        &self,
        request: Request<FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        self.preparation.check()?;
        let readings = Readings(self.inputs.downgrade());
        let replies = self.boards.followers.take_in(request.into_inner(), readings).await?;
        Ok(Response::new(ReceiverStream::new(replies)))
    }

    async fn explore(
        &self,
        request: Request<ExploreRequest>,
    ) -> Result<Response<Self::ExploreStream>, Status> {
        self.preparation.check()?;
        let replies = self.boards.models.send_newest(request.into_inner()).await?;
        Ok(Response::new(ReceiverStream::new(replies)))
    }
}

/// Converts a message when it leaves the queue.
fn tell(message: Queued) -> Sent {
    if let Ok(Outbound::Call(..)) = message {
        crashpoint::reach!("coordinator.telling");
    }
    message.map(CoordinatorMessage::from)
}

fn ended() -> Status {
    Status::unavailable("the run has ended")
}

async fn receive_hello(inbound: &mut Streaming<WorkerMessage>) -> Result<Hello, Status> {
    let first = timeout(HELLO_TIMEOUT, inbound.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the worker sent no hello"))??;
    let Some(WorkerMessage { body: Some(Body::Hello(hello)) }) = first else {
        return Err(Status::invalid_argument("the first message of a worker is its hello"));
    };
    if hello.protocol_version == PROTOCOL_VERSION {
        Ok(hello)
    } else {
        Err(status::version(hello.protocol_version))
    }
}

/// Forwards a worker's messages to the control loop, and then the end of its stream.
async fn forward(
    worker: WorkerId,
    mut inbound: Streaming<WorkerMessage>,
    inputs: mpsc::Sender<Input>,
) {
    let reason = loop {
        match inbound.message().await {
            Ok(Some(WorkerMessage { body: Some(body) })) => {
                if inputs.send(Input::Message(worker, body)).await.is_err() {
                    return;
                }
            }
            Ok(Some(WorkerMessage { body: None })) => break "it sent an empty message".to_owned(),
            Ok(None) => break "the worker closed it".to_owned(),
            Err(status) => break protocol::status::cause(&status),
        }
    };
    let _ended = inputs.send(Input::Lost(worker, Loss::Disconnected(reason))).await;
}
