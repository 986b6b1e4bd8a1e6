//! Short runs on the GPU, compared with the known digests of the CPU.

use std::time::Duration;

use super::{
    fleet::Fleet,
    golden::COMMON,
    report::{Report, Verdict},
    scene::{Expected, Scene},
};

/// How long a run may take, on a GPU and on an emulated GPU.
const BOUND: Duration = Duration::from_secs(60);
const REHEARSAL_BOUND: Duration = Duration::from_mins(30);

pub(super) fn run(scene: &Scene, report: &mut Report) -> anyhow::Result<()> {
    for expected in &scene.expected {
        let what = expected.flags.strip_prefix(COMMON).unwrap_or(&expected.flags).trim();
        if !scene.scale.whole_epoch && !expected.flags.contains("--train-images") {
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
    let bound = if scene.scale.is_rehearsal { REHEARSAL_BOUND } else { BOUND };
    Ok(fleet.completed(bound)?.digest)
}
