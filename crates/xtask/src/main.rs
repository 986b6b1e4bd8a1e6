//! `cargo xtask <command>`: what a person does in a checkout, one file per command.
//!
//! Start reading at [`Command`]. `setup` fetches libtorch, `train`, `test` and `bench` build and
//! run on top of it, and `tidy` holds the project to its architecture; the tables it checks are in
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
    /// libtorch is the C++ library that the models compute with. It comes out of the PyPI wheel of
    /// PyTorch (about 0.5 GB for CPUs; where an NVIDIA driver is installed, about 2.5 GB with the
    /// CUDA libraries), so python3 with pip is needed here, and here alone: nothing uses Python
    /// when it runs. A second call finds everything in place and does nothing.
    ///
    /// To use a libtorch of your own, set LIBTORCH to its folder (the one that holds lib/ and
    /// include/). It is then checked and used, and nothing is fetched.
    Setup(setup::Options),

    /// Train the autoencoder on MNIST with a coordinator and four workers on this machine
    ///
    /// Sets up, builds the release binaries and runs `vae-coordinator --spawn`: four workers, five
    /// epochs. At the end it names the checkpoint and the picture of samples that the run has left,
    /// and commands to look into the model with.
    /// Ctrl-C stops the run in good order.
    Train(train::Options),

    /// Run every test of the workspace, those that start real processes included
    ///
    /// Sets up, builds the release binaries (the scenarios in tests/ start them) and runs `cargo
    /// test --release --workspace`. The same profile as `train`, so that libtorch's bindings are
    /// compiled once.
    Test(test::Options),

    /// Measure Lockstep beside PyTorch and JAX on this machine
    ///
    /// Sets up, builds the release binaries, fetches a full PyTorch of the same version into
    /// .torch/ (2.4 GB, once) and the newest JAX into .jax/ (0.5 GB, once), and runs them side by
    /// side, round after round: images a second beside DistributedDataParallel, torch.compile and
    /// JAX, the fixed time of a step, all-reduce, scaling, memory. Prints a table with the ratios
    /// and those that are required, and writes every figure to target/bench. More than an hour;
    /// --quick takes ten minutes. Leave the machine alone meanwhile.
    Bench(bench::Options),

    /// Strike runs with disasters drawn from seeds: whatever dies, the final bytes are the same
    ///
    /// Sets up, builds the release binaries, and for each seed and transport runs a coordinator and
    /// four workers, some of which are killed, frozen, told to leave or replaced. What a seed does
    /// is printed before it is done, and that seed does it again.
    Chaos(chaos::Options),

    /// Measure the coordinator with a thousand workers that have no tensors
    ///
    /// Sets up, builds the release binaries, and has a crowd join a coordinator, train for a while
    /// and lose half of its members at once. Prints how long that took and what the coordinator
    /// used beside what it may use, and fails where it used more. The crowd takes its time from the
    /// same cores: leave the machine alone meanwhile.
    Crowd(crowd::Options),

    /// Pack a release: the programs, libtorch, man pages, shell completions, licences
    ///
    /// Sets up, builds the programs, and packs them into one archive, with their debug symbols in a
    /// second one and checksums. The same commit gives the same bytes in every checkout. The programs
    /// find libtorch in lib/ beside their bin/.
    Dist(dist::Options),

    /// Check the files in deploy/: container, Compose, Kubernetes, systemd
    ///
    /// Fetches the tools that deploy/requirements.txt names into target/deploy, once (200 MB), and
    /// says what each finds. Each must also find a mistake that is put into a copy of its file.
    Deploy(deploy::Options),

    /// Check the types in the board's scripts
    ///
    /// Fetches TypeScript's compiler from npm into target/pages, once (30 MB). It must also find a
    /// mistake that is put into a copy.
    Pages,

    /// Compile the kernels for GPUs, so that the next build embeds them
    ///
    /// Fetches NVIDIA's compiler from PyPI into .nvrtc/, once (90 MB); no GPU is needed. A program that
    /// was built without this compiles them at its first start, where the CUDA toolkit is installed.
    Kernels(kernels::Options),

    /// Pack what only a GPU can show, for a machine that has one
    ///
    /// Sets up, compiles the kernels, builds the release binaries, and packs them with MNIST and a script
    /// of PyTorch peers into one archive below 40 MB. A machine with a GPU, Python and PyTorch needs
    /// nothing else to run it: digests, members that die, the time of each kernel, images a second.
    GpuAcceptance(gpu_acceptance::Options),

    /// Check the structure: who may depend on whom, and how large and how named files may be
    ///
    /// Every breach is printed with its place and its rule. The rules are tables, made to be read:
    /// crates/xtask/src/tidy/architecture.rs. `cargo test -p xtask` runs the same check.
    Tidy,
}

/// xtask has no man page, and its help is all that is to be known of it.
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
