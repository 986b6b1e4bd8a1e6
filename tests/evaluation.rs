//! `vae evaluate` and training give the same test loss for a checkpoint, to the last digit, for any
//! number of workers.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Place, SMALL, coordinator_at, programs, wait_until};

/// The results of `vae evaluate` on the run.
fn evaluate(place: &Place) -> Value {
    let mut command = Command::new(programs().join("vae"));
    command.args(["evaluate", "--json", "--no-features", "--importance-samples", "0"]);
    command.arg("--checkpoint").arg(&place.run_dir).current_dir(place.path(""));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the evaluation ends", || child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn training_and_evaluation_agree() {
    for (workers, flags) in [(2, ""), (1, "--binarize dynamic --beta 2 --importance-samples 2")] {
        let place = Place::new();
        let flags = format!("{SMALL} --workers {workers} --spawn --epochs 2 {flags}");
        let exit = coordinator_at(&place, &flags).wait().succeeded();
        let (summary, found) = (place.summary(), evaluate(&place));
        assert_eq!(found["loss"], summary["test_loss"], "{flags}");
        assert_eq!(found["kl"], summary["test_kl"], "{flags}");
        assert_eq!(found["reconstruction"], summary["test_reconstruction"], "{flags}");
        let printed = format!("test loss {:.2}", found["loss"].as_f64().unwrap());
        assert!(exit.lines().any(|line| line.contains(&printed)), "{printed}: {exit}");
    }
}
