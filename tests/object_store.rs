//! Checkpoints in an object store: a run can be resumed from the store alone, and a store that is
//! slow, unreachable or damaged costs no step.

use std::fs;

use rustix::process::{Signal, kill_process};

use crate::harness::{
    ENDLESS, Fleet, Objects, Place, Process, SMALL, STEPS_PER_EPOCH, assert_same_tensors,
    coordinator_at, coordinator_in, descendants, reference, wait_until,
};

/// Starts a coordinator with the server's environment variables.
fn coordinate(objects: &Objects, place: &Place, flags: &str) -> Process {
    let (url, run_dir) = (objects.url(), place.run_dir.display());
    let flags = format!("--listen 127.0.0.1:0 --run-dir {run_dir} --checkpoint-url {url} {flags}");
    coordinator_in(&objects.environment(), place, &flags)
}

/// The steps of the stored checkpoints, the fewest first.
fn steps(objects: &Objects) -> Vec<u64> {
    let names = objects.checkpoints();
    let name = |path: &String| checkpoint::step_of(path.rsplit('/').next().unwrap()).unwrap();
    names.iter().map(name).collect()
}

fn wait_for_stored(coordinator: &mut Process, objects: &Objects, epochs: u64) {
    let enough = |steps: &[u64]| steps.last().is_some_and(|s| *s >= epochs * STEPS_PER_EPOCH);
    coordinator.wait_until("checkpoints are stored", || enough(&steps(objects)));
}

/// Asserts that the newest checkpoints on the disk and in the store have the bits of so many
/// undisturbed epochs, and that the store has no superfluous objects.
#[track_caller]
fn has_stored(objects: &Objects, place: &Place, epochs: u64) {
    assert_same_tensors(&place.newest(), &reference(epochs));
    let stored = objects.checkpoints();
    let newest = objects.save(stored.last().unwrap(), place.path("newest"));
    assert_same_tensors(&checkpoint::read(&newest).unwrap(), &reference(epochs));
    assert!(stored.len() <= 3, "{stored:?}");
    assert_eq!(objects.names().len(), stored.len() + 1, "nothing else but config.json");
}

#[test]
fn everything_is_killed_and_the_disk_is_lost() {
    let Some(objects) = Objects::start() else { return };
    let lost = Place::new();
    let mut coordinator =
        coordinate(&objects, &lost, &format!("{SMALL} {ENDLESS} --workers 2 --spawn"));
    wait_for_stored(&mut coordinator, &objects, 4);
    let workers = descendants(coordinator.id());
    coordinator.signal(Signal::KILL);
    workers.into_iter().for_each(|id| kill_process(id, Signal::KILL).unwrap());
    coordinator.wait();
    // Dying processes may still create a file.
    wait_until("the disk is lost", || fs::remove_dir_all(&lost.run_dir).is_ok());

    let place = Place::new();
    let newest = *steps(&objects).last().unwrap();
    // The store may complete a checkpoint that it was receiving, hence two epochs more.
    let epochs = newest / STEPS_PER_EPOCH + 2;
    let flags = format!("--resume --epochs {epochs} --workers 3 --spawn");
    let exit = coordinate(&objects, &place, &flags).wait().succeeded();
    let goes_on = |step: u64| exit.text().contains(&format!("Going on after step {step}, "));
    assert!(goes_on(newest) || goes_on(newest + STEPS_PER_EPOCH), "{exit}");
    has_stored(&objects, &place, epochs);
    let counted = place.summary()["examples_counted"].clone();
    assert_eq!(counted, serde_json::Value::from(vec![6000; epochs as usize]));
}

#[test]
fn a_damaged_checkpoint_in_the_store_is_named_and_the_one_before_it_is_used() {
    let Some(objects) = Objects::start() else { return };
    let lost = Place::new();
    let flags = format!("{SMALL} --epochs 3 --workers 1 --spawn");
    coordinate(&objects, &lost, &flags).wait().succeeded();
    has_stored(&objects, &lost, 3);
    let newest = objects.checkpoints().pop().unwrap();
    let mut bytes = objects.read(&newest);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    objects.write(&newest, &bytes);

    let place = Place::new();
    let flags = "--resume --epochs 4 --workers 2 --spawn";
    let exit = coordinate(&objects, &place, flags).wait().succeeded();
    let named = format!("{}/step-", objects.url());
    assert!(exit.lines().any(|line| line.contains("WARN") && line.contains(&named)), "{exit}");
    let begun = format!("Going on after step {}, ", 2 * STEPS_PER_EPOCH);
    assert!(exit.text().contains(&begun), "{exit}");
    has_stored(&objects, &place, 4);

    // Without a valid checkpoint the run cannot be resumed.
    for name in objects.checkpoints() {
        objects.write(&name, b"not a checkpoint");
    }
    let words = ["nothing to resume", "all 3 checkpoints are damaged", &objects.url()];
    coordinate(&objects, &Place::new(), flags).wait().failed_with(&words);
}

/// The workers and their disks are lost; the coordinator stays.
#[test]
fn workers_on_new_machines_begin_at_what_is_stored() {
    let Some(objects) = Objects::start() else { return };
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --workers 1 --spawn");
    let mut coordinator = coordinate(&objects, &place, &flags);
    wait_for_stored(&mut coordinator, &objects, 2);
    let workers = descendants(coordinator.id());
    // The worker is frozen first: otherwise it would write another checkpoint.
    workers.iter().for_each(|id| kill_process(*id, Signal::STOP).unwrap());
    fs::remove_dir_all(place.file("checkpoints")).unwrap();
    let newest = *steps(&objects).last().unwrap();
    workers.into_iter().for_each(|id| kill_process(id, Signal::KILL).unwrap());
    let line = coordinator.wait_for_line(" from s3://");
    let path = line.split(" from s3://").next().unwrap();
    let stored = checkpoint::step_of(path.rsplit('/').next().unwrap()).expect(&line);
    // The store may complete what it was receiving.
    assert!(stored >= newest, "{stored} {newest}");
    coordinator.wait_until("the run goes on", || place.newest_step() > stored);
    coordinator.signal(Signal::INT);
    coordinator.wait().exited_with(130);
    let epochs = steps(&objects).last().unwrap() / STEPS_PER_EPOCH + 1;
    let flags = format!("--resume --epochs {epochs} --spawn");
    coordinate(&objects, &place, &flags).wait().succeeded();
    has_stored(&objects, &place, epochs);
}

#[test]
fn a_server_that_dies_costs_no_step() {
    let Some(objects) = Objects::start() else { return };
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --workers 1 --spawn");
    let mut coordinator = coordinate(&objects, &place, &flags);
    wait_for_stored(&mut coordinator, &objects, 1);
    let url = objects.url();
    objects.kill();
    let step = place.newest_step();
    let later = step + 3 * STEPS_PER_EPOCH;
    coordinator.wait_until("training goes on", || place.newest_step() > later);
    coordinator.wait_for_line("a checkpoint was not stored: cannot store s3://");
    coordinator.signal(Signal::INT);
    let words = [&url[..], "onnection refused", "the last checkpoint is only in", "rank 0 on "];
    let exit = coordinator.wait().failed_with(&words);
    assert!(exit.text().contains("Interrupted after step"), "{exit}");
    assert!(exit.text().contains("/vae-coordinator --resume --run-dir "), "{exit}");

    let epochs = place.newest().metadata.step / STEPS_PER_EPOCH + 1;
    let flags = format!("--resume --checkpoint-url none --epochs {epochs} --spawn");
    coordinator_at(&place, &flags).wait().succeeded();
    assert_same_tensors(&place.newest(), &reference(epochs));
}

/// A folder in place of a server. It cannot be written for a while, which is reported at the end; a
/// resume then stores the checkpoint.
#[test]
fn a_folder_that_cannot_be_written_is_missed_at_the_end_and_made_up_for() {
    let place = Place::new();
    let (folder, aside) = (place.path("stored"), place.path("aside"));
    let url = format!("file://{}", folder.display());
    let flags = format!("{SMALL} --epochs 2 --workers 2 --checkpoint-url {url}");
    let mut fleet = Fleet::without_workers(&place, &flags);
    fs::rename(&folder, &aside).unwrap();
    fs::write(&folder, "in the way").unwrap();
    (0..2).for_each(|rank| fleet.add(&format!("--rank {rank} --threads 1")));
    let (coordinator, workers) = fleet.wait();
    let words = [&format!("cannot store {url}/step-00000188.safetensors")[..], "is only in"];
    let exit = coordinator.failed_with(&words);
    assert!(exit.text().contains("Done: 188 steps"), "{exit}");
    let [leader, other] = <[_; 2]>::try_from(workers).unwrap();
    leader.failed_with(&words);
    other.succeeded();
    assert_same_tensors(&place.newest(), &reference(2));
    assert_eq!(place.summary()["steps"], 188, "the run itself is complete");

    fs::remove_file(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    coordinator_at(&place, "--resume --spawn").wait().succeeded();
    let stored = folder.join(checkpoint::file_name(2 * STEPS_PER_EPOCH));
    assert_same_tensors(&checkpoint::read(&stored).unwrap(), &reference(2));
}

#[test]
fn urls_that_cannot_be_meant() {
    let place = Place::new();
    for (url, words) in [
        ("runs/one", "is no URL"),
        ("ftp://host/runs", "not known"),
        ("s3:///runs", "no bucket"),
        ("s3://key:secret@bucket/runs", "environment"),
        ("file://runs/one", "three"),
    ] {
        let words = ["--checkpoint-url", url, words, "s3://BUCKET/FOLDER"];
        coordinator_at(&place, &format!("--checkpoint-url {url}")).wait().failed_with(&words);
    }
    assert!(!place.run_dir.exists(), "a run that cannot begin leaves nothing behind");
}

#[test]
fn stores_that_cannot_be_used() {
    let Some(objects) = Objects::start() else { return };
    let place = Place::new();
    let refused = |environment: &str, url: &str, words: &[&str]| {
        let run_dir = place.run_dir.display();
        let flags =
            format!("{SMALL} --listen 127.0.0.1:0 --run-dir {run_dir} --checkpoint-url {url}");
        let exit = coordinator_in(environment, &place, &flags).wait();
        exit.failed_with(&[&["--checkpoint-url", url], words].concat());
        assert!(!place.run_dir.exists(), "a run that cannot begin leaves nothing behind");
    };
    let environment = objects.environment();
    refused(&environment, "s3://nowhere/runs", &["bucket does not exist", "NoSuchBucket"]);
    let without_keys = "AWS_METADATA_ENDPOINT=http://127.0.0.1:1";
    refused(without_keys, &objects.url(), &["there are no credentials", "AWS_ACCESS_KEY_ID"]);
    refused("AWS_ACCESS_KEY_ID=key", &objects.url(), &["SecretAccessKey"]);
    let nobody_listens = format!("{environment} AWS_ENDPOINT_URL=http://127.0.0.1:1");
    refused(&nobody_listens, &objects.url(), &["cannot list", "onnection refused"]);
    let plain_text = environment.replace("AWS_ALLOW_HTTP=true", "");
    refused(&plain_text, &objects.url(), &["cannot list"]);
    assert!(objects.names().is_empty());

    // A new run must not use the folder of another run.
    let first = Place::new();
    let flags = format!("{SMALL} --epochs 1 --workers 1 --spawn");
    coordinate(&objects, &first, &flags).wait().succeeded();
    let before = objects.names();
    refused(&environment, &objects.url(), &["holds a run already", "--resume"]);
    assert_eq!(objects.names(), before);
}
