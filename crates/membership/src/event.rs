//! What the engine is told, and what it decides.

use std::{fmt, time::Duration};

use collective::{Digest, Generation, Rank, ShardRange, Step};
use thiserror::Error;

/// One connection of a worker; never used again after it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u64);

/// What decides whether two workers compute the same bits.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The rank it asks for; any free one if none.
    pub rank: Option<Rank>,
    /// How it computes.
    pub fingerprint: Fingerprint,
}

/// Where a worker outside a generation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Updates that its state has seen.
    pub step: Step,
    /// The digest of its state.
    pub digest: Digest,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A worker connected and asks to take part.
    Joined(WorkerId, Join),
    /// A worker's control stream ended.
    Lost(WorkerId, Loss),
    /// A worker was asked to leave and wants to go after the current step.
    Leaving(WorkerId),
    /// A worker is in no generation and holds this state. `interrupted` says why its last
    /// generation ended for it, unless it ended on purpose.
    Ready(WorkerId, Standing, Option<String>),
    /// A worker gave a sign of life.
    Alive(WorkerId),
    /// A worker wrote the checkpoint that it was told to write.
    Saved(WorkerId),
    /// A worker cannot go on.
    Failed(WorkerId, Failure),
    /// The process that was started for a rank has exited, and how.
    ChildExited(Rank, String),
    /// A person wants the run to stop and to be resumable.
    StopRequested,
    /// Time passed; to be said several times in the span after which a worker counts as dead.
    Tick,
}

/// How a worker was lost.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Loss {
    /// Its connection ended.
    #[error("its connection ended ({0})")]
    Disconnected(String),
    /// It gave no sign of life for the given time.
    #[error("it gave no sign of life for {:.1} s", .0.as_secs_f64())]
    Silent(Duration),
    /// It was told to leave by its user.
    #[error("it was told to leave")]
    Left,
}

/// Why a worker cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the worker said.
    pub message: String,
    /// Whether the members' states are still to be trusted, so that one may be saved.
    pub state_intact: bool,
}

/// A member of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its connection.
    pub worker: WorkerId,
    /// Its rank.
    pub rank: Rank,
    /// The shards it owns.
    pub shards: ShardRange,
}

/// What the coordinator is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Take the worker in, under this rank.
    Admit(WorkerId, Rank),
    /// Turn the worker away.
    Refuse(WorkerId, Refusal),
    /// Start a generation of these members, in rank order; the first is the leader.
    Start(Generation, Vec<Member>),
    /// Have the members stop together after the step they are in.
    Pause(Generation),
    /// Have the members stop at once, in the middle of a step.
    Abort(Generation),
    /// Close the connection of a worker that is given up.
    Evict(WorkerId),
    /// Close the connection of a worker that wanted to leave.
    Dismiss(WorkerId),
    /// Have the worker write a checkpoint of its state.
    Persist(WorkerId),
    /// The run has ended.
    Finish(Outcome),
}

/// Why a worker is turned away.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The rank does not exist.
    #[error("rank {rank} does not exist: this run has {workers} workers, ranks 0 to {}", .workers - 1)]
    NoSuchRank {
        /// The rank asked for.
        rank: Rank,
        /// Workers of the run.
        workers: u32,
    },
    /// Another worker holds the rank.
    #[error(
        "rank {0} is taken by another worker: choose another --rank, or give none to get a free one"
    )]
    RankTaken(Rank),
    /// Every rank is taken.
    #[error("the run has all its {workers} workers")]
    Full {
        /// Workers of the run.
        workers: u32,
    },
    /// The run has begun and does not take workers in.
    #[error("the run is already under way")]
    UnderWay,
    /// The worker would compute other bits than those in the run.
    #[error(
        "this worker computes on {theirs}, the run on {ours}: their results differ in the last \
         bits; use machines of one kind, or start the coordinator with --allow-mixed-devices"
    )]
    MixedFingerprints {
        /// The fingerprint of the run's first worker.
        ours: Box<Fingerprint>,
        /// The fingerprint of the worker turned away.
        theirs: Box<Fingerprint>,
    },
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Outcome {
    /// All steps are done; every member holds the state with this digest.
    #[error("finished with digest {0}")]
    Completed(Digest),
    /// A person stopped the run after this step, and it can be resumed.
    #[error("interrupted after step {0}")]
    Interrupted(Step),
    /// Too few workers came.
    #[error(
        "only {present} of {workers} workers were ready within {:.0} s: start the missing ones \
         with `vae-worker`, or lower --workers", .waited.as_secs_f64()
    )]
    WorkersMissing {
        /// Workers that were ready.
        present: u32,
        /// Workers of the run.
        workers: u32,
        /// How long the run waited.
        waited: Duration,
    },
    /// A worker was lost.
    #[error("rank {rank} is gone: {loss}")]
    WorkerLost {
        /// Its rank.
        rank: Rank,
        /// How.
        loss: Loss,
    },
    /// A worker said that it cannot go on.
    #[error("rank {rank} cannot go on: {message}")]
    WorkerFailed {
        /// Its rank.
        rank: Rank,
        /// What it said.
        message: String,
    },
    /// Workers that should hold the same state do not.
    #[error(
        "the workers' states differ: rank {rank} is at step {} with digest {}, rank {other_rank} \
         at step {} with digest {}", .standing.step, .standing.digest, .other.step, .other.digest
    )]
    StatesDiffer {
        /// A rank.
        rank: Rank,
        /// Its standing.
        standing: Standing,
        /// A rank that differs.
        other_rank: Rank,
        /// Its standing.
        other: Standing,
    },
}
