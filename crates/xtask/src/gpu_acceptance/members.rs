//! Runs whose members are killed, frozen or resumed, over every transport: all must give the digest that
//! this machine's CPU gives.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    fleet::Fleet,
    report::{Report, Verdict},
    scene::Scene,
};

/// How long one run may take.
const BOUND: Duration = Duration::from_secs(60);

/// How long to wait for an event that should happen at once, or after `DEAD_AFTER`.
const SIGHT_BOUND: Duration = Duration::from_secs(30);

/// A frozen member is evicted after two seconds.
const DEAD_AFTER: &str = "--dead-after-seconds 2 --stall-after-seconds 12";

const ON_GPU: &str = "--device cuda --threads 1";

/// A variant of the run; returns its digest.
type Case = fn(&Scene) -> anyhow::Result<String>;

const CASES: [(&str, Case); 6] = [
    ("one worker", |scene| trained(scene, "", &[ON_GPU])),
    ("two workers over shm", |scene| trained(scene, "--collective shm", &[ON_GPU; 2])),
    ("two workers over gRPC", |scene| trained(scene, "--collective grpc", &[ON_GPU; 2])),
    ("one of two killed", killed),
    ("one of two frozen", frozen),
    ("all killed, and resumed", resumed),
];

pub(super) fn run(scene: &Scene, report: &mut Report) -> anyhow::Result<()> {
    let reference = trained(scene, "", &["--device cpu"]).context("the run on the CPU")?;
    report.note("on the CPU", Verdict::Found, &reference, "");
    for (what, case) in CASES {
        scene.bound(BOUND)?;
        match case(scene) {
            Ok(digest) => report.note(what, Verdict::of(digest == reference), &digest, &reference),
            Err(error) => report.note_error(what, &error),
        }
    }
    over_nccl(scene, report, &reference)
}

fn flags(scene: &Scene, more: &str) -> String {
    format!("{} --epochs {} {more}", scene.scale.members, scene.scale.members_epochs)
}

fn start<'a>(scene: &'a Scene, more: &str, workers: &[&str]) -> anyhow::Result<Fleet<'a>> {
    let flags = format!("{} --workers {}", flags(scene, more), workers.len());
    let mut fleet = Fleet::start(scene, &flags)?;
    workers.iter().try_for_each(|flags| fleet.add(flags))?;
    Ok(fleet)
}

fn trained(scene: &Scene, more: &str, workers: &[&str]) -> anyhow::Result<String> {
    Ok(start(scene, more, workers)?.completed(BOUND)?.digest)
}

/// A run over NCCL with one member: with more members, NCCL needs a GPU for each. Left out if a worker
/// says that NCCL cannot be used.
fn over_nccl(scene: &Scene, report: &mut Report, reference: &str) -> anyhow::Result<()> {
    const WHAT: &str = "one worker over NCCL";
    let worker = format!("{ON_GPU} --insecure");
    let mut fleet = start(scene, "--collective nccl --insecure", &[&worker])?;
    match (fleet.completed(BOUND), fleet.complaint("nccl is not possible")) {
        (Ok(found), _) => {
            let verdict = Verdict::of(found.digest == reference);
            report.note(WHAT, verdict, &found.digest, reference);
        }
        (Err(_), Some(reason)) => report.note(WHAT, Verdict::LeftOut, &reason, ""),
        (Err(error), None) => report.note_error(WHAT, &error),
    }
    Ok(())
}

/// Whether the run has reported a step.
fn makes_progress(fleet: &Fleet<'_>) -> bool {
    let metrics = fs::read_to_string(fleet.file("metrics.jsonl")).unwrap_or_default();
    metrics.contains("\"kind\":\"steps\"")
}

fn two_in_the_middle(scene: &Scene) -> anyhow::Result<Fleet<'_>> {
    let fleet = start(scene, &format!("--collective shm {DEAD_AFTER}"), &[ON_GPU; 2])?;
    fleet.wait_until("the run makes progress", SIGHT_BOUND, makes_progress)?;
    Ok(fleet)
}

fn killed(scene: &Scene) -> anyhow::Result<String> {
    let mut fleet = two_in_the_middle(scene)?;
    drop(fleet.take_worker());
    fleet.wait_until("a member is lost", SIGHT_BOUND, |fleet| fleet.events("lost") > 0)?;
    Ok(fleet.completed(BOUND)?.digest)
}

fn frozen(scene: &Scene) -> anyhow::Result<String> {
    let mut fleet = two_in_the_middle(scene)?;
    let victim = fleet.take_worker().context("there are two")?;
    let id = Pid::from_raw(victim.id().cast_signed()).context("it has an id")?;
    kill_process(id, Signal::STOP)?;
    let lost = fleet.wait_until("it is given up", SIGHT_BOUND, |fleet| fleet.events("lost") > 0);
    kill_process(id, Signal::CONT)?;
    lost?;
    // The run may have ended meanwhile, so the victim's own exit status is not checked.
    let digest = fleet.completed(BOUND)?.digest;
    drop(victim);
    Ok(digest)
}

fn resumed(scene: &Scene) -> anyhow::Result<String> {
    let fleet = start(scene, "", &[ON_GPU])?;
    let has_checkpoint = |fleet: &Fleet<'_>| {
        let listed = fs::read_dir(fleet.file("checkpoints")).into_iter().flatten().flatten();
        let mut names = listed.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.any(|name| name.starts_with("step-") && name.ends_with(".safetensors"))
    };
    fleet.wait_until("there is a checkpoint", SIGHT_BOUND, has_checkpoint)?;
    let mut fleet = fleet.resumed(&format!("{} --workers 1", flags(scene, "")))?;
    ensure!(!fleet.file("summary.json").exists(), "the run was over before it was killed");
    fleet.add(ON_GPU)?;
    Ok(fleet.completed(BOUND)?.digest)
}
