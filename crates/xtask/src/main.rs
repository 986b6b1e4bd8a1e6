//! `cargo xtask <command>`: the commands for work in a checkout, one file per command.
//!
//! Start reading at [`Command`]. `setup` fetches libtorch; `train`, `test` and `bench` build with
//! libtorch and run the programs; `tidy` checks the architecture against the tables in
//! `tidy/architecture.rs`. Nothing here knows how training works: xtask only starts the other
//! programs, as a person would by hand.

#![expect(clippy::print_stderr, reason = "it speaks to a terminal")]

mod bench;
mod chaos;
mod child;
mod crowd;
mod deploy;
mod dist;
mod gpu_acceptance;
mod interrupt;
mod kernels;
mod libtorch;
mod npm;
mod pages;
mod prerequisites;
mod python;
mod setup;
mod staging;
mod test;
mod test_tools;
mod tidy;
mod train;
mod workspace;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use std::process::ExitCode;

/// Set up, train, test and check Lockstep. A newcomer starts with `cargo xtask train`.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch libtorch into .libtorch/, once; the other commands do this by themselves
    ///
    /// libtorch is the C++ library with which models by autograd, convolutions and `vae` compute. It
    /// comes from the PyPI wheel of PyTorch (about 0.5 GB for CPUs; if an NVIDIA driver is installed,
    /// about 2.5 GB with the CUDA libraries), so this command needs python3 with pip. The programs never
    /// use Python. If everything is in place, the command does nothing.
    ///
    /// To use a libtorch of your own, set LIBTORCH to its folder (the folder with lib/ and include/).
    /// This libtorch is then checked and used, and nothing is fetched.
    Setup(setup::Options),

    /// Train the autoencoder on MNIST with a coordinator and four workers on this machine
    ///
    /// Builds the programs and runs `vae-coordinator --spawn`: four workers, five epochs. At
    /// the end it prints the paths of the checkpoint and of the picture with samples, and commands that
    /// show what the model has learned; then it sets up, and builds `vae` for these commands.
    /// Ctrl-C saves the run and stops it.
    Train(train::Options),

    /// Run every test of the workspace, also the tests that start real processes
    ///
    /// Sets up, builds the programs (the scenarios in tests/ start them) and runs `cargo test
    /// --release --workspace`. The profile is the same as for `train`, so that libtorch's bindings
    /// are compiled once. Tests that need something that this machine does not have are left out, and
    /// listed at the end under `Not tested here`.
    Test(test::Options),

    /// Measure Lockstep beside PyTorch and JAX on this machine
    ///
    /// Sets up, builds the programs, fetches a full PyTorch of the same version into
    /// .torch/ (2.4 GB, once) and the newest JAX into .jax/ (0.5 GB, once), and runs them side by
    /// side, round after round: images a second beside DistributedDataParallel, torch.compile and
    /// JAX, the fixed time of a step, all-reduce, scaling, memory. Prints a table with the ratios and
    /// the required ratios, and writes every figure to target/bench. Takes more than an hour; --quick
    /// takes ten minutes. Run nothing else on the machine meanwhile.
    Bench(bench::Options),

    /// Inject random faults into runs, drawn from seeds; the final bytes must always be the same
    ///
    /// Sets up, builds the programs, and for each seed and transport runs a coordinator and
    /// four workers, some of which are killed, frozen, told to leave or replaced. The faults of a seed
    /// are printed before they happen, and the same seed gives the same faults again.
    Chaos(chaos::Options),

    /// Measure the coordinator with a thousand workers that have no tensors
    ///
    /// Sets up, builds the programs, and lets a crowd of workers join a coordinator, train for a
    /// while and lose half of its members at once. Prints the times, and the coordinator's processor time
    /// and peak memory, beside their limits, and fails if a limit is exceeded. The crowd runs on the same
    /// cores: run nothing else on the machine meanwhile.
    Crowd(crowd::Options),

    /// Pack a release: the programs, libtorch, man pages, shell completions, licences
    ///
    /// Sets up, builds the programs, and packs them into one archive, with their debug symbols in a
    /// second one and checksums. The same commit gives the same bytes in every checkout. The programs
    /// find libtorch in lib/ beside their bin/.
    Dist(dist::Options),

    /// Check the files in deploy/: container, Compose, Kubernetes, systemd, Grafana, alert rules
    ///
    /// Fetches the tools in deploy/requirements.txt into target/deploy, once (200 MB), and prints the
    /// result of each. Each tool must also find a mistake that is put into a copy of its file.
    Deploy(deploy::Options),

    /// Check the types in the board's scripts
    ///
    /// Fetches TypeScript's compiler from npm into target/pages, once (30 MB). The compiler must also
    /// find a mistake that is put into a copy of the scripts.
    Pages,

    /// Compile the kernels for GPUs, so that the next build embeds them
    ///
    /// Fetches NVIDIA's compiler from PyPI into .nvrtc/, once (90 MB); no GPU is needed. A program that
    /// was built without the compiled kernels compiles them itself, if the CUDA toolkit is installed.
    Kernels(kernels::Options),

    /// Pack the checks that need a real GPU, for a machine that has one
    ///
    /// Sets up, compiles the kernels, builds the programs, and packs them with MNIST and a script
    /// for PyTorch into one archive below 40 MB. A machine with a GPU, Python and PyTorch needs nothing
    /// else to run the checks: digests, members that die, the time of each kernel, images a second.
    GpuAcceptance(gpu_acceptance::Options),

    /// Check the structure: dependencies between crates, sizes and names of files
    ///
    /// Also checks the licences, sources and versions of packages, the .proto files, the links in Markdown
    /// files, and the size of README.md. Every breach is printed with its place and its rule. The rules
    /// are tables in crates/xtask/src/tidy/architecture.rs and packages.rs. `cargo test -p xtask` runs the
    /// same check.
    Tidy,
}

/// xtask has no man page; its help has no further sections.
const REFERENCE: manual::Reference =
    manual::Reference { examples: &[], exit_status: &[], variables: &[], files: &[] };

fn main() -> ExitCode {
    let matches = manual::complete(Args::command(), &REFERENCE).try_get_matches();
    let args = match matches.and_then(|matches| Args::from_arg_matches(&matches)) {
        Ok(args) => args,
        Err(said) => return stdout::finish(manual::answer(said)),
    };
    let outcome = interrupt::install().and_then(|()| match args.command {
        Command::Setup(options) => setup::run(&options).map(|()| child::SUCCESS),
        Command::Train(options) => train::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Chaos(options) => chaos::run(&options),
        Command::Crowd(options) => crowd::run(&options),
        Command::Dist(options) => dist::run(&options),
        Command::Deploy(options) => deploy::run(&options),
        Command::Pages => pages::run(),
        Command::Kernels(options) => kernels::run(&options),
        Command::GpuAcceptance(options) => gpu_acceptance::run(&options),
        Command::Tidy => tidy::run(),
    });
    stdout::finish(match outcome {
        Ok(code) => ExitCode::from(code),
        Err(_) if interrupt::seen() => ExitCode::from(child::INTERRUPTED),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    })
}
