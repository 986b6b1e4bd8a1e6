//! The flags.

use std::{ops::RangeInclusive, path::PathBuf};

use clap::Parser;
use manual::whole;
use secure::{Security, SetUpError};
use telemetry::{LogFormat, LogLevel};

use crate::{device::DeviceChoice, discovery::RankChoice};

/// Seconds to keep trying to reach a coordinator.
const JOIN_TIMEOUT: RangeInclusive<u32> = 0..=86_400;

/// Threads to compute with.
const THREADS: RangeInclusive<u32> = 1..=1024;

/// Compute gradients for a run: join its coordinator, train with the other workers, and leave
/// when the run ends.
#[derive(Clone, Debug, Parser)]
#[command(max_term_width = 100)]
pub(crate) struct Args {
    /// Where the coordinator listens: HOST:PORT or a URL [default: port 50051 of the host that
    /// MASTER_ADDR, PET_MASTER_ADDR or SLURM_LAUNCH_NODE_IPADDR names, else 127.0.0.1:50051]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) coordinator: Option<String>,
    /// Name or IP address of this host, as other workers reach it [default: its address on the
    /// way to the coordinator]
    #[arg(long, value_name = "NAME_OR_IP")]
    pub(crate) advertise: Option<String>,
    /// Use TCP with workers on this host too, instead of a local socket
    #[arg(long)]
    pub(crate) tcp_only: bool,
    /// TOML file with a key for each flag, as in `device = "cpu"`; the command line wins.
    /// `vae-worker config print [FLAGS]` writes one
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The rank to take, or any for a free one [default: the value of RANK, PET_NODE_RANK,
    /// SLURM_PROCID or JOB_COMPLETION_INDEX, in this order, else any]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) rank: Option<RankChoice>,
    /// Index of this worker on its host, from 0: with several GPUs, it chooses the worker's GPU
    /// [default: the value of LOCAL_RANK or SLURM_LOCALID]
    #[arg(long, value_name = "N")]
    pub(crate) local_rank: Option<u32>,
    /// Where to compute: auto, cpu, cuda or cuda:N. auto takes a GPU if there is one and the run's
    /// model can use it, else the CPU: the dense VAE has kernels for GPUs, and a model by autograd
    /// needs libtorch's CUDA libraries
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub(crate) device: DeviceChoice,
    /// Threads to compute with [default: the cores of this host divided among its workers]
    #[arg(long, value_name = "N", value_parser = whole(THREADS))]
    pub(crate) threads: Option<u32>,
    /// The instruction set to compute with on the CPU [default: the fastest that the CPU has]
    #[arg(long, value_name = "NAME", value_parser = model::isa::NAMES)]
    pub(crate) isa: Option<String>,
    /// Folder for the files of the data set [default: LOCKSTEP_DATA_DIR, else the user's cache]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Seconds to keep trying to reach the coordinator
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = whole(JOIN_TIMEOUT))]
    pub(crate) join_timeout_seconds: u32,
    /// How log lines are written to standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    /// Lowest level to log on standard error. RUST_LOG, as in RUST_LOG=debug, wins
    #[arg(long, value_enum, default_value_t = LogLevel::Info, value_name = "LEVEL")]
    pub(crate) log_level: LogLevel,
    #[command(flatten)]
    pub(crate) security: SecurityArgs,
}

/// Authentication, needed beyond loopback.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Security")]
pub(crate) struct SecurityArgs {
    /// Folder with ca.crt, tls.crt and tls.key: connections then go over TLS, and both sides
    /// show a certificate of this CA
    #[arg(long, value_name = "DIR")]
    pub(crate) tls_dir: Option<PathBuf>,
    /// File with the coordinator's join token [default: token in --tls-dir, if there is one]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Listen and connect beyond loopback without TLS and token
    #[arg(long)]
    pub(crate) insecure: bool,
}

impl SecurityArgs {
    /// Loads the settings from the files.
    pub(crate) fn load(&self) -> Result<Security, SetUpError> {
        let security =
            Security::load(self.tls_dir.as_deref(), self.token_file.as_deref(), self.insecure)?;
        if let Some(warning) = security.warning() {
            tracing::warn!("{warning}");
        }
        Ok(security)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_has_a_value_of_its_type() {
        let flags = ["--threads=2", "--rank=any", "--device=cuda:1", "--join-timeout-seconds=5"];
        let args = Args::try_parse_from(["vae-worker"].iter().chain(&flags)).unwrap();
        assert_eq!((args.threads, args.join_timeout_seconds), (Some(2), 5));
        assert_eq!(Args::try_parse_from(["vae-worker"]).unwrap().join_timeout_seconds, 60);
    }
}
