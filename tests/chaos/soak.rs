//! Workers are killed every few seconds, for some minutes. The run is nearly as fast as an
//! undisturbed run, and the memory and the open files of the surviving processes do not grow.
//! `cargo xtask chaos --soak MINUTES`.
//!
//! The speed of a shared machine changes by the minute. So each minute of deaths is compared with
//! the quiet seconds just before and just after it, and the median of all minutes counts. Memory
//! goes up and down too, so the median of the last quarter is compared with the median of the first
//! quarter.

use std::{
    env,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;

use super::{Draws, WORKERS};
use crate::harness::{ENDLESS, Fleet, Holding, Place, wait_until};

/// The variable with the number of minutes.
const MINUTES: &str = "LOCKSTEP_CHAOS_SOAK";

const MINUTE: Duration = Duration::from_secs(60);

/// Time without deaths before each of these minutes and after the last.
const QUIET: Duration = Duration::from_secs(15);

/// Mean time between two deaths.
const BETWEEN_DEATHS: Duration = Duration::from_secs(5);

/// Minutes before the first reading of memory and files: by then the processes have allocated, and
/// keep, what the handling of a death needs.
const WARM_UP_MINUTES: usize = 2;

/// The flags of the run. Its epochs are long: the ledger has an entry for each epoch, and short
/// epochs would make tens of thousands of entries in an hour.
const JOB: &str = "--shards 4 --batch-size 16 --test-images 200 --hidden-dim 64 --latent-dim 8";

/// The least speed while workers die, as a share of the undisturbed speed.
const SHARE_MIN: f64 = 0.85;

/// The largest allowed growth of memory, as a share of the memory at the beginning.
const MORE_MEMORY_MAX: f64 = 0.1;

#[test]
#[ignore = "takes minutes: cargo xtask chaos --soak MINUTES"]
#[expect(clippy::print_stdout, reason = "the user waits for the figures")]
fn soak() {
    let minutes: usize = env::var(MINUTES).expect(MINUTES).parse().expect("minutes");
    let mut soak = Soak::begin();
    let (mut shares, mut coordinator, mut survivor) = (Vec::new(), Vec::new(), Vec::new());
    let mut quiet = soak.quiet();
    for minute in 1..=minutes {
        let disturbed = soak.disturbed();
        let next = soak.quiet();
        let share = 2.0 * disturbed / (quiet + next);
        let holdings = [&soak.fleet.coordinator, &soak.fleet.workers[0]].map(Holding::of);
        println!(
            "{}",
            json!({
                "minute": minute,
                "deaths": soak.deaths,
                "undisturbed_steps_per_second": [quiet, next],
                "disturbed_steps_per_second": disturbed,
                "share": share,
                "resident_bytes": holdings.map(|holding| holding.resident_bytes),
                "files": holdings.map(|holding| holding.files),
            })
        );
        shares.push(share);
        if minute >= WARM_UP_MINUTES {
            coordinator.push(holdings[0]);
            survivor.push(holdings[1]);
        }
        quiet = next;
    }
    let share = median(shares.into_iter());
    println!("deaths: {}, median share: {share:.3}", soak.deaths);
    for (name, held) in [("coordinator", coordinator), ("survivor", survivor)] {
        let (quarter, last) = (held.len().div_ceil(4), held.len() - 1);
        let [before, after] = [&held[..quarter], &held[held.len() - quarter..]]
            .map(|part| median(part.iter().map(|held| held.resident_bytes as f64)));
        let files = [held[0].files, held[last].files];
        println!("{name}: {before} to {after} bytes, {} to {} files", files[0], files[1]);
        assert!(files[1] <= files[0], "{name} holds more files");
        assert!(after <= before * (1.0 + MORE_MEMORY_MAX), "{name} holds more memory");
    }
    assert!(share >= SHARE_MIN, "deaths cost too much");
    soak.end();
}

/// The middle value, or the lower one of two middle values.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

/// A run whose workers are killed from time to time.
struct Soak {
    place: Place,
    fleet: Fleet,
    draws: Draws,
    deaths: usize,
}

impl Soak {
    fn begin() -> Self {
        let place = Place::new();
        let flags = format!("{JOB} {ENDLESS} --collective grpc");
        let mut soak = Self {
            fleet: Fleet::start(&place, WORKERS as u32, &flags),
            place,
            draws: Draws(1),
            deaths: 0,
        };
        soak.wait_for_all();
        soak
    }

    /// Waits until all members take part and the run makes progress.
    fn wait_for_all(&mut self) {
        for worker in &self.fleet.workers {
            worker.wait_for_line("training rank=");
        }
        self.fleet.wait_for_progress(&self.place);
    }

    /// Steps per second while no worker dies.
    fn quiet(&mut self) -> f64 {
        self.steps_per_second(|_| {
            let end = Instant::now() + QUIET;
            wait_until("the quiet time has passed", || Instant::now() >= end);
        })
    }

    /// Steps per second while workers die, until all replacements train.
    fn disturbed(&mut self) -> f64 {
        self.steps_per_second(|soak| {
            let end = Instant::now() + MINUTE;
            let mut next = Instant::now() + between(&mut soak.draws);
            while next < end {
                wait_until("the time of a death has come", || Instant::now() >= next);
                soak.kill();
                next += between(&mut soak.draws);
            }
            wait_until("the minute is over", || Instant::now() >= end);
        })
    }

    fn steps_per_second(&mut self, meanwhile: impl FnOnce(&mut Self)) -> f64 {
        let (begun, step) = (Instant::now(), self.place.step());
        meanwhile(self);
        self.wait_for_all();
        let steps = self.place.step() - step;
        steps as f64 / begun.elapsed().as_secs_f64()
    }

    /// Kills a worker and starts another. Rank 0 is never killed, so that one worker sees every
    /// death.
    fn kill(&mut self) {
        let victim = 1 + self.draws.draw(WORKERS - 1);
        self.fleet.workers.remove(victim).signal(Signal::KILL);
        self.fleet.add("--threads 1");
        self.deaths += 1;
    }

    fn end(self) {
        self.fleet.coordinator.signal(Signal::INT);
        let (coordinator, workers) = self.fleet.wait();
        coordinator.exited_with(130);
        workers.into_iter().for_each(|worker| drop(worker.succeeded()));
    }
}

/// A time drawn so that deaths are independent of each other.
fn between(draws: &mut Draws) -> Duration {
    const PARTS: usize = 1 << 20;
    let part = (draws.draw(PARTS) + 1) as f64 / PARTS as f64;
    BETWEEN_DEATHS.mul_f64(-part.ln())
}
