//! The channel between the communication thread and the training thread.
//!
//! Orders go to the training thread, events come back, and a few numbers are shared. No other
//! file mixes async and blocking code.

use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
        mpsc as blocking,
    },
    thread,
};

use anyhow::{Context as _, Result};
use collective::{AllReduce, Control, Digest, Generation, Rank};
use membership::{Failure, Phase, Position, ReadyCause};
use protocol::wire::{self, Transfer};
use tokio::sync::mpsc;
use transport::state::{Fetched, Recipient};

/// The most events of the training thread that wait to be handled.
const EVENTS: usize = 64;

/// An order for the training thread.
pub(crate) enum Order {
    /// Train as a member of a generation until it ends.
    Train(Box<Assignment>),
    /// Write a checkpoint of the current state.
    Persist,
    /// Replace the state by another worker's state.
    Restore(Box<Fetched>, Transfer),
    /// Report the state again, because a generation ended before it began.
    Report(ReadyCause),
    /// Give the state to another worker. During training this happens between two steps.
    Donate(Recipient),
}

/// A place in a generation.
pub(crate) struct Assignment {
    pub(crate) generation: Generation,
    pub(crate) collective: Box<dyn AllReduce + Send>,
    pub(crate) rank: Rank,
    /// The ranks of all members, in order; the first member is the leader.
    pub(crate) ranks: Vec<Rank>,
    /// Threads to compute with.
    pub(crate) threads: u32,
    /// The fingerprints of all arithmetic used in the run so far and now, for checkpoints.
    pub(crate) arithmetic: Vec<String>,
}

/// The state between two generations.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) position: Position,
    pub(crate) cause: ReadyCause,
    /// The size and the time of the transfer, if another worker gave the state.
    pub(crate) transfer: Option<Transfer>,
    /// The digest of this program's probe; only with the first report.
    pub(crate) probe: Option<Digest>,
    /// Whether the run ends here because the validation loss has not become better.
    pub(crate) is_last: bool,
}

/// An event of the training thread.
#[derive(Debug)]
pub(crate) enum Event {
    /// The training thread is in no generation, and has this state.
    Ready(Ready),
    /// The checkpoint that was ordered is on disk.
    Saved(u64),
    /// The run cannot go on.
    Failed(Failure),
    /// This worker cannot go on, because of its device or a bug. It leaves as if it were killed, and
    /// the others go on.
    Died(String),
    /// The leader's report of some steps.
    Report(wire::Report),
    /// An epoch was completed.
    EpochReport(wire::EpochReport),
}

/// Numbers that both threads read and write at any time.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// The last generation that the coordinator has started with this worker; 0 for none.
    generation: AtomicU64,
    control: AtomicU32,
    step: AtomicU64,
    phase: AtomicU8,
}

impl Shared {
    /// Sends a request with the next step.
    pub(crate) fn request(&self, control: Control) {
        self.control.fetch_or(control.0, Ordering::Relaxed);
    }

    /// Notes the generation, and drops the requests of the previous one.
    pub(crate) fn begin_generation(&self, generation: u64) {
        self.control.store(0, Ordering::Relaxed);
        self.generation.store(generation, Ordering::Relaxed);
        self.enter(Phase::Connecting);
    }

    /// The generation that this worker is in; 0 for none.
    pub(crate) fn computing(&self) -> u64 {
        if self.phase() == Phase::Idle { 0 } else { self.generation.load(Ordering::Relaxed) }
    }

    pub(crate) fn requests(&self) -> Control {
        Control(self.control.load(Ordering::Relaxed))
    }

    pub(crate) fn note_step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }

    /// Updates applied to the state.
    pub(crate) fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    /// Notes the phase of this worker.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(wire::Phase::from(phase) as u8, Ordering::Relaxed);
    }

    pub(crate) fn phase(&self) -> Phase {
        let phase = self.phase.load(Ordering::Relaxed);
        match wire::Phase::try_from(i32::from(phase)).unwrap_or_default() {
            wire::Phase::Idle => Phase::Idle,
            wire::Phase::Connecting => Phase::Connecting,
            wire::Phase::Computing => Phase::Computing,
            wire::Phase::Waiting => Phase::Waiting,
            wire::Phase::Saving => Phase::Saving,
        }
    }
}

/// The communication thread's end.
#[derive(Debug)]
pub(crate) struct Bridge {
    orders: blocking::Sender<Order>,
    events: mpsc::Receiver<Event>,
    /// Whether all events were received, and the training thread has ended.
    has_ended: bool,
    pub(crate) shared: Arc<Shared>,
    thread: thread::JoinHandle<()>,
}

/// The training thread's end.
#[derive(Debug)]
pub(crate) struct TrainingChannel {
    orders: blocking::Receiver<Order>,
    /// The workers that have requested the state in orders already received.
    recipients: RefCell<VecDeque<Recipient>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) events: EventSender,
}

/// Sends events from the training thread; blocks while too many wait.
#[derive(Clone, Debug)]
pub(crate) struct EventSender(mpsc::Sender<Event>);

impl Bridge {
    /// Starts the training thread, which does `work`.
    pub(crate) fn start(
        shared: Arc<Shared>,
        work: impl FnOnce(TrainingChannel) + Send + 'static,
    ) -> Result<Self> {
        let (orders, received) = blocking::channel();
        let (sender, events) = mpsc::channel(EVENTS);
        let channel = TrainingChannel {
            orders: received,
            recipients: RefCell::default(),
            shared: Arc::clone(&shared),
            events: EventSender(sender),
        };
        let thread = thread::Builder::new()
            .name("training".into())
            .spawn(move || work(channel))
            .context("cannot start the training thread")?;
        Ok(Self { orders, events, has_ended: false, shared, thread })
    }

    /// The training thread's next event. After the thread has ended, the result is none once; then the
    /// call never returns.
    pub(crate) async fn next_event(&mut self) -> Option<Event> {
        if self.has_ended {
            return std::future::pending().await;
        }
        let event = self.events.recv().await;
        self.has_ended = event.is_none();
        event
    }

    /// Sends an order. If the training thread has ended, [`Self::next_event`] tells it.
    pub(crate) fn order(&self, order: Order) {
        let _ended = self.orders.send(order);
    }

    /// Lets the training thread finish its work, and waits for it. Returns the error if it could not
    /// finish.
    pub(crate) async fn finish(self) -> Option<String> {
        let Self { orders, mut events, thread, .. } = self;
        drop(orders);
        let mut unfinished = None;
        // Most events no longer matter, but a full channel must not hold the thread up.
        while let Some(event) = events.recv().await {
            match event {
                Event::Failed(failure) => unfinished = Some(failure.message),
                Event::Died(cause) => unfinished = Some(cause),
                _ => {}
            }
        }
        let _panicked = tokio::task::spawn_blocking(move || thread.join()).await;
        unfinished
    }
}

impl TrainingChannel {
    /// The next order, or none when the worker is about to exit.
    pub(crate) fn next_order(&self) -> Option<Order> {
        let recipient = self.recipients.borrow_mut().pop_front();
        recipient.map(Order::Donate).or_else(|| self.orders.recv().ok())
    }

    /// Whether workers have requested the state during training, when no other order comes.
    pub(crate) fn has_recipients(&self) -> bool {
        let orders = self.orders.try_iter();
        let recipients =
            orders.filter_map(|order| if let Order::Donate(to) = order { Some(to) } else { None });
        let mut waiting = self.recipients.borrow_mut();
        waiting.extend(recipients);
        waiting.retain(Recipient::waits);
        !waiting.is_empty()
    }

    /// Takes the workers that have requested the state.
    pub(crate) fn recipients(&self) -> Vec<Recipient> {
        self.recipients.take().into()
    }
}

impl EventSender {
    /// Sends an event. It has no effect after the session has ended.
    pub(crate) fn send(&self, event: Event) {
        let _gone = self.0.blocking_send(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The thread ends while the session does something else.
    #[tokio::test]
    async fn a_training_thread_that_ended_unseen_is_noticed_once() {
        let (orders, _received) = blocking::channel();
        let (sender, events) = mpsc::channel(EVENTS);
        let thread = thread::spawn(move || {
            EventSender(sender).send(Event::Saved(7));
        });
        while !thread.is_finished() {
            thread::yield_now();
        }
        let shared = Arc::default();
        let mut bridge = Bridge { orders, events, has_ended: false, shared, thread };
        assert!(matches!(bridge.next_event().await, Some(Event::Saved(7))));
        assert!(bridge.next_event().await.is_none());
        // From now on the call never returns.
        let again = std::pin::pin!(bridge.next_event());
        let waker = std::task::Waker::noop();
        assert!(again.poll(&mut std::task::Context::from_waker(waker)).is_pending());
    }
}
