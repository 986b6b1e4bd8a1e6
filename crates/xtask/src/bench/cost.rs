//! The fixed time of a step, and the time that each image adds: a line fitted to the times of steps
//! of several sizes, for each system.
//!
//! Does not know how a step is timed: the times are computed from images a second.

use super::nearness::Distance;
use super::peers;
use super::plan::{Comparison, Required, Row};
use super::report;
use super::rounds::Figures;
use super::statistics::Summary;
use super::subject::{Job, Precision, Quantity, System, Training};
use super::table::{Table, number};
use super::{Options, Section};
use serde_json::{Value, json};

/// Images per worker and step. A system in one process takes the batches of two workers.
const BATCHES: [u32; 4] = [16, 64, 256, 512];
/// Two batches that the comparison of rates measures anyway.
const QUICK_BATCHES: [u32; 2] = [64, 256];

/// The names of the fit that all others are compared with, and of the fit of an earlier build.
const OURS: &str = "Lockstep, 2 workers";
const ONE_THREAD: &str = "Lockstep, 1 worker of 1 thread";
const BEFORE: &str = "Lockstep before, 2 workers";

/// The required ratio: the fixed time of the earlier build over the fixed time of this build.
const BEFORE_REQUIRED: Required = Required::AtLeast(2.0);

/// Operations of the products of a step for an image. The default model has 971,200 weights; each is
/// multiplied and added forward, backward and for its gradient, but those of the first layer are not
/// multiplied backward.
const OPERATIONS: f64 = 2.0 * (3.0 * 971_200.0 - 784.0 * 400.0);

/// The required ratio: what one thread does for more images, over the peak of its FMA units.
const PEAK_REQUIRED: Required = Required::AtLeast(0.85);

/// A fit needs at least so many points.
const POINTS_MIN: usize = 2;

const MICROSECONDS: f64 = 1e6;

/// The time of a step is `fixed` + `marginal` * images per worker.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cost {
    fixed_us: f64,
    marginal_us: f64,
    /// The largest distance of a time from the line, in percent of that time.
    misfit_percent: f64,
}

impl Cost {
    /// This fixed time over the fixed time `ours`, if `ours` is above zero.
    fn fixed_over(self, ours: Cost) -> Option<f64> {
        (ours.fixed_us > 0.0).then(|| self.fixed_us / ours.fixed_us)
    }
}

/// The steps of one system, from small to large.
#[derive(Debug)]
struct Series {
    name: String,
    /// Images per worker (with two workers), and the training.
    trainings: Vec<(u32, Training)>,
}

/// A row for each step to time. The report shows the fits instead of these rows.
pub(super) fn rows(options: &Options, cores: u32) -> Vec<Row> {
    let row = |name: &str, training: Training| {
        Row::rate(Section::StepCost, name.to_owned(), training, Comparison::Alone, None)
    };
    let all = series(options, cores);
    let rows = all.iter().flat_map(|series| {
        series.trainings.iter().map(|(_, training)| row(&series.name, *training))
    });
    rows.collect()
}

fn series(options: &Options, cores: u32) -> Vec<Series> {
    let batches = if options.quick { &QUICK_BATCHES[..] } else { &BATCHES };
    let of = |name: &str, training: &dyn Fn(u32) -> Training| Series {
        name: name.to_owned(),
        trainings: batches.iter().map(|batch| (*batch, training(*batch))).collect(),
    };
    let ours = System::Lockstep(options.collective);
    let one =
        |batch| Training { threads: 1, ..Training::sharing(cores, ours, Precision::F32, batch, 1) };
    let mut all = vec![of(OURS, &|batch| peers::pair(ours, cores, batch)), of(ONE_THREAD, &one)];
    if options.before.is_some() {
        let before = System::Before(options.collective);
        all.push(of(BEFORE, &|batch| peers::pair(before, cores, batch)));
    }
    all.extend(
        peers::OTHERS.map(|(system, name)| of(name, &|batch| peers::pair(system, cores, batch))),
    );
    all
}

/// The x value of the fit: the images of a worker, or half of a process's images if one process
/// takes the batches of two workers.
fn images(training: Training) -> u32 {
    match training.system {
        System::Compiled | System::Jax => training.batch_size / peers::WORKERS,
        _ => training.batch_size,
    }
}

/// Least squares of the relative distances, so that a small step has the same weight as a large
/// step. The points are images and microseconds.
fn fit(points: &[(f64, f64)]) -> Option<Cost> {
    let usable = points.iter().filter(|(_, time)| *time > 0.0);
    let (mut w, mut wx, mut wy, mut wxx, mut wxy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (images, time) in usable.clone() {
        let weight = 1.0 / (time * time);
        w += weight;
        wx += weight * images;
        wy += weight * time;
        wxx += weight * images * images;
        wxy += weight * images * time;
    }
    let determinant = w * wxx - wx * wx;
    if usable.clone().count() < POINTS_MIN || determinant <= f64::EPSILON * w * wxx {
        return None;
    }
    let marginal_us = (w * wxy - wx * wy) / determinant;
    let fixed_us = (wy - marginal_us * wx) / w;
    let misfit =
        |(images, time): &(f64, f64)| 100.0 * (fixed_us + marginal_us * images - time).abs() / time;
    let misfit_percent = usable.map(misfit).fold(0.0, f64::max);
    Some(Cost { fixed_us, marginal_us, misfit_percent })
}

/// The fit of the rows of one name, by medians over the rounds.
fn cost_of(rows: &[&Row], figures: &Figures) -> Option<Cost> {
    let points = rows.iter().filter_map(|row| {
        let Job::Training(training) = row.ours.0 else { return None };
        let rate = figures.median((row.ours.0, Quantity::ImagesPerSecond))?;
        let global = f64::from(training.batch_size * training.workers);
        Some((f64::from(images(training)), MICROSECONDS * global / rate))
    });
    fit(&points.collect::<Vec<_>>())
}

/// The rows, grouped by name, in order.
fn groups<'a>(rows: &[&'a Row]) -> Vec<(&'a str, Vec<&'a Row>)> {
    let mut groups: Vec<(&str, Vec<&Row>)> = Vec::new();
    for &row in rows {
        match groups.iter_mut().find(|(name, _)| *name == row.label) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((&row.label, vec![row])),
        }
    }
    groups
}

/// A line for each system. For each of the `distances` one more line, if all steps have rounds at
/// that distance.
pub(super) fn table(rows: &[&Row], figures: &Figures, distances: &[Distance]) -> Table {
    let heads = ["", "fixed us", "us an image", "misfit %", "fixed, of ours", "required", ""];
    let mut table = Table::new(&heads);
    let apart: Vec<(Distance, Figures)> =
        distances.iter().map(|distance| (*distance, figures.only(*distance))).collect();
    let groups = groups(rows);
    let ours = |figures: &Figures| {
        let (_, rows) = groups.iter().find(|(name, _)| *name == OURS)?;
        cost_of(rows, figures)
    };
    for (name, rows) in &groups {
        let cost = cost_of(rows, figures);
        let ratio = cost.and_then(|cost| cost.fixed_over(ours(figures)?));
        let mut line = cells(name, cost, ratio);
        if *name == BEFORE {
            line.resize(5, String::new());
            line.push(report::bound(BEFORE_REQUIRED));
            line.push(report::verdict(Some(BEFORE_REQUIRED), ratio).to_owned());
        }
        table.push(line);
        for (distance, figures) in &apart {
            let complete = rows.iter().all(|row| figures.median(row.ours).is_some());
            if let Some(cost) = cost_of(rows, figures).filter(|_| complete) {
                let ratio = ours(figures).and_then(|ours| cost.fixed_over(ours));
                table.push(cells(&format!("  cores {}", distance.name()), Some(cost), ratio));
            }
        }
    }
    table
}

fn cells(name: &str, cost: Option<Cost>, ratio: Option<f64>) -> Vec<String> {
    let Some(cost) = cost else { return vec![name.to_owned(), "-".to_owned(), "-".to_owned()] };
    let figures = [cost.fixed_us, cost.marginal_us, cost.misfit_percent].map(number);
    let ratio = ratio.map(number).unwrap_or_default();
    std::iter::once(name.to_owned()).chain(figures).chain([ratio]).collect()
}

/// What one thread does for each image more, beside the peak of a core.
pub(super) fn of_the_peak(rows: &[&Row], figures: &Figures) -> Table {
    let heads = ["", "GFLOP/s", "of the peak", "required", ""];
    let mut table = Table::new(&heads);
    let (reached, peak) = rate_and_peak(rows, figures);
    let ratio = reached.zip(peak).map(|(reached, peak)| reached / peak);
    let cell = |value: Option<f64>| value.map_or("-".to_owned(), number);
    table.push(vec!["a core's FMA units".to_owned(), cell(peak)]);
    table.push(vec![
        format!("{ONE_THREAD}, for an image more"),
        cell(reached),
        cell(ratio),
        report::bound(PEAK_REQUIRED),
        report::verdict(Some(PEAK_REQUIRED), ratio).to_owned(),
    ]);
    table
}

/// The rate of one thread by its marginal time, and the peak of its core during the same jobs, in
/// thousand millions of operations a second.
fn rate_and_peak(rows: &[&Row], figures: &Figures) -> (Option<f64>, Option<f64>) {
    let rows: Vec<&Row> = rows.iter().copied().filter(|row| row.label == ONE_THREAD).collect();
    let marginal_us = cost_of(&rows, figures).map(|cost| cost.marginal_us);
    let peaks = rows.iter().flat_map(|row| figures.of((row.ours.0, Quantity::PeakGigaflops)));
    let peak = Summary::of(peaks.flatten()).map(|summary| summary.median);
    (marginal_us.map(|marginal_us| OPERATIONS / marginal_us / 1e3), peak)
}

/// The same fits as JSON.
pub(super) fn json(rows: &[&Row], figures: &Figures) -> Value {
    let one = |(name, rows): (&str, Vec<&Row>)| {
        let cost = cost_of(&rows, figures);
        json!({
            "system": name,
            "fixed_us": cost.map(|cost| cost.fixed_us),
            "marginal_us": cost.map(|cost| cost.marginal_us),
            "misfit_percent": cost.map(|cost| cost.misfit_percent),
            "steps": rows.iter().map(|row| row.ours.0.to_string()).collect::<Vec<_>>(),
        })
    };
    groups(rows).into_iter().map(one).collect()
}

/// The rate of one thread and the peak as JSON.
pub(super) fn peak_json(rows: &[&Row], figures: &Figures) -> Value {
    let (reached, peak) = rate_and_peak(rows, figures);
    json!({ "gigaflops": reached, "peak_gigaflops": peak })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_again() {
        let points = BATCHES.map(|n| (f64::from(n), 744.0 + 26.1 * f64::from(n)));
        let cost = fit(&points).unwrap();
        assert!((cost.fixed_us - 744.0).abs() < 1e-6, "{cost:?}");
        assert!((cost.marginal_us - 26.1).abs() < 1e-9, "{cost:?}");
        assert!(cost.misfit_percent < 1e-6);
    }

    #[test]
    fn distances_count_by_their_share_of_the_time() {
        // Ten percent at one end and ten percent at the other end move the line by the same share.
        let misfit = |place: usize| {
            let mut points = [(16.0, 1_000.0), (64.0, 1_000.0), (256.0, 1_000.0)];
            points[place].1 *= 1.1;
            fit(&points).unwrap().misfit_percent
        };
        assert!(misfit(0) < 5.0 && misfit(2) < 5.0);
    }

    #[test]
    fn too_few_points_have_no_line() {
        assert_eq!(fit(&[]), None);
        assert_eq!(fit(&[(16.0, 900.0)]), None);
        assert_eq!(fit(&[(16.0, 900.0), (16.0, 950.0)]), None);
        assert_eq!(fit(&[(16.0, 900.0), (64.0, 0.0)]), None);
    }

    #[test]
    fn a_process_that_takes_two_batches_is_fitted_by_half_of_its_images() {
        let before = Some("before".into());
        let options = Options { quick: true, before, ..Options::default() };
        let rows = rows(&options, 2);
        let mut figures = Figures::default();
        // Every step takes 500 us, and 10 us for each image of a worker.
        for row in &rows {
            let Job::Training(training) = row.ours.0 else { panic!("no training") };
            let time = 500.0 + 10.0 * f64::from(images(training));
            let global = f64::from(training.batch_size * training.workers);
            figures.restore(row.ours, vec![Some(MICROSECONDS * global / time)]);
        }
        let rows: Vec<&Row> = rows.iter().collect();
        let text = table(&rows, &figures, &[]).render();
        assert_eq!(text.lines().count(), 10, "{text}");
        assert!(text.contains("1.00      >= 2  not met"), "{text}");
        for line in text.lines().skip(1) {
            assert!(line.contains("  500  ") && line.contains("  10.0"), "{text}");
        }
        let json = json(&rows, &figures);
        assert_eq!(json[0]["system"], "Lockstep, 2 workers");
        assert!((json[0]["fixed_us"].as_f64().unwrap() - 500.0).abs() < 1e-6);
    }

    #[test]
    fn one_thread_is_compared_with_the_peak_of_its_core() {
        let rows = rows(&Options::default(), 2);
        let mut figures = Figures::default();
        // Each image adds 50 us.
        for row in rows.iter().filter(|row| row.label == ONE_THREAD) {
            let Job::Training(training) = row.ours.0 else { panic!("no training") };
            let batch = f64::from(training.batch_size);
            let rate = MICROSECONDS * batch / (1_000.0 + 50.0 * batch);
            figures.restore(row.ours, vec![Some(rate)]);
            figures.restore((row.ours.0, Quantity::PeakGigaflops), vec![Some(130.0)]);
        }
        let rows: Vec<&Row> = rows.iter().collect();
        let text = of_the_peak(&rows, &figures).render();
        let cells: Vec<&str> = text.split_whitespace().collect();
        assert!(cells.ends_with(&["104", "0.800", ">=", "0.85", "not", "met"]), "{text}");
        assert!(of_the_peak(&rows, &Figures::default()).render().contains("missing"));
    }

    #[test]
    fn a_system_without_figures_has_a_line_without_numbers() {
        let rows = rows(&Options::default(), 2);
        let rows: Vec<&Row> = rows.iter().collect();
        let text = table(&rows, &Figures::default(), &Distance::BOTH).render();
        assert_eq!(text.lines().filter(|line| line.ends_with('-')).count(), 8, "{text}");
    }
}
