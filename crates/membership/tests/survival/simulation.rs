//! Larger runs, in virtual time. Workers join, leave, freeze, hang and reconnect. Messages are
//! delayed, overtake each other on different connections, and are lost with their connection. The
//! coordinator is restarted. The checks of [`World`] hold, and once no more faults happen, the run
//! ends.

use std::time::Duration;

use collective::Step;
use membership::{Outcome, Settings};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::world::{Fault, World};

/// The number of random runs.
const RUNS: u32 = 5000;

/// The most troubles of a run. Eight in a row without a step between them would end the run; this is
/// very unlikely.
const TROUBLES_MAX: usize = 14;

/// Longer than a worker may be silent.
const STAND_STILL: Duration = Duration::from_secs(20);

/// A run ends within this time after the last fault. A fetch that hangs takes longest.
const RECOVERY_MAX: Duration = Duration::from_secs(600);

#[derive(Clone, Debug)]
enum Trouble {
    /// Something happens to one of the processes.
    Worker(Index, Index),
    NewWorker,
    RestartCoordinator,
    /// The coordinator's machine stands still.
    StandStill,
    Stop,
}

#[derive(Clone, Debug)]
struct Plan {
    settings: Settings,
    /// The troubles, each with the milliseconds since the previous one.
    troubles: Vec<(u64, Trouble)>,
    seed: u64,
}

fn troubles() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        12 => (any::<Index>(), any::<Index>()).prop_map(|(who, what)| Trouble::Worker(who, what)),
        3 => Just(Trouble::NewWorker),
        3 => Just(Trouble::RestartCoordinator),
        1 => Just(Trouble::StandStill),
        1 => Just(Trouble::Stop),
    ]
}

fn plans() -> impl Strategy<Value = Plan> {
    let sizes = (1..=8_u32, 1..=8_u32, 1..=8_u32, 3..200_u64);
    (sizes, vec((0..3000_u64, troubles()), 0..=TROUBLES_MAX), any::<u64>()).prop_map(
        |((workers, min_workers, shards, steps), troubles, seed)| {
            let settings = Settings {
                workers,
                min_workers: min_workers.min(workers).min(shards),
                shards: shards.max(workers),
                steps: Step(steps),
                dead_after: Duration::from_secs(5),
                stall_after: Duration::from_secs(30),
                join_timeout: Duration::from_secs(900),
                persist_timeout: Duration::from_secs(60),
                allow_mixed_devices: false,
            };
            Plan { settings, troubles, seed }
        },
    )
}

/// Random choices of the order of events, the same for the same seed (xorshift64*).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap() % end
    }

    /// Performs some of the possible actions, and lets a little time pass.
    fn advance(&mut self, world: &mut World) {
        for _ in 0..self.below(4 * world.workers.len()) {
            let actions = world.actions();
            if actions.is_empty() {
                break;
            }
            world.act(actions[self.below(actions.len())]);
        }
        if world.outcome.is_none() {
            world.pass(Duration::from_millis(1 + self.below(400) as u64));
        }
    }
}

fn suffer(world: &mut World, trouble: &Trouble) {
    match trouble {
        Trouble::Worker(who, what) => {
            let faults = world.faults(who.index(world.workers.len()));
            if !faults.is_empty() {
                world.inflict(faults[what.index(faults.len())]);
            }
        }
        Trouble::NewWorker => world.start_worker(),
        Trouble::RestartCoordinator => world.inflict(Fault::RestartCoordinator),
        Trouble::StandStill => drop(world.pass(STAND_STILL)),
        Trouble::Stop => world.request_stop(),
    }
}

fn play(plan: &Plan) -> Outcome {
    let workers = plan.settings.workers;
    let mut world = World::new(plan.settings.clone(), workers as usize);
    let mut chance = Chance(plan.seed | 1);
    for (after_ms, trouble) in &plan.troubles {
        let due = world.now + Duration::from_millis(*after_ms);
        while world.now < due && world.outcome.is_none() {
            chance.advance(&mut world);
        }
        if world.outcome.is_some() {
            break;
        }
        suffer(&mut world, trouble);
    }
    (0..world.workers.len()).for_each(|process| world.workers[process].is_frozen = false);
    let deadline = world.now + RECOVERY_MAX;
    while world.outcome.is_none() {
        // New workers are started while there are too few.
        if world.workers.iter().filter(|worker| !worker.is_gone).count() < workers as usize {
            world.start_worker();
        }
        chance.advance(&mut world);
        assert!(world.now < deadline, "the run does not end: it is {}", world.engine.state_name());
    }
    world.outcome.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: RUNS, failure_persistence: None, max_shrink_iters: 2000, ..ProptestConfig::default()
    })]

    #[test]
    fn a_run_survives_whatever_happens(plan in plans()) {
        let is_stopped = plan.troubles.iter().any(|(_, t)| matches!(t, Trouble::Stop));
        match play(&plan) {
            Outcome::Completed(_) => {}
            Outcome::Interrupted(_) => prop_assert!(is_stopped),
            outcome => prop_assert!(false, "{outcome}"),
        }
    }
}
