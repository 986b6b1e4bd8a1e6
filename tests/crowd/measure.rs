//! Measures a coordinator with a thousand workers, and compares the figures with their limits:
//! `cargo xtask crowd`.

use std::{
    env,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use super::{coordinator, half};
use crate::harness::{Crowd, Holding, Place, wait_until};

/// The variables with the number of workers and the number of rounds.
const WORKERS: &str = "LOCKSTEP_CROWD_WORKERS";
const ROUNDS: &str = "LOCKSTEP_CROWD_ROUNDS";

/// With this limit a worker sends a heartbeat every second.
const ONE_HEARTBEAT_A_SECOND: &str = "--dead-after-seconds 10";

/// How long the coordinator's processor time is measured.
const WATCHED: Duration = Duration::from_secs(10);

/// A quantity, and its largest allowed value for a thousand workers.
struct Limit {
    what: &'static str,
    most: f64,
    /// Whether only the best round counts, because other work of the machine can make a round
    /// worse. Otherwise all rounds count.
    best_counts: bool,
}

const LIMITS: [Limit; 5] = [
    Limit { what: "all joined and called to a generation, s", most: 3.0, best_counts: true },
    Limit { what: "processor time while they train, % of a core", most: 10.0, best_counts: true },
    Limit { what: "half lost, the others called again, s", most: 3.0, best_counts: true },
    Limit { what: "generations for that", most: 1.0, best_counts: false },
    Limit { what: "peak memory, MB", most: 150.0, best_counts: false },
];

type Figures = [f64; LIMITS.len()];

#[test]
#[ignore = "a measurement: cargo xtask crowd"]
fn measure() {
    let number = |name: &str| env::var(name).expect(name).parse::<usize>().expect(name);
    // Each worker needs a file descriptor of this process.
    let most = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: most.maximum, ..most }).unwrap();
    let rounds: Vec<Figures> = (0..number(ROUNDS)).map(|_| round(number(WORKERS))).collect();
    report(&rounds);
}

fn round(workers: usize) -> Figures {
    let place = Place::new();
    let fleet = coordinator(&place, workers, ONE_HEARTBEAT_A_SECOND);
    let begun = Instant::now();
    let mut crowd = Crowd::new(&fleet.url);
    crowd.add(workers);
    let (first, started) = crowd.wait_for_generation(&fleet.coordinator, workers, 0);
    let joining = started.at - begun;

    let before = Holding::of(&fleet.coordinator).processor_time;
    let watched = Instant::now();
    wait_until("the time has passed", || watched.elapsed() >= WATCHED);
    let used = Holding::of(&fleet.coordinator).processor_time - before;
    let share = used.as_secs_f64() / watched.elapsed().as_secs_f64();

    let lost = half(workers);
    let begun = Instant::now();
    crowd.lose(&lost);
    let (second, started) =
        crowd.wait_for_generation(&fleet.coordinator, workers - lost.len(), first);
    let recovery = started.at - begun;
    let peak = Holding::of(&fleet.coordinator).peak_bytes;

    fleet.coordinator.signal(Signal::TERM);
    fleet.coordinator.wait().exited_with(143);
    crowd.wait();
    [
        joining.as_secs_f64(),
        share * 100.0,
        recovery.as_secs_f64(),
        (second - first) as f64,
        peak as f64 / 1e6,
    ]
}

/// Prints each limit with the rounds, and fails if a limit is exceeded.
#[expect(clippy::print_stdout, reason = "the user waits for the figures")]
fn report(rounds: &[Figures]) {
    let mut missed = Vec::new();
    println!("\n{:<46}{:>8}  rounds", "", "at most");
    for (index, Limit { what, most, best_counts }) in LIMITS.iter().enumerate() {
        let values: Vec<f64> = rounds.iter().map(|figures| figures[index]).collect();
        let shown: Vec<String> = values.iter().map(|value| format!("{value:7.2}")).collect();
        println!("{what:<46}{most:>8}  {}", shown.join(" "));
        let counted = values.into_iter().reduce(if *best_counts { f64::min } else { f64::max });
        if counted.is_none_or(|value| value > *most) {
            missed.push(*what);
        }
    }
    assert!(missed.is_empty(), "not kept: {}", missed.join("; "));
}
