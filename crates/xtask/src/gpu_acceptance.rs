//! `cargo xtask gpu-acceptance`: the checks that need a real GPU, in less than a quarter of an hour.
//!
//! Without a command it packs an archive (`pack.rs`) for a machine that has only a GPU, Python and
//! PyTorch. There, `run` goes through the stages of `run.rs`, the most important first: bits
//! (`digests.rs`, `members.rs`), the time of each kernel (`kernels.rs`), speed beside PyTorch (`speed.rs`,
//! `peers.rs`, `gpu_peers.py`). `fleet.rs` starts the processes of a run; `report.rs` keeps the results. A
//! scenario runs all stages on the emulated GPU, so that mistakes in them cost no time on a real GPU.

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
    /// Run all stages on this machine, from the unpacked archive
    ///
    /// Prints a table, and writes gpu-acceptance.json after each stage. Fails if bits differ or a stage
    /// does not finish; a speed ratio that is not reached is reported, but is no failure.
    Run(run::Running),
}

/// Packs the archive, or runs the stages. Returns the exit status.
pub(crate) fn run(options: &Options) -> anyhow::Result<u8> {
    match &options.command {
        None => pack::run(&options.pack),
        Some(Command::Run(options)) => run::run(options),
    }
}
