//! The numbers of a run over its steps, as columns of bounded length, and the data of charts: the least,
//! the mean and the largest value for each of some hundred buckets.
//!
//! When the columns are full, every two neighbouring buckets are merged. No value is left out: a single
//! spike stays visible in the range of its bucket.

use std::collections::BTreeMap;

use serde::Serialize;

/// The most buckets of a run.
pub(crate) const BUCKETS_MAX: usize = 1 << 17;

/// The most columns of a run; a task has up to eight metrics.
const COLUMNS_MAX: usize = 24;

/// The position of a row in the run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Coordinates {
    pub(crate) step: f64,
    /// Epochs done, with a fraction.
    pub(crate) epoch: f64,
    /// Seconds of training.
    pub(crate) seconds: f64,
    /// Unix seconds; NaN if that is not known.
    pub(crate) time: f64,
}

/// The x axis of a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    Step,
    Epoch,
    Seconds,
    Time,
}

impl Axis {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "step" => Some(Self::Step),
            "epoch" => Some(Self::Epoch),
            "seconds" => Some(Self::Seconds),
            "time" => Some(Self::Time),
            _ => None,
        }
    }

    fn of(self, coordinates: &Coordinates) -> f64 {
        match self {
            Self::Step => coordinates.step,
            Self::Epoch => coordinates.epoch,
            Self::Seconds => coordinates.seconds,
            Self::Time => coordinates.time,
        }
    }
}

/// The values of some neighbouring rows; NaN if no value is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) min: f32,
    pub(crate) mean: f32,
    pub(crate) max: f32,
}

impl Spread {
    const UNKNOWN: Self = Self { min: f32::NAN, mean: f32::NAN, max: f32::NAN };

    pub(crate) fn one(value: f64) -> Self {
        let value = value as f32;
        Self { min: value, mean: value, max: value }
    }

    /// Combines two spreads, each with its number of rows.
    fn and(self, rows: u32, other: Self, other_rows: u32) -> Self {
        if self.mean.is_nan() || other.mean.is_nan() {
            return if self.mean.is_nan() { other } else { self };
        }
        let (weight, other_weight) = (f64::from(rows), f64::from(other_rows));
        let sum = f64::from(self.mean) * weight + f64::from(other.mean) * other_weight;
        Self {
            min: self.min.min(other.min),
            mean: (sum / (weight + other_weight)) as f32,
            max: self.max.max(other.max),
        }
    }
}

/// The columns.
#[derive(Debug)]
pub(crate) struct Series {
    /// The coordinates of the last row in each bucket.
    coordinates: Vec<Coordinates>,
    /// Rows in each bucket.
    rows: Vec<u32>,
    columns: BTreeMap<String, Vec<Spread>>,
    rows_per_bucket: u32,
    buckets_max: usize,
}

impl Series {
    pub(crate) fn new(buckets_max: usize) -> Self {
        let (coordinates, rows, columns) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { coordinates, rows, columns, rows_per_bucket: 1, buckets_max }
    }

    /// The coordinates of the last row; the beginning of the run if there is none.
    pub(crate) fn last(&self) -> Coordinates {
        self.coordinates.last().copied().unwrap_or_default()
    }

    /// The last known mean of a column.
    pub(crate) fn newest(&self, column: &str) -> Option<f64> {
        let known = self.columns.get(column)?.iter().rev().find(|spread| !spread.mean.is_nan());
        known.map(|spread| spread.mean.into())
    }

    /// The number of rows that are still valid.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.iter().map(|rows| u64::from(*rows)).sum()
    }

    /// Drops all rows after a step.
    pub(crate) fn rewind(&mut self, step: f64) {
        let kept = self.coordinates.partition_point(|at| at.step <= step);
        self.coordinates.truncate(kept);
        self.rows.truncate(kept);
        self.columns.values_mut().for_each(|column| column.truncate(kept));
    }

    /// Adds a row; its step must be later than all before.
    pub(crate) fn push<'a>(
        &mut self,
        coordinates: Coordinates,
        values: impl IntoIterator<Item = (&'a str, Spread)>,
    ) {
        // The first row keeps its own bucket.
        let joins = self.coordinates.len() > 1
            && self.rows.last().is_some_and(|rows| *rows < self.rows_per_bucket);
        if joins {
            let last = self.coordinates.len() - 1;
            self.coordinates[last] = coordinates;
        } else {
            self.coordinates.push(coordinates);
            self.rows.push(0);
            self.columns.values_mut().for_each(|column| column.push(Spread::UNKNOWN));
        }
        let (buckets, last) = (self.coordinates.len(), self.coordinates.len() - 1);
        for (name, value) in values {
            if !self.columns.contains_key(name) && self.columns.len() < COLUMNS_MAX {
                self.columns.insert(name.to_owned(), vec![Spread::UNKNOWN; buckets]);
            }
            if let Some(column) = self.columns.get_mut(name) {
                column[last] = column[last].and(self.rows[last], value, 1);
            }
        }
        self.rows[last] += 1;
        if buckets > self.buckets_max {
            self.halve();
        }
    }

    /// Merges every two neighbouring buckets, except the first bucket.
    fn halve(&mut self) {
        let pairs = |len: usize| (1..len).step_by(2).map(move |one| (one, one + 1 < len));
        let len = self.coordinates.len();
        for column in self.columns.values_mut() {
            let pair = |(one, has_next): (usize, bool)| match has_next {
                true => column[one].and(self.rows[one], column[one + 1], self.rows[one + 1]),
                false => column[one],
            };
            let halved: Vec<Spread> = pairs(len).map(pair).collect();
            column.truncate(1);
            column.extend(halved);
        }
        let last = |(one, has_next): (usize, bool)| self.coordinates[one + usize::from(has_next)];
        let coordinates: Vec<Coordinates> = pairs(len).map(last).collect();
        let both = |(one, has_next): (usize, bool)| {
            self.rows[one] + if has_next { self.rows[one + 1] } else { 0 }
        };
        let rows: Vec<u32> = pairs(len).map(both).collect();
        self.coordinates.truncate(1);
        self.coordinates.extend(coordinates);
        self.rows.truncate(1);
        self.rows.extend(rows);
        self.rows_per_bucket = self.rows_per_bucket.saturating_mul(2);
    }

    /// A chart of the part of the run between two values of an axis, with at most `buckets_max` buckets.
    /// The first and the last row of that part have their own buckets.
    pub(crate) fn chart(&self, axis: Axis, from: f64, to: f64, buckets_max: usize) -> Chart {
        let begin = self.coordinates.partition_point(|at| axis.of(at) < from);
        let end = self.coordinates.partition_point(|at| axis.of(at) <= to).max(begin);
        // The next bucket on each side is included, so that the lines reach the edges.
        let (begin, end) = (begin.saturating_sub(1), (end + 1).min(self.coordinates.len()));
        let size = (end - begin).div_ceil(buckets_max.max(4) - 2).max(1);
        let mut chart = Chart { rows: self.rows(), ..Chart::default() };
        let mut at = begin;
        while at < end {
            let is_edge = at == begin || at + 1 == end;
            let next = if is_edge { at + 1 } else { (at + size).min(end - 1) };
            self.add_bucket(&mut chart, at, next);
            at = next;
        }
        chart
    }

    fn add_bucket(&self, chart: &mut Chart, begin: usize, end: usize) {
        let coordinates = self.coordinates[end - 1];
        chart.step.push(coordinates.step);
        chart.epoch.push(coordinates.epoch);
        chart.seconds.push(coordinates.seconds);
        chart.time.push(known(coordinates.time));
        for (name, column) in &self.columns {
            let (mut all, mut rows) = (Spread::UNKNOWN, 0);
            for (spread, count) in column[begin..end].iter().zip(&self.rows[begin..end]) {
                all = all.and(rows, *spread, *count);
                rows += count;
            }
            let line = chart.lines.entry(name.clone()).or_default();
            line.min.push(finite(all.min));
            line.mean.push(finite(all.mean));
            line.max.push(finite(all.max));
        }
    }
}

fn known(value: f64) -> Option<f64> {
    Some(value).filter(|value| value.is_finite())
}

fn finite(value: f32) -> Option<f32> {
    Some(value).filter(|value| value.is_finite())
}

/// The data of a chart: each list has an entry for each bucket.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Chart {
    /// Rows of the whole run.
    pub(crate) rows: u64,
    step: Vec<f64>,
    epoch: Vec<f64>,
    seconds: Vec<f64>,
    time: Vec<Option<f64>>,
    lines: BTreeMap<String, Line>,
}

/// A column of a chart.
#[derive(Debug, Default, Serialize)]
struct Line {
    min: Vec<Option<f32>>,
    mean: Vec<Option<f32>>,
    max: Vec<Option<f32>>,
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn coordinates(step: u64) -> Coordinates {
        let step = step as f64;
        Coordinates { step, epoch: step / 100.0, seconds: step / 10.0, time: 1e9 + step }
    }

    fn filled(rows: u64, buckets_max: usize) -> Series {
        let mut series = Series::new(buckets_max);
        for step in 1..=rows {
            let loss = if step == rows / 3 { 1000.0 } else { 100.0 };
            series.push(coordinates(step), [("loss", Spread::one(loss))]);
        }
        series
    }

    fn whole(series: &Series, buckets_max: usize) -> Chart {
        series.chart(Axis::Step, f64::NEG_INFINITY, f64::INFINITY, buckets_max)
    }

    #[test]
    fn a_spike_is_never_lost_and_the_first_and_last_rows_are_kept() {
        for (rows, buckets_max) in [(10, 1 << 17), (5000, 1 << 17), (5000, 700), (5001, 64)] {
            let series = filled(rows, buckets_max);
            assert_eq!(series.rows(), rows);
            assert!(series.coordinates.len() <= buckets_max, "{}", series.coordinates.len());
            let chart = whole(&series, 50);
            assert!(chart.step.len() <= 50, "{}", chart.step.len());
            assert_eq!(chart.step[0], 1.0);
            assert_eq!(chart.step.last(), Some(&(rows as f64)));
            let line = &chart.lines["loss"];
            let spikes = line.max.iter().filter(|max| **max == Some(1000.0)).count();
            assert_eq!(spikes, 1, "{rows} {buckets_max}");
            assert!(line.min.iter().all(|min| *min == Some(100.0) || rows == 10));
        }
    }

    #[test]
    fn the_mean_is_that_of_the_rows() {
        let mut series = Series::new(8);
        let values: Vec<f64> = (1..=100).map(|value| f64::from(value * value)).collect();
        for (step, value) in (1..).zip(&values) {
            series.push(coordinates(step), [("loss", Spread::one(*value))]);
        }
        let mean: f64 = values.iter().sum::<f64>() / 100.0;
        let weighted = series.columns["loss"].iter().zip(&series.rows);
        let sum: f64 = weighted.map(|(all, rows)| f64::from(all.mean) * f64::from(*rows)).sum();
        assert!((sum / 100.0 - mean).abs() < 0.1, "{sum}");
    }

    #[test]
    fn a_part_of_the_run_is_shown_in_its_own_buckets() {
        let series = filled(1000, 1 << 17);
        for (axis, from, to) in
            [(Axis::Step, 500.0, 520.0), (Axis::Epoch, 5.0, 5.2), (Axis::Seconds, 50.0, 52.0)]
        {
            let chart = series.chart(axis, from, to, 600);
            assert_eq!(chart.step, (499..=521).map(f64::from).collect::<Vec<_>>());
        }
        assert!(series.chart(Axis::Time, 0.0, 1.0, 600).step.len() <= 2);
        assert!(Series::new(8).chart(Axis::Step, 0.0, 1.0, 600).step.is_empty());
    }

    #[test]
    fn steps_that_are_trained_again_are_not_shown_twice() {
        let mut series = filled(100, 1 << 17);
        series.rewind(40.0);
        assert_eq!(series.last().step, 40.0);
        series.push(coordinates(41), [("kl", Spread::one(2.0))]);
        let chart = whole(&series, 600);
        assert_eq!(chart.step, (1..=41).map(f64::from).collect::<Vec<_>>());
        assert_eq!(chart.lines["loss"].mean[40], None);
        assert_eq!(chart.lines["kl"].mean[39..], [None, Some(2.0)]);
    }

    #[test]
    fn a_chart_of_millions_of_rows_takes_a_moment() {
        let series = filled(3_000_000, BUCKETS_MAX);
        let begun = Instant::now();
        let chart = whole(&series, 1000);
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(chart.step.len() > 400);
    }
}
