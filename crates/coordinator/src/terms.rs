//! The means that a task reports, by the names of its metrics.

use config::Metric;
use protocol::wire::MetricValue;

/// Values of a task's metrics; empty if they are not known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Terms(Vec<(Metric, f64)>);

impl Terms {
    /// The values in the order of the metrics; empty if there are more or fewer values than metrics.
    pub(crate) fn new(metrics: &[Metric], values: &[f64]) -> Self {
        if metrics.len() != values.len() {
            return Self::default();
        }
        Self(metrics.iter().cloned().zip(values.iter().copied()).collect())
    }

    /// The loss, which is the first value; none if the values are not known.
    pub(crate) fn loss(&self) -> Option<f64> {
        self.0.first().map(|(_, loss)| *loss)
    }

    /// The loss with its unit for one example, as in `132.36 nats per image`.
    pub(crate) fn describe_loss(&self, example: &str) -> Option<String> {
        let (Metric { unit, .. }, loss) = self.0.first()?;
        Some(format!("{} per {example}", with_unit(*loss, unit)))
    }

    /// The values after the loss with their units, as in `reconstruction 107.21 nats, kl 25.15 nats`; none if
    /// there are none.
    pub(crate) fn describe_others(&self) -> Option<String> {
        let shown = |(Metric { name, unit }, value): &(Metric, f64)| {
            format!("{name} {}", with_unit(*value, unit))
        };
        let others: Vec<String> = self.0.iter().skip(1).map(shown).collect();
        Some(others.join(", ")).filter(|text| !text.is_empty())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Metric, f64)> {
        self.0.iter().map(|(metric, value)| (metric, *value))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A metric's value with two digits behind the point; with more if it is small.
pub(crate) fn figure(value: f64) -> String {
    let size = value.abs();
    if size > 0.0 && size < 1e-3 {
        format!("{value:.1e}")
    } else if size > 0.0 && size < 1.0 {
        format!("{value:.4}")
    } else {
        format!("{value:.2}")
    }
}

/// A metric's value with its unit, if it has one, as in `25.15 nats`.
pub(crate) fn with_unit(value: f64, unit: &str) -> String {
    let separator = if unit.is_empty() { "" } else { " " };
    format!("{}{separator}{unit}", figure(value))
}

impl From<&Terms> for Vec<MetricValue> {
    fn from(terms: &Terms) -> Self {
        let value = |(metric, value): (&Metric, f64)| MetricValue {
            name: metric.name.clone(),
            unit: metric.unit.clone(),
            value,
        };
        terms.iter().map(value).collect()
    }
}
