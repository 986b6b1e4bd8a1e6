//! Workers die every few seconds for as long as one wants: the run gets on nearly as fast as an
//! undisturbed one, and nobody who stays needs more and more memory or files.
//! `cargo xtask chaos --soak MINUTES`.

use std::{
    env,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;

use super::{Draws, WORKERS};
use crate::harness::{ENDLESS, Fleet, Holding, Place, wait_until};

/// How long, in minutes.
const MINUTES: &str = "LOCKSTEP_CHAOS_SOAK";

/// The longest time without disturbance that the rest is compared with.
const UNDISTURBED_MAX: Duration = Duration::from_secs(60);

/// Mean time between two deaths.
const BETWEEN_DEATHS: Duration = Duration::from_secs(5);

/// Deaths before the first look at what the survivors hold: by then all that a death needs for a
/// while has been needed, and is kept for the next one.
const WARM_UP_DEATHS: u32 = 20;

/// The job. Its epochs are as long as real ones: the ledger has an entry for each, and short ones
/// would come to tens of thousands in an hour.
const JOB: &str = "--shards 4 --batch-size 16 --test-images 200 --hidden-dim 64 --latent-dim 8";

/// Memory that a survivor may hold more at the end than at the beginning, of what it held.
const MORE_MEMORY_MAX: f64 = 0.1;

#[test]
#[ignore = "takes minutes: cargo xtask chaos --soak MINUTES"]
#[expect(clippy::print_stdout, reason = "somebody waits for what it finds")]
fn soak() {
    let minutes: f64 = env::var(MINUTES).expect(MINUTES).parse().expect("minutes");
    let length = Duration::from_secs_f64(minutes * 60.0);
    let place = Place::new();
    let mut fleet =
        Fleet::start(&place, WORKERS as u32, &format!("{JOB} {ENDLESS} --collective grpc"));
    fleet.wait_for_progress(&place);
    let undisturbed = steps_per_second(&place, length.min(UNDISTURBED_MAX), || ());

    let mut draws = Draws(length.as_secs());
    let mut deaths = 0;
    let mut before = None;
    let mut next = Instant::now();
    let disturbed = steps_per_second(&place, length, || {
        if Instant::now() < next {
            return;
        }
        if deaths == WARM_UP_DEATHS {
            before = Some(holdings(&mut fleet, &place));
        }
        // Rank 0 stays, so that somebody sees all of it.
        fleet.workers.remove(1 + draws.draw(WORKERS - 1)).signal(Signal::KILL);
        fleet.add("--threads 1");
        deaths += 1;
        next += between(&mut draws);
    });
    let after = holdings(&mut fleet, &place);
    let before = before.expect("more minutes");
    println!(
        "{}",
        json!({
            "minutes": minutes,
            "deaths": deaths,
            "undisturbed_steps_per_second": undisturbed,
            "disturbed_steps_per_second": disturbed,
            "share": disturbed / undisturbed,
        })
    );
    let held = || before.iter().zip(&after);
    for ((name, before), (_, after)) in held() {
        println!("{name}: {before:?} after {WARM_UP_DEATHS} deaths, {after:?} after {deaths}");
    }
    for ((name, before), (_, after)) in held() {
        assert!(after.files <= before.files, "{name} holds more files");
        let most = before.resident_bytes as f64 * (1.0 + MORE_MEMORY_MAX);
        assert!(after.resident_bytes as f64 <= most, "{name} holds more memory");
    }
    fleet.coordinator.signal(Signal::INT);
    let (coordinator, workers) = fleet.wait();
    coordinator.exited_with(130);
    workers.into_iter().for_each(|worker| drop(worker.succeeded()));
}

/// A time drawn so that deaths are independent of each other.
fn between(draws: &mut Draws) -> Duration {
    const PARTS: usize = 1 << 20;
    let part = (draws.draw(PARTS) + 1) as f64 / PARTS as f64;
    BETWEEN_DEATHS.mul_f64(-part.ln())
}

/// How fast the run gets on for so long, while something is done now and then.
fn steps_per_second(place: &Place, length: Duration, mut meanwhile: impl FnMut()) -> f64 {
    let (begun, step) = (Instant::now(), place.step());
    let within = Instant::now() + length;
    while Instant::now() < within {
        let slice = Instant::now() + Duration::from_secs(1);
        wait_until("a second has passed", || Instant::now() >= slice);
        meanwhile();
    }
    (place.step() - step) as f64 / begun.elapsed().as_secs_f64()
}

/// What the coordinator and the survivor hold, once all members take part and no one more.
fn holdings(fleet: &mut Fleet, place: &Place) -> [(&'static str, Holding); 2] {
    for worker in &fleet.workers {
        worker.wait_for_line("training rank=");
    }
    fleet.wait_for_progress(place);
    let survivor = &fleet.workers[0];
    [("coordinator", Holding::of(&fleet.coordinator)), ("survivor", Holding::of(survivor))]
}
