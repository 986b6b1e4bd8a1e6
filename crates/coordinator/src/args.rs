//! The flags and the meaning of their values. The crate `config` checks whether they fit together.

use std::{ffi::OsString, ops::RangeInclusive, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use config::{Collective, LearningRateSchedule, Operation, RunConfig, Task, Training, bounds};
use manual::{real, whole};
use secure::{Security, SetUpError};
use telemetry::{LogFormat, LogLevel};

use crate::{
    board::{BoardArgs, BoardFlags},
    listen::{HostName, ListenAddress},
    live::LiveArgs,
    runs::RunsArgs,
};

/// The least and the greatest number of seconds for the waits that a flag sets.
pub(crate) const WAIT_SECONDS: RangeInclusive<f64> = 0.5..=86_400.0;

/// Days that a certificate may be valid.
const DAYS: RangeInclusive<u32> = 1..=36_500;

/// Threads that a worker may compute with.
const THREADS: RangeInclusive<u32> = 1..=1024;

/// The parser of a number of seconds to wait.
fn wait() -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    let (min, max) = (WAIT_SECONDS.start(), WAIT_SECONDS.end());
    real(format!("a number from {min} to {max}"), |seconds| WAIT_SECONDS.contains(&seconds))
}

/// Checks the form of a device's name. Only the worker can check that the device exists.
fn device(text: &str) -> Result<String, String> {
    let index = text.strip_prefix("cuda:").map(|index| index.parse::<u16>().is_ok());
    match index.unwrap_or(["auto", "cpu", "cuda"].contains(&text)) {
        true => Ok(text.to_owned()),
        false => Err("choose auto, cpu, cuda or cuda:N".into()),
    }
}

/// The flags that every coordinator has; those of its task come from its program.
#[derive(Clone, Debug, Parser)]
#[command(version = manual::version(env!("CARGO_PKG_VERSION")), max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// TOML file with a key for each flag, as in `hidden-dim = 64`; the command line wins.
    /// `PROGRAM config print [FLAGS]` prints such a file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Workers that compute together. The run begins when all have joined, or after
    /// --join-timeout-seconds if at least --min-workers have
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = whole(bounds::WORKERS))]
    pub(crate) workers: u32,
    /// Fewest workers to begin with after --join-timeout-seconds, and to continue with when others
    /// are lost; with fewer the run waits
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = whole(bounds::WORKERS))]
    pub(crate) min_workers: u32,
    /// Parts of every global batch [default: --workers]. The result depends on this number,
    /// never on --workers
    #[arg(long, value_name = "S", value_parser = whole(bounds::SHARDS))]
    pub(crate) shards: Option<u32>,
    /// Where to listen: a name or IP address of this host, and a port; port 0 takes any free port,
    /// if possible that of the previous coordinator of a resumed run
    #[arg(long, default_value = "127.0.0.1:50051", value_name = "HOST:PORT")]
    pub(crate) listen: ListenAddress,
    /// Name or IP address that workers connect to [default: the address of --listen]
    #[arg(long, value_name = "NAME_OR_IP")]
    pub(crate) advertise: Option<HostName>,
    #[command(flatten)]
    pub(crate) board: BoardFlags,
    /// Train the task that this file describes, written by `PROGRAM describe`, instead of this
    /// program's own task: this machine needs neither that program nor libtorch
    #[arg(long, value_name = "FILE", conflicts_with = "spawn")]
    pub(crate) task: Option<PathBuf>,
    /// Start the workers too, as processes on this machine, and restart those that die
    #[arg(long)]
    pub(crate) spawn: bool,
    /// How many times each worker that --spawn started may be restarted
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = whole(0..=u32::MAX))]
    pub(crate) max_restarts: u32,
    /// Threads of each worker that --spawn starts [default: the cores of this host divided among
    /// the workers]
    #[arg(long, value_name = "N", value_parser = whole(THREADS))]
    pub(crate) worker_threads: Option<u32>,
    /// Device of the workers that --spawn starts: auto, cpu, cuda or cuda:N. From a list such as
    /// cuda:0,cuda:1 each worker takes the next device [default: auto]
    #[arg(long, value_name = "DEVICE", value_parser = device, value_delimiter = ',')]
    pub(crate) worker_device: Vec<String>,

    #[command(flatten)]
    pub(crate) training: TrainingArgs,
    #[command(flatten)]
    pub(crate) operation: OperationArgs,
    #[command(flatten)]
    pub(crate) directories: DirectoryArgs,
    #[command(flatten)]
    pub(crate) live: LiveArgs,
    #[command(flatten)]
    pub(crate) security: SecurityArgs,

    /// Seconds without a heartbeat after which a worker counts as dead
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS", value_parser = wait())]
    #[arg(help_heading = "Failures and timeouts")]
    pub(crate) dead_after_seconds: f64,
    /// Seconds that others may wait for a worker that makes no progress; at least the time of
    /// twenty steps
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS", value_parser = wait())]
    #[arg(help_heading = "Failures and timeouts")]
    pub(crate) stall_after_seconds: f64,
    /// Seconds to wait for workers to join and be ready: for all --workers at the beginning, for
    /// --min-workers when others are lost. After that the run ends, unless --min-workers are
    /// ready
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS", value_parser = wait())]
    #[arg(help_heading = "Failures and timeouts")]
    pub(crate) join_timeout_seconds: f64,
    /// Seconds that workers train without a coordinator, until one is started again
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS", value_parser = wait())]
    #[arg(help_heading = "Failures and timeouts")]
    pub(crate) coordinator_timeout_seconds: f64,
    /// On SIGTERM or SIGHUP exit at once, as if killed: the workers then wait for a coordinator that is
    /// started again, here or elsewhere. SIGINT still ends the run
    #[arg(long, help_heading = "Failures and timeouts", conflicts_with = "spawn")]
    pub(crate) leave_on_sigterm: bool,
    /// Let workers with different devices or instruction sets compute together; the result
    /// then depends on which worker computed which shard
    #[arg(long)]
    pub(crate) allow_mixed_devices: bool,
    /// Let workers whose programs were built differently compute together, if they compute the same
    /// gradient
    #[arg(long)]
    pub(crate) allow_mixed_builds: bool,
    /// How log lines are written to standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    /// Lowest level to log on standard error, also by workers that --spawn started. RUST_LOG, as
    /// in RUST_LOG=debug, wins
    #[arg(long, value_enum, default_value_t = LogLevel::Warn, value_name = "LEVEL")]
    pub(crate) log_level: LogLevel,
}

/// The commands beside training.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the state of a run
    Status(StatusArgs),
    /// Show the runs in a folder, compare them, draw and export them
    Runs(RunsArgs),
    /// Show runs in a browser, from their files, or the run of a coordinator on another machine
    Board(BoardArgs),
    /// Make certificates, a join token and a view token, to train beyond this machine
    #[command(subcommand)]
    Certs(CertsCommand),
}

/// What to make.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Make a certificate authority, a join token and a view token; existing files stay
    Init(InitArgs),
    /// Issue a host's certificate, into a folder of its own: the host's --tls-dir
    Issue(IssueArgs),
}

/// Where to make a certificate authority.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// Folder of the authority; keep it where only you can read it
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Days that the certificate of the authority is valid
    #[arg(long, default_value_t = 3650, value_name = "N", value_parser = whole(DAYS))]
    pub(crate) days: u32,
}

/// The host of a certificate to issue.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct IssueArgs {
    /// Folder of the authority
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Name or IP address of the host, as others reach it; repeat it for each name
    #[arg(long, required = true, value_name = "NAME_OR_IP")]
    pub(crate) host: Vec<String>,
    /// Days that the certificate is valid
    #[arg(long, default_value_t = 365, value_name = "N", value_parser = whole(DAYS))]
    pub(crate) days: u32,
}

/// Authentication, needed beyond loopback.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Security")]
pub(crate) struct SecurityArgs {
    /// Folder with ca.crt, tls.crt and tls.key: connections then go over TLS, and both sides
    /// show a certificate of this CA
    #[arg(long, value_name = "DIR")]
    pub(crate) tls_dir: Option<PathBuf>,
    /// File with the join token that every worker must have [default: token in --tls-dir, if
    /// there is one]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Listen and connect beyond loopback without TLS and token
    #[arg(long)]
    pub(crate) insecure: bool,
}

impl SecurityArgs {
    /// Loads the certificates and the token from their files.
    pub(crate) fn load(&self) -> Result<Security, SetUpError> {
        let security =
            Security::load(self.tls_dir.as_deref(), self.token_file.as_deref(), self.insecure)?;
        if let Some(warning) = security.warning() {
            tracing::warn!("{warning}");
        }
        Ok(security)
    }

    /// The same flags, for another process on this machine.
    pub(crate) fn to_arguments(&self) -> Vec<OsString> {
        let file = |flag: &str, path: &Option<PathBuf>| {
            let path = path.as_ref().map(|path| std::path::absolute(path).unwrap_or(path.clone()));
            path.map(|path| [flag.into(), path.into_os_string()])
        };
        let files = [file("--tls-dir", &self.tls_dir), file("--token-file", &self.token_file)];
        let insecure = self.insecure.then(|| "--insecure".into());
        files.into_iter().flatten().flatten().chain(insecure).collect()
    }
}

/// Which run, and how to show it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Where the run's coordinator listens: HOST:PORT or a URL
    #[arg(long, default_value = "127.0.0.1:50051", value_name = "ADDRESS")]
    pub(crate) coordinator: String,
    /// Print the status as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show the status on the whole terminal and update it, until q is pressed
    #[arg(long, conflicts_with_all = ["json", "health"])]
    pub(crate) watch: bool,
    /// Print a word, and set the exit status, for probes of containers: whether the coordinator
    /// admits workers, or with --health=training whether members compute
    #[arg(long, value_enum, value_name = "WHOSE", conflicts_with = "json")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "coordinator")]
    pub(crate) health: Option<HealthArg>,
    #[command(flatten)]
    pub(crate) security: SecurityArgs,
}

/// What a probe asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HealthArg {
    Coordinator,
    Training,
}

/// Everything that the trained bits depend on.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Training")]
pub(crate) struct TrainingArgs {
    /// Passes over the training examples
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = whole(bounds::EPOCHS))]
    pub(crate) epochs: u32,
    /// Examples per shard and step
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = whole(bounds::BATCH_SIZE))]
    pub(crate) batch_size: u32,
    /// Step size of Adam
    #[arg(long, default_value_t = 1e-3, value_name = "RATE")]
    #[arg(value_parser = real(bounds::POSITIVE, bounds::is_positive))]
    pub(crate) learning_rate: f64,
    /// Schedule of the learning rate: constant, in the stages of the IWAE paper, or along a
    /// cosine down to zero
    #[arg(long, value_enum, default_value_t = LearningRateSchedule::Constant)]
    pub(crate) learning_rate_schedule: LearningRateSchedule,
    /// Largest norm of a gradient; a gradient with a larger norm is scaled down to it
    /// [default: none]
    #[arg(long, value_name = "NORM", value_parser = real(bounds::POSITIVE, bounds::is_positive))]
    pub(crate) grad_clip: Option<f64>,
    /// Seed of every random number in the run
    #[arg(long, default_value_t = 0, value_name = "SEED", value_parser = whole(0..=u64::MAX))]
    pub(crate) seed: u64,
    /// Train on the first N examples only [default: all]
    #[arg(long, visible_alias = "train-images", value_name = "N")]
    #[arg(value_parser = whole(bounds::EXAMPLES))]
    pub(crate) train_examples: Option<u32>,
    /// Hold out the last N of the training examples: nothing is learned from them, and their loss
    /// is measured after each epoch, for --keep-best and --early-stop-epochs
    #[arg(long, visible_alias = "validation-images", default_value_t = 0, value_name = "N")]
    #[arg(value_parser = whole(0..=*bounds::EXAMPLES.end()))]
    pub(crate) validation_examples: u32,
    /// Evaluate on the first N test examples only [default: all]
    #[arg(long, visible_alias = "test-images", value_name = "N")]
    #[arg(value_parser = whole(bounds::EXAMPLES))]
    pub(crate) test_examples: Option<u32>,
    /// Threads of each worker for models that use libtorch's autograd. The result of these models
    /// depends on this number; the result of other models depends on no number of threads
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = whole(bounds::THREADS))]
    pub(crate) model_threads: u32,
}

/// How the run is carried out.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Operation")]
pub(crate) struct OperationArgs {
    /// How workers exchange gradients
    #[arg(long, value_enum, default_value_t = Collective::Auto)]
    pub(crate) collective: Collective,
    /// Epochs between checkpoints
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = whole(bounds::EPOCHS))]
    pub(crate) checkpoint_every_epochs: u32,
    /// Checkpoints to keep: the N newest
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = whole(bounds::EPOCHS))]
    pub(crate) keep_checkpoints: u32,
    /// Keep the checkpoint with the lowest loss of the --validation-examples too, as
    /// checkpoints/best.safetensors; an object store keeps the newest ones only
    #[arg(long)]
    pub(crate) keep_best: bool,
    /// End the run when the loss of the --validation-examples has not improved for N epochs; 0
    /// for never
    #[arg(long, default_value_t = 0, value_name = "N")]
    #[arg(value_parser = whole(0..=*bounds::EPOCHS.end()))]
    pub(crate) early_stop_epochs: u32,
    /// Folder of this run in an object store, which also keeps the checkpoints, and where --resume
    /// finds them: s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, file:///FOLDER, or the word none.
    /// Credentials come from the environment of the coordinator and of the workers
    #[arg(long, value_name = "URL")]
    pub(crate) checkpoint_url: Option<String>,
    /// Compare the states of all workers every N steps; 0 for never. Workers that share memory have
    /// one state and nothing to compare
    #[arg(long, default_value_t = 100, value_name = "STEPS", value_parser = whole(0..=u32::MAX))]
    pub(crate) verify_every: u32,
}

/// Files and folders.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Directories")]
pub(crate) struct DirectoryArgs {
    /// Folder of the run [default: runs/DATE-TIME-ID; the link runs/latest leads to it]
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Continue the run in --run-dir (or runs/latest) from its newest valid checkpoint; flags
    /// that are not given are those of the run
    #[arg(long)]
    pub(crate) resume: bool,
    /// Continue the run in --run-dir if there is one, else begin it: for service managers that
    /// restart the coordinator
    #[arg(long, requires = "run_dir", conflicts_with = "resume")]
    pub(crate) resume_or_begin: bool,
    /// Folder for the files of the data set [default: LOCKSTEP_DATA_DIR, else a folder in the
    /// user's cache]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Never fetch the data set from the network
    #[arg(long)]
    pub(crate) offline: bool,
}

impl TrainingArgs {
    /// The part of the configuration that decides the bits of a run of this task.
    pub(crate) fn training(&self, shards: u32, task: Task) -> Training {
        Training {
            seed: self.seed,
            shards,
            batch_size: self.batch_size,
            learning_rate: self.learning_rate,
            learning_rate_schedule: self.learning_rate_schedule,
            grad_clip: self.grad_clip,
            train_examples: self.train_examples.unwrap_or(task.dataset.train),
            validation_examples: self.validation_examples,
            test_examples: self.test_examples.unwrap_or(task.dataset.test),
            model_threads: self.model_threads,
            task,
        }
    }
}

impl OperationArgs {
    /// The part of the configuration that decides how the run is carried out.
    pub(crate) fn operation(&self, workers: u32, epochs: u32) -> Operation {
        Operation {
            workers,
            epochs,
            collective: self.collective,
            verify_every: self.verify_every,
            checkpoint_every_epochs: self.checkpoint_every_epochs,
            keep_checkpoints: self.keep_checkpoints,
            keep_best: self.keep_best,
            early_stop_epochs: self.early_stop_epochs,
            checkpoint_url: self.checkpoint_url.clone().filter(|url| url != "none"),
        }
    }
}

impl Args {
    /// The configuration of a run of this task that the flags describe.
    pub(crate) fn config(&self, task: Task) -> RunConfig {
        let shards = self.shards.unwrap_or(self.workers);
        RunConfig {
            training: self.training.training(shards, task),
            operation: self.operation.operation(self.workers, self.training.epochs),
        }
    }
}
