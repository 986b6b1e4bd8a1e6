//! `cargo xtask bench`: Lockstep beside PyTorch and JAX on this machine, with one command.
//!
//! Start reading at `bench/plan.rs`: it lists the comparisons and their requirements. `peers.rs`
//! has the rows that compare with torch.compile and JAX, `cost.rs` the rows about the time of a
//! step. `rounds.rs` runs the measurements; `lockstep.rs`, `pytorch.rs`, `jax.rs` and `exchange.rs`
//! start each system, on top of `process.rs` and `procfs.rs`. `ping.rs` and `nearness.rs` measure
//! how near the cores were to each other meanwhile, `fma.rs` what a core could do at most. `report.rs` and `plot.rs` show the results, and
//! `earlier.rs` reads the results of earlier runs. The other systems are `ddp.py`, `compiled.py`,
//! `gloo.py` and `jax_peer.py`. Everything is measured from outside, on whole processes: nothing
//! here is linked with the measured programs.

mod cost;
mod earlier;
mod exchange;
mod fma;
mod jax;
mod lockstep;
mod machine;
mod nearness;
mod peers;
mod ping;
mod plan;
mod plot;
pub(crate) mod process;
mod procfs;
mod pytorch;
mod report;
mod rounds;
pub(crate) mod statistics;
mod subject;
pub(crate) mod table;
mod torch;

use crate::workspace::{self, Build};
use crate::{child, interrupt, setup};
use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use jax::Jax;
use lockstep::Lockstep;
pub(crate) use lockstep::{address_in, default_data_dir};
use machine::Machine;

use pytorch::PyTorch;
pub(crate) use pytorch::speed_in;
use rounds::Figures;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fmt, fs};
use subject::{Job, Precision, Quantity, System, Training, Transport};

const MEGABYTE: f64 = 1e6;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Rounds of measurements; each median is over all rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,

    /// One round of the most important measurements, to see that everything works
    #[arg(long)]
    quick: bool,

    /// Measure only this; may be given more than once
    #[arg(long, value_enum, value_name = "WHAT")]
    only: Vec<Section>,

    /// Add the rounds to the rounds in bench.json, for a bench that is run in pieces
    #[arg(long)]
    add: bool,

    /// How Lockstep's workers exchange gradients
    #[arg(long, value_enum, default_value_t)]
    collective: Collective,

    /// Measure an earlier build of Lockstep too: a folder with its programs, such as target/release
    #[arg(long, value_name = "DIR")]
    before: Option<PathBuf>,

    /// Folder for bench.json, bench.svg and bench.txt [default: target/bench]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Take the programs from this folder and build nothing
    #[arg(long, value_name = "DIR", hide = true)]
    programs: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rounds: 5,
            quick: false,
            only: Vec::new(),
            add: false,
            collective: Collective::default(),
            before: None,
            output: None,
            programs: None,
        }
    }
}

/// A group of measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Images a second of whole training processes
    Steps,
    /// Images a second beside the best of torch.compile and of JAX, at the same global batch
    Peers,
    /// The fixed time of a step, and the time of each image
    StepCost,
    /// Milliseconds of an all-reduce
    AllReduce,
    /// Two workers against one
    Scaling,
    /// Peak memory, heap growth, the coordinator's processor time
    Memory,
}

impl Section {
    const ALL: [Section; 6] = [
        Section::Steps,
        Section::Peers,
        Section::StepCost,
        Section::AllReduce,
        Section::Scaling,
        Section::Memory,
    ];
}

/// The coordinator's flag of this name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Collective {
    #[default]
    Auto,
    Shm,
    Grpc,
}

impl fmt::Display for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Collective::Auto => "auto",
            Collective::Shm => "shm",
            Collective::Grpc => "grpc",
        })
    }
}

/// Sets up, builds, measures and reports. Returns the exit status of a build that failed. The
/// report names measurements that failed and rows that are slower than required.
pub(crate) fn run(options: &Options) -> anyhow::Result<u8> {
    let programs = match &options.programs {
        Some(folder) => Programs::in_folder(folder)?,
        None => match Programs::build()? {
            Build::Done(programs) => programs,
            Build::Failed(code) => return Ok(code),
        },
    };
    // The measured processes are killed when their owners are dropped, so SIGTERM must end xtask in
    // order.
    interrupt::install_for_termination()?;
    let output = output_folder(options)?;
    let machine = Machine::here();
    let all_rows = plan::rows(&Options { only: Vec::new(), ..options.clone() }, machine::cores());
    let jobs = plan::jobs(&plan::rows(options, machine::cores()));
    let before = options.before.as_deref().map(Programs::in_folder).transpose()?;
    let mut bench = Bench::prepare(&programs, before.as_ref(), &output, &jobs)?;
    let about = bench.describe(&machine);
    stdout::say!("\n{about}\n");
    let mut figures = match options.add {
        true => earlier::read(&output.join("bench.json"), &all_rows, &machine)?,
        false => Figures::default(),
    };
    let rounds = if options.quick { 1 } else { usize::from(options.rounds) };
    rounds::run(&mut figures, &jobs, rounds, |job| bench.measure(job))?;
    let known = |row: &plan::Row| jobs.contains(&row.ours.0) || figures.has(row.ours.0);
    let rows: Vec<plan::Row> = all_rows.into_iter().filter(known).collect();
    let text = format!(
        "{about}\nRounds: {}; medians, and the largest distance from them.\n{}\n{}",
        figures.rounds(),
        nearness::describe(&figures),
        report::text(&rows, &figures)
    );
    stdout::say!("\n{text}");
    let mut written = Vec::new();
    let mut write = |name: &str, content: String| {
        let file = output.join(name);
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
        written.push(file.display().to_string());
        anyhow::Ok(())
    };
    write("bench.txt", text)?;
    let json = report::json(&rows, &figures, &machine);
    write("bench.json", serde_json::to_string_pretty(&json)? + "\n")?;
    if rows.iter().any(|row| matches!(row.section, Section::Steps | Section::Peers)) {
        write("bench.svg", draw(&figures, options, &machine))?;
    }
    stdout::say!("Written: {}", written.join(", "));
    Ok(child::SUCCESS)
}

/// The folder for results, created if it does not exist.
fn output_folder(options: &Options) -> anyhow::Result<PathBuf> {
    let folder = match &options.output {
        Some(folder) => folder.clone(),
        None => {
            let target = env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
            workspace::root().join(target).join("bench")
        }
    };
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// The programs to measure.
#[derive(Debug)]
struct Programs {
    coordinator: PathBuf,
    worker: PathBuf,
    /// The transports' own benchmark, or the reason why it is missing.
    all_reduce: Result<PathBuf, String>,
}

impl Programs {
    fn build() -> anyhow::Result<Build<Programs>> {
        setup::run(&setup::Options::default())?;
        let programs = ["--bins", "-p", "vae-coordinator", "-p", "vae-worker"];
        let built = match workspace::build_programs(workspace::RELEASE, &programs, &[])? {
            Build::Done(built) => built,
            Build::Failed(code) => return Ok(Build::Failed(code)),
        };
        let example = ["--example", "all_reduce_bench", "-p", "transport"];
        let all_reduce = match workspace::build_programs(workspace::RELEASE, &example, &[])? {
            Build::Done(built) => workspace::named(&built, "all_reduce_bench")
                .cloned()
                .map_err(|error| error.to_string()),
            Build::Failed(_) => Err("the transports' benchmark does not build".to_owned()),
        };
        Ok(Build::Done(Programs {
            coordinator: workspace::named(&built, "vae-coordinator")?.clone(),
            worker: workspace::named(&built, "vae-worker")?.clone(),
            all_reduce,
        }))
    }

    /// The programs in a folder that is laid out as cargo's `release`.
    fn in_folder(folder: &Path) -> anyhow::Result<Programs> {
        let folder = std::path::absolute(folder)?;
        let program = |name: &str| {
            let program = folder.join(name);
            ensure!(program.is_file(), "{} is not there", program.display());
            Ok(program)
        };
        Ok(Programs {
            coordinator: program("vae-coordinator")?,
            worker: program("vae-worker")?,
            all_reduce: program("examples/all_reduce_bench").map_err(|error| error.to_string()),
        })
    }
}

/// All systems, ready to be measured.
#[derive(Debug)]
struct Bench {
    lockstep: Lockstep,
    /// An earlier build, if one is to be measured.
    before: Option<Lockstep>,
    pytorch: PyTorch,
    /// None if no job needs JAX; an error is the reason why JAX is missing.
    jax: Option<Result<Jax, String>>,
    all_reduce: Result<PathBuf, String>,
}

impl Bench {
    /// Fetches missing parts, and checks that Lockstep works at all.
    fn prepare(
        programs: &Programs,
        before: Option<&Programs>,
        output: &Path,
        jobs: &[Job],
    ) -> anyhow::Result<Bench> {
        let data_dir = lockstep::default_data_dir()?;
        let lockstep_of = |programs: &Programs| Lockstep {
            coordinator: programs.coordinator.clone(),
            worker: programs.worker.clone(),
            data_dir: data_dir.clone(),
            epochs: BTreeMap::new(),
        };
        let (lockstep, before) = (lockstep_of(programs), before.map(lockstep_of));
        let site = torch::ensure()?;
        let unlocking = pytorch::compile_unlocking(output).map_err(|error| format!("{error:#}"));
        let needs_jax = jobs.iter().any(|job| job.is_of_jax());
        let jax = needs_jax.then(|| Jax::ensure().map_err(|error| format!("{error:#}")));
        stdout::say!("trying Lockstep, with the data set in {}", data_dir.display());
        lockstep.prepare().context("Lockstep cannot be measured")?;
        if let Some(before) = &before {
            before.prepare().context("the earlier build cannot be measured")?;
        }
        let compiled = std::path::absolute(output.join("torch.compile"))?;
        let pytorch = PyTorch { site, data_dir, unlocking, compiled };
        Ok(Bench { lockstep, before, pytorch, jax, all_reduce: programs.all_reduce.clone() })
    }

    /// The machine, and the versions of all measured systems.
    fn describe(&self, machine: &Machine) -> String {
        let machine = machine.describe();
        match &self.jax {
            Some(Ok(jax)) => format!("{machine}\n{}", jax.describe()),
            Some(Err(why)) => format!("{machine}\nno JAX: {why}"),
            None => machine,
        }
    }

    /// The figures of a job, and what the cores did just before it and just after it.
    fn measure(&mut self, job: Job) -> anyhow::Result<Vec<(Quantity, f64)>> {
        let before = ping::nanoseconds();
        let mut found = self.found_by(job)?;
        let of_cores = [
            (Quantity::PingBefore, before),
            (Quantity::PingAfter, ping::nanoseconds()),
            (Quantity::PeakGigaflops, fma::gigaflops()),
        ];
        found.extend(of_cores.into_iter().filter_map(|(quantity, value)| Some((quantity, value?))));
        Ok(found)
    }

    fn found_by(&mut self, job: Job) -> anyhow::Result<Vec<(Quantity, f64)>> {
        match job {
            Job::Training(training) => self.train(training),
            Job::Exchange(Transport::Gloo) => exchange::gloo(&self.pytorch),
            Job::Exchange(transport) => {
                let program = self.all_reduce.as_ref().map_err(|why| anyhow::anyhow!("{why}"))?;
                exchange::ours(program, transport)
            }
            Job::Saving(checkpoints) => {
                let rate = self.lockstep.train_saving(checkpoints)?;
                Ok(vec![(Quantity::ImagesPerSecond, rate)])
            }
            Job::LongRun => {
                let grown = self.lockstep.train_long()?;
                Ok(vec![
                    (Quantity::HeapGrowthMegabytes, grown.heap_bytes / MEGABYTE),
                    (Quantity::ResidentGrowthMegabytes, grown.resident_bytes / MEGABYTE),
                    (Quantity::Steps, grown.steps as f64),
                ])
            }
        }
    }

    fn train(&mut self, training: Training) -> anyhow::Result<Vec<(Quantity, f64)>> {
        let shown = match training.system {
            System::Lockstep(collective) => {
                return Ok(shown_by(self.lockstep.train(training, collective)?));
            }
            System::Before(collective) => {
                let before = self.before.as_mut().context("there is no earlier build")?;
                return Ok(shown_by(before.train(training, collective)?));
            }
            System::Jax | System::JaxDevices => match &self.jax {
                Some(Ok(jax)) => jax.train(training, &self.pytorch.data_dir)?,
                Some(Err(why)) => bail!("there is no JAX: {why}"),
                None => bail!("JAX was not asked for"),
            },
            System::PyTorch | System::PyTorchTuned | System::Compiled | System::CompiledDdp => {
                self.pytorch.train(training)?
            }
        };
        Ok(vec![
            (Quantity::ImagesPerSecond, shown.images_per_second),
            (Quantity::Seconds, shown.seconds),
            (Quantity::PeakMegabytes, shown.worker_peak_bytes as f64 / MEGABYTE),
        ])
    }
}

fn shown_by(shown: lockstep::Shown) -> Vec<(Quantity, f64)> {
    let mut found = vec![
        (Quantity::ImagesPerSecond, shown.images_per_second),
        (Quantity::Seconds, shown.seconds),
        (Quantity::PeakMegabytes, shown.worker_peak_bytes as f64 / MEGABYTE),
        (Quantity::OwnPeakMegabytes, shown.worker_own_peak_bytes as f64 / MEGABYTE),
    ];
    found.extend(shown.coordinator_share.map(|share| (Quantity::CoordinatorShare, share)));
    found
}

/// Images a second against workers, batch 64, as SVG.
fn draw(figures: &Figures, options: &Options, machine: &Machine) -> String {
    let ours = System::Lockstep(options.collective);
    let lines = [
        ("Lockstep, bf16", "#0b63c5", true, ours, Precision::Bf16),
        ("Lockstep", "#0b63c5", false, ours, Precision::F32),
        ("JAX", "#2b8a3e", false, System::Jax, Precision::F32),
        ("torch.compile", "#9c36b5", false, System::Compiled, Precision::F32),
        ("PyTorch DDP, tuned", "#d9480f", true, System::PyTorchTuned, Precision::F32),
        ("PyTorch DDP", "#d9480f", false, System::PyTorch, Precision::F32),
    ];
    let lines = lines.map(|(name, colour, dashed, system, precision)| {
        let points = plan::worker_counts().into_iter().filter_map(|workers| {
            let training = peers::sharing(system, machine::cores(), 64, workers);
            let job = Job::Training(Training { precision, ..training });
            let values = figures.of((job, Quantity::ImagesPerSecond)).into_iter().flatten();
            let statistics::Summary { median, low, high } = statistics::Summary::of(values)?;
            Some(plot::Point { x: workers, y: median, low, high })
        });
        plot::Line { name: name.to_owned(), colour, dashed, points: points.collect() }
    });
    let words = plot::Words {
        title: "Training: images a second, all workers together",
        subtitles: [
            "batch 64 a worker; JAX and torch.compile: one process, the same global batch",
            &machine.brief(),
        ],
        x: "workers",
    };
    plot::svg(words, &lines)
}
