//! `cargo xtask gpu-acceptance`: what only a GPU can show, in less than a quarter of an hour of one.
//!
//! Without a command it packs an archive (`pack.rs`) for a machine that has a GPU, Python and PyTorch, and
//! no more. There, `run` goes through the stages of `run.rs`, the decisive ones first: bits
//! (`digests.rs`, `members.rs`), the time of each kernel (`kernels.rs`), speed beside PyTorch (`speed.rs`,
//! `peers.rs`, `gpu_peers.py`). `fleet.rs` starts the processes of a run; `report.rs` keeps what was
//! found. A scenario runs all of it on the emulated GPU, so that no minute of a real one is lost to a
//! mistake here.

mod digests;
mod fleet;
mod kernels;
mod members;
mod pack;
mod peers;
mod report;
mod run;
mod scene;
mod speed;

/// The runs whose digests are kept in the repository.
#[path = "../../../tests/golden/runs.rs"]
mod golden;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    pack: pack::Packing,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Go through all stages on this machine: what the archive is for
    ///
    /// Prints a table, and writes gpu-acceptance.json after each stage. Fails where bits differ or a
    /// stage does not come to its end; a ratio that is not reached is told, and is no failure.
    Run(run::Running),
}

/// Packs, or runs what was packed. Returns the exit status.
pub(crate) fn run(options: &Options) -> anyhow::Result<u8> {
    match &options.command {
        None => pack::run(&options.pack),
        Some(Command::Run(options)) => run::run(options),
    }
}
