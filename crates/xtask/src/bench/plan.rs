//! The measurements as rows: Lockstep's figure, the other system's figure, and the required ratio.
//! The jobs to run follow from the rows.
//!
//! To measure something else, or to require more, change a row here.

use super::rounds::Figures;
use super::subject::{
    Checkpoints, FLOAT, Figure, Job, LENGTHS, MEMBERS, Precision, Quantity, System, Training,
    Transport,
};
use super::{Collective, Options, Section, cost, peers};

/// How two figures are compared.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Comparison {
    /// More is better: our figure over the other figure.
    Rate(Figure, &'static str),
    /// Our figure over the figure with the largest median, which is known once all are measured.
    BestRate(Vec<(Figure, &'static str)>),
    /// Less is better: the other figure over our figure.
    Cost(Figure, &'static str),
    /// Our figure over twice the other figure.
    TwiceTheRate(Figure, &'static str),
    /// A figure without a comparison.
    Alone,
}

impl Comparison {
    /// The other figure, and its name in the table; the first of several.
    pub(super) fn other(&self) -> Option<(Figure, &'static str)> {
        self.others().first().copied()
    }

    /// All figures that ours may be compared with.
    fn others(&self) -> Vec<(Figure, &'static str)> {
        match self {
            Comparison::Rate(figure, name)
            | Comparison::Cost(figure, name)
            | Comparison::TwiceTheRate(figure, name) => vec![(*figure, name)],
            Comparison::BestRate(others) => others.clone(),
            Comparison::Alone => Vec::new(),
        }
    }

    /// The comparison with the best of several, now that they are measured.
    fn settled(&self, figures: &Figures) -> Comparison {
        let Comparison::BestRate(others) = self else { return self.clone() };
        let median = |(figure, _): &(Figure, &str)| figures.median(*figure).unwrap_or(0.0);
        // The first one if none has been measured.
        let best = others.iter().rev().max_by(|a, b| median(a).total_cmp(&median(b)));
        best.map_or(Comparison::Alone, |(figure, name)| Comparison::Rate(*figure, name))
    }

    /// The ratio of one round; without a comparison, our figure itself.
    pub(super) fn ratio(&self, ours: f64, other: Option<f64>) -> Option<f64> {
        match self {
            Comparison::Rate(..) | Comparison::BestRate(..) => Some(ours / other?),
            Comparison::Cost(..) => Some(other? / ours),
            Comparison::TwiceTheRate(..) => Some(ours / (2.0 * other?)),
            Comparison::Alone => Some(ours),
        }
    }
}

/// The bound on a row's ratio of medians.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Required {
    AtLeast(f64),
    AtMost(f64),
}

impl Required {
    pub(super) fn is_met_by(self, ratio: f64) -> bool {
        match self {
            Required::AtLeast(bound) => ratio >= bound,
            Required::AtMost(bound) => ratio <= bound,
        }
    }
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) section: Section,
    pub(super) label: String,
    pub(super) ours: Figure,
    pub(super) comparison: Comparison,
    pub(super) required: Option<Required>,
}

impl Row {
    /// Images a second of two trainings.
    pub(super) fn rate(
        section: Section,
        label: String,
        ours: Training,
        comparison: Comparison,
        required: Option<f64>,
    ) -> Row {
        let ours = (Job::Training(ours), Quantity::ImagesPerSecond);
        Row { section, label, ours, comparison, required: required.map(Required::AtLeast) }
    }

    /// All jobs that the row needs, Lockstep's first.
    pub(super) fn jobs(&self) -> Vec<Job> {
        let others = self.comparison.others().into_iter().map(|((job, _), _)| job);
        std::iter::once(self.ours.0).chain(others).collect()
    }

    /// The row, compared with the best of its several others.
    pub(super) fn settled(&self, figures: &Figures) -> Row {
        Row { comparison: self.comparison.settled(figures), ..self.clone() }
    }
}

/// All rows of the chosen sections.
pub(super) fn rows(options: &Options, cores: u32) -> Vec<Row> {
    let Options { collective, quick, .. } = *options;
    let plan = Plan { collective, quick, before: options.before.is_some(), cores };
    let wanted = |section| options.only.is_empty() || options.only.contains(&section);
    let sections = [
        (Section::Steps, plan.steps()),
        (Section::Peers, peers::rows(options, cores)),
        (Section::StepCost, cost::rows(options, cores)),
        (Section::AllReduce, plan.all_reduce()),
        (Section::Scaling, plan.scaling()),
        (Section::Memory, plan.memory()),
    ];
    sections
        .into_iter()
        .filter(|(section, _)| wanted(*section))
        .flat_map(|(_, rows)| rows)
        .collect()
}

/// The jobs that the rows need, each once. The jobs of a row run one after the other where
/// possible.
pub(super) fn jobs(rows: &[Row]) -> Vec<Job> {
    let mut jobs = Vec::new();
    for row in rows {
        for job in row.jobs() {
            if !jobs.contains(&job) {
                jobs.push(job);
            }
        }
    }
    jobs
}

/// Numbers of workers that the default model is trained with.
pub(super) fn worker_counts() -> [u32; 3] {
    [1, 2, 4]
}

struct Plan {
    collective: Collective,
    quick: bool,
    /// Whether there is an earlier build to compare with.
    before: bool,
    cores: u32,
}

impl Plan {
    fn training(&self, system: System, precision: Precision, batch: u32, workers: u32) -> Training {
        Training::sharing(self.cores, system, precision, batch, workers)
    }

    /// Images a second: Lockstep (over a collective, in a precision) against another system in f32
    /// or in that system's bf16.
    fn steps(&self) -> Vec<Row> {
        use Precision::{Bf16, F32};
        use System::{Lockstep, PyTorch, PyTorchTuned};
        let ours = Lockstep(self.collective);
        let mut rows = Vec::new();
        let mut add = |ours, precision, batch, workers, other, name, other_precision, required| {
            rows.push(self.steps_row(
                self.training(ours, precision, batch, workers),
                self.training(other, other_precision, batch, workers),
                name,
                required,
            ));
        };
        for (workers, stock, tuned) in [(1, 3.3, 1.7), (2, 5.0, 3.5), (4, 5.0, 3.5)] {
            if self.quick && workers == 4 {
                continue;
            }
            add(ours, F32, 64, workers, PyTorch, "DDP", F32, Some(stock));
            add(ours, F32, 64, workers, PyTorchTuned, "DDP tuned", F32, Some(tuned));
        }
        if self.quick {
            return rows;
        }
        // On one host, the usual collective is shared memory.
        if self.collective != Collective::Grpc {
            add(Lockstep(Collective::Grpc), F32, 64, 2, PyTorch, "DDP", F32, None);
            add(Lockstep(Collective::Grpc), F32, 64, 4, PyTorch, "DDP", F32, None);
        }
        // `peers.rs` has the required ratios of two workers.
        for (workers, required) in [(1, None), (2, None), (4, Some(7.5))] {
            add(ours, Bf16, 64, workers, PyTorch, "DDP f32", F32, required);
            add(ours, Bf16, 64, workers, PyTorch, "DDP bf16", Bf16, None);
        }
        for (workers, required) in [(1, None), (2, None), (4, Some(3.0))] {
            add(ours, F32, 256, workers, PyTorch, "DDP", F32, required);
        }
        add(ours, Bf16, 256, 2, PyTorch, "DDP bf16", Bf16, None);
        rows.push(cost_of_checkpoints());
        rows
    }

    fn steps_row(
        &self,
        ours: Training,
        other: Training,
        name: &'static str,
        required: Option<f64>,
    ) -> Row {
        let other = (Job::Training(other), Quantity::ImagesPerSecond);
        let label = ours.label(self.collective);
        Row::rate(Section::Steps, label, ours, Comparison::Rate(other, name), required)
    }

    /// Both medians of every size: with an untouched tensor, and with a freshly written tensor.
    fn all_reduce(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (length, name) in LENGTHS.into_iter().zip(["4 KB", "3.9 MB", "67 MB"]) {
            for (transport, members) in [
                (Transport::Shm, 2),
                (Transport::Shm, 4),
                (Transport::Grpc, 2),
                (Transport::Grpc, 4),
                (Transport::GrpcTcp, 2),
                (Transport::GrpcTcp, 4),
            ] {
                let required = match (name, transport, members) {
                    ("3.9 MB", Transport::Shm, 2) => Some(15.0),
                    ("3.9 MB", Transport::Shm, 4) => Some(20.0),
                    ("3.9 MB", Transport::Grpc, 2) => Some(3.0),
                    ("3.9 MB", Transport::Grpc, 4) => Some(2.0),
                    ("4 KB", Transport::Shm, 4) => Some(50.0),
                    ("4 KB", Transport::Grpc, 4) => Some(12.0),
                    _ => None,
                };
                for (fresh, how) in [(false, "as it is"), (true, "fresh")] {
                    let time = Quantity::Milliseconds { members, bytes: length * FLOAT, fresh };
                    rows.push(Row {
                        section: Section::AllReduce,
                        label: format!("{name}, N={members}, {transport}, {how}"),
                        ours: (Job::Exchange(transport), time),
                        comparison: Comparison::Cost(
                            (Job::Exchange(Transport::Gloo), time),
                            "gloo",
                        ),
                        required: required.map(Required::AtLeast),
                    });
                }
            }
        }
        rows.extend(MEMBERS.map(cost_of_tls));
        rows
    }

    fn scaling(&self) -> Vec<Row> {
        let one_thread = |system, workers| {
            let training = self.training(system, Precision::F32, 64, workers);
            (Job::Training(Training { threads: 1, ..training }), Quantity::ImagesPerSecond)
        };
        let row = |label: &str, system, required| Row {
            section: Section::Scaling,
            label: label.to_owned(),
            ours: one_thread(system, 2),
            comparison: Comparison::TwiceTheRate(one_thread(system, 1), "1 worker"),
            required,
        };
        vec![
            row(
                "Lockstep, 2 workers of 1 thread",
                System::Lockstep(self.collective),
                Some(Required::AtLeast(0.95)),
            ),
            row("DDP, 2 workers of 1 thread", System::PyTorch, None),
        ]
    }

    fn memory(&self) -> Vec<Row> {
        let all_workers: &[u32] = if self.quick { &[2] } else { &[2, 4] };
        let f32_64 =
            |system, workers| Job::Training(self.training(system, Precision::F32, 64, workers));
        let ours = |workers| f32_64(System::Lockstep(self.collective), workers);
        let mut rows = Vec::new();
        for &workers in all_workers {
            let peak = Quantity::PeakMegabytes;
            rows.push(Row {
                section: Section::Memory,
                label: format!("peak of a worker, MB, {workers} workers"),
                ours: (ours(workers), peak),
                comparison: Comparison::Cost((f32_64(System::PyTorch, workers), peak), "DDP"),
                required: None,
            });
            rows.push(Row {
                section: Section::Memory,
                label: format!("coordinator's share of a core, {workers} workers"),
                ours: (ours(workers), Quantity::CoordinatorShare),
                comparison: Comparison::Alone,
                required: Some(Required::AtMost(0.03)),
            });
        }
        rows.push(self.own_memory());
        let growth = |label: &str, quantity, required| Row {
            section: Section::Memory,
            label: label.to_owned(),
            ours: (Job::LongRun, quantity),
            comparison: Comparison::Alone,
            required,
        };
        rows.push(growth(
            "heap growth of a worker, MB, 11,000 steps",
            Quantity::HeapGrowthMegabytes,
            Some(Required::AtMost(HEAP_GROWTH_MEGABYTES_MAX)),
        ));
        rows.push(growth(
            "resident growth of a worker, MB, 11,000 steps",
            Quantity::ResidentGrowthMegabytes,
            None,
        ));
        rows
    }
}

impl Plan {
    /// A worker's memory without programs and libraries, beside the same of an earlier build.
    fn own_memory(&self) -> Row {
        let figure = |system| {
            let training = self.training(system, Precision::F32, 64, 2);
            (Job::Training(training), Quantity::OwnPeakMegabytes)
        };
        let before = figure(System::Before(self.collective));
        let (comparison, required) = match self.before {
            true => (Comparison::Cost(before, "before"), Some(Required::AtLeast(1.67))),
            false => (Comparison::Alone, None),
        };
        Row {
            section: Section::Memory,
            label: "peak of a worker beside its libraries, MB, 2 workers".to_owned(),
            ours: figure(System::Lockstep(self.collective)),
            comparison,
            required,
        }
    }
}

/// A training with many checkpoints, beside the same with one.
fn cost_of_checkpoints() -> Row {
    let rate = |checkpoints| (Job::Saving(checkpoints), Quantity::ImagesPerSecond);
    Row {
        section: Section::Steps,
        label: "f32 batch 64, 2 workers, a checkpoint every 50 steps".to_owned(),
        ours: rate(Checkpoints::Every50Steps),
        comparison: Comparison::Rate(rate(Checkpoints::AtTheEnd), "one"),
        required: Some(Required::AtLeast(0.97)),
    }
}

/// The all-reduce of the default model's gradient over TLS, beside the same without TLS.
fn cost_of_tls(members: u32) -> Row {
    let bytes = LENGTHS[1] * FLOAT;
    let time = Quantity::Milliseconds { members, bytes, fresh: false };
    let without = (Job::Exchange(Transport::GrpcTcp), time);
    Row {
        section: Section::AllReduce,
        label: format!("3.9 MB, N={members}, {}", Transport::GrpcTls),
        ours: (Job::Exchange(Transport::GrpcTls), time),
        comparison: Comparison::Cost(without, "grpc-tcp"),
        required: None,
    }
}

/// Growth below this counts as none. The early readings and the last are 8,000 steps apart, so a
/// leak of 125 bytes a step would exceed it.
const HEAP_GROWTH_MEGABYTES_MAX: f64 = 1.0;

#[cfg(test)]
mod tests {
    use super::*;

    const TRAINING: Training = Training {
        system: System::Jax,
        precision: Precision::F32,
        batch_size: 128,
        workers: 1,
        threads: 2,
    };

    fn required(rows: &[Row], label: &str, name: &str) -> Option<Required> {
        let found = |row: &&Row| {
            row.label == label && row.comparison.other().map_or("", |(_, name)| name) == name
        };
        rows.iter().find(found).unwrap_or_else(|| panic!("no row {label}")).required
    }

    #[test]
    fn the_rows_ask_for_what_was_promised() {
        let rows = rows(&Options::default(), 2);
        let at_least = |bound| Some(Required::AtLeast(bound));
        for (label, name, expected) in [
            ("f32 batch 64, 1 worker", "DDP", at_least(3.3)),
            ("f32 batch 64, 4 workers", "DDP tuned", at_least(3.5)),
            ("bf16 batch 64, 4 workers", "DDP f32", at_least(7.5)),
            ("f32 batch 256, 4 workers", "DDP", at_least(3.0)),
            ("f32 batch 64, 2 workers, grpc", "DDP", None),
            ("3.9 MB, N=4, shm, fresh", "gloo", at_least(20.0)),
            ("4 KB, N=4, grpc, as it is", "gloo", at_least(12.0)),
            ("Lockstep, 2 workers of 1 thread", "1 worker", at_least(0.95)),
            ("coordinator's share of a core, 2 workers", "", Some(Required::AtMost(0.03))),
        ] {
            assert_eq!(required(&rows, label, name), expected, "{label} against {name}");
        }
    }

    #[test]
    fn every_job_runs_once_a_round_and_sections_can_be_chosen() {
        let all = jobs(&rows(&Options::default(), 2));
        let mut unique = all.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), all.len());
        let scaling = Options { only: vec![Section::Scaling], ..Options::default() };
        assert_eq!(jobs(&rows(&scaling, 2)).len(), 4);
        let quick = Options { quick: true, ..Options::default() };
        assert!(jobs(&rows(&quick, 2)).len() < all.len());
    }

    #[test]
    fn the_best_is_the_one_with_the_largest_median() {
        let figure = |transport| (Job::Exchange(transport), Quantity::Seconds);
        let others = [Transport::Shm, Transport::Grpc, Transport::Gloo].map(figure);
        let names = ["a", "b", "c"];
        let best = Comparison::BestRate(others.into_iter().zip(names).collect());
        let mut figures = Figures::default();
        assert_eq!(best.settled(&figures), Comparison::Rate(others[0], "a"));
        figures.restore(others[0], [1.0, 9.0, 1.0].map(Some).into());
        figures.restore(others[1], [2.0, 3.0, 4.0].map(Some).into());
        assert_eq!(best.settled(&figures), Comparison::Rate(others[1], "b"));
        let row = Row::rate(Section::Peers, String::new(), TRAINING, best, None);
        assert_eq!(row.jobs()[0], Job::Training(TRAINING));
        assert_eq!(row.jobs().len(), 4);
    }

    #[test]
    fn ratios_are_above_one_where_ours_is_better() {
        let figure = (Job::LongRun, Quantity::Steps);
        assert_eq!(Comparison::Rate(figure, "").ratio(6.0, Some(2.0)), Some(3.0));
        assert_eq!(Comparison::Cost(figure, "").ratio(2.0, Some(6.0)), Some(3.0));
        assert_eq!(Comparison::TwiceTheRate(figure, "").ratio(6.0, Some(3.0)), Some(1.0));
        assert_eq!(Comparison::Alone.ratio(0.5, None), Some(0.5));
        assert_eq!(Comparison::Rate(figure, "").ratio(6.0, None), None);
    }
}
