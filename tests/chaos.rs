//! Disasters drawn from a seed, one after the other, and at the end the bytes of an undisturbed
//! run. `cargo xtask chaos --seeds 1..100` goes through as many seeds as one wants.

use std::{env, fs, ops::RangeInclusive};

use rustix::process::Signal;

use crate::{
    harness::{ENDLESS, Fleet, Place, SMALL},
    kill_coordinator::replaced,
    stop::stopped_with_the_same_bits,
};

/// Says which seeds are gone through, as in "1..100", instead of a handful.
const SEEDS: &str = "LOCKSTEP_CHAOS_SEEDS";

const WORKERS: usize = 4;

/// Disasters of one seed.
const DISASTERS: usize = 6;

#[derive(Clone, Copy, Debug)]
enum Disaster {
    /// A worker is killed; another one comes.
    Kill(usize),
    /// Two are killed at once; two others come.
    KillTwo(usize, usize),
    /// A worker is frozen until it is given up, and wakes up.
    Freeze(usize),
    /// A worker is told to leave; another one comes.
    Leave(usize),
    /// One more comes, and is not needed.
    Spare,
    /// The coordinator is killed, and started again.
    Coordinator,
    /// A worker is killed while there is no coordinator.
    CoordinatorAndWorker(usize),
}

/// The schedule of a seed, by SplitMix64.
fn schedule(seed: u64) -> Vec<Disaster> {
    let mut state = seed;
    let mut draw = |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    };
    let mut disaster = || match draw(7) {
        0 => Disaster::Kill(draw(WORKERS)),
        1 => Disaster::KillTwo(draw(WORKERS), draw(WORKERS - 1)),
        2 => Disaster::Freeze(draw(WORKERS)),
        3 => Disaster::Leave(draw(WORKERS)),
        4 => Disaster::Spare,
        5 => Disaster::Coordinator,
        _ => Disaster::CoordinatorAndWorker(draw(WORKERS)),
    };
    (0..DISASTERS).map(|_| disaster()).collect()
}

#[expect(clippy::print_stdout, reason = "a seed that fails is known by what it did")]
fn endure(seed: u64, collective: &str) {
    let disasters = schedule(seed);
    println!("seed {seed} over {collective}: {disasters:?}");
    let place = Place::new();
    let flags = format!("{SMALL} {ENDLESS} --dead-after-seconds 2 --collective {collective}");
    let mut fleet = Fleet::start(&place, WORKERS as u32, &flags);
    for disaster in disasters {
        fleet.wait_for_progress(&place);
        fleet = strike(disaster, &place, fleet);
    }
    fleet.wait_for_progress(&place);
    stopped_with_the_same_bits(&place, fleet);
    assert_eq!(leftovers(&place), [] as [String; 0]);
}

fn strike(disaster: Disaster, place: &Place, mut fleet: Fleet) -> Fleet {
    let lost = place.events("lost").len();
    match disaster {
        Disaster::Kill(victim) => {
            fleet.workers.remove(victim).signal(Signal::KILL);
            newcomers(&mut fleet, 1);
        }
        Disaster::KillTwo(first, second) => {
            let victims = [fleet.workers.remove(first), fleet.workers.remove(second)];
            victims.iter().for_each(|victim| victim.signal(Signal::KILL));
            newcomers(&mut fleet, 2);
        }
        Disaster::Freeze(victim) => {
            fleet.workers[victim].signal(Signal::STOP);
            fleet.wait_for_event(place, "lost", lost + 1);
            let joined = place.events("joined").len();
            fleet.workers[victim].signal(Signal::CONT);
            fleet.wait_for_event(place, "joined", joined + 1);
        }
        Disaster::Leave(victim) => {
            let victim = fleet.workers.remove(victim);
            victim.signal(Signal::TERM);
            victim.wait().succeeded();
            newcomers(&mut fleet, 1);
        }
        Disaster::Spare => {
            fleet.add("--threads 1");
            let spare = fleet.workers.pop().unwrap();
            spare.wait_for_line("joined as");
            spare.signal(Signal::KILL);
        }
        Disaster::Coordinator => fleet = replaced(place, fleet, |_| {}),
        Disaster::CoordinatorAndWorker(victim) => {
            fleet = replaced(place, fleet, |fleet| {
                let victim = fleet.workers.remove(victim);
                victim.signal(Signal::KILL);
                victim.wait();
            });
            newcomers(&mut fleet, 1);
        }
    }
    fleet
}

/// Workers come, and take part.
fn newcomers(fleet: &mut Fleet, count: usize) {
    let before = fleet.workers.len();
    (0..count).for_each(|_| fleet.add("--threads 1"));
    for newcomer in &fleet.workers[before..] {
        newcomer.wait_for_line("training rank=");
    }
}

/// Files that should not be there: half-written ones.
pub(crate) fn leftovers(place: &Place) -> Vec<String> {
    let folders = ["", "checkpoints", "samples"].map(|folder| place.file(folder));
    let names = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap().flatten());
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with('.') || name.ends_with(".tmp")).collect()
}

/// The seeds that were asked for.
fn seeds() -> Option<RangeInclusive<u64>> {
    let seeds = env::var(SEEDS).ok()?;
    let (first, last) = seeds.split_once("..").unwrap_or((&seeds, &seeds));
    Some(first.parse().expect("a seed")..=last.parse().expect("a seed"))
}

#[test]
fn disasters_over_grpc() {
    seeds().unwrap_or(1..=2).for_each(|seed| endure(seed, "grpc"));
}

#[test]
fn disasters_through_shared_memory() {
    seeds().unwrap_or(3..=4).for_each(|seed| endure(seed, "shm"));
}
