//! Merges two rows about steps into one row with the sums and means of both.

use crate::row::{MetricsRow, RankRow, StepsRow, Values};

/// Merges a row with the next row, if both are about steps of the same generation and epoch.
///
/// # Errors
/// The two rows, unchanged, if they cannot be merged.
pub fn merge(
    one: MetricsRow,
    next: MetricsRow,
) -> Result<MetricsRow, Box<(MetricsRow, MetricsRow)>> {
    match (one, next) {
        (MetricsRow::Steps(one), MetricsRow::Steps(next)) if are_neighbours(&one, &next) => {
            Ok(MetricsRow::Steps(merge_steps(one, next)))
        }
        (one, next) => Err(Box::new((one, next))),
    }
}

pub(crate) fn are_neighbours(one: &StepsRow, next: &StepsRow) -> bool {
    (one.generation, one.epoch) == (next.generation, next.epoch) && one.step < next.step
}

/// Merges two rows; `next` must be of the same generation and epoch, and of later steps.
pub(crate) fn merge_steps(one: StepsRow, next: StepsRow) -> StepsRow {
    let examples = one.examples + next.examples;
    let seconds = sum(one.seconds, next.seconds);
    let rate = seconds.filter(|seconds| *seconds > 0.0).map(|seconds| examples as f64 / seconds);
    let share = |row: &StepsRow| {
        row.examples.max(1) as f64 / (one.examples.max(1) + next.examples.max(1)) as f64
    };
    let (share_one, share_next) = (share(&one), share(&next));
    let mean = |one: Option<f64>, next: Option<f64>| match (one, next) {
        (Some(one), Some(next)) => Some(one * share_one + next * share_next),
        (one, next) => one.or(next),
    };
    let value =
        |(name, value): (&str, Option<f64>)| (name.to_owned(), mean(one.values.get(name), value));
    let loss_range = union(range(&one), range(&next));
    let norm_max = |row: &StepsRow| row.gradient_norm_max.or(row.gradient_norm);
    let members = one.members().max(next.members());
    let mut merged = StepsRow {
        time: next.time,
        generation: next.generation,
        epoch: next.epoch,
        step: next.step,
        steps: one.steps.zip(next.steps).map(|(one, next)| one + next),
        examples,
        seconds,
        examples_per_second: rate.or(next.examples_per_second).or(one.examples_per_second),
        values: next.values.iter().map(value).collect::<Values>(),
        loss_range,
        learning_rate: next.learning_rate.or(one.learning_rate),
        gradient_norm: mean(one.gradient_norm, next.gradient_norm),
        gradient_norm_max: norm_max(&one).into_iter().chain(norm_max(&next)).reduce(f64::max),
        factors: next.factors,
        ranks: Vec::new(),
        rank_count: None,
    };
    merged.set_ranks(merge_ranks(one.ranks, next.ranks));
    merged.rank_count = Some(members).filter(|members| *members > merged.ranks.len() as u64);
    merged
}

fn sum(one: Option<f64>, next: Option<f64>) -> Option<f64> {
    one.zip(next).map(|(one, next)| one + next)
}

fn range(row: &StepsRow) -> Option<(f64, f64)> {
    row.loss_range.or(row.loss().map(|loss| (loss, loss)))
}

fn union(one: Option<(f64, f64)>, next: Option<(f64, f64)>) -> Option<(f64, f64)> {
    one.into_iter().chain(next).reduce(|one, next| (one.0.min(next.0), one.1.max(next.1)))
}

fn merge_ranks(mut ranks: Vec<RankRow>, next: Vec<RankRow>) -> Vec<RankRow> {
    for rank in next {
        match ranks.iter_mut().find(|known| known.rank == rank.rank) {
            Some(known) => {
                known.compute_seconds += rank.compute_seconds;
                known.all_reduce_seconds += rank.all_reduce_seconds;
                known.waiting_seconds += rank.waiting_seconds;
                known.memory_bytes = rank.memory_bytes.or(known.memory_bytes);
            }
            None => ranks.push(rank),
        }
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64, examples: u64, loss: f64) -> StepsRow {
        let rank = |rank| RankRow { rank, compute_seconds: 0.5, ..RankRow::default() };
        StepsRow {
            generation: 2,
            epoch: 1,
            step,
            steps: Some(10),
            examples,
            seconds: Some(1.0),
            values: [("loss", Some(loss)), ("kl", None)].into_iter().collect(),
            gradient_norm: Some(loss / 10.0),
            ranks: vec![rank(0), rank(1)],
            ..StepsRow::default()
        }
    }

    #[test]
    fn two_rows_become_one_and_nothing_is_lost() {
        let (one, next) = (row(10, 100, 200.0), row(20, 300, 100.0));
        let merged = merge(MetricsRow::Steps(one), MetricsRow::Steps(next)).unwrap();
        let MetricsRow::Steps(merged) = merged else { panic!("{merged:?}") };
        assert_eq!((merged.step, merged.steps, merged.begin()), (20, Some(20), 0));
        assert_eq!((merged.examples, merged.seconds), (400, Some(2.0)));
        assert_eq!((merged.loss(), merged.examples_per_second), (Some(125.0), Some(200.0)));
        assert_eq!(merged.loss_range, Some((100.0, 200.0)));
        assert_eq!((merged.gradient_norm, merged.gradient_norm_max), (Some(12.5), Some(20.0)));
        let seconds: Vec<f64> = merged.ranks.iter().map(|rank| rank.compute_seconds).collect();
        assert_eq!(seconds, [1.0, 1.0]);
        // A spike is kept when the row is merged again.
        let again = merge_steps(merged, row(30, 400, 50.0));
        assert_eq!((again.loss_range, again.gradient_norm_max), (Some((50.0, 200.0)), Some(20.0)));
    }

    #[test]
    fn rows_of_two_generations_or_epochs_stay_two() {
        let one = row(10, 100, 1.0);
        let others = [
            StepsRow { generation: 3, ..row(20, 100, 1.0) },
            StepsRow { epoch: 2, ..row(20, 100, 1.0) },
            row(5, 100, 1.0),
        ];
        for other in others {
            let (one, other) = (MetricsRow::Steps(one.clone()), MetricsRow::Steps(other));
            assert_eq!(*merge(one.clone(), other.clone()).unwrap_err(), (one, other));
        }
    }
}
