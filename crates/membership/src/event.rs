//! The engine's input and output: events and commands.

use std::{fmt, time::Duration};

use collective::{Digest, Divergence, Generation, Rank, ShardRange, Step};
use thiserror::Error;

/// One connection of a worker. An id is never used again after the connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u64);

/// Two workers whose fingerprints are equal compute the same bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// Kind of device, as in `cpu` or `cuda`.
    pub device: String,
    /// Instruction set of the numeric library, as in `avx512`.
    pub instruction_set: String,
    /// How the matrix products are computed, as in `f32` or `bf16 (tensor cores)`.
    pub precision: String,
    /// Version of the numeric library.
    pub libtorch: String,
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, instruction_set, precision, libtorch } = self;
        write!(f, "{device}/{instruction_set}/{precision}/libtorch {libtorch}")
    }
}

/// A worker's request to take part.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Join {
    /// The rank that the worker asks for; any free rank if none.
    pub rank: Option<Rank>,
    /// The worker's fingerprint.
    pub fingerprint: Fingerprint,
    /// Equal for workers that can share memory; none for a worker that cannot.
    pub memory_domain: Option<String>,
    /// Set if the worker took part before, has lost its coordinator, and reconnects.
    pub returning: Option<Returning>,
}

/// A worker that took part before and reconnects with its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Returning {
    /// The generation that the worker still computes in, if there is one.
    pub generation: Option<Generation>,
}

/// The position of a worker outside a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// Updates applied to the worker's state.
    pub step: Step,
    /// The digest of the worker's state.
    pub digest: Digest,
}

/// Why a worker became ready.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReadyCause {
    /// The worker did what the coordinator asked for: it loaded, paused, completed the run, or
    /// fetched a state.
    AsTold,
    /// The worker's generation was interrupted, for this reason.
    Interrupted(String),
    /// The worker could not fetch the donor's state, for this reason.
    NotFetched(String),
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// In no generation: loading, idle, or fetching a state.
    Idle,
    /// Connecting to the other members.
    Connecting,
    /// Computing a gradient or an update.
    Computing,
    /// Waiting for the other members in an all-reduce.
    Waiting,
    /// Waiting for a disk.
    Saving,
}

/// The content of a worker's heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    /// Updates applied to the worker's state.
    pub step: Step,
    /// What the worker is doing.
    pub phase: Phase,
}

/// An event: the engine's input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A worker connected and asks to take part.
    Joined(WorkerId, Join),
    /// A worker's control stream ended.
    Lost(WorkerId, Loss),
    /// A worker wants to leave after the current step.
    Leaving(WorkerId),
    /// A worker is in no generation and holds this state.
    Ready(WorkerId, Position, ReadyCause),
    /// A worker sent a heartbeat.
    Alive(WorkerId, Progress),
    /// A worker wrote the checkpoint of [`Command::Persist`].
    Saved(WorkerId),
    /// A worker found that the run cannot continue.
    Failed(WorkerId, Failure),
    /// The process that was started for a rank has exited with this status, and is not restarted.
    GivenUp(Rank, String),
    /// A person wants the run to stop so that it can be resumed.
    StopRequested,
    /// Time has passed. A tick must come several times within [`Settings::dead_after`].
    ///
    /// [`Settings::dead_after`]: crate::Settings::dead_after
    Tick,
}

/// How a worker was lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
pub enum Loss {
    /// The worker's connection ended.
    #[error("its connection ended ({0})")]
    Disconnected(String),
    /// The worker sent no heartbeat for the given time.
    #[error("it gave no sign of life for {:.1} s", .0.as_secs_f64())]
    Silent(Duration),
    /// The other members waited for the worker for the given time.
    #[error("the others waited for it for {:.1} s", .0.as_secs_f64())]
    Stalled(Duration),
    /// The worker did not carry out a command of the coordinator within the given time.
    #[error("it did not carry out a command within {:.1} s", .0.as_secs_f64())]
    Unresponsive(Duration),
    /// The worker could not fetch the run's state.
    #[error("it could not fetch the run's state ({0})")]
    Unreachable(String),
    /// The other workers could not fetch the worker's state.
    #[error("the others could not fetch its state ({0})")]
    Isolated(String),
    /// The worker could not get ready to take part.
    #[error("it could not get ready ({0})")]
    Unable(String),
    /// The worker's user told it to leave.
    #[error("it was told to leave")]
    Left,
}

/// Why the run cannot continue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Failure {
    /// The worker's message.
    pub message: String,
    /// Whether the members' states can still be trusted and saved.
    pub state_intact: bool,
    /// Whether the run would fail in the same way if it were resumed.
    pub recurs: bool,
}

/// A member of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The member's connection.
    pub worker: WorkerId,
    /// The member's rank.
    pub rank: Rank,
    /// The shards that the member owns.
    pub shards: ShardRange,
}

/// A command to the coordinator: the engine's output.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Admit the worker under this rank, or as a spare without one.
    Admit(WorkerId, Option<Rank>),
    /// Admit the worker again, as a member of the current generation.
    Adopt(WorkerId, Rank),
    /// Refuse the worker.
    Refuse(WorkerId, Refusal),
    /// Start a generation of these members, in rank order; the first is the leader.
    Start(Generation, Vec<Member>),
    /// Tell these workers to stop together after the current step.
    Pause(Generation, Vec<WorkerId>),
    /// Tell these workers to stop at once, in the middle of a step.
    Abort(Generation, Vec<WorkerId>),
    /// Tell the worker to copy the state of another worker.
    Fetch {
        /// The worker.
        worker: WorkerId,
        /// The worker that has the state.
        donor: WorkerId,
    },
    /// Close the connection of an evicted worker.
    Evict(WorkerId, Loss),
    /// Close the connection of a worker that leaves.
    Dismiss(WorkerId),
    /// Tell the worker to write a checkpoint of its state.
    Persist(WorkerId),
    /// Print that the run waits for workers.
    Wait {
        /// Workers that are ready.
        present: u32,
        /// Workers that the next generation needs.
        needed: u32,
    },
    /// The run has ended.
    Finish(Outcome),
}

/// Why a worker is refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
pub enum Refusal {
    /// The rank does not exist.
    #[error("rank {rank} does not exist: the ranks of this run are 0 to {}", .workers - 1)]
    NoSuchRank {
        /// The rank asked for.
        rank: Rank,
        /// Workers of the run.
        workers: u32,
    },
    /// Another worker holds the rank.
    #[error(
        "rank {0} is taken by another worker: choose another --rank, or --rank any for a free one"
    )]
    RankTaken(Rank),
    /// Every rank is taken, and the run allows no more spares.
    #[error("the run has all its workers ({workers}), and as many spares as it takes ({spares})")]
    Full {
        /// Workers of the run.
        workers: u32,
        /// Workers that wait for a rank.
        spares: u32,
    },
    /// The run is about to end.
    #[error("the run is ending")]
    Ending,
    /// The worker's fingerprint differs from that of the run's first worker.
    #[error(
        "this worker computes on {theirs}, the run on {ours}: their results differ in the last \
         bits; use machines of one kind, or start the coordinator with --allow-mixed-devices"
    )]
    MixedFingerprints {
        /// The fingerprint of the run's first worker.
        ours: Box<Fingerprint>,
        /// The fingerprint of the refused worker.
        theirs: Box<Fingerprint>,
    },
    /// The worker's fingerprint differs from those in the checkpoint that the run continues from.
    #[error(
        "this worker computes on {theirs}, and the checkpoint was computed on {computed}: the result \
         would be that of neither; go on as the run began (MKL_CBWR in the environment counts, \
         too), or start the coordinator with --allow-mixed-devices"
    )]
    OtherArithmetic {
        /// The fingerprints in the checkpoint.
        computed: String,
        /// The fingerprint of the refused worker.
        theirs: String,
    },
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
pub enum Outcome {
    /// All steps are done; every member holds the state with this digest.
    #[error("finished with digest {0}")]
    Completed(Digest),
    /// A person stopped the run after this step, and it can be resumed.
    #[error("interrupted after step {0}")]
    Interrupted(Step),
    /// Too few workers joined, or too few are left.
    #[error(
        "only {present} of {needed} workers were ready within {:.0} s{}",
        .waited.as_secs_f64(),
        .cause.as_ref().map_or(String::new(), |cause| format!(": {cause}"))
    )]
    WorkersMissing {
        /// Workers that were ready.
        present: u32,
        /// Workers that were needed.
        needed: u32,
        /// The flag that sets `needed`.
        flag: &'static str,
        /// How long the run waited.
        waited: Duration,
        /// Why workers have died, if the coordinator knows. The engine always sets none.
        cause: Option<String>,
    },
    /// A worker reported that the run cannot continue.
    #[error("rank {rank} cannot go on: {message}")]
    WorkerFailed {
        /// The worker's rank.
        rank: Rank,
        /// The worker's message.
        message: String,
        /// Whether the run would fail in the same way if it were resumed.
        recurs: bool,
    },
    /// Workers at the same step hold different states.
    #[error(transparent)]
    Diverged(Divergence),
}
