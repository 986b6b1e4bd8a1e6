//! The metrics of a run, and a check that dashboards and alerts use only existing metrics.

use std::{collections::BTreeSet, fs, path::Path};

use super::*;
use crate::{
    reading::{Metric, Worker},
    run::About,
};

/// The folder of the dashboards and alerts.
const DEPLOYED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/grafana");

const ROWS: &str = r#"{"kind":"steps","step":10,"epoch":1,"generation":1,"examples":640,"examples_per_second":1000.0,"loss":150.0,"learning_rate":0.001,"gradient_norm":3.5,"ranks":[{"rank":0,"compute_seconds":0.5,"all_reduce_seconds":0.1,"waiting_seconds":0.04,"memory_bytes":1000000},{"rank":1,"compute_seconds":0.6,"all_reduce_seconds":0.02,"waiting_seconds":0.02,"memory_bytes":1000000}]}
{"kind":"epoch","step":10,"epoch":1,"generation":1,"loss":150.0,"test_loss":140.0}
"#;

const EVENTS: &str = r#"{"kind":"coordinator_started","generation":0}
{"kind":"joined","rank":0,"host":"one","process":7}
{"kind":"generation_started","generation":1,"ranks":[0,1],"step":0}
{"kind":"lost","rank":1,"reason":"its connection ended (reset)"}
{"kind":"restarting","slot":1,"status":"died"}
{"kind":"given_up","slot":1,"status":"died"}
{"kind":"generation_started","generation":2,"ranks":[0],"step":5,"cause":"rank 1 is gone: reset","agreement_ms":30.0,"transfer_ms":6.0,"connection_ms":11.0,"ms":41.0}
{"kind":"state_transferred","rank":1,"bytes":1000,"ms":5.0}
"#;

fn reading() -> Reading {
    let worker = |rank: Option<u32>, step| Worker {
        rank,
        host: "one".into(),
        state: "computing",
        is_member: rank.is_some(),
        step,
        silent_seconds: 0.5,
        ..Worker::default()
    };
    Reading {
        state: "training".into(),
        step: 7,
        examples_per_second: Some(1000.0),
        reported_seconds_ago: Some(0.5),
        metrics: vec![Metric { name: "lo\"ss\n".into(), unit: "nats".into(), value: 1.5 }],
        workers: vec![worker(Some(0), Some(7)), worker(Some(1), Some(8)), worker(None, None)],
        ..Reading::default()
    }
}

/// The metrics of a run that has had every kind of event.
fn scraped() -> String {
    let folder = tempfile::tempdir().unwrap();
    let config = r#"{"run_id":"r","training":{"task":{"name":"t","metrics":[{"name":"loss","unit":"nats"}]}}}"#;
    fs::write(folder.path().join("config.json"), config).unwrap();
    fs::write(folder.path().join(history::METRICS), ROWS).unwrap();
    fs::write(folder.path().join(history::EVENTS), EVENTS).unwrap();
    fs::create_dir(folder.path().join("checkpoints")).unwrap();
    fs::write(folder.path().join("checkpoints/step-00000010.safetensors"), "").unwrap();
    let mut run = Run::open(folder.path(), About::read(folder.path()).unwrap());
    run.refresh();
    text(Some(&reading()), Some(&mut run))
}

#[test]
fn a_run_is_told_in_openmetrics() {
    let text = scraped();
    for line in [
        "lockstep_run_state{state=\"training\"} 1.0",
        "lockstep_step 7.0",
        "lockstep_training_mean{name=\"lo\\\"ss\\n\",unit=\"nats\"} 1.5",
        "lockstep_test_mean{name=\"loss\",unit=\"nats\"} 140.0",
        "lockstep_workers{role=\"member\",state=\"computing\"} 2.0",
        "lockstep_workers{role=\"other\",state=\"computing\"} 1.0",
        "lockstep_worker_step{rank=\"1\"} 8.0",
        "lockstep_worker_step_min 7.0",
        "lockstep_worker_silence_seconds{rank=\"0\"} 0.5",
        "lockstep_workers_lost_total{reason=\"disconnected\"} 1",
        "lockstep_generations_total{cause=\"loss\"} 1",
        "lockstep_recovery_seconds_bucket{le=\"0.05\",phase=\"agreement\"} 1",
        "lockstep_state_transfer_bytes_total 1000",
        "lockstep_rank_seconds_total{rank=\"1\",phase=\"compute\"} 0.6",
        "lockstep_examples_total 640",
        "lockstep_checkpoint_step 10.0",
        "lockstep_worker_memory_bytes{rank=\"0\"} 1000000.0",
    ] {
        assert!(text.lines().any(|told| told == line), "{line}: {text}");
    }
    assert!(text.ends_with("# EOF\n"));
    assert!(text.contains("lockstep_run_info{run_id=\"r\""), "{text}");
}

#[test]
fn every_line_is_of_a_family_that_was_told_of() {
    let text = scraped();
    let mut families: BTreeSet<String> = BTreeSet::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().unwrap();
            assert!(families.insert(name.to_owned()), "{name} is told of twice");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let is_known =
                ["", "_total", "_bucket", "_sum", "_count", "_info"].iter().any(|ending| {
                    name.strip_suffix(ending).is_some_and(|name| families.contains(name))
                });
            assert!(is_known, "{line}");
            let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            assert!(value.is_finite(), "{line}");
        }
    }
    assert!(families.len() > 35, "{families:?}");
}

#[test]
fn what_is_not_known_is_left_out() {
    let text = text(None, None);
    assert!(text.contains("lockstep_up 0.0") && text.contains("process_cpu_seconds_total"));
    assert!(!text.contains("lockstep_step"), "{text}");
    let little = Reading::default();
    assert!(!super::text(Some(&little), None).contains("examples_per_second"));
}

#[test]
fn of_many_ranks_the_extremes_are_told() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), r#"{"run_id":"r"}"#).unwrap();
    let ranks: Vec<String> = (0..64)
        .map(|rank| format!("{{\"rank\":{rank},\"compute_seconds\":{rank},\"all_reduce_seconds\":0,\"waiting_seconds\":0}}"))
        .collect();
    let row = |ranks: &[String], step: u32| {
        format!(
            "{{\"kind\":\"steps\",\"step\":{step},\"epoch\":1,\"generation\":1,\"examples\":1,\"examples_per_second\":1.0,\"ranks\":[{}]}}\n",
            ranks.join(",")
        )
    };
    let one = "{\"rank\":64,\"compute_seconds\":64,\"all_reduce_seconds\":0,\"waiting_seconds\":0}";
    let rows = row(&ranks, 1) + &row(&[one.to_owned()], 2);
    fs::write(folder.path().join(history::METRICS), rows).unwrap();
    let mut run = Run::open(folder.path(), About::read(folder.path()).unwrap());
    run.refresh();
    let text = text(None, Some(&mut run));
    assert!(!text.contains("rank=\""), "{text}");
    let line = "lockstep_ranks_recent_seconds{of=\"max\",phase=\"compute\"} 64.0";
    assert!(text.contains(line), "{text}");
}

/// The names of metrics in an expression of PromQL.
fn names(expression: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = expression.split(|c: char| !is_of_name(c));
    let is_ours = |word: &&str| word.starts_with("lockstep_") || word.starts_with("process_");
    words.filter(is_ours).map(str::to_owned).collect()
}

#[test]
fn dashboards_and_alerts_ask_for_what_is_told() {
    let text = scraped();
    let told: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    // The scraped run has neither many ranks nor a slow one, so these two metrics are added here.
    let also = ["lockstep_ranks_recent_seconds", "lockstep_slowest_rank"];
    let dashboard = fs::read_to_string(Path::new(DEPLOYED).join("lockstep.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut expressions: Vec<String> =
        targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    let alerts = fs::read_to_string(Path::new(DEPLOYED).join("alerts.yaml")).unwrap();
    let rules = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let before = expressions.len();
    expressions.extend(rules.map(str::to_owned));
    assert!(before >= 10 && expressions.len() - before >= 5, "{expressions:?}");
    for expression in &expressions {
        let asked = names(expression);
        assert!(!asked.is_empty(), "{expression}");
        for name in asked {
            assert!(told.contains(&name[..]) || also.contains(&&name[..]), "{name}: {expression}");
        }
    }
}
