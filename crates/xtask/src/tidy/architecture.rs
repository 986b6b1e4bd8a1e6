//! The architecture of Lockstep, as tables. `cargo xtask tidy` and `cargo test` check the workspace
//! against them.
//!
//! To change the architecture, change a table here in the same commit as the code, and say why.

/// A crate of the workspace and the crates of the workspace that it may depend on.
///
/// A dependency that is not in the table is a breach, also if it skips layers: each dependency of a
/// crate is allowed explicitly. Build-dependencies count like dependencies. Dev-dependencies need no
/// entry, because a test may use crates that its subject must not use; but they must be in the same
/// layer or lower.
pub(super) struct Crate {
    pub(super) name: &'static str,
    /// 0 is the lowest layer. `may_use` contains crates of lower layers only.
    pub(super) layer: u8,
    pub(super) may_use: &'static [&'static str],
}

const fn row(layer: u8, name: &'static str, may_use: &'static [&'static str]) -> Crate {
    Crate { name, layer, may_use }
}

#[rustfmt::skip]
pub(super) const CRATES: &[Crate] = &[
    // Programs, tests and tools.
    row(7, "scenarios",   &["checkpoint", "collective", "config", "data", "emulated-gpu", "images",
                            "left-out", "protocol", "secure", "vae-options"]),
    // Feeds random bytes to the readers of files and messages; nothing depends on it.
    row(7, "fuzzing",     &["checkpoint", "collective", "coordinator", "images", "membership",
                            "protocol"]),
    row(7, "vae-worker",  &["vae", "worker"]),
    row(7, "vae-worker-conv", &["autograd", "lockstep-build", "vae", "vae-conv", "worker"]),
    row(7, "xtask",       &["advice", "left-out", "lockstep-build", "manual", "stdout"]),
    // The interface for users with a model of their own.
    row(7, "lockstep",    &["autograd", "config", "coordinator", "data", "images", "lockstep-build", "model",
                            "stdout", "trainer", "worker"]),
    // An emulated GPU driver, on machines without a GPU; only tests use it.
    row(0, "emulated-gpu", &[]),
    // For tests that need a tool or a permission.
    row(0, "left-out",    &[]),
    // For build scripts.
    row(0, "lockstep-build", &[]),
    row(7, "vae-coordinator", &["checkpoint", "config", "coordinator", "data", "explorer", "images",
                            "vae-options"]),
    row(6, "coordinator", &["advice", "board", "checkpoint", "collective", "config", "crashpoint", "data",
                            "disk", "history", "limits", "manual", "membership", "picture", "process",
                            "protocol", "secure", "stdout", "store", "telemetry", "tensorboard"]),
    row(6, "worker",      &["checkpoint", "collective", "config", "crashpoint", "data", "disk",
                            "limits", "manual", "membership", "model", "picture", "process",
                            "protocol", "secure", "stdout", "store", "telemetry", "trainer",
                            "transport"]),
    row(6, "latent",      &["advice", "autograd", "checkpoint", "config", "data", "disk", "explorer", "images", "limits",
                            "lockstep-build", "manual", "model", "picture", "process", "stdout", "trainer", "vae",
                            "vae-conv", "vae-options"]),
    // Help, man pages and completions of a program.
    row(1, "manual",      &["stdout"]),
    // Standard output of every program.
    row(0, "stdout",      &[]),
    // Commands that messages tell people to type, quoted for a shell.
    row(0, "advice",      &[]),
    // The limits of a process; all programs compare their needs with them.
    row(0, "limits",      &[]),
    // Log lines and traces.
    row(1, "telemetry",   &["stdout"]),
    // Communication between processes. It knows nothing of training: it must not use model or
    // trainer.
    row(5, "transport",   &["collective", "crashpoint", "protocol", "secure"]),
    // Checkpoints in object stores; secure configures TLS, here too.
    row(5, "store",       &["checkpoint", "secure"]),
    // The state of a run over HTTP, as the coordinator hands it over. secure decides who may see it
    // from other machines.
    row(5, "board",       &["disk", "history", "secure"]),
    // The rows of a run's files, which one crate writes and several read.
    row(1, "history",     &["disk"]),
    // Event files for TensorBoard.
    row(0, "tensorboard", &[]),
    // Connections without their messages, so it must not use protocol. It is in the same layer as
    // protocol, because all crates that connect need it: coordinator, worker and transport.
    row(4, "secure",      &["advice", "collective", "disk"]),
    row(4, "protocol",    &["collective", "config", "limits", "membership"]),
    // Training.
    // The VAE by autograd.
    row(5, "vae-conv",    &["autograd", "data", "images", "lockstep-build", "model", "trainer", "vae",
                            "vae-options"]),
    row(4, "vae",         &["config", "data", "images", "lockstep-build", "model", "picture", "trainer",
                            "vae-options"]),
    // The VAE's flags and its description: without libtorch.
    row(2, "vae-options", &["config", "manual"]),
    // Models by libtorch's autograd.
    row(3, "autograd",    &["data", "lockstep-build", "model"]),
    row(3, "trainer",     &["collective", "config", "crashpoint", "data", "model"]),
    row(2, "model",       &["collective", "data", "limits"]),
    // Grids of digits for the worker's samples and for latent: one canvas for both.
    row(2, "picture",     &[]),
    // The page of the latent space, for the file of `vae explore` and for the board: without
    // libtorch.
    row(3, "explorer",    &["picture", "vae-options"]),
    // Sets of images: users' own pictures, and the named sets.
    row(2, "images",      &["config", "data"]),
    // Pure crates, or crates on the standard library only: no network except data's download, no
    // tensors.
    row(1, "checkpoint",  &["config", "crashpoint", "disk"]),
    row(1, "data",        &["config", "disk"]),
    row(1, "membership",  &["collective", "config"]),
    row(0, "collective",  &[]),
    row(0, "config",      &[]),
    // Atomic writing of files: all crates that write files use it.
    row(0, "disk",        &[]),
    // The identity of a process, and the signals that ask it to stop: for all programs.
    row(0, "process",     &[]),
    // Marks the places where tests kill a process; it is empty in released programs.
    row(0, "crashpoint",  &[]),
];

/// Members outside `crates/`, as (folder, package). In `crates/`, the folder has the package's name.
pub(super) const OTHER_FOLDERS: &[(&str, &str)] = &[("tests", "scenarios")];

/// External packages on which only some crates may depend.
///
/// A name matches the package and all packages that continue the name with a dash: `tonic` also
/// matches `tonic-prost`.
pub(super) struct Fence {
    pub(super) packages: &'static [&'static str],
    pub(super) inside: &'static [&'static str],
    /// Whether the rule applies to dev-dependencies too.
    pub(super) tests_too: bool,
    pub(super) rule: &'static str,
}

pub(super) const FENCES: &[Fence] = &[
    Fence {
        packages: &["tch", "torch-sys"],
        inside: &["autograd", "vae-conv", "vae-worker-conv", "latent", "lockstep"],
        tests_too: true,
        rule: "libtorch only in autograd, vae-conv and the programs with them: all other crates are \
               built and tested without it",
    },
    Fence {
        packages: &["tokio", "tonic", "hyper", "tower", "h2"],
        inside: &[
            "protocol",
            "secure",
            "store",
            "transport",
            "coordinator",
            "worker",
            "scenarios",
            "telemetry",
            "board",
        ],
        tests_too: true,
        rule: "async and gRPC only in protocol, secure, store, transport, coordinator, worker, board \
               and telemetry: decisions and computation are plain blocking code, tested by plain \
               calls",
    },
    Fence {
        packages: &["axum", "prometheus-client"],
        inside: &["board"],
        tests_too: true,
        rule: "HTTP for people and for Prometheus only in board, so that one crate shows everything \
               that is served",
    },
    Fence {
        packages: &["object_store", "reqwest"],
        inside: &["store"],
        tests_too: true,
        rule: "object stores only in store: other crates see checkpoints and plain calls",
    },
    Fence {
        packages: &["rustls", "tokio-rustls", "ring", "rcgen", "subtle"],
        inside: &["secure", "scenarios"],
        tests_too: true,
        rule: "keys, certificates and comparisons of secrets only in secure, so that one crate shows \
               who may connect",
    },
    Fence {
        packages: &["prost"],
        // fuzzing decodes the same messages as the other crates.
        inside: &["protocol", "transport", "coordinator", "worker", "fuzzing", "tensorboard"],
        tests_too: true,
        rule: "protobuf types only in protocol, transport, coordinator, worker, tensorboard: other \
               crates see domain types",
    },
    Fence {
        packages: &["clap", "anyhow", "tracing-subscriber"],
        inside: &[
            // Their choices are values of flags, behind a feature.
            "config",
            "vae-options",
            "coordinator",
            "vae-coordinator",
            "lockstep",
            "worker",
            "latent",
            "manual",
            "telemetry",
            "xtask",
            "scenarios",
        ],
        // An example is a binary, and its dependencies are dev-dependencies.
        tests_too: false,
        rule: "arguments, opaque errors and log set-up only in binaries, in manual, which \
               describes arguments, and in telemetry: a library returns its own errors and spans",
    },
    Fence {
        packages: &["opentelemetry", "tracing-opentelemetry"],
        inside: &["telemetry", "scenarios"],
        tests_too: true,
        rule: "trace collectors only in telemetry: other crates begin spans and know no collector",
    },
];

/// Packages that crates must not reach through other packages either, except by dev-dependencies.
pub(super) struct OutOfReach {
    pub(super) from: &'static [&'static str],
    pub(super) packages: &'static [&'static str],
    pub(super) rule: &'static str,
}

pub(super) const OUT_OF_REACH: &[OutOfReach] = &[
    OutOfReach {
        from: &[
            "coordinator",
            "vae-coordinator",
            "vae-options",
            "transport",
            "membership",
            "collective",
            "config",
            "data",
            "images",
            "checkpoint",
            "model",
            "trainer",
            "vae",
            "worker",
            "vae-worker",
        ],
        packages: &["tch", "torch-sys"],
        rule: "the coordinator, the worker of dense networks, and what they use run without libtorch",
    },
    OutOfReach {
        from: &[
            "collective",
            "config",
            "membership",
            "data",
            "images",
            "checkpoint",
            "model",
            "trainer",
            "vae",
        ],
        packages: &["tokio", "tonic"],
        rule: "no async runtime below the crates that decide and compute",
    },
];

/// The files that may permit `unsafe`, each with its reason. All other files are safe Rust.
pub(super) const UNSAFE_FILES: &[(&str, &str)] = &[
    ("crates/model/src/gemm/blocks.rs", "hands pointers into matrices to the tiles of a product"),
    ("crates/model/src/gemm/panels.rs", "lays a factor out for the tiles, by pointer"),
    (
        "crates/model/src/gemm/tile.rs",
        "keeps a product's results in registers; bounds are checked above",
    ),
    ("crates/model/src/gemm/vector.rs", "calls the CPU's vector instructions"),
    ("crates/model/src/gemm/bf16.rs", "hands pointers into matrices to what multiplies bf16"),
    ("crates/model/src/gemm/bf16/amx.rs", "calls the CPU's instructions on tiles"),
    ("crates/model/src/gemm/bf16/fma.rs", "sets a mode of the CPU, and keeps sums in registers"),
    ("crates/model/src/isa.rs", "calls functions compiled for CPU features found at run time"),
    ("crates/autograd/src/blas.rs", "defines the symbol that MKL asks for the CPU's vendor"),
    ("crates/autograd/src/libtorch.rs", "asks libtorch_cpu for its version and its file"),
    ("crates/model/src/cuda/driver.rs", "opens the GPU driver's library and calls it"),
    ("crates/model/src/cuda/memory.rs", "slices of memory that the GPU driver allocates"),
    (
        "crates/model/src/cuda/registered.rs",
        "lets a GPU copy to and from memory that others allocated",
    ),
    ("crates/model/src/cuda/gpu.rs", "starts kernels"),
    ("crates/model/src/cuda/meter.rs", "asks the GPU driver for times"),
    ("crates/model/src/cuda/compiler.rs", "opens the compiler of kernels and calls it"),
    ("crates/images/src/mapped.rs", "maps a set of images that is larger than memory"),
    ("crates/vae/src/cuda/kernels.rs", "starts each kernel with the arguments that it declares"),
    (
        "crates/model/src/team.rs",
        "threads run a closure on the stack of the thread that waits for them",
    ),
    ("crates/xtask/src/bench/fma.rs", "times instructions that no compiler changes"),
    ("crates/limits/src/file_size.rs", "ignores a signal, for which std has no call"),
    ("crates/worker/tests/allocation.rs", "an allocator that counts"),
    (
        "crates/transport/src/allocator.rs",
        "calls mallopt, so that freed pages are not fetched and cleared again and again",
    ),
    (
        "crates/transport/src/nccl/library.rs",
        "opens NCCL and the CUDA runtime, if they are installed",
    ),
    ("crates/transport/src/nccl/gpu.rs", "calls the CUDA runtime, and owns memory allocated by it"),
    ("crates/transport/src/nccl/communicator.rs", "calls NCCL"),
    ("crates/transport/examples/nccl_stand_in.rs", "replaces NCCL and the CUDA runtime in tests"),
    (
        "crates/transport/src/shm/memory.rs",
        "maps the segment that members on one host share, and hands out slices of it",
    ),
];

/// A longer file contains more than one idea.
pub(super) const FILE_LINES_MAX: usize = 500;

/// Names of files and folders that do not describe the contents.
pub(super) const EMPTY_NAMES: &[&str] =
    &["utils", "util", "common", "base", "helpers", "helper", "mod"];

#[cfg(test)]
mod tests {
    use super::*;

    fn layer_of(name: &str) -> Option<u8> {
        CRATES.iter().find(|row| row.name == name).map(|row| row.layer)
    }

    #[test]
    fn the_tables_own_arrows_point_down() {
        for row in CRATES {
            for used in row.may_use {
                let below = layer_of(used).is_some_and(|layer| layer < row.layer);
                assert!(below, "{} -> {used}", row.name);
            }
        }
    }

    #[test]
    fn the_tables_speak_of_crates_that_are_in_the_first_one() {
        let fenced = FENCES.iter().flat_map(|fence| fence.inside);
        let kept = OUT_OF_REACH.iter().flat_map(|rule| rule.from);
        for name in fenced.chain(kept).chain(OTHER_FOLDERS.iter().map(|(_, package)| package)) {
            assert!(layer_of(name).is_some(), "{name}");
        }
    }
}
