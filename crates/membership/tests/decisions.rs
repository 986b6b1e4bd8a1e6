//! What the engine decides, event by event.

use std::time::Duration;

use collective::{Digest, Generation, Rank, ShardRange, Step};
use membership::{
    Command, Engine, Event, Failure, Fingerprint, Join, Loss, Member, Outcome, Refusal, Settings,
    Standing, WorkerId,
};
use proptest::prelude::*;

const DEAD_AFTER: Duration = Duration::from_secs(5);
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
const PERSIST_TIMEOUT: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(500);
const STEPS: Step = Step(100);

fn settings(workers: u32) -> Settings {
    Settings {
        workers,
        shards: 4,
        steps: STEPS,
        last_generation: Generation(0),
        dead_after: DEAD_AFTER,
        join_timeout: JOIN_TIMEOUT,
        persist_timeout: PERSIST_TIMEOUT,
        allow_mixed_devices: false,
    }
}

fn fingerprint(instruction_set: &str) -> Fingerprint {
    Fingerprint {
        device: "cpu".into(),
        instruction_set: instruction_set.into(),
        precision: "f32".into(),
        libtorch: "2.11.0".into(),
    }
}

fn join(rank: Option<u32>) -> Join {
    Join { rank: rank.map(Rank), fingerprint: fingerprint("avx512") }
}

fn at(step: u64) -> Standing {
    Standing { step: Step(step), digest: Digest([u8::try_from(step).unwrap(); 16]) }
}

fn disconnected() -> Loss {
    Loss::Disconnected("reset".into())
}

fn worker_lost(rank: u32, loss: Loss) -> Vec<Command> {
    vec![Command::Finish(Outcome::WorkerLost { rank: Rank(rank), loss })]
}

/// An engine with a clock that tests move by hand.
struct Run {
    engine: Engine,
    now: Duration,
}

impl Run {
    fn gathering(workers: u32) -> Self {
        Self { engine: Engine::new(settings(workers), Duration::ZERO), now: Duration::ZERO }
    }

    /// Worker `n` holds rank `n`, and generation 1 runs.
    fn running(workers: u32) -> Self {
        let mut run = Self::gathering(workers);
        for worker in 0..u64::from(workers) {
            run.on(Event::Joined(WorkerId(worker), join(None)));
        }
        for worker in 0..u64::from(workers) {
            run.ready(worker, 0);
        }
        assert_eq!(run.engine.generation(), Generation(1));
        run
    }

    fn on(&mut self, event: Event) -> Vec<Command> {
        self.engine.handle(event, self.now)
    }

    fn ready(&mut self, worker: u64, step: u64) -> Vec<Command> {
        self.on(Event::Ready(WorkerId(worker), at(step), None))
    }

    fn interrupted(&mut self, worker: u64, step: u64) -> Vec<Command> {
        self.on(Event::Ready(WorkerId(worker), at(step), Some("stream broke".into())))
    }

    fn lose(&mut self, worker: u64) -> Vec<Command> {
        self.on(Event::Lost(WorkerId(worker), disconnected()))
    }

    /// Lets time pass, in ticks.
    fn after(&mut self, time: Duration) -> Vec<Command> {
        let end = self.now + time;
        let mut commands = Vec::new();
        while self.now < end {
            self.now = end.min(self.now + TICK);
            commands.extend(self.on(Event::Tick));
        }
        commands
    }
}

#[test]
fn starts_when_all_are_ready_with_the_shards_dealt_in_rank_order() {
    let mut run = Run::gathering(2);
    assert_eq!(
        run.on(Event::Joined(WorkerId(7), join(Some(1)))),
        [Command::Admit(WorkerId(7), Rank(1))]
    );
    assert_eq!(run.ready(7, 0), []);
    assert_eq!(
        run.on(Event::Joined(WorkerId(8), join(None))),
        [Command::Admit(WorkerId(8), Rank(0))]
    );
    let member = |worker, rank, start, end| Member {
        worker: WorkerId(worker),
        rank: Rank(rank),
        shards: ShardRange { start, end },
    };
    assert_eq!(
        run.ready(8, 0),
        [Command::Start(Generation(1), vec![member(8, 0, 0, 2), member(7, 1, 2, 4)])]
    );
}

#[test]
fn a_generation_number_is_never_used_twice() {
    let settings = Settings { last_generation: Generation(41), ..settings(1) };
    let mut engine = Engine::new(settings, Duration::ZERO);
    engine.handle(Event::Joined(WorkerId(0), join(None)), Duration::ZERO);
    engine.handle(Event::Ready(WorkerId(0), at(0), None), Duration::ZERO);
    assert_eq!(engine.generation(), Generation(42));
}

#[test]
fn ranks_that_are_taken_or_do_not_exist_are_refused() {
    let mut run = Run::gathering(2);
    run.on(Event::Joined(WorkerId(0), join(Some(0))));
    let refused = |reason| vec![Command::Refuse(WorkerId(1), reason)];
    assert_eq!(
        run.on(Event::Joined(WorkerId(1), join(Some(0)))),
        refused(Refusal::RankTaken(Rank(0)))
    );
    assert_eq!(
        run.on(Event::Joined(WorkerId(1), join(Some(2)))),
        refused(Refusal::NoSuchRank { rank: Rank(2), workers: 2 })
    );
    let other = Join { rank: None, fingerprint: fingerprint("avx2") };
    let commands = run.on(Event::Joined(WorkerId(1), other));
    assert!(matches!(&commands[..], [Command::Refuse(_, Refusal::MixedFingerprints { .. })]));
}

#[test]
fn a_worker_lost_while_gathering_frees_its_rank() {
    let mut run = Run::gathering(1);
    run.on(Event::Joined(WorkerId(0), join(Some(0))));
    assert_eq!(run.lose(0), []);
    assert_eq!(
        run.on(Event::Joined(WorkerId(1), join(Some(0)))),
        [Command::Admit(WorkerId(1), Rank(0))]
    );
}

#[test]
fn workers_that_never_come_end_the_run() {
    let mut run = Run::gathering(2);
    run.on(Event::Joined(WorkerId(0), join(None)));
    run.ready(0, 0);
    run.now = JOIN_TIMEOUT - Duration::from_secs(1);
    run.on(Event::Alive(WorkerId(0)));
    let outcome = Outcome::WorkersMissing { present: 1, workers: 2, waited: JOIN_TIMEOUT };
    assert_eq!(run.after(Duration::from_secs(1)), [Command::Finish(outcome)]);
}

#[test]
fn completes_when_every_member_holds_the_last_state() {
    let mut run = Run::running(2);
    assert_eq!(run.ready(0, STEPS.0), []);
    let digest = at(STEPS.0).digest;
    assert_eq!(run.ready(1, STEPS.0), [Command::Finish(Outcome::Completed(digest))]);
}

#[test]
fn differing_final_states_are_an_error() {
    let mut run = Run::running(2);
    run.ready(0, STEPS.0);
    let other = Standing { step: STEPS, digest: Digest([0; 16]) };
    let commands = run.on(Event::Ready(WorkerId(1), other, None));
    assert!(matches!(&commands[..], [Command::Finish(Outcome::StatesDiffer { .. })]));
}

#[test]
fn a_lost_worker_aborts_and_the_furthest_survivor_saves() {
    let mut run = Run::running(3);
    assert_eq!(run.lose(0), [Command::Abort(Generation(1))]);
    assert_eq!(run.interrupted(1, 10), []);
    assert_eq!(run.interrupted(2, 11), [Command::Persist(WorkerId(2))]);
    assert_eq!(run.on(Event::Saved(WorkerId(2))), worker_lost(0, disconnected()));
}

#[test]
fn the_blame_falls_on_the_lost_worker_also_when_a_peer_notices_first() {
    let mut run = Run::running(3);
    assert_eq!(run.interrupted(1, 10), [Command::Abort(Generation(1))]);
    assert_eq!(run.interrupted(2, 10), []);
    assert_eq!(run.lose(0), [Command::Persist(WorkerId(1))]);
    assert_eq!(run.on(Event::Saved(WorkerId(1))), worker_lost(0, disconnected()));
}

#[test]
fn a_silent_worker_is_evicted() {
    let mut run = Run::running(2);
    assert_eq!(run.after(Duration::from_secs(3)), []);
    run.on(Event::Alive(WorkerId(0)));
    let commands = run.after(Duration::from_millis(2001));
    assert_eq!(commands, [Command::Evict(WorkerId(1)), Command::Abort(Generation(1))]);
}

#[test]
fn nobody_is_blamed_for_silence_while_the_coordinator_itself_stood_still() {
    let mut run = Run::running(2);
    run.after(Duration::from_secs(3));
    run.now += 2 * DEAD_AFTER;
    assert_eq!(run.on(Event::Tick), []);
    assert_eq!(run.after(DEAD_AFTER), []);
    let commands = run.after(Duration::from_secs(1));
    assert!(commands.contains(&Command::Evict(WorkerId(0))), "{commands:?}");
}

#[test]
fn a_stop_pauses_saves_and_interrupts() {
    let mut run = Run::running(2);
    assert_eq!(run.on(Event::StopRequested), [Command::Pause(Generation(1))]);
    assert_eq!(run.ready(1, 10), []);
    assert_eq!(run.ready(0, 10), [Command::Persist(WorkerId(0))]);
    let interrupted = Command::Finish(Outcome::Interrupted(Step(10)));
    assert_eq!(run.on(Event::Saved(WorkerId(0))), [interrupted]);
}

#[test]
fn a_stop_in_the_last_step_completes() {
    let mut run = Run::running(1);
    run.on(Event::StopRequested);
    let digest = at(STEPS.0).digest;
    assert_eq!(run.ready(0, STEPS.0), [Command::Finish(Outcome::Completed(digest))]);
}

#[test]
fn a_worker_that_leaves_pauses_the_run_and_may_be_the_one_that_saves() {
    let mut run = Run::running(2);
    assert_eq!(run.on(Event::Leaving(WorkerId(0))), [Command::Pause(Generation(1))]);
    assert_eq!(run.ready(0, 10), []);
    assert_eq!(run.ready(1, 10), [Command::Persist(WorkerId(0))]);
    assert_eq!(run.on(Event::Saved(WorkerId(0))), worker_lost(0, Loss::Left));
}

#[test]
fn when_all_are_told_to_go_at_once_it_is_an_interruption() {
    let mut run = Run::running(2);
    assert_eq!(run.on(Event::Leaving(WorkerId(1))), [Command::Pause(Generation(1))]);
    assert_eq!(run.on(Event::StopRequested), []);
    assert_eq!(run.on(Event::Leaving(WorkerId(0))), []);
    run.ready(0, 10);
    assert_eq!(run.ready(1, 10), [Command::Persist(WorkerId(0))]);
    let interrupted = Command::Finish(Outcome::Interrupted(Step(10)));
    assert_eq!(run.on(Event::Saved(WorkerId(0))), [interrupted]);
}

#[test]
fn a_worker_that_leaves_while_gathering_is_let_go() {
    let mut run = Run::gathering(2);
    run.on(Event::Joined(WorkerId(0), join(Some(0))));
    assert_eq!(run.on(Event::Leaving(WorkerId(0))), [Command::Dismiss(WorkerId(0))]);
    assert_eq!(run.engine.present(), 0);
}

#[test]
fn when_saving_fails_the_next_survivor_tries() {
    let mut run = Run::running(3);
    run.lose(2);
    run.interrupted(0, 10);
    assert_eq!(run.interrupted(1, 10), [Command::Persist(WorkerId(0))]);
    let full = Failure { message: "disk full".into(), state_intact: true };
    assert_eq!(run.on(Event::Failed(WorkerId(0), full)), [Command::Persist(WorkerId(1))]);
    assert_eq!(run.lose(1), worker_lost(2, disconnected()));
}

#[test]
fn a_worker_that_does_not_save_in_time_is_given_up() {
    let mut run = Run::running(1);
    run.on(Event::StopRequested);
    run.ready(0, 3);
    run.now += PERSIST_TIMEOUT;
    run.on(Event::Alive(WorkerId(0)));
    let commands = run.on(Event::Tick);
    let loss = Loss::Silent(PERSIST_TIMEOUT);
    assert_eq!(commands[0], Command::Evict(WorkerId(0)));
    assert_eq!(commands[1..], worker_lost(0, loss));
}

#[test]
fn states_that_are_not_to_be_trusted_are_not_saved() {
    let mut run = Run::running(2);
    let diverged = Failure { message: "states differ".into(), state_intact: false };
    assert_eq!(run.on(Event::Failed(WorkerId(1), diverged)), [Command::Abort(Generation(1))]);
    let outcome = Outcome::WorkerFailed { rank: Rank(1), message: "states differ".into() };
    assert_eq!(run.interrupted(0, 10), [Command::Finish(outcome)]);
}

fn events() -> impl Strategy<Value = Event> {
    let worker = || (0..6u64).prop_map(WorkerId);
    prop_oneof![
        (worker(), prop::option::of(0..4u32)).prop_map(|(w, rank)| Event::Joined(w, join(rank))),
        worker().prop_map(|w| Event::Lost(w, disconnected())),
        worker().prop_map(Event::Leaving),
        (worker(), 0..=100u64, any::<bool>()).prop_map(|(w, step, broken)| Event::Ready(
            w,
            at(step),
            broken.then(|| "broke".into())
        )),
        worker().prop_map(Event::Alive),
        worker().prop_map(Event::Saved),
        (worker(), any::<bool>()).prop_map(|(w, state_intact)| Event::Failed(
            w,
            Failure { message: "no".into(), state_intact }
        )),
        Just(Event::StopRequested),
        Just(Event::Tick),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_generations_rise_and_the_run_ends_once(
        events in prop::collection::vec((events(), 0..3000u64), 0..80),
    ) {
        let mut run = Run::gathering(3);
        let mut commands = Vec::new();
        for (event, wait_ms) in events {
            run.now += Duration::from_millis(wait_ms);
            commands.extend(run.on(event));
        }
        // Nobody speaks any more: every wait must come to its bound.
        for _ in 0..20 {
            commands.extend(run.after(PERSIST_TIMEOUT));
        }
        let finished = commands.iter().filter(|c| matches!(c, Command::Finish(_))).count();
        prop_assert_eq!(finished, 1);
        let generations: Vec<u64> = commands
            .iter()
            .filter_map(|c| match c { Command::Start(g, _) => Some(g.0), _ => None })
            .collect();
        prop_assert!(generations.is_sorted_by(|a, b| a < b));
    }
}
