//! Tasks of users: the same promises for any model and any data set. The tasks are the two examples
//! with their own programs, and the convolutional VAE, whose model is by autograd.

use std::{fs, process::Command};

use rustix::process::Signal;
use serde_json::Value;

use secure::authority::{self, Validity};

use crate::harness::{
    Fleet, Host, Network, Place, Process, Task, assert_same_tensors, coordinator_at, programs,
    worker,
};

pub(crate) const CLASSIFIER: Task = Task::Example("classifier");
const TRANSFORMER: Task = Task::Example("transformer");

/// Flags of a small run of the classifier.
pub(crate) const CLASSIFIER_RUN: &str =
    "--shards 4 --batch-size 8 --train-examples 640 --test-examples 64 --seed 3";
pub(crate) const CLASSIFIER_STEPS_PER_EPOCH: u64 = 20;

/// The tasks, with the flags of a small run of four shards.
const RUNS: [(Task, &str); 3] = [
    (CLASSIFIER, CLASSIFIER_RUN),
    (
        TRANSFORMER,
        concat!(
            "--shards 4 --batch-size 4 --train-examples 160 --test-examples 32 --seed 3 --text ",
            env!("CARGO_MANIFEST_DIR"),
            "/../Cargo.lock"
        ),
    ),
    (
        Task::Vae,
        "--architecture conv --latent-dim 4 --shards 4 --batch-size 4 --train-examples 128 \
         --test-examples 32 --seed 3",
    ),
];

/// Trains with workers that the coordinator starts.
pub(crate) fn train(task: Task, place: &Place, flags: &str) {
    let mut command = task.coordinator(None);
    command.args(["--listen", "127.0.0.1:0", "--spawn", "--run-dir"]).arg(&place.run_dir);
    command.args(flags.split_whitespace()).current_dir(place.path(""));
    Process::start("coordinator", &mut command).wait().succeeded();
}

/// Fetches the classifier's data set, because nothing can be fetched inside a test's network.
pub(crate) fn fetch_clothes() {
    let manifest = images::named::fashion_mnist();
    data::fetch::ensure(&data::default_dir(&manifest.name), &manifest, false, &|_| ()).unwrap();
}

/// The standard output of a program that succeeds.
pub(crate) fn said(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[track_caller]
fn assert_same(ours: &Place, theirs: &Place) {
    assert_eq!(ours.digest(), theirs.digest());
    assert_same_tensors(&ours.newest(), &theirs.newest());
}

fn one_to_four_workers_give_the_same_bits((task, flags): (Task, &str)) {
    let ways = [(1, "shm"), (2, "shm"), (3, "grpc"), (4, "shm"), (4, "grpc"), (2, "grpc")];
    let places = ways.map(|(workers, collective)| {
        let place = Place::new();
        let how = format!("--workers {workers} --collective {collective} --epochs 2");
        train(task, &place, &format!("{flags} {how}"));
        place
    });
    places.iter().for_each(|place| assert_same(place, &places[0]));
    let losses: Vec<f64> =
        places[0].metrics("epoch").iter().map(|line| line["loss"].as_f64().unwrap()).collect();
    assert!(losses[1] < losses[0], "it learns: {losses:?}");
}

/// The leader is killed and replaced, twice; then the run is stopped and resumed.
fn killed_twice_and_resumed((task, flags): (Task, &str), collective: &str) {
    let place = Place::new();
    let how = format!("--collective {collective} --epochs 100000 --dead-after-seconds 2");
    let mut fleet = Fleet::of_task(task, &place, 3, &format!("{flags} {how}"));
    for round in 1..=2 {
        fleet.wait_for_progress(&place);
        let victim = fleet.workers.remove(0);
        victim.signal(Signal::KILL);
        fleet.wait_for_event(&place, "lost", round);
        fleet.add("--rank any --threads 1");
        fleet.wait_for_event(&place, "joined", 3 + round);
    }
    fleet.wait_for_progress(&place);
    stopped_and_resumed(task, flags, &place, fleet);
}

/// Stops a disturbed run, resumes it, and compares it with an undisturbed run.
pub(crate) fn stopped_and_resumed(task: Task, flags: &str, place: &Place, fleet: Fleet) {
    fleet.coordinator.signal(Signal::INT);
    let (coordinator, workers) = fleet.wait();
    coordinator.exited_with(130);
    workers.into_iter().for_each(|worker| drop(worker.succeeded()));
    let epochs = place.newest().metadata.step / steps_per_epoch(place) + 1;
    train(task, place, &format!("--resume --workers 2 --epochs {epochs}"));
    let undisturbed = Place::new();
    let how = format!("--workers 1 --epochs {epochs} --checkpoint-every-epochs {epochs}");
    train(task, &undisturbed, &format!("{flags} {how}"));
    assert_same_tensors(&place.newest(), &undisturbed.newest());
    let counted = &place.summary()["examples_counted"];
    assert_eq!(counted, &undisturbed.summary()["examples_counted"]);
}

fn steps_per_epoch(place: &Place) -> u64 {
    let config = place.json("config.json");
    let number = |name: &str| config["training"][name].as_u64().unwrap();
    number("train_examples").div_ceil(number("shards") * number("batch_size"))
}

#[test]
fn a_classifier_of_one_to_four_workers() {
    one_to_four_workers_give_the_same_bits(RUNS[0]);
}

#[test]
fn a_transformer_of_one_to_four_workers() {
    one_to_four_workers_give_the_same_bits(RUNS[1]);
}

#[test]
fn a_convolutional_vae_of_one_to_four_workers() {
    one_to_four_workers_give_the_same_bits(RUNS[2]);
}

#[test]
fn a_classifier_that_is_killed_twice() {
    killed_twice_and_resumed(RUNS[0], "shm");
    killed_twice_and_resumed(RUNS[0], "grpc");
}

#[test]
fn a_transformer_that_is_killed_twice() {
    killed_twice_and_resumed(RUNS[1], "grpc");
}

#[test]
fn a_convolutional_vae_that_is_killed_twice() {
    killed_twice_and_resumed(RUNS[2], "shm");
}

/// Status, metrics and the console use the task's own names and units.
#[test]
fn what_is_said_of_a_run_is_in_the_words_of_its_task() {
    let place = Place::new();
    let (task, flags) = RUNS[0];
    let mut fleet = Fleet::of_task(task, &place, 1, &format!("{flags} --epochs 100000"));
    fleet.wait_for_progress(&place);
    let mut status = Command::new(programs().join("vae-coordinator"));
    let status = said(status.args(["status", "--json", "--coordinator", &fleet.url]));
    let status: Value = serde_json::from_slice(&status).unwrap();
    assert_eq!((&status["task"], &status["example"]), (&"classifier".into(), &"image".into()));
    let names = |metrics: &Value| -> Vec<String> {
        let metrics = metrics.as_array().unwrap().iter();
        metrics.map(|metric| metric["name"].as_str().unwrap().to_owned()).collect()
    };
    let config = place.json("config.json");
    let expected = names(&config["training"]["task"]["metrics"]);
    assert_eq!(names(&status["metrics"]), expected);
    for name in &expected {
        assert!(place.metrics("steps").iter().all(|line| line[name].is_f64()), "{name}");
    }
    fleet.coordinator.signal(Signal::INT);
    let (coordinator, _) = fleet.wait();
    let text = coordinator.exited_with(130).text();
    assert!(text.contains("640 images, 4 shards x 8"), "{text}");
    assert!(!text.contains("VAE"), "{text}");
    let mut resumed = task.coordinator(None);
    resumed.args(["--resume", "--channels", "8", "--run-dir"]).arg(&place.run_dir);
    let exit = Process::start("coordinator", &mut resumed).wait();
    exit.failed_with(&["channels: 16 in the run, 8 given", "leave them out"]);
}

#[test]
fn a_worker_of_another_task_is_refused() {
    let place = Place::new();
    let (task, flags) = RUNS[1];
    let fleet =
        Fleet::of_task_without_workers(task, &place, &format!("{flags} --workers 1 --epochs 1"));
    let mut other = CLASSIFIER.worker(None);
    let exit = Process::start("worker", other.args(["--coordinator", &fleet.url])).wait();
    exit.failed_with(&["this worker trains the task classifier", "of the task transformer"]);
    worker(&fleet.url, "").wait().failed_with(&["trains the task vae", "of the task transformer"]);
    fleet.coordinator.signal(Signal::INT);
    fleet.wait().0.exited_with(130);
}

/// The coordinator reads a description of the task; it contains neither the task's code nor libtorch.
#[test]
fn a_coordinator_that_does_not_know_the_task() {
    let linked = Command::new("ldd").arg(programs().join("vae-coordinator")).output().unwrap();
    assert!(!String::from_utf8_lossy(&linked.stdout).contains("torch"), "it needs no libtorch");
    let place = Place::new();
    let mut describe = Command::new(CLASSIFIER.program());
    fs::write(place.path("task.json"), said(describe.arg("describe"))).unwrap();
    let (task, flags) = RUNS[0];
    let task_flag = format!("--task {}", place.path("task.json").display());
    let coordinator =
        coordinator_at(&place, &format!("{flags} {task_flag} --workers 2 --epochs 1"));
    let mut fleet = Fleet { task, ..Fleet::of(coordinator, None) };
    fleet.add("--threads 1");
    fleet.add("--threads 1");
    fleet.completed();
    let alone = Place::new();
    train(task, &alone, &format!("{flags} --workers 1 --epochs 1"));
    assert_same(&place, &alone);

    fs::write(place.path("task.json"), "{}").unwrap();
    let exit = coordinator_at(&Place::new(), &task_flag).wait();
    exit.failed_with(&["task.json does not describe a task", "PROGRAM describe"]);
}

/// The worker's code computes another gradient, although its task has the same name and revision.
#[test]
fn a_worker_that_computes_another_gradient_is_refused_before_the_first_step() {
    let place = Place::new();
    let flags = "--shards 2 --batch-size 16 --train-examples 320 --test-examples 32 --hidden-dim 8 \
                 --latent-dim 2 --workers 2 --epochs 1";
    let order = "trainer.probe 1 flip";
    let mut fleet = Fleet::without_workers(&place, flags);
    fleet.add("--rank 0 --threads 1");
    fleet.coordinator.wait_for_line("Rank 0 joined");
    fleet.add_armed("--rank 1 --threads 1", order);
    let other_build = fleet.workers.pop().unwrap().wait();
    other_build.failed_with(&["this worker's program", "--allow-mixed-builds"]);
    fleet.coordinator.signal(Signal::INT);
    drop(fleet.wait());

    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{flags} --allow-mixed-builds"));
    fleet.add("--rank 0 --threads 1");
    // The first worker that shows its gradient decides.
    let journal = place.file("journal.jsonl");
    let has_shown = || fs::read_to_string(&journal).is_ok_and(|text| text.contains("probe"));
    fleet.coordinator.wait_until("the first worker has shown its gradient", has_shown);
    fleet.add_armed("--rank 1 --threads 1", order);
    let other_code = fleet.workers.pop().unwrap().wait();
    other_code.failed_with(&["this worker computes another gradient than the run"]);
    assert!(place.metrics("steps").is_empty(), "before the first step");
    // An armed program that reaches no crash point computes the same gradient.
    fleet.add_armed("--rank 1 --threads 1", "trainer.step 1000000 kill");
    fleet.completed();
}

/// A model of two million parameters by autograd, over TLS between two hosts of two workers. One host
/// is lost, and its workers are started again.
#[test]
fn a_large_classifier_whose_host_is_lost_and_comes_back() {
    const LARGE: &str = "--channels 312 --shards 4 --batch-size 2 --train-examples 160 \
                         --test-examples 64 --seed 3";
    let Some(network) = Network::new() else { return };
    fetch_clothes();
    let place = Place::new();
    let hosts = [(); 3].map(|()| network.host());
    let ca = place.path("ca");
    authority::init(&ca, Validity::days(1)).unwrap();
    let tls = |host: &Host| {
        authority::issue(&ca, &[host.address().to_string()], Validity::days(1)).unwrap()
    };
    let [control, east, west] = &hosts;
    let mut command = control.command(&CLASSIFIER.program());
    command.arg("train").args(["--listen", &format!("{}:0", control.address()), "--run-dir"]);
    command.arg(&place.run_dir).arg("--tls-dir").arg(tls(control));
    let flags = format!("{LARGE} --workers 4 --epochs 100000 --dead-after-seconds 2");
    command.args(flags.split_whitespace()).current_dir(place.path(""));
    let coordinator = Process::start("coordinator", &mut command).on(Some(control.clone()));
    let mut fleet = Fleet::of(coordinator, None);
    let (folders, url) = ([tls(east), tls(west)], fleet.url.clone());
    let start = |host: usize| {
        let mut command = hosts[host + 1].command(&CLASSIFIER.program());
        command.args(["worker", "--threads", "1", "--coordinator", &url]);
        Process::start("worker", command.arg("--tls-dir").arg(&folders[host]))
    };
    fleet.workers = [0, 0, 1, 1].map(start).into();
    fleet.wait_for_progress(&place);
    let lost: Vec<Process> = fleet.workers.drain(2..).collect();
    lost.iter().for_each(|worker| worker.signal(Signal::KILL));
    fleet.wait_for_event(&place, "lost", 2);
    fleet.wait_for_progress(&place);
    fleet.workers.extend([1, 1].map(start));
    fleet.wait_for_event(&place, "joined", 6);
    fleet.wait_for_progress(&place);
    fleet.coordinator.signal(Signal::INT);
    fleet.wait().0.exited_with(130);

    let config = place.json("config.json");
    assert!(config["training"]["task"]["size"]["parameters"].as_u64().unwrap() > 2_000_000);
    let epochs = place.newest().metadata.step / steps_per_epoch(&place) + 1;
    train(
        CLASSIFIER,
        &place,
        &format!("--resume --workers 1 --epochs {epochs} --tls-dir {}", folders[0].display()),
    );
    let undisturbed = Place::new();
    train(
        CLASSIFIER,
        &undisturbed,
        &format!("{LARGE} --workers 1 --epochs {epochs} --checkpoint-every-epochs {epochs}"),
    );
    assert_same_tensors(&place.newest(), &undisturbed.newest());
}
