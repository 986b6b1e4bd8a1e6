//! Images a second: Lockstep's whole training processes, and PyTorch in three modes, in interleaved
//! rounds.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use serde_json::json;

use super::{
    fleet::{Fleet, Summary},
    peers::{MODES, Peer},
    report::{Report, Verdict},
    scene::Scene,
};
use crate::bench::{statistics::Summary as Statistics, table::number};

/// How long one run of Lockstep may take.
const BOUND: Duration = Duration::from_secs(60);

/// Images of an epoch of the whole data set.
const EPOCH_IMAGES: f64 = 60_000.0;

/// The wanted ratios to a mode of PyTorch, for small, middle and large batches.
const WANTED: [(&str, [f64; 3]); 2] = [("compiled", [8.0, 6.0, 2.0]), ("graph", [1.5, 1.3, 1.2])];

/// The wanted ratio of two workers on one GPU to one worker.
const TWO_WANTED: f64 = 0.9;

/// A measured system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    /// Lockstep, with so many workers on one GPU.
    Own(u32),
    /// PyTorch, by its place in [`MODES`].
    Mode(usize),
}

/// Images a second of each subject and batch size, a number a round.
type Figures = BTreeMap<(Subject, u32), Vec<f64>>;

pub(super) fn run(scene: &Scene, report: &mut Report) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let mut peers: Vec<Option<Peer>> = MODES
        .iter()
        .map(|(mode, name)| {
            Peer::start(scene, mode, folder.path())
                .map_err(|error| report.note(name, Verdict::LeftOut, &format!("{error:#}"), ""))
                .ok()
        })
        .collect();
    for ((_, name), peer) in MODES.iter().zip(&mut peers) {
        prepare(scene, report, name, peer);
    }
    let mut figures = Figures::new();
    let mut epochs = BTreeMap::new();
    for (round, subject, batch) in plan(scene) {
        // The results so far are reported anyway.
        if let Err(error) = scene.bound(BOUND) {
            report.note_error(&format!("from round {round}, batch {batch} on"), &error);
            break;
        }
        let measured = match subject {
            Subject::Own(workers) => own_rate(scene, batch, workers, &mut epochs).map(Some),
            Subject::Mode(mode) => peers[mode]
                .as_mut()
                .map(|peer| peer.measure(scene, batch, scene.scale.seconds))
                .transpose(),
        };
        match measured {
            Ok(rate) => figures.entry((subject, batch)).or_default().extend(rate),
            Err(error) => {
                let what = format!("round {round}, batch {batch}, {}", name(subject));
                report.note_error(&what, &error);
            }
        }
    }
    tell(scene, report, &figures);
    Ok(())
}

/// The measurements in their order, with rounds counted from 1: the measurements of one batch size
/// follow each other.
fn plan(scene: &Scene) -> Vec<(u32, Subject, u32)> {
    let mut plan = Vec::new();
    for round in 1..=scene.scale.rounds {
        for (place, batch) in scene.scale.batches.into_iter().enumerate() {
            let own = if place == 0 { &[1, 2][..] } else { &[1] };
            let own = own.iter().map(|workers| Subject::Own(*workers));
            let subjects = own.chain((0..MODES.len()).map(Subject::Mode));
            plan.extend(subjects.map(|subject| (round, subject, batch)));
        }
    }
    plan
}

/// Lets a peer compile for all batch sizes; a peer that fails is left out.
fn prepare(scene: &Scene, report: &mut Report, name: &str, peer: &mut Option<Peer>) {
    let Some(prepared) = peer else { return };
    let batches = scene.scale.batches;
    let done = batches.into_iter().try_for_each(|batch| prepared.prepare(scene, batch));
    if let Err(error) = done {
        report.note_error(name, &error);
        *peer = None;
    }
}

/// Images a second of a run that is long enough; `epochs` keeps the number of epochs that such a run
/// needs.
fn own_rate(
    scene: &Scene,
    batch: u32,
    workers: u32,
    epochs: &mut BTreeMap<(u32, u32), u32>,
) -> anyhow::Result<f64> {
    let known = epochs.get(&(batch, workers)).copied();
    let first = own_run(scene, batch, workers, known.unwrap_or(1))?;
    if known.is_some() || scene.scale.is_rehearsal {
        return Ok(first.images_per_second);
    }
    // The first run is a warm-up, and gives the time of an epoch.
    let enough = (scene.scale.seconds * first.images_per_second / EPOCH_IMAGES).ceil().max(1.0);
    epochs.insert((batch, workers), enough as u32);
    Ok(own_run(scene, batch, workers, enough as u32)?.images_per_second)
}

fn own_run(scene: &Scene, batch: u32, workers: u32, epochs: u32) -> anyhow::Result<Summary> {
    let collective = if workers > 1 { "--collective shm" } else { "" };
    let mut fleet = Fleet::start(
        scene,
        &format!(
            "{} --batch-size {batch} --epochs {epochs} --workers {workers} --shards {workers} \
             {collective}",
            scene.scale.speed
        ),
    )?;
    (0..workers).try_for_each(|_| fleet.add("--device cuda"))?;
    fleet.completed(BOUND)
}

fn name(subject: Subject) -> String {
    match subject {
        Subject::Own(1) => "Lockstep".to_owned(),
        Subject::Own(workers) => format!("Lockstep, {workers} workers"),
        Subject::Mode(mode) => MODES[mode].1.to_owned(),
    }
}

/// Reports medians, and the ratios of medians.
fn tell(scene: &Scene, report: &mut Report, figures: &Figures) {
    for ((subject, batch), rates) in figures {
        let Some(found) = Statistics::of(rates.iter().copied()) else { continue };
        let text = format!(
            "{} images/s ({} to {})",
            number(found.median),
            number(found.low),
            number(found.high)
        );
        let what = format!("batch {batch}, {}", name(*subject));
        report.note(&what, Verdict::Found, &text, "");
        report.keep(&format!("images/s, {what}"), json!(rates));
    }
    let median = |subject, batch| {
        Statistics::of(figures.get(&(subject, batch))?.iter().copied()).map(|found| found.median)
    };
    let mut ratio = |what: &str, over: Option<f64>, under: Option<f64>, wanted: f64| {
        let (Some(over), Some(under)) = (over, under) else {
            report.note(what, Verdict::LeftOut, "nothing to compare", &format!("{wanted}"));
            return;
        };
        let verdict = Verdict::of_figure(over / under >= wanted);
        report.note(what, verdict, &format!("{:.2}", over / under), &format!("{wanted}"));
        report.keep(what, json!(over / under));
    };
    for (mode, (key, name)) in MODES.iter().enumerate() {
        let Some((_, wanted)) = WANTED.iter().find(|(wanted, _)| wanted == key) else { continue };
        for (batch, wanted) in scene.scale.batches.into_iter().zip(wanted) {
            let what = format!("ratio at batch {batch} to {name}");
            let rates = [Subject::Own(1), Subject::Mode(mode)].map(|who| median(who, batch));
            ratio(&what, rates[0], rates[1], *wanted);
        }
    }
    let [one, two] = [1, 2].map(|workers| median(Subject::Own(workers), scene.scale.batches[0]));
    ratio("ratio of two workers on the GPU to one", two, one, TWO_WANTED);
}
