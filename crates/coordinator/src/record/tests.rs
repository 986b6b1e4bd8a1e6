//! Reports are recorded correctly in any order.

use protocol::wire::StepTime;

use super::*;

const STEPS_PER_EPOCH: u64 = 94;

fn record() -> Record {
    Record {
        run_id: "run".into(),
        task: "vae".into(),
        example: "image".into(),
        metrics: metrics(),
        workers: 2,
        shards: 4,
        epochs: 5,
        may_end_early: true,
        has_ended_early: false,
        best: None,
        steps_per_epoch: STEPS_PER_EPOCH,
        begun_at: 0,
        step: 0,
        examples_counted: Vec::new(),
        last: None,
        recorded: Recorded::default(),
        unreported: BTreeMap::new(),
        tested: None,
        examples: 0,
        seconds: 0.0,
    }
}

fn metrics() -> Vec<Metric> {
    let metric = |name: &str| Metric { name: name.into(), unit: "nats".into() };
    ["loss", "reconstruction", "kl"].map(metric).into()
}

fn means(loss: f64) -> Vec<f64> {
    vec![loss, loss - 10.0, 10.0]
}

fn epoch(epoch: u64) -> EpochReport {
    EpochReport {
        epoch,
        step: epoch * STEPS_PER_EPOCH,
        generation: 1,
        train: means(200.0),
        test: means(100.0 + epoch as f64),
        examples_by_epoch: vec![6000; usize::try_from(epoch).unwrap()],
        index_sum: 6000 * 5999 / 2,
        examples: 6000,
        step_time: Some(StepTime { examples: 6000, seconds: 1.5 }),
        validation_loss: Some(90.0 + epoch as f64),
        best_epoch: Some(1),
        best_validation_loss: Some(91.0),
    }
}

fn steps(generation: u64, step: u64) -> Report {
    let (examples, seconds) = (640, 0.25);
    let (epoch, means) = (1, means(150.0));
    Report { generation, step, epoch, examples, seconds, means, ..Report::default() }
}

/// The epochs of rows, with their rates and test losses.
fn told(news: &[EpochNews]) -> Vec<(u64, Option<f64>, Option<f64>)> {
    let told = |EpochNews { row, .. }: &EpochNews| {
        (row.epoch, row.examples_per_second, row.test.get("loss"))
    };
    news.iter().map(told).collect()
}

#[test]
fn the_rate_of_an_epoch_is_known_before_its_steps_are_reported() {
    let mut record = record();
    let rows = record.epoch_report(&epoch(1));
    assert_eq!(told(&rows), [(1, Some(4000.0), Some(101.0))]);
    assert!(rows[0].text.contains("4000 images/s"), "{}", rows[0].text);
}

#[test]
fn what_is_not_known_is_no_number() {
    let mut record = record();
    let untimed = EpochReport { step_time: None, ..epoch(1) };
    let at_once = Some(StepTime { examples: 6000, seconds: 0.0 });
    let in_no_time = EpochReport { step_time: at_once, train: vec![], test: vec![], ..epoch(2) };
    for report in [untimed, in_no_time] {
        let EpochNews { row, text } = record.epoch_report(&report).remove(0);
        assert_eq!(row.examples_per_second, None);
        assert!(!text.contains("images/s"), "{text}");
        assert_eq!(row.train.get("loss").is_none(), report.train.is_empty(), "{row:?}");
        assert_eq!(text.contains("loss"), !report.train.is_empty(), "{text}");
    }
    let (progress, row) =
        record.report(&Report { seconds: 0.0, means: vec![], ..steps(1, 10) }).unwrap();
    assert_eq!((progress.rate, progress.loss), (None, None));
    assert_eq!((row.examples_per_second, row.loss()), (None, None));
    let names: Vec<&str> = row.values.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["loss", "reconstruction", "kl"]);
    let summary = serde_json::to_value(record.summary(Digest([0; 16]), Generation(1))).unwrap();
    assert!(summary["train_examples_per_second"].is_null(), "{summary}");
}

#[test]
fn each_epoch_and_each_step_is_recorded_once() {
    let mut record = record();
    assert_eq!(record.epoch_report(&epoch(1)).len(), 1);
    assert_eq!(record.epoch_report(&epoch(2)).len(), 1);
    // Another member, which sends all reports that it has kept.
    let late = EpochReport { examples_by_epoch: Vec::new(), ..epoch(1) };
    assert!(record.epoch_report(&late).is_empty());
    assert_eq!(record.examples_counted, [6000; 2]);
    assert_eq!(record.tested, Some((2, Terms::new(&metrics(), &means(102.0)))));
    assert!(record.report(&steps(1, 10)).is_some());
    assert!(record.report(&steps(1, 10)).is_none());
    assert!(record.report(&steps(1, 20)).is_some());
    assert_eq!(
        record.summary(Digest([0; 16]), Generation(1)).train_examples_per_second,
        Some(2560.0)
    );
}

#[test]
fn what_cannot_be_is_not_recorded() {
    let mut record = record();
    let beyond = record.steps() + 1;
    assert!(record.report(&steps(1, beyond)).is_none());
    for report in [epoch(0), epoch(6), EpochReport { step: 95, ..epoch(1) }] {
        assert!(record.epoch_report(&report).is_empty(), "{report:?}");
    }
}

/// Epochs that are in the checkpoint and that no worker reports.
#[test]
fn an_epoch_that_nobody_reports_is_recorded_from_the_checkpoint() {
    let ledger = EpochLedger {
        images: 6000,
        index_sum: 6000 * 5999 / 2,
        loss_terms: vec![6000.0 * 120.0, 6000.0 * 100.0, 6000.0 * 20.0],
        test_losses: vec![],
        validation_loss: None,
    };
    let mut unreported: BTreeMap<_, _> = (1..=4).map(|epoch| (epoch, ledger.clone())).collect();
    // The writer of the checkpoint knows the test losses of epoch 4 only.
    unreported.get_mut(&4).unwrap().test_losses = vec![104.0, 94.0, 10.0];
    let mut record = Record { unreported, ..record() };
    assert_eq!(told(&record.unreported_before(2)), [(1, None, None)]);
    // The worker that has reconnected reports only the third epoch.
    let rows = record.epoch_report(&epoch(3));
    assert_eq!(told(&rows), [(2, None, None), (3, Some(4000.0), Some(103.0))]);
    let row = &rows[0].row;
    assert_eq!(row.train.get("loss"), Some(120.0));
    assert_eq!((row.step, row.examples_counted, row.generation), (188, Some(6000), None));
    assert!(rows[0].text.starts_with("Epoch 2/5  loss 120.00"), "{}", rows[0].text);
    assert_eq!(told(&record.unreported_before(u64::MAX)), [(4, None, Some(104.0))]);
    assert!(record.epoch_report(&epoch(4)).is_empty());
}

#[test]
fn a_rate_is_of_the_generation_that_trains() {
    let mut record = record();
    let status = |record: &Record, training| {
        let mut status = StatusReply::default();
        record.describe(&mut status, 12, training);
        status
    };
    let before = status(&record, None);
    assert_eq!((before.metrics.len(), before.reported_step, before.step), (0, None, 12));
    record.report(&steps(3, 10));
    let training = status(&record, Some(3));
    let loss = |status: &StatusReply| status.metrics[0].value;
    assert_eq!((training.examples_per_second, loss(&training)), (Some(2560.0), 150.0));
    assert_eq!((training.reported_step, training.step), (Some(10), 12));
    for other in [None, Some(4)] {
        assert_eq!(status(&record, other).examples_per_second, None);
        assert_eq!(loss(&status(&record, other)), 150.0);
    }
}

#[test]
fn a_run_that_became_no_better_has_fewer_epochs_and_steps() {
    let mut record = record();
    for number in 1..=3 {
        record.epoch_report(&epoch(number));
    }
    for step in [0, 93, 95] {
        assert!(!record.end_early(step), "{step} is no end of an epoch");
    }
    assert!(record.end_early(3 * STEPS_PER_EPOCH));
    assert_eq!(record.steps(), 3 * STEPS_PER_EPOCH);
    let summary = record.summary(Digest([0; 16]), Generation(1));
    let summary = serde_json::to_value(summary).unwrap();
    assert_eq!((&summary["epochs"], &summary["has_ended_early"]), (&3.into(), &true.into()));
    assert_eq!(summary["best_epoch"], 1);
    assert_eq!(summary["best_validation_loss"], 91.0);
    // Without early stopping in its configuration, a run cannot be ended early by a worker.
    record.may_end_early = false;
    assert!(!record.end_early(STEPS_PER_EPOCH));
}
