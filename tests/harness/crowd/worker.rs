//! One worker of a crowd, from its hello to the end of the run.

use std::{sync::Arc, time::Duration};

use protocol::{
    CONTROL_MESSAGE_BYTES_MAX,
    wire::{
        CoordinatorMessage, Heartbeat, Hello, Phase, RankSeconds, Ready, Report, Saved, Start,
        Transfer, Welcome, WorkerMessage, coordinator_client::CoordinatorClient,
        coordinator_message::Body as CoordinatorMsg, ready::Unexpected,
        worker_message::Body as WorkerMsg,
    },
};
use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Shared, WORKERS_A_HOST, rendezvous};
use crate::harness::hello;

/// How many messages may wait to be sent.
const OUTBOUND_MESSAGES: usize = 16;

/// Time between two reports of a leader, as with real workers; a step of a crowd takes as long.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// One of so many members has not done the last step when its generation is aborted.
const BEHIND: u32 = 3;

/// Images per step, for the reports.
const IMAGES: u64 = 1_000;

/// Bytes of the default model's state: parameters and both moments.
const STATE_BYTES: u64 = 3 * 4 * 973_624;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Takes part in a run until it ends.
pub(super) async fn take_part(shared: &Arc<Shared>, number: usize) -> Outcome<()> {
    let channel = shared.endpoint.connect().await?;
    let mut client =
        CoordinatorClient::new(channel).max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
    let (outbound, messages) = mpsc::channel(OUTBOUND_MESSAGES);
    let host = format!("host-{}", number / WORKERS_A_HOST);
    let hello =
        Hello { memory_domain: host.clone(), host, process: u32::try_from(number)? + 1, ..hello() };
    outbound.send(WorkerMessage { body: Some(WorkerMsg::Hello(hello)) }).await?;
    let mut inbound = client.join(ReceiverStream::new(messages)).await?.into_inner();
    let Some(CoordinatorMsg::Welcome(welcome)) = recv(&mut inbound).await? else {
        return Err("no welcome".into());
    };
    let mut worker = Worker::new(shared, number, outbound, &welcome);
    worker.ready(None, None).await?;
    loop {
        tokio::select! {
            told = recv(&mut inbound) => match told? {
                Some(CoordinatorMsg::Finish(_)) => return Ok(()),
                Some(told) => worker.handle(told).await?,
                None => return Err("the coordinator has closed the connection".into()),
            },
            _ = worker.beats.tick() => worker.send_heartbeat().await?,
            _ = worker.reports.tick(), if worker.leads() => worker.report().await?,
        }
    }
}

async fn recv(
    inbound: &mut Streaming<CoordinatorMessage>,
) -> Result<Option<CoordinatorMsg>, Status> {
    Ok(inbound.message().await?.and_then(|message| message.body))
}

/// A worker that has joined.
struct Worker<'a> {
    shared: &'a Shared,
    number: usize,
    outbound: mpsc::Sender<WorkerMessage>,
    beats: Interval,
    reports: Interval,
    /// The step of its own state while the worker is in no generation.
    step: u64,
    /// The last generation whose start it received; 0 for none.
    generation: u64,
    is_member: bool,
    rank: u32,
    /// The members of its generation.
    ranks: Vec<u32>,
}

impl<'a> Worker<'a> {
    fn new(
        shared: &'a Shared,
        number: usize,
        outbound: mpsc::Sender<WorkerMessage>,
        welcome: &Welcome,
    ) -> Self {
        let mut reports = interval(REPORT_INTERVAL);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            shared,
            number,
            outbound,
            beats: interval(Duration::from_millis(welcome.heartbeat_ms.into())),
            reports,
            step: 0,
            generation: 0,
            is_member: false,
            rank: 0,
            ranks: Vec::new(),
        }
    }

    fn leads(&self) -> bool {
        self.is_member && self.ranks.first() == Some(&self.rank)
    }

    async fn say(&self, body: WorkerMsg) -> Outcome<()> {
        Ok(self.outbound.send(WorkerMessage { body: Some(body) }).await?)
    }

    async fn handle(&mut self, told: CoordinatorMsg) -> Outcome<()> {
        match told {
            CoordinatorMsg::Start(start) => self.start(start).await,
            CoordinatorMsg::Abort(abort) if self.is_in(abort.generation) => {
                self.stop();
                if self.rank.is_multiple_of(BEHIND) && self.has_stepped() {
                    self.step -= 1;
                }
                self.ready(Some(Unexpected::Interrupted("aborted".into())), None).await
            }
            CoordinatorMsg::Pause(pause) if self.is_in(pause.generation) => {
                self.stop();
                self.ready(None, None).await
            }
            CoordinatorMsg::Fetch(_) if !self.is_member => {
                self.step = self.shared.training().step;
                let transfer = Transfer { bytes: STATE_BYTES, seconds: 0.01 };
                self.ready(None, Some(transfer)).await
            }
            CoordinatorMsg::Persist(_) => self.say(WorkerMsg::Saved(Saved {})).await,
            // Messages about a generation that has ended for this worker, or for other members of
            // its host.
            CoordinatorMsg::Abort(_) | CoordinatorMsg::Pause(_) | CoordinatorMsg::Segment(_) => {
                Ok(())
            }
            CoordinatorMsg::Fetch(_) | CoordinatorMsg::Welcome(_) | CoordinatorMsg::Finish(_) => {
                Err("told out of turn".into())
            }
        }
    }

    fn is_in(&self, generation: u64) -> bool {
        self.is_member && self.generation == generation
    }

    async fn start(&mut self, start: Start) -> Outcome<()> {
        if self.is_member {
            return Err("a generation within another".into());
        }
        self.shared.training().begin(self.number, &start)?;
        (self.generation, self.rank, self.is_member) = (start.generation, start.rank, true);
        self.ranks = start.members.iter().map(|member| member.rank).collect();
        if let Some(segment) = rendezvous(&start) {
            self.say(WorkerMsg::Segment(segment)).await?;
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.step = self.shared.training().stop(self.generation);
        self.is_member = false;
    }

    fn has_stepped(&self) -> bool {
        self.shared.training().has_stepped(self.generation)
    }

    async fn ready(
        &self,
        unexpected: Option<Unexpected>,
        transfer: Option<Transfer>,
    ) -> Outcome<()> {
        // The digest is the same for all workers at the same step.
        let digest = u128::from(self.step).to_le_bytes().to_vec().into();
        self.say(WorkerMsg::Ready(Ready {
            step: self.step,
            digest,
            unexpected,
            transfer,
            ..Ready::default()
        }))
        .await
    }

    async fn send_heartbeat(&self) -> Outcome<()> {
        let (step, phase) = match self.is_member {
            true => (self.shared.training().step, Phase::Computing),
            false => (self.step, Phase::Idle),
        };
        let heartbeat = Heartbeat { step, phase: phase.into(), ..Heartbeat::default() };
        self.say(WorkerMsg::Heartbeat(heartbeat)).await
    }

    /// As the leader: does a step for all members, and reports it.
    async fn report(&self) -> Outcome<()> {
        let step = {
            let mut training = self.shared.training();
            if !training.advance(self.generation) {
                return Ok(());
            }
            training.step
        };
        let seconds = REPORT_INTERVAL.as_secs_f64();
        let rank = |rank: &u32| RankSeconds {
            rank: *rank,
            compute: seconds / 2.0,
            all_reduce: seconds / 4.0,
            waiting: seconds / 4.0,
        };
        self.say(WorkerMsg::Report(Report {
            generation: self.generation,
            step,
            epoch: 1,
            examples: IMAGES,
            seconds,
            means: vec![100.0, 90.0, 10.0],
            ranks: self.ranks.iter().map(rank).collect(),
            ..Report::default()
        }))
        .await
    }
}
