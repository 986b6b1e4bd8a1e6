//! Which workers are evicted because they take too long, and which are not.

use std::time::Duration;

use collective::Rank;
use membership::{Command, Event, Loss, Outcome, Phase, ReadyCause, WorkerId};

use crate::run::{DEAD_AFTER, Run, STALL_AFTER, TICK, abort, at, persist, running, start};

const WAITING: Phase = Phase::Waiting;
const COMPUTING: Phase = Phase::Computing;

#[test]
fn a_silent_member_is_evicted() {
    let mut run = running(2);
    assert_eq!(run.after(DEAD_AFTER, &[(0, 0, COMPUTING)]), []);
    let commands = run.after(TICK, &[(0, 0, COMPUTING)]);
    let silent = Command::Evict(WorkerId(1), Loss::Silent(DEAD_AFTER + TICK));
    assert_eq!(commands, [silent, abort(1, &[0])]);
}

#[test]
fn nobody_is_blamed_while_the_coordinator_itself_stood_still() {
    let mut run = running(2);
    run.after(Duration::from_secs(3), &[]);
    run.now += 2 * STALL_AFTER;
    assert_eq!(run.on(Event::Tick), []);
    assert_eq!(run.after(DEAD_AFTER, &[]), []);
    let commands = run.after(Duration::from_secs(1), &[]);
    assert!(matches!(commands[0], Command::Evict(_, Loss::Silent(_))), "{commands:?}");
}

#[test]
fn absent_members_are_waited_for_while_the_coordinator_itself_stood_still() {
    let mut run = Run::after_restart(crate::run::settings(2), 7, &[0]);
    run.now += 2 * DEAD_AFTER;
    assert_eq!(run.on(Event::Tick), []);
    assert_eq!(run.returns(0, 0, Some(7)), [crate::run::adopt(0, 0)]);
}

#[test]
fn the_member_that_all_others_wait_for_is_evicted() {
    let mut run = running(3);
    let alive = [(0, 5, WAITING), (1, 5, COMPUTING), (2, 5, WAITING)];
    assert_eq!(run.after(STALL_AFTER, &alive), []);
    let commands = run.after(2 * TICK, &alive);
    let stalled = Command::Evict(WorkerId(1), Loss::Stalled(STALL_AFTER));
    assert_eq!(commands, [stalled, abort(1, &[0, 2])]);
}

#[test]
fn a_generation_in_which_all_wait_is_broken() {
    let mut run = running(2);
    let alive = [(0, 5, WAITING), (1, 5, WAITING)];
    assert_eq!(run.after(STALL_AFTER, &alive), []);
    assert_eq!(run.after(2 * TICK, &alive), [abort(1, &[0, 1])]);
    run.interrupted(0, 5);
    assert_eq!(run.interrupted(1, 5), [start(2, &[(0, 0, 0, 2), (1, 1, 2, 4)])]);
}

#[test]
fn slow_steps_are_not_stalls() {
    let mut run = running(1);
    // Steps that take 10 s: the timeout is 200 s.
    let step = Duration::from_secs(10);
    (1..=9).for_each(|n| assert_eq!(run.after(step, &[(0, n, COMPUTING)]), []));
    assert_eq!(run.after(20 * step - TICK, &[(0, 10, COMPUTING)]), []);
    let commands = run.after(3 * TICK, &[(0, 10, COMPUTING)]);
    assert!(matches!(commands[0], Command::Evict(_, Loss::Stalled(_))), "{commands:?}");
}

#[test]
fn a_member_that_does_not_stop_is_evicted() {
    let mut run = running(3);
    run.lose(2);
    run.interrupted(0, 10);
    let alive = [(0, 10, Phase::Idle), (1, 10, WAITING)];
    assert_eq!(run.after(STALL_AFTER - TICK, &alive), []);
    let commands = run.after(TICK, &alive);
    let unresponsive = Command::Evict(WorkerId(1), Loss::Unresponsive(STALL_AFTER));
    assert_eq!(commands, [unresponsive, start(2, &[(0, 0, 0, 4)])]);
}

#[test]
fn signs_of_life_of_unknown_workers_mean_nothing() {
    let mut run = running(1);
    run.alive(9, 5, COMPUTING);
    assert_eq!(run.ready(9, 5), []);
    assert_eq!(run.lose(9), []);
    assert_eq!(run.leaves(9), []);
    assert_eq!(run.on(Event::Saved(WorkerId(0))), []);
}

/// Interrupts the only member's generation at this step, again and again, until the engine gives
/// other commands than to start the next generation. Returns these commands and all pauses.
fn break_often(run: &mut Run, step: u64) -> (Vec<Command>, Vec<Duration>) {
    let mut pauses = Vec::new();
    loop {
        let broken_at = run.now;
        let cause = ReadyCause::Interrupted("no route".into());
        let mut commands = run.on(Event::Ready(WorkerId(0), at(step), cause));
        while commands.is_empty() {
            commands = run.after(Duration::from_millis(50), &[(0, step, Phase::Idle)]);
        }
        pauses.push(run.now - broken_at);
        if !matches!(commands[..], [Command::Start(..)]) {
            return (commands, pauses);
        }
    }
}

#[test]
fn eight_fruitless_generations_end_the_run_with_growing_pauses() {
    let mut run = running(1);
    run.interrupted(0, 10);
    let (commands, pauses) = break_often(&mut run, 10);
    assert_eq!(commands, [persist(0)]);
    let pauses: Vec<_> = pauses.iter().map(Duration::as_millis).collect();
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 0]);
    let commands = run.on(Event::Saved(WorkerId(0)));
    let [Command::Finish(Outcome::WorkerFailed { message, .. })] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!(message, "no route");
}

/// A later member only reports that the generation was ended, not the cause.
#[test]
fn the_cause_is_what_the_first_member_says() {
    let mut run = running(2);
    run.interrupted(0, 10);
    let mut commands = run.interrupted(1, 10);
    let says = |run: &mut Run, worker, reason: &str| {
        let cause = ReadyCause::Interrupted(reason.into());
        run.on(Event::Ready(WorkerId(worker), at(10), cause))
    };
    while matches!(commands[..], [Command::Start(..)]) {
        says(&mut run, 1, "no memory");
        commands = says(&mut run, 0, "the generation was ended");
        while commands.is_empty() {
            let idle = [(0, 10, Phase::Idle), (1, 10, Phase::Idle)];
            commands = run.after(Duration::from_millis(50), &idle);
        }
    }
    assert_eq!(commands, [persist(0)]);
    let commands = run.on(Event::Saved(WorkerId(0)));
    let [Command::Finish(Outcome::WorkerFailed { rank, message, .. })] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!((*rank, message.as_str()), (Rank(1), "no memory"));
}

#[test]
fn a_step_forgives_all_fruitless_generations() {
    let mut run = running(1);
    run.interrupted(0, 1);
    for step in 1..50 {
        let cause = ReadyCause::Interrupted("no route".into());
        run.on(Event::Ready(WorkerId(0), at(step), cause.clone()));
        run.after(Duration::from_secs(1), &[(0, step, Phase::Idle)]);
        let commands = run.on(Event::Ready(WorkerId(0), at(step + 1), cause));
        assert!(matches!(commands[..], [Command::Start(..)]), "{commands:?}");
    }
}
