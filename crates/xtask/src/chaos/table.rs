//! The figures that the scenario `chaos` found, as a table.

use std::fmt::Write as _;

use anyhow::Context as _;
use serde_json::Value;

/// Rows: the kind of figure, the field, and what it is.
const ROWS: [(&str, &str, &str); 10] = [
    ("kill", "ms", "kill of a worker to the next generation's first step"),
    ("kill", "detection_ms", "  until the coordinator knew"),
    ("kill", "agreement_ms", "  until the next generation was decided on"),
    ("kill", "transfer_ms", "    of that, the longest state transfer"),
    ("kill", "connection_ms", "  until its first step was done"),
    ("pause", "ms", "pause of the others for one that comes or goes"),
    ("pause", "agreement_ms", "  until the next generation was decided on"),
    ("pause", "transfer_ms", "    of that, the longest state transfer"),
    ("pause", "connection_ms", "  until its first step was done"),
    ("transfer", "ms", "state transfer"),
];

/// A table of the figures in `lines`, each of which is JSON.
pub(super) fn table(lines: &str) -> anyhow::Result<String> {
    let figures: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no figure: {line}")))
        .collect::<Result<_, _>>()?;
    let mut text = format!("{:56}{:>7}{:>12}{:>12}\n", "ms", "number", "median", "p99");
    for (kind, field, name) in ROWS {
        write_row(&mut text, name, values(&figures, kind, |figure| figure[field].as_f64()))?;
    }
    let rates = values(&figures, "transfer", |figure| {
        Some(figure["bytes"].as_f64()? / figure["ms"].as_f64()? / 1e3)
    });
    // The slowest is what is of interest here.
    let slowest = rates.first().copied().unwrap_or(f64::NAN);
    let (number, median) = (rates.len(), quantile(&rates, 0.5));
    writeln!(text, "\n{:56}{:>7}{:>12}{:>12}", "MB/s", "number", "median", "slowest")?;
    writeln!(text, "{:56}{number:>7}{median:>12.1}{slowest:>12.1}", "state transfer")?;
    let sum = |field: &str| -> f64 {
        values(&figures, "outage", |figure| figure[field].as_f64()).iter().sum()
    };
    writeln!(
        text,
        "\n{} outages of the coordinator, {:.1} s in all: {} steps done, {:.0} expected of the pace \
         before",
        values(&figures, "outage", |figure| figure["seconds"].as_f64()).len(),
        sum("seconds"),
        sum("steps"),
        sum("expected"),
    )?;
    Ok(text)
}

fn write_row(text: &mut String, name: &str, values: Vec<f64>) -> std::fmt::Result {
    let (median, late) = (quantile(&values, 0.5), quantile(&values, 0.99));
    writeln!(text, "{name:56}{:>7}{median:>12.1}{late:>12.1}", values.len())
}

/// Of the figures of a kind, in order of size.
fn values(figures: &[Value], kind: &str, value: impl Fn(&Value) -> Option<f64>) -> Vec<f64> {
    let mut values: Vec<f64> =
        figures.iter().filter(|figure| figure["figure"] == kind).filter_map(value).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The least of the `sorted` values that this share of them does not exceed.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| quantile(&values, share)), [50.0, 99.0, 100.0]);
        assert_eq!(quantile(&[7.0], 0.5), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn figures_become_rows() {
        let lines = r#"{"figure":"kill","ms":30.0,"detection_ms":1.0}
{"figure":"kill","ms":10.0}
{"figure":"transfer","bytes":5000000,"ms":5.0}
{"figure":"outage","seconds":2.0,"steps":900,"expected":1000.0}
"#;
        let text = table(lines).unwrap();
        let row = text.lines().find(|line| line.starts_with("kill")).unwrap();
        assert!(row.split_whitespace().rev().take(3).eq(["30.0", "10.0", "2"]), "{row}");
        assert!(text.contains("1000.0") && text.contains("1 outages"), "{text}");
        assert!(text.contains("900 steps done, 1000 expected"), "{text}");
        assert!(table("nonsense").is_err());
    }
}
