//! Larger runs, in virtual time: workers come, go, freeze, hang and return, messages are
//! delayed, overtake each other on different connections and are lost with them, and the
//! coordinator is started again. What [`World`] promises holds, and once nothing more goes
//! wrong the run comes to its end.

use std::time::Duration;

use collective::Step;
use membership::{Outcome, Settings};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::world::{Fault, World};

/// Runs that are tried.
const RUNS: u32 = 5000;

/// Troubles of a run; hardly ever eight in a row that leave no time for a step, which end it.
const TROUBLES_MAX: usize = 14;

/// Longer than any worker may be silent.
const STAND_STILL: Duration = Duration::from_secs(20);

/// Within this time after the last fault, a run is at its end: a fetch that hangs takes longest.
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
    /// What goes wrong, and how long after the one before, in milliseconds.
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

/// The order of events: one of many, the same for the same seed (xorshift64*).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap() % end
    }

    /// Lets some of what can happen happen, and a little time pass.
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
        // There is always somebody who starts workers while there are too few.
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
