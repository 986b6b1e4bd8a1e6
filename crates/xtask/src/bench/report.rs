//! The results, as tables for people and as JSON with every figure of every round.

use super::machine::Machine;
use super::nearness::{self, Distance};
use super::plan::{Comparison, Required, Row};
use super::rounds::Figures;
use super::statistics::Summary;
use super::subject::{Job, Quantity};
use super::table::{Table, number};
use super::{Section, cost};
use serde_json::{Value, json};

const ABSENT: &str = "-";

/// All sections that have rows, each as a table. If there were rounds with near cores and rounds
/// with far cores, the rates follow once more for each distance.
pub(super) fn text(rows: &[Row], figures: &Figures) -> String {
    let occurred = nearness::occurred(figures);
    let apart = if occurred == Distance::BOTH { &occurred[..] } else { &[] };
    let mut text = String::new();
    for section in Section::ALL {
        let rows = of_section(rows, section);
        if rows.is_empty() {
            continue;
        }
        text += &format!("\n{}\n\n", title(section));
        text += &match section {
            Section::StepCost => {
                let costs = cost::table(&rows, figures, apart).render();
                format!("{costs}\n{}", cost::of_the_peak(&rows, figures).render())
            }
            _ => table(&rows, figures, figures).render(),
        };
    }
    for distance in apart {
        text += &at_distance(rows, figures, *distance);
    }
    let mut reasons: Vec<String> = rows.iter().flat_map(|row| figures.reasons(row)).collect();
    reasons.sort();
    reasons.dedup();
    if !reasons.is_empty() {
        text += &format!("\nMissing, in some rounds or in all:\n  {}\n", reasons.join("\n  "));
    }
    text
}

/// Images a second in the rounds in which the cores were at this distance during both jobs; rows
/// without such a round are left out.
fn at_distance(rows: &[Row], figures: &Figures, distance: Distance) -> String {
    let only = figures.only(distance);
    let of_rates = |section| matches!(section, Section::Steps | Section::Peers | Section::Scaling);
    let measured = |row: &&Row| only.ratio(row.ours, &row.settled(figures).comparison).is_some();
    let rows: Vec<&Row> = rows.iter().filter(|row| of_rates(row.section)).collect();
    let rows: Vec<&Row> = rows.into_iter().filter(measured).collect();
    if rows.is_empty() {
        return String::new();
    }
    let table = table(&rows, &only, figures);
    format!(
        "\nImages a second, measured while the cores were {}\n\n{}",
        distance.name(),
        table.render()
    )
}

fn of_section(rows: &[Row], section: Section) -> Vec<&Row> {
    rows.iter().filter(|row| row.section == section).collect()
}

fn title(section: Section) -> &'static str {
    match section {
        Section::Steps => "Images a second of whole training processes, over all workers",
        Section::Peers => "Images a second beside the best of others, at the same global batch",
        Section::StepCost => {
            "Time of a step: a fixed part, and a part for each image of one worker of two"
        }
        Section::AllReduce => "Milliseconds of one all-reduce",
        Section::Scaling => "Images a second of two workers, over twice those of one",
        Section::Memory => "Memory, and the coordinator's work",
    }
}

/// The ratio is the ratio of the medians; "from" and "to" are the smallest and the largest ratio of
/// a round. The best of several is chosen by the figures `all`.
fn table(rows: &[&Row], figures: &Figures, all: &Figures) -> Table {
    let heads =
        ["", "median", "±%", "against", "median", "±%", "ratio", "from", "to", "required", ""];
    let mut table = Table::new(&heads);
    for row in rows.iter().map(|row| row.settled(all)) {
        let ours = summary(&figures.of(row.ours));
        let other = row.comparison.other();
        let theirs = other.and_then(|(figure, _)| summary(&figures.of(figure)));
        let ratio = figures.ratio(row.ours, &row.comparison);
        let of_rounds = summary(&figures.ratios(row.ours, &row.comparison));
        let alone = row.comparison == Comparison::Alone;
        let shown = |value: Option<f64>| value.map_or(ABSENT.to_owned(), number);
        let ratio_cell = |value: Option<f64>| if alone { String::new() } else { shown(value) };
        let percent = |summary: Option<Summary>| {
            summary.map_or(String::new(), |s| number(s.spread_percent()))
        };
        table.push(vec![
            row.label.clone(),
            shown(ours.map(|ours| ours.median)),
            percent(ours),
            other.map_or(String::new(), |(_, name)| name.to_owned()),
            if alone { String::new() } else { shown(theirs.map(|theirs| theirs.median)) },
            percent(theirs),
            ratio_cell(ratio),
            ratio_cell(of_rounds.map(|ratios| ratios.low)),
            ratio_cell(of_rounds.map(|ratios| ratios.high)),
            row.required.map_or(String::new(), bound),
            verdict(row.required, ratio).to_owned(),
        ]);
    }
    table
}

fn summary(values: &[Option<f64>]) -> Option<Summary> {
    Summary::of(values.iter().copied().flatten())
}

pub(super) fn bound(required: Required) -> String {
    match required {
        Required::AtLeast(bound) => format!(">= {bound}"),
        Required::AtMost(bound) => format!("<= {bound}"),
    }
}

pub(super) fn verdict(required: Option<Required>, ratio: Option<f64>) -> &'static str {
    match (required, ratio) {
        (None, _) => "",
        (Some(_), None) => "missing",
        (Some(required), Some(ratio)) if required.is_met_by(ratio) => "met",
        (Some(_), Some(_)) => "not met",
    }
}

/// All results, for programs.
pub(super) fn json(rows: &[Row], figures: &Figures, machine: &Machine) -> Value {
    let figure = |((job, quantity), rounds): ((Job, Quantity), Vec<Option<f64>>)| {
        json!({
            "job": job.to_string(),
            "quantity": quantity.to_string(),
            "rounds": rounds,
            "summary": summary_json(&rounds),
        })
    };
    let row = |row: &Row| {
        let reasons = figures.reasons(row);
        let row = row.settled(figures);
        let ratios = figures.ratios(row.ours, &row.comparison);
        let ratio = figures.ratio(row.ours, &row.comparison);
        let other = row.comparison.other();
        json!({
            "section": title(row.section),
            "label": row.label,
            "against": other.map(|(_, name)| name),
            "ours": row.ours.0.to_string(),
            "theirs": other.map(|((job, _), _)| job.to_string()),
            "quantity": row.ours.1.to_string(),
            "ratio_of_medians": ratio,
            "ratio_rounds": ratios,
            "ratio": summary_json(&ratios),
            "required": row.required.map(bound),
            "verdict": verdict(row.required, ratio),
            "missing": reasons,
        })
    };
    let single = rows.iter().filter(|row| row.section != Section::StepCost);
    json!({
        "machine": machine.json(),
        "cores": nearness::describe(figures),
        "rows": single.map(row).collect::<Vec<_>>(),
        "step_costs": cost::json(&of_section(rows, Section::StepCost), figures),
        "one_thread": cost::peak_json(&of_section(rows, Section::StepCost), figures),
        "figures": figures.all().map(figure).collect::<Vec<_>>(),
    })
}

fn summary_json(rounds: &[Option<f64>]) -> Value {
    summary(rounds).map_or(Value::Null, |summary| {
        let Summary { median, low, high } = summary;
        json!({ "median": median, "low": low, "high": high })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rounds;
    use crate::bench::subject::Transport;
    use anyhow::bail;

    const OURS: Job = Job::Exchange(Transport::Shm);
    const THEIRS: Job = Job::Exchange(Transport::Gloo);
    const ABSENT_ONE: Job = Job::Exchange(Transport::Grpc);

    fn row(label: &str, ours: Job, comparison: Comparison, required: Required) -> Row {
        Row {
            section: Section::AllReduce,
            label: label.to_owned(),
            ours: (ours, Quantity::Seconds),
            comparison,
            required: Some(required),
        }
    }

    fn found() -> (Vec<Row>, Figures) {
        let against = Comparison::Cost((THEIRS, Quantity::Seconds), "gloo");
        let rows = vec![
            row("fast", OURS, against.clone(), Required::AtLeast(10.0)),
            row("alone", OURS, Comparison::Alone, Required::AtMost(0.1)),
            row("absent", ABSENT_ONE, against, Required::AtLeast(2.0)),
        ];
        let mut theirs = [8.0, 6.0].into_iter();
        let mut figures = Figures::default();
        let run = rounds::run(&mut figures, &[OURS, THEIRS, ABSENT_ONE], 2, |job| match job {
            OURS => Ok(vec![(Quantity::Seconds, 0.5)]),
            THEIRS => Ok(vec![(Quantity::Seconds, theirs.next().unwrap_or(0.0))]),
            _ => bail!("no flag"),
        });
        run.unwrap();
        (rows, figures)
    }

    #[test]
    fn the_table_has_figures_ratios_and_what_is_required() {
        let (rows, figures) = found();
        let text = text(&rows, &figures);
        let words = |label: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.starts_with(label)).unwrap();
            line.split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(words("fast").join(" "), "fast 0.500 0 gloo 7.00 14.3 14.0 12.0 16.0 >= 10 met");
        assert_eq!(words("alone").join(" "), "alone 0.500 0 <= 0.1 not met");
        assert!(words("absent").join(" ").ends_with(">= 2 missing"));
        assert!(text.contains("all-reduce over grpc: no flag"), "{text}");
    }

    #[test]
    fn rounds_with_near_and_with_far_cores_are_shown_apart() {
        let mut figures = Figures::default();
        let mut put = |job, quantity, values: [f64; 2]| {
            figures.restore((job, quantity), values.map(Some).into());
        };
        for job in [OURS, THEIRS] {
            put(job, Quantity::PingBefore, [50.0, 400.0]);
            put(job, Quantity::PingAfter, [60.0, 410.0]);
        }
        put(OURS, Quantity::ImagesPerSecond, [600.0, 300.0]);
        put(THEIRS, Quantity::ImagesPerSecond, [200.0, 150.0]);
        let others = vec![
            ((ABSENT_ONE, Quantity::ImagesPerSecond), "absent"),
            ((THEIRS, Quantity::ImagesPerSecond), "theirs"),
        ];
        let row = Row {
            section: Section::Peers,
            label: "ours".to_owned(),
            ours: (OURS, Quantity::ImagesPerSecond),
            comparison: Comparison::BestRate(others),
            required: Some(Required::AtLeast(2.5)),
        };
        let text = text(&[row], &figures);
        let lines = text.lines().filter(|line| line.starts_with("ours"));
        let lines: Vec<String> =
            lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let expected = [
            "ours 450 33.3 theirs 175 14.3 2.57 2.00 3.00 >= 2.5 met",
            "ours 600 0 theirs 200 0 3.00 3.00 3.00 >= 2.5 met",
            "ours 300 0 theirs 150 0 2.00 2.00 2.00 >= 2.5 not met",
        ];
        assert_eq!(lines, expected, "{text}");
        assert!(text.contains("while the cores were near"));
        assert!(text.contains("while the cores were far"));
    }

    #[test]
    fn the_json_has_every_round() {
        let (rows, figures) = found();
        let json = json(&rows, &figures, &Machine::here());
        assert_eq!(json["rows"][0]["ratio_rounds"], json!([16.0, 12.0]));
        assert_eq!(json["rows"][0]["ratio"]["median"], 14.0);
        assert_eq!(json["rows"][0]["ratio_of_medians"], 14.0);
        assert_eq!(json["rows"][2]["missing"], json!(["all-reduce over grpc: no flag"]));
        let gloo = json["figures"].as_array().unwrap().iter();
        let gloo = gloo.clone().find(|one| one["job"] == "all-reduce over gloo").unwrap();
        assert_eq!(gloo["rounds"], json!([8.0, 6.0]));
    }
}
