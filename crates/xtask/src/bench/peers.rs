//! Lockstep beside the fastest other systems, for the same step on the same cores: rows of images a
//! second at the same global batch, the global batch of two workers.
//!
//! This file lists the configurations of each system. It does not know how a system is run.

use super::plan::{Comparison, Row};
use super::subject::{Figure, Job, Precision, Quantity, System, Training};
use super::{Options, Section};

/// The number of workers whose batches make a global batch: two, for two cores.
pub(super) const WORKERS: u32 = 2;

/// The systems whose step is compared, each with its name in tables.
pub(super) const OTHERS: [(System, &str); 6] = [
    (System::PyTorch, "DDP"),
    (System::PyTorchTuned, "DDP tuned"),
    (System::Compiled, "torch.compile, 1 process"),
    (System::CompiledDdp, "torch.compile, DDP"),
    (System::Jax, "JAX, 1 device"),
    (System::JaxDevices, "JAX, 2 devices"),
];

const COMPILED: [System; 2] = [System::Compiled, System::CompiledDdp];
const JAX: [System; 2] = [System::Jax, System::JaxDevices];

/// The required ratios to DDP, to the best of torch.compile and to the best of JAX, by batch.
const REQUIRED: [(u32, [f64; 3]); 2] = [(64, [7.0, 1.9, 1.45]), (256, [3.5, 1.3, 1.2])];
const BF16_REQUIRED: f64 = 9.0;
const MORE_WORKERS_REQUIRED: f64 = 0.95;
const ONE_WORKER_REQUIRED: f64 = 0.95;

/// A training on all cores with the global batch of `workers` workers of `batch_size` images each:
/// with that number of workers, or as one process with the whole batch.
pub(super) fn sharing(system: System, cores: u32, batch_size: u32, workers: u32) -> Training {
    match system {
        System::Compiled | System::Jax => {
            Training::sharing(cores, system, Precision::F32, batch_size * workers, 1)
        }
        _ => Training::sharing(cores, system, Precision::F32, batch_size, workers),
    }
}

/// [`sharing`] for two workers.
pub(super) fn pair(system: System, cores: u32, batch_size: u32) -> Training {
    sharing(system, cores, batch_size, WORKERS)
}

pub(super) fn rows(options: &Options, cores: u32) -> Vec<Row> {
    let plan = Peers { options, cores };
    let mut rows = Vec::new();
    for (batch_size, [ddp, compiled, jax]) in REQUIRED {
        let families = [(&[System::PyTorch][..], ddp), (&COMPILED, compiled), (&JAX, jax)];
        rows.extend(
            families.map(|(family, bound)| plan.against(family, batch_size, WORKERS, Some(bound))),
        );
    }
    if !options.quick {
        // For the plot: one process at the global batch of other numbers of workers.
        let alone = |workers| [System::Compiled, System::Jax].map(|system| (system, workers));
        let others = [1, 2 * WORKERS].into_iter().flat_map(alone);
        rows.extend(others.map(|(system, workers)| plan.against(&[system], 64, workers, None)));
    }
    if options.before.is_some() {
        let before = System::Before(options.collective);
        rows.extend([64, 256].map(|batch_size| plan.against(&[before], batch_size, WORKERS, None)));
    }
    rows.push(plan.bf16());
    rows.push(plan.more_workers());
    rows.push(plan.one_worker());
    rows
}

struct Peers<'a> {
    options: &'a Options,
    cores: u32,
}

impl Peers<'_> {
    fn ours(&self, batch_size: u32) -> Training {
        pair(System::Lockstep(self.options.collective), self.cores, batch_size)
    }

    fn row(
        &self,
        ours: Training,
        label: String,
        comparison: Comparison,
        required: Option<f64>,
    ) -> Row {
        Row::rate(Section::Peers, label, ours, comparison, required)
    }

    /// A comparison with the best of a family, or with its only member.
    fn against(
        &self,
        family: &[System],
        batch_size: u32,
        workers: u32,
        required: Option<f64>,
    ) -> Row {
        let figure = |system: &System| {
            let name = OTHERS.iter().find(|(other, _)| other == system);
            let name = name.map_or("before", |(_, name)| *name);
            (rate(sharing(*system, self.cores, batch_size, workers)), name)
        };
        let ours = System::Lockstep(self.options.collective);
        let ours = sharing(ours, self.cores, batch_size, workers);
        let label = ours.label(self.options.collective);
        let comparison = Comparison::BestRate(family.iter().map(figure).collect());
        self.row(ours, label, comparison, required)
    }

    fn bf16(&self) -> Row {
        let ours = Training { precision: Precision::Bf16, ..self.ours(64) };
        let label = ours.label(self.options.collective);
        let stock = rate(pair(System::PyTorch, self.cores, 64));
        self.row(ours, label, Comparison::Rate(stock, "DDP f32"), Some(BF16_REQUIRED))
    }

    /// More workers than cores, each with the same batch.
    fn more_workers(&self) -> Row {
        let two = self.ours(64);
        let ours = Training::sharing(self.cores, two.system, Precision::F32, 64, 2 * WORKERS);
        let label = ours.label(self.options.collective);
        self.row(ours, label, Comparison::Rate(rate(two), "2 workers"), Some(MORE_WORKERS_REQUIRED))
    }

    /// One worker with the threads and the batches of two workers.
    fn one_worker(&self) -> Row {
        let two = self.ours(64);
        let ours = Training::sharing(self.cores, two.system, Precision::F32, 64 * WORKERS, 1);
        let label = ours.label(self.options.collective);
        let label = format!("{label}, {} threads", ours.threads);
        self.row(ours, label, Comparison::Rate(rate(two), "2 workers"), Some(ONE_WORKER_REQUIRED))
    }
}

fn rate(training: Training) -> Figure {
    (Job::Training(training), Quantity::ImagesPerSecond)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::Required;

    #[test]
    fn whoever_is_compared_takes_the_same_global_batch_on_all_cores() {
        let rows = rows(&Options::default(), 2);
        let of_others = |row: &&Row| matches!(row.comparison, Comparison::BestRate(_));
        assert_eq!(rows.iter().filter(of_others).count(), 10);
        for row in rows.iter().filter(of_others) {
            let global = |job: &Job| match job {
                Job::Training(training) => {
                    assert!(training.workers * training.threads >= 2, "{job}");
                    training.batch_size * training.workers
                }
                other => panic!("{other} is no training"),
            };
            let all: Vec<u32> = row.jobs().iter().map(global).collect();
            assert!(all.iter().all(|one| *one == all[0]), "{}: {all:?}", row.label);
        }
    }

    #[test]
    fn the_rows_ask_for_what_was_promised() {
        let rows = rows(&Options { quick: true, ..Options::default() }, 2);
        let found: Vec<(String, usize, f64)> = rows
            .iter()
            .map(|row| match row.required {
                Some(Required::AtLeast(bound)) => (row.label.clone(), row.jobs().len(), bound),
                other => panic!("{other:?} is no lower bound"),
            })
            .collect();
        let expected = [
            ("f32 batch 64, 2 workers", 2, 7.0),
            ("f32 batch 64, 2 workers", 3, 1.9),
            ("f32 batch 64, 2 workers", 3, 1.45),
            ("f32 batch 256, 2 workers", 2, 3.5),
            ("f32 batch 256, 2 workers", 3, 1.3),
            ("f32 batch 256, 2 workers", 3, 1.2),
            ("bf16 batch 64, 2 workers", 2, 9.0),
            ("f32 batch 64, 4 workers", 2, 0.95),
            ("f32 batch 128, 1 worker, 2 threads", 2, 0.95),
        ];
        assert_eq!(found, expected.map(|(label, jobs, bound)| (label.to_owned(), jobs, bound)));
    }
}
