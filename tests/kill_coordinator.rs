//! The coordinator is killed: its workers continue to train, and a restarted coordinator adopts
//! them. A coordinator that was only frozen for a while loses no worker.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process, test_kill_process};

use crate::{
    harness::{
        ENDLESS, Fleet, Place, Process, SMALL, STEPS_PER_EPOCH, assert_same_tensors, coordinator,
        coordinator_at, coordinator_of, descendants, reference, wait_until,
    },
    stop::{resumes_to_the_same_bits, stopped_with_the_same_bits},
};

/// Kills the coordinator of a fleet, waits until `meanwhile` is done, and starts another one.
pub(crate) fn replaced(place: &Place, fleet: Fleet, meanwhile: impl FnOnce(&mut Fleet)) -> Fleet {
    let mut fleet = fleet;
    fleet.coordinator.signal(Signal::KILL);
    meanwhile(&mut fleet);
    let Fleet { task, coordinator, url, workers, network } = fleet;
    let host = coordinator.host().cloned();
    coordinator.wait();
    // It listens at the same address, where the workers look for it.
    let run_dir = place.run_dir.display();
    let flags = format!("--resume --run-dir {run_dir}");
    let coordinator = coordinator_of(task, host.as_ref(), place, &flags);
    coordinator.wait_for_line(&format!("Listening on {url}"));
    Fleet { task, coordinator, url, workers, network }
}

fn checkpoint_after(place: &Place, step: u64) {
    wait_until("the workers go on", || place.newest_step() > step);
}

/// Asserts that the metrics contain every trained epoch, once and in order, with all its images
/// counted.
fn every_epoch_is_recorded_once(place: &Place) {
    let epochs = place.metrics("epoch");
    let numbers: Vec<u64> = epochs.iter().map(|line| line["epoch"].as_u64().unwrap()).collect();
    let trained = place.newest().metadata.step / STEPS_PER_EPOCH;
    assert_eq!(numbers, (1..=trained).collect::<Vec<_>>());
    for line in &epochs {
        assert!(line["loss"].is_f64() && line["test_loss"].is_f64(), "{line}");
        assert!(line["examples_per_second"].as_f64().is_none_or(|rate| rate > 0.0), "{line}");
        assert_eq!(line["examples_counted"], 6000, "{line}");
    }
}

fn every_step_is_recorded_once(place: &Place) {
    let mut images = BTreeMap::<u64, u64>::new();
    for line in place.metrics("steps") {
        *images.entry(line["epoch"].as_u64().unwrap()).or_default() +=
            line["examples"].as_u64().unwrap();
    }
    assert!(images.values().all(|images| *images == 6000), "{images:?}");
    assert_eq!(images.len() as u64, place.newest().metadata.step / STEPS_PER_EPOCH);
}

fn killed(collective: &str) {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --collective {collective}");
    let mut fleet = Fleet::start(&place, 3, &flags);
    fleet.wait_for_progress(&place);
    let step = place.step();
    let away = step + 3 * STEPS_PER_EPOCH;
    let mut fleet = replaced(&place, fleet, |_| checkpoint_after(&place, away));
    fleet.wait_for_event(&place, "adopted", 3);
    fleet.wait_for_progress(&place);
    // The generation continued: it was not aborted, and no other was started.
    assert_eq!(place.events("generation_started").len(), 1);
    assert!(place.events("lost").is_empty());
    stopped_with_the_same_bits(&place, fleet);
    every_epoch_is_recorded_once(&place);
    every_step_is_recorded_once(&place);
}

#[test]
fn its_workers_train_on_and_are_adopted() {
    killed("grpc");
    killed("shm");
}

#[test]
fn a_worker_dies_while_it_is_away() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --dead-after-seconds 2");
    let mut fleet = Fleet::start(&place, 3, &flags);
    fleet.wait_for_progress(&place);
    let mut fleet = replaced(&place, fleet, |fleet| {
        let victim = fleet.workers.remove(0);
        victim.signal(Signal::KILL);
        victim.wait();
    });
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
}

/// The other workers also have the reports of the epochs that were trained meanwhile.
#[test]
fn the_leader_dies_after_some_epochs_while_it_is_away() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --dead-after-seconds 2");
    let mut fleet = Fleet::start(&place, 3, &flags);
    fleet.wait_for_progress(&place);
    let step = place.step();
    let mut fleet = replaced(&place, fleet, |fleet| {
        checkpoint_after(&place, step + 3 * STEPS_PER_EPOCH);
        let leader = fleet.workers.remove(0);
        leader.signal(Signal::KILL);
        leader.wait();
    });
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
    every_epoch_is_recorded_once(&place);
}

/// The coordinator is started again after its workers have completed the run.
#[test]
fn the_run_is_completed_while_it_is_away() {
    /// The run lasts longer than the test takes to kill the coordinator.
    const EPOCHS: u64 = 24;
    let place = Place::new();
    let mut fleet = Fleet::start(&place, 2, &format!("{SMALL} --epochs {EPOCHS}"));
    fleet.wait_for_progress(&place);
    let last = EPOCHS * STEPS_PER_EPOCH;
    let fleet = replaced(&place, fleet, |_| checkpoint_after(&place, last - 1));
    fleet.completed();
    assert_same_tensors(&place.newest(), &reference(EPOCHS));
    every_epoch_is_recorded_once(&place);
    assert!(place.summary()["test_loss"].is_f64(), "{}", place.summary());
    assert_eq!(
        place.summary()["examples_counted"],
        serde_json::Value::from(vec![6000; EPOCHS as usize])
    );
}

/// No worker is left to report the epochs that were trained meanwhile, but the checkpoint has their
/// losses. Their speed is lost.
#[test]
fn everybody_dies_after_it() {
    let place = Place::new();
    let mut fleet = Fleet::start(&place, 2, &format!("{SMALL} {ENDLESS}"));
    fleet.wait_for_progress(&place);
    fleet.coordinator.signal(Signal::KILL);
    let step = place.newest_step().max(place.step());
    checkpoint_after(&place, step + 3 * STEPS_PER_EPOCH);
    fleet.workers.iter().for_each(|worker| worker.signal(Signal::KILL));
    fleet.wait();
    let trained = place.newest_step() / STEPS_PER_EPOCH;
    resumes_to_the_same_bits(&place, 2);
    every_epoch_is_recorded_once(&place);
    let epochs = place.metrics("epoch");
    assert_eq!(epochs.len() as u64, trained + 1);
    let untimed = epochs.iter().filter(|line| line["examples_per_second"].is_null());
    assert!(untimed.count() >= 2, "{epochs:?}");
}

#[test]
fn its_spawned_workers_are_adopted_and_not_doubled() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --workers 2 --spawn");
    let mut coordinator = coordinator_at(&place, &flags);
    coordinator.wait_until("the run makes progress", || place.step() > 0);
    let workers = descendants(coordinator.id());
    assert_eq!(workers.len(), 2);
    coordinator.signal(Signal::KILL);
    coordinator.wait();

    let flags = format!("--resume --spawn --run-dir {}", place.run_dir.display());
    let mut coordinator = crate::harness::coordinator(&place, &flags);
    coordinator.wait_until("they are adopted", || place.events("adopted").len() == 2);
    assert!(descendants(coordinator.id()).is_empty());
    // A worker that dies now is started again.
    kill_process(workers[0], Signal::KILL).unwrap();
    let again = || place.events("generation_started").len() >= 3;
    coordinator.wait_until("another one is there", again);
    assert_eq!(descendants(coordinator.id()).len(), 1);
    coordinator.signal(Signal::INT);
    coordinator.wait().exited_with(130);
    wait_until("the workers are gone", || {
        workers.iter().all(|worker| test_kill_process(*worker).is_err())
    });
    resumes_to_the_same_bits(&place, 2);
}

/// While no coordinator ran, another process of the same name has got the process id of the worker.
#[test]
fn the_number_of_a_spawned_worker_has_gone_to_another_process() {
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --workers 1 --spawn");
    let mut coordinator = coordinator_at(&place, &flags);
    coordinator.wait_until("the run makes progress", || place.step() > 0);
    let workers = descendants(coordinator.id());
    coordinator.signal(Signal::KILL);
    coordinator.wait();
    kill_process(workers[0], Signal::KILL).unwrap();
    wait_until("the worker is gone", || test_kill_process(workers[0]).is_err());

    let program = place.path("vae-worker");
    fs::copy("/bin/sleep", &program).unwrap();
    let another = Process::start("another", Command::new(&program).arg("3600"));
    let path = place.file("journal.jsonl");
    let journal = fs::read_to_string(&path).unwrap();
    let listening = journal.lines().find(|line| line.contains("listening")).unwrap();
    let worker = journal.lines().find(|line| line.contains("spawned")).unwrap();
    let mut worker: serde_json::Value = serde_json::from_str(worker).unwrap();
    worker["spawned"]["process"] = another.id().into();
    let now = worker.to_string();
    worker["spawned"].as_object_mut().unwrap().remove("birth").expect("it was noted");
    let earlier = worker.to_string();
    // The journal entry of this version, and that of earlier versions.
    for worker in [now, earlier] {
        let mut journal = File::options().append(true).open(&path).unwrap();
        write!(journal, "{listening}\n{worker}\n").unwrap();
        let mut coordinator = coordinator_at(&place, "--resume --spawn");
        let step = place.step();
        coordinator.wait_until("a worker of its own trains", || place.step() > step);
        coordinator.signal(Signal::INT);
        coordinator.wait().exited_with(130);
    }
    another.signal(Signal::TERM);
    let exit = another.wait();
    assert_eq!(
        exit.status.signal(),
        Some(Signal::TERM.as_raw()),
        "nobody else has ended it: {exit}"
    );
    resumes_to_the_same_bits(&place, 1);
}

/// The members do not wait for ever: they stop together and save the state.
#[test]
fn it_never_comes_back() {
    let place = Place::new();
    let flags = format!(
        "{SMALL} {ENDLESS} --checkpoint-every-epochs 100000 --coordinator-timeout-seconds 1"
    );
    let mut fleet = Fleet::start(&place, 2, &flags);
    fleet.wait_for_progress(&place);
    let step = place.step();
    fleet.coordinator.signal(Signal::KILL);
    let (_, workers) = fleet.wait();
    let words = ["lost the coordinator", "no coordinator came back", "within 1 s"];
    workers.into_iter().for_each(|worker| drop(worker.failed_with(&words)));
    assert!(place.newest().metadata.step >= step, "no step is lost");
    resumes_to_the_same_bits(&place, 2);
}

/// The coordinator was frozen for longer than `--dead-after-seconds`, but must not evict its workers
/// for this.
#[test]
fn it_stands_still_and_blames_nobody() {
    const DEAD_AFTER: Duration = Duration::from_secs(2);
    let place = Place::new();
    let flags = format!("{SMALL} --epochs 4 --dead-after-seconds {}", DEAD_AFTER.as_secs());
    let mut fleet = Fleet::start(&place, 2, &flags);
    fleet.wait_for_progress(&place);
    let begun = Instant::now();
    fleet.coordinator.signal(Signal::STOP);
    wait_until("the coordinator was frozen for long enough", || {
        begun.elapsed() > DEAD_AFTER * 3 / 2
    });
    fleet.coordinator.signal(Signal::CONT);
    fleet.completed();
    assert_same_tensors(&place.newest(), &reference(4));
}

/// Port 0 is any port: also the one where the workers look, unless another program has it by now.
#[test]
fn one_at_any_port_is_found_again() {
    let place = Place::new();
    let flags = format!("--listen 127.0.0.1:0 --run-dir {}", place.run_dir.display());
    let begun = coordinator(&place, &format!("{flags} {SMALL} {ENDLESS} --workers 1"));
    let mut fleet = Fleet::of(begun, None);
    fleet.add("--threads 1");
    fleet.wait_for_progress(&place);
    fleet.coordinator.signal(Signal::KILL);
    fleet.coordinator.wait();
    fleet.coordinator = coordinator(&place, &format!("{flags} --resume"));
    fleet.wait_for_event(&place, "adopted", 1);
    fleet.coordinator.signal(Signal::KILL);
    fleet.coordinator.wait();

    let _taken = std::net::TcpListener::bind(fleet.url.split("//").last().unwrap()).unwrap();
    let coordinator = coordinator(&place, &format!("{flags} --resume"));
    coordinator.wait_for_line("listening on another port, where they do not find this one");
    coordinator.wait_for_line("Listening on http://127.0.0.1:");
    coordinator.signal(Signal::INT);
    coordinator.wait().exited_with(130);
}
