//! Tables, comparisons and curves of runs, event files read by TensorBoard's own reader, and a
//! command that is run for every event.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::harness::{ENDLESS, Place, Process, SMALL, coordinator, coordinator_at, leave_out};

/// This variable is set if tests with TensorBoard must not be left out.
const REQUIRED: &str = "LOCKSTEP_TENSORBOARD_REQUIRED";

/// Steps of an epoch of a run with the flags [`SMALL`].
const EPOCH: u64 = 94;

/// Runs `runs` with these arguments.
fn runs(place: &Place, arguments: &str) -> Process {
    coordinator(place, &format!("runs {arguments}"))
}

fn train(place: &Place, name: &str, flags: &str) {
    let flags = format!("--listen 127.0.0.1:0 --run-dir runs/{name} {SMALL} --spawn {flags}");
    coordinator(place, &flags).wait().succeeded();
}

#[test]
fn runs_are_listed_and_compared() {
    let place = Place::new();
    train(&place, "one", "--workers 1 --epochs 1 --name narrow --note first");
    train(&place, "two", "--workers 2 --epochs 1");
    train(&place, "three", "--workers 1 --epochs 1 --beta 2");
    let table = runs(&place, "").wait().succeeded();
    assert!(table.text().contains("TEST LOSS") && table.text().contains("narrow"), "{table}");
    assert_eq!(table.lines().filter(|line| line.contains("complete  1/1")).count(), 3, "{table}");
    let json = runs(&place, "runs --json").wait().succeeded();
    let json: Value = serde_json::from_str(&json.text()).unwrap();
    assert_eq!((&json[0]["name"], &json[0]["note"]), (&"narrow".into(), &"first".into()));

    let compared = runs(&place, "compare narrow two runs/three").wait().succeeded();
    let text = compared.text();
    assert!(text.contains("same bits: narrow, two") && text.contains("beta"), "{compared}");
    assert!(!text.contains("batch-size"), "{compared}");

    runs(&place, "plot narrow three --output a.png --output a.svg").wait().succeeded();
    assert!(fs::read(place.path("a.png")).unwrap().starts_with(b"\x89PNG"));
    assert!(fs::read_to_string(place.path("a.svg")).unwrap().contains(">three</text>"));
    let csv = runs(&place, "export narrow --csv -").wait().succeeded();
    let row = csv.lines().find(|line| line.starts_with("steps,")).unwrap().to_owned();
    assert_eq!(row.split(',').nth(8), Some("0.001"), "the learning rate: {row}");
    assert!(row.split(',').nth(9).unwrap().parse::<f64>().unwrap() > 0.0, "the norm: {row}");

    let refused = [
        ("compare narrow nothing", "nothing holds no run"),
        ("none", "name the folder that the runs are in"),
        ("plot narrow --output a.jpg", "must end in .png or .svg"),
        ("export narrow", "--csv"),
    ];
    for (arguments, word) in refused {
        let exit = runs(&place, arguments).wait();
        assert!(!exit.status.success() && exit.text().contains(word), "{exit}");
    }
}

/// The steps that TensorBoard's own reader finds in a folder; none if TensorBoard is not installed.
fn read_by_tensorboard(folder: &Path) -> Option<Value> {
    let site = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tensorboard/site");
    if !site.exists() {
        let reason = format!("{} is not there: `cargo xtask test` fetches it", site.display());
        leave_out(REQUIRED, "event files in TensorBoard's reader", &reason);
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("read_events.py");
    let mut python = Command::new("python3");
    python.arg("-s").arg(script).arg(folder);
    python.env("PYTHONPATH", site).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = python.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn steps(read: &Value, tag: &str) -> Vec<u64> {
    let steps = read["scalars"][tag].as_array().unwrap_or_else(|| panic!("{tag}: {read}"));
    steps.iter().map(|step| step.as_u64().unwrap()).collect()
}

fn assert_no_step_comes_twice(read: &Value) {
    let steps = steps(read, "train/loss");
    assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "{steps:?}");
}

#[test]
fn tensorboard_reads_a_run_that_was_resumed() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --workers 1 --spawn --tensorboard --keep-checkpoints 1");
    let mut killed = coordinator_at(&place, &flags);
    killed.wait_until("steps beyond a checkpoint", || {
        let newest = place.newest_step();
        newest > 0 && place.step() > newest + EPOCH / 2
    });
    // This also kills its worker.
    drop(killed);
    let begun_at = place.newest_step();
    let redone = place.step();
    let epochs = redone / EPOCH + 1;
    let flags = format!("--resume --epochs {epochs} --spawn --tensorboard");
    coordinator_at(&place, &flags).wait().succeeded();
    let folder = place.file("tensorboard");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "a file for each coordinator");
    let exported = place.path("exported");
    let export = format!("export {} --tensorboard exported", place.run_dir.display());
    runs(&place, &export).wait().succeeded();
    for folder in [folder, exported] {
        let Some(read) = read_by_tensorboard(&folder) else { return };
        assert_no_step_comes_twice(&read);
        assert_eq!(steps(&read, "train/loss").last(), Some(&(epochs * EPOCH)));
        let tests = steps(&read, "test/loss");
        assert_eq!(tests.len() as u64, epochs, "each epoch once: {tests:?}, from {begun_at}");
        for tag in ["schedule/learning_rate", "schedule/kl_weight", "train/gradient_norm"] {
            assert!(!steps(&read, tag).is_empty());
        }
        assert!(!read["images"]["samples"].as_array().unwrap().is_empty(), "{read}");
        assert_eq!(read["hparams"]["batch-size"], 16.0, "{read}");
        assert_eq!(read["hparams"]["likelihood"], "bernoulli", "{read}");
    }
}

#[test]
fn a_command_hears_of_every_event_and_a_bad_one_hinders_nothing() {
    let place = Place::new();
    let flags = format!("{SMALL} --workers 1 --spawn --epochs 1 --name run-one --notify cat>>told");
    coordinator_at(&place, &flags).wait().succeeded();
    let told = fs::read_to_string(place.path("told")).unwrap();
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = told.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[kinds.len() - 1]), ("coordinator_started", "ended"));
    assert!(kinds.contains(&"joined") && kinds.contains(&"generation_started"), "{kinds:?}");
    let last = &told[told.len() - 1];
    assert_eq!(last["run_id"], place.summary()["run_id"]);
    assert_eq!(last["name"], "run-one");
    assert!(last["text"].as_str().unwrap().starts_with("the run ended: "), "{last}");

    let place = Place::new();
    let flags = format!("{SMALL} --workers 1 --spawn --epochs 1 --notify false");
    let exit = coordinator_at(&place, &flags).wait().succeeded();
    assert!(exit.text().contains("--notify: the command failed with"), "{exit}");
}

#[test]
fn a_name_is_a_short_line() {
    let place = Place::new();
    let long = "x".repeat(65);
    for flags in [format!("--name {long}"), "--note=".to_owned()] {
        let exit = coordinator(&place, &flags).wait();
        let is_refused = !exit.status.success() && exit.text().contains("choose a line of 1 to");
        assert!(is_refused, "{exit}");
    }
    assert!(!place.path("runs").exists());
}
