//! Random faults ("disasters") drawn from a seed, one after the other. At the end the bytes are
//! those of an undisturbed run. `cargo xtask chaos --seeds 1..100` runs any number of seeds.
//!
//! This file draws the schedule of a seed, and checks the result. [`strikes`] carries out the
//! faults, [`figures`] measures the recovery times, and [`soak`] kills workers for some minutes.

mod figures;
mod soak;
mod strikes;

use std::{collections::BTreeSet, env, fs, ops::RangeInclusive};

use emulated_gpu::IS_THERE;

use self::{figures::Figures, strikes::strike};
use crate::{
    harness::{ENDLESS, Fleet, Network, Place, SMALL, Task, namespaces, wait_until},
    stop::stopped_with_the_same_bits,
    tasks::{CLASSIFIER, CLASSIFIER_RUN, stopped_and_resumed},
};

/// The variable with the seeds to run, such as "1..100", instead of a few.
const SEEDS: &str = "LOCKSTEP_CHAOS_SEEDS";

const WORKERS: usize = 4;

/// The number of disasters of one seed.
const DISASTERS: usize = 6;

/// The number of kinds of disasters without links, and with links.
const KINDS: [usize; 2] = [7, 13];

/// How the members of a seed's run are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Over gRPC on loopback.
    Loopback,
    SharedMemory,
    /// Over gRPC between network namespaces, whose links are cut and slowed too.
    Links,
}

impl Way {
    fn of(seed: u64) -> Self {
        [Self::SharedMemory, Self::Loopback, Self::Links][(seed % 3) as usize]
    }
}

#[derive(Clone, Copy, Debug)]
enum Disaster {
    /// A worker is killed; another one joins.
    Kill(usize),
    /// Two workers are killed at once; two others join.
    KillTwo(usize, usize),
    /// A worker is frozen until it is evicted, then it wakes up.
    Freeze(usize),
    /// A worker is told to leave; another one joins.
    Leave(usize),
    /// One more worker joins as a spare.
    Spare,
    /// The coordinator is killed, and started again.
    Coordinator,
    /// A worker is killed while there is no coordinator.
    CoordinatorAndWorker(usize),
    /// A worker is cut off from all others until it is evicted, then it is connected again.
    CutOff(usize),
    /// A worker can receive, but its own packets are lost.
    Mute(usize),
    /// Two workers are cut off from each other until their generation ends.
    CutBetween(usize, usize),
    /// A worker's link is slow for a while.
    Slow(usize),
    /// The coordinator is cut off from all workers until it has evicted all of them.
    CoordinatorCutOff,
    /// A worker is killed while another one's link is slow.
    SlowAndKill(usize, usize),
}

/// Numbers drawn from a seed, by SplitMix64.
struct Draws(u64);

impl Draws {
    /// A number below `below`.
    fn draw(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    }

    fn worker(&mut self) -> usize {
        self.draw(WORKERS)
    }

    fn two_workers(&mut self) -> (usize, usize) {
        let first = self.worker();
        (first, (first + 1 + self.draw(WORKERS - 1)) % WORKERS)
    }

    fn disaster(&mut self, kinds: usize) -> Disaster {
        match self.draw(kinds) {
            0 => Disaster::Kill(self.worker()),
            1 => Disaster::KillTwo(self.worker(), self.draw(WORKERS - 1)),
            2 => Disaster::Freeze(self.worker()),
            3 => Disaster::Leave(self.worker()),
            4 => Disaster::Spare,
            5 => Disaster::Coordinator,
            6 => Disaster::CoordinatorAndWorker(self.worker()),
            7 => Disaster::CutOff(self.worker()),
            8 => Disaster::Mute(self.worker()),
            9 => {
                let (one, other) = self.two_workers();
                Disaster::CutBetween(one, other)
            }
            10 => Disaster::Slow(self.worker()),
            11 => Disaster::CoordinatorCutOff,
            _ => {
                let (slow, killed) = self.two_workers();
                Disaster::SlowAndKill(slow, killed)
            }
        }
    }
}

/// The schedule of a seed.
fn schedule(seed: u64, links: bool) -> Vec<Disaster> {
    let mut draws = Draws(seed);
    (0..DISASTERS).map(|_| draws.disaster(KINDS[usize::from(links)])).collect()
}

#[expect(clippy::print_stdout, reason = "the schedule of a seed that fails must be known")]
fn endure(seed: u64) {
    let way = Way::of(seed);
    let network = if way == Way::Links { Network::new() } else { None };
    let switch = network.as_ref().map(Network::name);
    let disasters = schedule(seed, network.is_some());
    println!("seed {seed}, {way:?}: {disasters:?}");
    let shared = shared_memory();
    let place = Place::new();
    let collective = if way == Way::SharedMemory { "shm" } else { "grpc" };
    let flags = format!(
        "{SMALL} {ENDLESS} --dead-after-seconds 2 --stall-after-seconds 12 \
         --collective {collective}"
    );
    let mut fleet = Fleet::start_on(network, &place, WORKERS as u32, &flags);
    let url = fleet.url.clone();
    let mut figures = Figures::new(seed, way);
    for disaster in disasters {
        fleet.wait_for_progress(&place);
        figures.struck(disaster, &place);
        fleet = strike(disaster, &place, fleet);
        fleet.wait_for_progress(&place);
        figures.endured(&place);
    }
    stopped_with_the_same_bits(&place, fleet);
    figures.write(&place);
    assert_eq!(half_written(&place), [] as [String; 0]);
    nothing_is_left(switch, &place, &url, &shared);
    println!("seed {seed}: passed");
}

/// No process, namespace or shared memory of a run outlives it.
fn nothing_is_left(
    switch: Option<String>,
    place: &Place,
    url: &str,
    shared_before: &BTreeSet<String>,
) {
    let run_dir = place.run_dir.display().to_string();
    wait_until("every process has ended", || !is_running(url) && !is_running(&run_dir));
    if let Some(switch) = switch {
        let is_own = |name: &String| *name == switch || name.starts_with(&format!("{switch}-"));
        let left = namespaces().into_iter().filter(is_own);
        assert_eq!(left.collect::<Vec<_>>(), [] as [String; 0], "namespaces");
    }
    let left: Vec<String> = shared_memory().difference(shared_before).cloned().collect();
    assert_eq!(left, [] as [String; 0], "in /dev/shm");
}

/// Whether a process has a word in its command line.
fn is_running(word: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.into_iter().any(|process| {
        let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|other| other == word.as_bytes())
    })
}

/// The files of Lockstep's programs in the folder of shared memory.
fn shared_memory() -> BTreeSet<String> {
    let names = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| ["lockstep", "vae", "torch"].iter().any(|own| name.contains(own))).collect()
}

/// Temporary files, which must not be left in the run directory.
pub(crate) fn half_written(place: &Place) -> Vec<String> {
    let folders = ["", "checkpoints", "samples"].map(|folder| place.file(folder));
    let names = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap().flatten());
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with('.') || name.ends_with(".tmp")).collect()
}

/// Runs the seeds in `SEEDS`, or else `usual`, but only those whose members are connected this way.
fn endure_all(usual: RangeInclusive<u64>, way: Way) {
    let asked = env::var(SEEDS).ok().map(|seeds| {
        let (first, last) = seeds.split_once("..").unwrap_or((&seeds, &seeds));
        first.parse().expect("a seed")..=last.parse().expect("a seed")
    });
    asked.unwrap_or(usual).filter(|seed| Way::of(*seed) == way).for_each(endure);
}

#[test]
fn disasters_over_the_loopback() {
    endure_all(1..=4, Way::Loopback);
}

#[test]
fn disasters_through_shared_memory() {
    endure_all(1..=4, Way::SharedMemory);
}

#[test]
fn disasters_between_hosts() {
    endure_all(1..=4, Way::Links);
}

/// Workers on emulated GPUs; a worker on a CPU trains the last epoch.
#[test]
fn disasters_of_workers_on_gpus() {
    if !IS_THERE {
        return;
    }
    for (seed, collective) in [(2, "grpc"), (3, "shm")] {
        let place = Place::new();
        let flags = format!(
            "{SMALL} {ENDLESS} --dead-after-seconds 2 --stall-after-seconds 12 \
             --collective {collective}"
        );
        let mut fleet = Fleet::of_task(Task::VaeOnGpus, &place, WORKERS as u32, &flags);
        for disaster in schedule(seed, false) {
            fleet.wait_for_progress(&place);
            fleet = strike(disaster, &place, fleet);
            fleet.wait_for_progress(&place);
        }
        stopped_with_the_same_bits(&place, fleet);
        assert_eq!(half_written(&place), [] as [String; 0]);
    }
}

/// A user's task, with the disasters that need no links.
#[test]
fn disasters_of_a_classifier() {
    const SEED: u64 = 5;
    let place = Place::new();
    let flags = format!(
        "{CLASSIFIER_RUN} {ENDLESS} --dead-after-seconds 2 --stall-after-seconds 12 --collective shm"
    );
    let mut fleet = Fleet::of_task(CLASSIFIER, &place, WORKERS as u32, &flags);
    for disaster in schedule(SEED, false) {
        fleet.wait_for_progress(&place);
        fleet = strike(disaster, &place, fleet);
        fleet.wait_for_progress(&place);
    }
    stopped_and_resumed(CLASSIFIER, CLASSIFIER_RUN, &place, fleet);
    assert_eq!(half_written(&place), [] as [String; 0]);
}
