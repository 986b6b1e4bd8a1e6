//! The jobs that can be measured, and their quantities, with their names in the tables and in
//! bench.json.
//!
//! Does not know the comparisons (`plan.rs`), nor how a job is run.

use super::Collective;
use std::fmt;

/// Floats of a small vector, of the default model's gradient, and of a large vector: 4 KB, 3.9 MB, 67 MB.
/// The transports' own benchmark has the same lengths.
pub(super) const LENGTHS: [u64; 3] = [1_000, 973_624, 16_777_216];

/// Numbers of members in an all-reduce.
pub(super) const MEMBERS: [u32; 2] = [2, 4];

/// Bytes of a float.
pub(super) const FLOAT: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum System {
    Lockstep(Collective),
    /// An earlier build of Lockstep.
    Before(Collective),
    /// DistributedDataParallel without tuning.
    PyTorch,
    /// DistributedDataParallel with MKL's AVX-512 code unlocked and with memory that malloc keeps.
    PyTorchTuned,
    /// torch.compile over model and loss, in one process, tuned like [`System::PyTorchTuned`].
    Compiled,
    /// torch.compile under DistributedDataParallel, tuned like [`System::PyTorchTuned`].
    CompiledDdp,
    /// JAX in one process: one jit, a scan over many steps, one device.
    Jax,
    /// JAX in one process, with a device for each worker.
    JaxDevices,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Precision {
    F32,
    Bf16,
}

/// Whole processes that train the default model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Training {
    pub(super) system: System,
    pub(super) precision: Precision,
    /// Images per worker and step.
    pub(super) batch_size: u32,
    pub(super) workers: u32,
    /// Threads of each worker.
    pub(super) threads: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Transport {
    Shm,
    /// gRPC over local sockets, as between workers on one host.
    Grpc,
    /// gRPC over TCP, as between hosts, without TLS.
    GrpcTcp,
    /// gRPC over TCP with TLS, as between hosts.
    GrpcTls,
    Gloo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Checkpoints {
    Every50Steps,
    AtTheEnd,
}

/// One measurement, which gives one or more figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Job {
    Training(Training),
    /// All sizes of an all-reduce over a transport.
    Exchange(Transport),
    /// Two workers train the default model.
    Saving(Checkpoints),
    /// A long run of a small model.
    LongRun,
}

impl Job {
    /// Whether it runs JAX.
    pub(super) fn is_of_jax(self) -> bool {
        let jax = |training: Training| matches!(training.system, System::Jax | System::JaxDevices);
        matches!(self, Job::Training(training) if jax(training))
    }

    /// Whether the job runs only once: the long run is long enough.
    pub(super) fn is_once(self) -> bool {
        self == Job::LongRun
    }
}

/// The quantity of a job's figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Quantity {
    ImagesPerSecond,
    /// The measured time.
    Seconds,
    /// A ping between two cores, just before the job and just after it.
    PingBefore,
    PingAfter,
    /// The peak of a core's FMA units just after the job: thousand millions of operations a second.
    PeakGigaflops,
    /// The largest peak of any worker.
    PeakMegabytes,
    /// The same without memory that files back, such as programs and libraries.
    OwnPeakMegabytes,
    /// The coordinator's processor time over the training time.
    CoordinatorShare,
    /// The time of one all-reduce. `fresh`: after every member has just written its vector, as in training.
    Milliseconds {
        members: u32,
        bytes: u64,
        fresh: bool,
    },
    /// The growth of the worker's heap (memory that is not backed by files), from the early steps (the
    /// first quarter of the run after step 100) to the last quarter.
    HeapGrowthMegabytes,
    /// The growth of the worker's resident memory.
    ResidentGrowthMegabytes,
    Steps,
}

impl Quantity {
    /// All quantities.
    pub(super) fn all() -> Vec<Quantity> {
        let milliseconds = LENGTHS.into_iter().flat_map(|length| {
            let bytes = length * FLOAT;
            let kinds = MEMBERS.map(|members| [false, true].map(|fresh| (members, fresh)));
            kinds.into_iter().flatten().map(move |(members, fresh)| Quantity::Milliseconds {
                members,
                bytes,
                fresh,
            })
        });
        let others = [
            Quantity::ImagesPerSecond,
            Quantity::Seconds,
            Quantity::PingBefore,
            Quantity::PingAfter,
            Quantity::PeakGigaflops,
            Quantity::PeakMegabytes,
            Quantity::OwnPeakMegabytes,
            Quantity::CoordinatorShare,
            Quantity::HeapGrowthMegabytes,
            Quantity::ResidentGrowthMegabytes,
            Quantity::Steps,
        ];
        milliseconds.chain(others).collect()
    }
}

/// A figure: a job, and which of its quantities.
pub(super) type Figure = (Job, Quantity);

impl Training {
    /// A training whose workers share the cores.
    pub(super) fn sharing(
        cores: u32,
        system: System,
        precision: Precision,
        batch_size: u32,
        workers: u32,
    ) -> Training {
        Training { system, precision, batch_size, workers, threads: (cores / workers).max(1) }
    }

    /// The label in the table; it names the collective if this is not the `usual` one.
    pub(super) fn label(&self, usual: Collective) -> String {
        let workers = if self.workers == 1 { "worker" } else { "workers" };
        let over = match self.system {
            System::Lockstep(collective) if collective != usual => format!(", {collective}"),
            _ => String::new(),
        };
        let Training { precision, batch_size, workers: count, .. } = self;
        format!("{precision} batch {batch_size}, {count} {workers}{over}")
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Shm => "shm",
            Transport::Grpc => "grpc",
            Transport::GrpcTcp => "grpc-tcp",
            Transport::GrpcTls => "grpc-tls",
            Transport::Gloo => "gloo",
        })
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            System::Lockstep(collective) => write!(f, "Lockstep ({collective})"),
            System::Before(collective) => write!(f, "Lockstep before ({collective})"),
            System::PyTorch => f.write_str("DDP"),
            System::PyTorchTuned => f.write_str("DDP tuned"),
            System::Compiled => f.write_str("torch.compile"),
            System::CompiledDdp => f.write_str("torch.compile under DDP"),
            System::Jax => f.write_str("JAX"),
            System::JaxDevices => f.write_str("JAX with devices"),
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Job::Training(Training { system, precision, batch_size, workers, threads }) => write!(
                f,
                "{system}, {precision}, batch {batch_size}, {workers} x {threads} threads"
            ),
            Job::Exchange(transport) => write!(f, "all-reduce over {transport}"),
            Job::Saving(Checkpoints::Every50Steps) => f.write_str("a checkpoint every 50 steps"),
            Job::Saving(Checkpoints::AtTheEnd) => f.write_str("a checkpoint at the end"),
            Job::LongRun => f.write_str("long run of a small model"),
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Quantity::ImagesPerSecond => f.write_str("images_per_second"),
            Quantity::Seconds => f.write_str("seconds"),
            Quantity::PingBefore => f.write_str("ping_before_ns"),
            Quantity::PingAfter => f.write_str("ping_after_ns"),
            Quantity::PeakGigaflops => f.write_str("peak_gigaflops"),
            Quantity::PeakMegabytes => f.write_str("worker_peak_mb"),
            Quantity::OwnPeakMegabytes => f.write_str("worker_own_peak_mb"),
            Quantity::CoordinatorShare => f.write_str("coordinator_share_of_a_core"),
            Quantity::Milliseconds { members, bytes, fresh } => {
                let how = if *fresh { "fresh" } else { "as_is" };
                write!(f, "ms_{members}_members_{bytes}_bytes_{how}")
            }
            Quantity::HeapGrowthMegabytes => f.write_str("heap_growth_mb"),
            Quantity::ResidentGrowthMegabytes => f.write_str("resident_growth_mb"),
            Quantity::Steps => f.write_str("steps"),
        }
    }
}
