//! Medians and spreads of a few numbers.

/// The median and the range of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Summary {
    /// None if there are no numbers.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len().is_multiple_of(2) {
            true => f64::midpoint(values[middle - 1], values[middle]),
            false => values[middle],
        };
        Some(Summary { median, low, high })
    }

    /// The largest distance from the median, in percent of the median.
    pub(crate) fn spread_percent(&self) -> f64 {
        let distance = (self.high - self.median).max(self.median - self.low);
        if distance == 0.0 { 0.0 } else { 100.0 * distance / self.median.abs() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_middles() {
        for (values, expected) in [
            (&[3.0][..], 3.0),
            (&[3.0, 1.0, 2.0], 2.0),
            (&[4.0, 1.0, 3.0, 2.0], 2.5),
            (&[5.0, 5.0, 100.0, 1.0, 5.0], 5.0),
        ] {
            assert_eq!(Summary::of(values.iter().copied()).unwrap().median, expected, "{values:?}");
        }
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn the_spread_is_the_farthest_value() {
        let summary = Summary::of([90.0, 100.0, 125.0]).unwrap();
        assert_eq!((summary.low, summary.high), (90.0, 125.0));
        assert_eq!(summary.spread_percent(), 25.0);
        assert_eq!(Summary::of([0.0, 0.0]).unwrap().spread_percent(), 0.0);
    }
}
