//! The figures that the scenario `chaos` found, as a table.

use std::fmt::Write as _;

use anyhow::Context as _;
use serde_json::Value;

/// Rows: the kind of figure, the field, and the row's name.
const ROWS: [(&str, &str, &str); 10] = [
    ("kill", "ms", "kill of a worker to the next generation's first step"),
    ("kill", "detection_ms", "  until the coordinator knew"),
    ("kill", "agreement_ms", "  until the next generation was decided on"),
    ("kill", "transfer_ms", "    of that, the longest state transfer"),
    ("kill", "connection_ms", "  until its first step was done"),
    ("pause", "ms", "pause of the others for one that joins or leaves"),
    ("pause", "agreement_ms", "  until the next generation was decided on"),
    ("pause", "transfer_ms", "    of that, the longest state transfer"),
    ("pause", "connection_ms", "  until its first step was done"),
    ("transfer", "ms", "state transfer"),
];

/// Tables of the figures in `lines`, each of which is JSON. Runs with cut and slow links have their
/// own table.
pub(super) fn tables(lines: &str) -> anyhow::Result<String> {
    let figures: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no figure: {line}")))
        .collect::<Result<_, _>>()?;
    let (links, one_host): (Vec<Value>, Vec<Value>) =
        figures.into_iter().partition(|figure| figure["links"] == true);
    let mut text = String::new();
    write_table(&mut text, "on one host", &one_host)?;
    write_table(&mut text, "\nbetween hosts whose links are cut and slowed", &links)?;
    Ok(text)
}

fn write_table(text: &mut String, title: &str, figures: &[Value]) -> std::fmt::Result {
    writeln!(
        text,
        "{title}\n{:56}{:>7}{:>12}{:>12}{:>12}{:>9}",
        "ms", "number", "median", "p99", "most", "of seed"
    )?;
    for (kind, field, name) in ROWS {
        write_row(text, name, &values(figures, kind, field))?;
    }
    let outages = values(figures, "outage", "seconds").len();
    if outages == 0 {
        return Ok(());
    }
    let sum = |field: &str| -> f64 {
        values(figures, "outage", field).iter().map(|(value, _)| value).sum()
    };
    writeln!(
        text,
        "{outages} outages of the coordinator, {:.1} s in all: {} steps done, {:.0} expected of the \
         pace before",
        sum("seconds"),
        sum("steps"),
        sum("expected"),
    )
}

fn write_row(text: &mut String, name: &str, values: &[(f64, u64)]) -> std::fmt::Result {
    let [Some((median, _)), Some((late, _)), Some((most, seed))] =
        [0.5, 0.99, 1.0].map(|share| quantile(values, share))
    else {
        return Ok(());
    };
    writeln!(text, "{name:56}{:>7}{median:>12.1}{late:>12.1}{most:>12.1}{seed:>9}", values.len())
}

/// A field of all figures of a kind, each with its seed, in order of size.
fn values(figures: &[Value], kind: &str, field: &str) -> Vec<(f64, u64)> {
    let value = |figure: &Value| Some((figure[field].as_f64()?, figure["seed"].as_u64()?));
    let mut values: Vec<_> =
        figures.iter().filter(|figure| figure["figure"] == kind).filter_map(value).collect();
    values.sort_by(|one, other| one.0.total_cmp(&other.0));
    values
}

/// The smallest of the `sorted` values that is at least as large as this share of them; none if
/// there are no values.
fn quantile(sorted: &[(f64, u64)], share: f64) -> Option<(f64, u64)> {
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<(f64, u64)> = (1..=100).map(|i| (i as f64, i)).collect();
        let at = |share| quantile(&values, share).unwrap().0;
        assert_eq!([0.5, 0.99, 1.0].map(at), [50.0, 99.0, 100.0]);
        assert_eq!(quantile(&[(7.0, 3)], 0.5), Some((7.0, 3)));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn figures_become_rows() {
        let lines = r#"{"figure":"kill","seed":4,"ms":30.0,"detection_ms":1.0}
{"figure":"kill","seed":1,"ms":10.0,"links":false}
{"figure":"kill","seed":2,"ms":70.0,"links":true}
{"figure":"outage","seed":1,"seconds":2.0,"steps":900,"expected":1000.0}
"#;
        let text = tables(lines).unwrap();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("kill")).collect();
        let end = |row: &str| row.split_whitespace().rev().take(5).collect::<Vec<_>>().join(" ");
        assert_eq!(end(rows[0]), "4 30.0 30.0 10.0 2");
        assert_eq!(end(rows[1]), "2 70.0 70.0 70.0 1");
        assert!(text.contains("1 outages of the coordinator, 2.0 s in all"), "{text}");
        assert!(text.contains("900 steps done, 1000 expected"), "{text}");
        assert!(!text.contains("pause") && !text.contains("NaN"), "{text}");
        assert!(tables("nonsense").is_err());
    }
}
