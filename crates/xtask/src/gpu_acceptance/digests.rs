//! Short runs on the GPU, and the digests that CI has of them.

use std::time::Duration;

use super::{
    fleet::Fleet,
    golden::COMMON,
    report::{Report, Verdict},
    scene::{Expected, Scene},
};

/// How long a short run may take.
const BOUND: Duration = Duration::from_secs(60);

pub(super) fn run(scene: &Scene, report: &mut Report) -> anyhow::Result<()> {
    for expected in &scene.expected {
        let what = expected.flags.strip_prefix(COMMON).unwrap_or(&expected.flags).trim();
        // An emulated GPU takes minutes for an epoch of the whole data set.
        if scene.scale.is_rehearsal && !expected.flags.contains("--train-images") {
            report.note(what, Verdict::LeftOut, "too long for a rehearsal", "");
            continue;
        }
        scene.bound(BOUND)?;
        match digest(scene, expected) {
            Ok(found) => {
                let verdict = Verdict::of(found == expected.digest);
                report.note(what, verdict, &found, &expected.digest);
            }
            Err(error) => report.note_error(what, &error),
        }
    }
    Ok(())
}

fn digest(scene: &Scene, expected: &Expected) -> anyhow::Result<String> {
    let mut fleet = Fleet::start(scene, &format!("{} --workers 1", expected.flags))?;
    fleet.add("--device cuda --threads 1")?;
    Ok(fleet.completed(BOUND)?.digest)
}
