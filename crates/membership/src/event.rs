//! The engine's input and output: what happened, and what to do.

use std::{fmt, time::Duration};

use collective::{Digest, Divergence, Generation, Rank, ShardRange, Step};
use thiserror::Error;

/// One connection of a worker; never used again after it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u64);

/// What decides whether two workers compute the same bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// Kind of device, as in `cpu` or `cuda`.
    pub device: String,
    /// Instruction set of the numeric library, as in `avx512`.
    pub instruction_set: String,
    /// How the matrix products are computed, as in `f32` or `bf16 (AVX512_BF16)`.
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
    /// The rank it asks for; any free one if none.
    pub rank: Option<Rank>,
    /// How it computes.
    pub fingerprint: Fingerprint,
    /// Equal for workers that can share memory; none for one that cannot.
    pub memory_domain: Option<String>,
    /// Its state, if it took part before and has lost its coordinator.
    pub returning: Option<Returning>,
}

/// A worker that took part before and comes back with its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Returning {
    /// The generation that it still computes in, if it does.
    pub generation: Option<Generation>,
}

/// The position of a worker outside a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// Updates that its state has seen.
    pub step: Step,
    /// The digest of its state.
    pub digest: Digest,
}

/// Why a worker became ready.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReadyCause {
    /// The worker did what it was told: loaded, paused, completed the run, or fetched a state.
    AsTold,
    /// Its generation broke, and why.
    Interrupted(String),
    /// The worker could not fetch the state that it was told to, and why.
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

/// A worker's report with a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    /// Updates that its state has seen.
    pub step: Step,
    /// What it is doing.
    pub phase: Phase,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A worker connected and asks to take part.
    Joined(WorkerId, Join),
    /// A worker's control stream ended.
    Lost(WorkerId, Loss),
    /// A worker was asked to leave, and leaves after the current step.
    Leaving(WorkerId),
    /// A worker is in no generation and holds this state.
    Ready(WorkerId, Position, ReadyCause),
    /// A worker gave a sign of life.
    Alive(WorkerId, Progress),
    /// A worker wrote the checkpoint that it was told to write.
    Saved(WorkerId),
    /// A worker found that the run cannot continue.
    Failed(WorkerId, Failure),
    /// The process that was started for a rank has exited, and how; it is not started again.
    GivenUp(Rank, String),
    /// A person wants the run to stop and to be resumable.
    StopRequested,
    /// Time passed; sent several times in the span after which a worker counts as dead.
    Tick,
}

/// How a worker was lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Error)]
pub enum Loss {
    /// Its connection ended.
    #[error("its connection ended ({0})")]
    Disconnected(String),
    /// The worker gave no sign of life for the given time.
    #[error("it gave no sign of life for {:.1} s", .0.as_secs_f64())]
    Silent(Duration),
    /// The others waited for it for the given time.
    #[error("the others waited for it for {:.1} s", .0.as_secs_f64())]
    Stalled(Duration),
    /// The worker did not do what it was told in the given time.
    #[error("it did not do what it was told within {:.1} s", .0.as_secs_f64())]
    Unresponsive(Duration),
    /// The worker could not fetch the run's state.
    #[error("it could not fetch the run's state ({0})")]
    Unreachable(String),
    /// The others could not fetch its state.
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
    /// What a worker said.
    pub message: String,
    /// Whether the members' states are still to be trusted, so that one may be saved.
    pub state_intact: bool,
    /// Whether the run would fail in the same way if it were resumed.
    pub recurs: bool,
}

/// A member of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// Its connection.
    pub worker: WorkerId,
    /// Its rank.
    pub rank: Rank,
    /// The shards it owns.
    pub shards: ShardRange,
}

/// What the coordinator is to do.
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
    /// Have these workers stop together after the step that they are in.
    Pause(Generation, Vec<WorkerId>),
    /// Have these workers stop at once, in the middle of a step.
    Abort(Generation, Vec<WorkerId>),
    /// Have the worker copy the state of another.
    Fetch {
        /// The worker.
        worker: WorkerId,
        /// The one that has the state.
        donor: WorkerId,
    },
    /// Close the connection of a worker that is removed.
    Evict(WorkerId, Loss),
    /// Close the connection of a worker that leaves.
    Dismiss(WorkerId),
    /// Have the worker write a checkpoint of its state.
    Persist(WorkerId),
    /// Say that the run waits for workers.
    Wait {
        /// Workers that are ready.
        present: u32,
        /// Workers that it takes to go on.
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
    /// Every rank is taken, and there are spares enough.
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
    /// The worker would compute other bits than those in the run.
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
    /// The worker would compute other bits than those that the run continues from.
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
    /// Too few workers came, or were left.
    #[error(
        "only {present} of {needed} workers were ready within {:.0} s{}",
        .waited.as_secs_f64(),
        .cause.as_ref().map_or(String::new(), |cause| format!(": {cause}"))
    )]
    WorkersMissing {
        /// Workers that were ready.
        present: u32,
        /// Workers that it took.
        needed: u32,
        /// The flag that says how many.
        flag: &'static str,
        /// How long the run waited.
        waited: Duration,
        /// Why workers have died, if the coordinator knows. The engine does not.
        cause: Option<String>,
    },
    /// A worker reported that the run cannot continue.
    #[error("rank {rank} cannot go on: {message}")]
    WorkerFailed {
        /// Its rank.
        rank: Rank,
        /// Its reason.
        message: String,
        /// Whether the run would fail in the same way if it were resumed.
        recurs: bool,
    },
    /// Workers that should hold the same state do not.
    #[error(transparent)]
    Diverged(Divergence),
}
