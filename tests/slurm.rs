//! A job of a real Slurm cluster of two nodes, submitted as users do. Its programs are killed, the
//! job is requeued and cancelled, and the final bytes are those of an undisturbed run.

use std::fs;

use rustix::process::{Signal, kill_process};

use crate::{
    harness::{
        Cluster, ENDLESS, Job, Place, SMALL, STEPS_PER_EPOCH, assert_same_tensors, reference,
    },
    tasks::{CLASSIFIER, CLASSIFIER_RUN, CLASSIFIER_STEPS_PER_EPOCH, fetch_clothes, train},
};

const WORKERS: usize = 4;

/// Waits until all workers train together, across the nodes.
fn wait_for_all(job: &Job<'_>, place: &Place) {
    let are_all = || {
        let last = place.events("generation_started").pop();
        last.is_some_and(|last| {
            last["collective"] == "two-level" && last["ranks"].as_array().unwrap().len() == WORKERS
        })
    };
    job.wait_until("all workers train together", are_all);
    wait_for_progress(job, place);
}

fn wait_for_progress(job: &Job<'_>, place: &Place) {
    let before = place.step();
    job.wait_until("the run makes progress", || place.step() > before);
}

/// Waits until the job has been requeued so many times, with no step lost, and then until it has
/// continued its run.
fn goes_on(job: &Job<'_>, place: &Place, requeued: u64) {
    let is_queued = || job.is(&format!("Restarts={requeued}")) && job.is("JobState=PENDING");
    job.wait_until("the job is back in the queue", is_queued);
    let saved = place.newest_step();
    assert!(saved >= place.step(), "no step is lost: {}", job.log());
    no_keys_are_left(place);
    job.start_now();
    job.wait_until("the run goes on", || place.step() > saved);
    assert!(job.log().contains(&format!("Going on after step {saved},")), "{}", job.log());
    wait_for_all(job, place);
}

fn no_keys_are_left(place: &Place) {
    let entries = fs::read_dir(&place.run_dir).unwrap().flatten();
    let names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.starts_with("tls")), "keys are left behind: {names:?}");
}

#[test]
fn a_job_is_killed_requeued_and_cancelled() {
    let Some(cluster) = Cluster::new() else { return };
    let place = Place::new();
    let job = cluster.submit(&place, &format!("{SMALL} {ENDLESS}"));
    wait_for_all(&job, &place);
    for rank in 0..WORKERS {
        let line = format!("asking for rank {rank}, by SLURM_PROCID");
        job.wait_until(&line, || job.log().contains(&line));
    }
    assert!(job.log().contains("Listening on https://0.0.0.0:"), "{}", job.log());
    assert!(!job.log().contains("--insecure"), "{}", job.log());

    let workers = cluster.processes("vae-worker");
    assert_eq!(workers.len(), WORKERS);
    kill_process(workers[WORKERS - 1], Signal::KILL).unwrap();
    let is_back = || place.events("joined").len() == WORKERS + 1;
    job.wait_until("the worker that was killed is back", is_back);
    wait_for_all(&job, &place);

    kill_process(cluster.processes("vae-coordinator")[0], Signal::KILL).unwrap();
    let are_adopted = || place.events("adopted").len() == WORKERS;
    job.wait_until("the next coordinator has adopted the workers", are_adopted);
    wait_for_progress(&job, &place);

    // Slurm sends this signal before the time limit.
    job.tell("scancel --batch --signal=USR1");
    goes_on(&job, &place, 1);
    job.tell("scontrol requeue");
    goes_on(&job, &place, 2);
    job.tell("scancel");
    job.wait_until("the job is cancelled", || job.is("JobState=CANCELLED"));
    assert!(place.newest_step() >= place.step(), "no step is lost: {}", job.log());

    let epochs = place.newest_step() / STEPS_PER_EPOCH + 1;
    let last = cluster.submit(&place, &format!("{SMALL} --epochs {epochs}"));
    last.wait_until("the run is complete", || last.is("JobState=COMPLETED"));
    assert!(last.is("ExitCode=0:0"), "{}", last.log());
    assert_same_tensors(&place.newest(), &reference(epochs));
    let counted = place.summary()["examples_counted"].clone();
    assert_eq!(counted, serde_json::Value::from(vec![6000; epochs as usize]));
    no_keys_are_left(&place);
}

/// The same script runs a user's own task.
#[test]
fn a_job_of_another_task_is_requeued() {
    let Some(cluster) = Cluster::new() else { return };
    fetch_clothes();
    let place = Place::new();
    let program = Some("classifier");
    let job = cluster.submit_task(program, &place, &format!("{CLASSIFIER_RUN} {ENDLESS}"));
    wait_for_all(&job, &place);
    assert_eq!(cluster.processes("vae-worker"), []);
    job.tell("scontrol requeue");
    goes_on(&job, &place, 1);
    job.tell("scancel");
    job.wait_until("the job is cancelled", || job.is("JobState=CANCELLED"));

    let epochs = place.newest_step() / CLASSIFIER_STEPS_PER_EPOCH + 1;
    let flags = format!("{CLASSIFIER_RUN} --epochs {epochs}");
    let last = cluster.submit_task(program, &place, &flags);
    last.wait_until("the run is complete", || last.is("JobState=COMPLETED"));
    let alone = Place::new();
    train(CLASSIFIER, &alone, &format!("{flags} --workers 1"));
    assert_same_tensors(&place.newest(), &alone.newest());
}
