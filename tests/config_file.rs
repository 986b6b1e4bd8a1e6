//! Flags from a file: the command line takes precedence, `config print` writes such a file, and an
//! error names the file and the place in it.

use std::fs;

use crate::harness::{Place, Process, coordinator_at, programs, worker_in};

#[test]
fn a_run_takes_its_flags_from_a_file() {
    let place = Place::new();
    let text = "hidden_dim = 16\nlatent-dim = 4\nspawn = true\nworkers = 2\nepochs = 3\n\
                train-images = 640\ntest-images = 64\n";
    fs::write(place.path("run.toml"), text).unwrap();
    coordinator_at(&place, "--config run.toml --epochs 1").wait().succeeded();
    assert_eq!(place.summary()["epochs"], 1);
    assert_eq!(place.summary()["workers"], 2);
    let options = &place.json("config.json")["training"]["task"]["options"];
    assert_eq!((&options["latent_dim"], &options["hidden_dim"]), (&4.into(), &16.into()));
}

#[test]
fn what_is_printed_is_a_file_of_the_same_flags() {
    let place = Place::new();
    let print = |program: &str, flags: &str| {
        let mut command = std::process::Command::new(programs().join(program));
        command.args(["config", "print"]).args(flags.split_whitespace());
        Process::start(program, command.current_dir(place.path(""))).wait().succeeded()
    };
    let printed = print("vae-coordinator", "--hidden-dim 64 --worker-device cpu,auto --spawn");
    let text = printed.text();
    for line in ["hidden-dim = 64", "worker-device = [\"cpu\", \"auto\"]", "spawn = true"] {
        assert!(text.contains(line), "{line}: {printed}");
    }
    assert!(print("vae-worker", "--threads 3").text().contains("threads = 3"));
}

#[test]
fn what_is_wrong_with_a_file_is_told() {
    let place = Place::new();
    for (text, words) in [
        ("hiden-dim = 3", ["run.toml", "hiden-dim", "did you mean hidden-dim"]),
        ("[model]\nhidden-dim = 3", ["run.toml", "no flag for the key", "model"]),
        ("workers = ", ["run.toml", "line 1", "TOML"]),
    ] {
        fs::write(place.path("run.toml"), text).unwrap();
        coordinator_at(&place, "--config run.toml").wait().failed_with(&words);
    }
    let file = place.path("worker.toml");
    fs::write(&file, "thraeds = 3").unwrap();
    let worker = worker_in("", &format!("--config {}", file.display()));
    worker.wait().failed_with(&["worker.toml", "thraeds", "did you mean threads"]);
}
