//! Workers that join a run that trains.

use std::time::Duration;

use collective::Rank;
use membership::{Command, Event, Failure, Loss, Outcome, Phase, WorkerId};

use crate::run::{
    JOIN_TIMEOUT, STALL_AFTER, STEPS, abort, admit, at, fetch, join, pause, running, running_as,
    settings, start,
};

/// Workers 0 and 1 of three compute at step 10.
fn two_of_three() -> crate::run::Run {
    let mut run = running(3);
    run.lose(2);
    run.interrupted(0, 10);
    run.interrupted(1, 10);
    assert_eq!(run.engine.generation().0, 2);
    run
}

#[test]
fn a_joiner_fetches_while_others_train_then_they_pause_and_it_is_leveled() {
    let mut run = two_of_three();
    assert_eq!(run.joins(3), [admit(3, Some(2))]);
    // The donor is not the leader, which has the most work.
    assert_eq!(run.ready(3, 0), [fetch(3, 1)]);
    assert_eq!(run.ready(3, 12), [pause(2, &[0, 1])]);
    assert_eq!(run.ready(0, 15), []);
    assert_eq!(run.ready(1, 15), [fetch(3, 1)]);
    assert_eq!(run.ready(3, 15), [start(3, &[(0, 0, 0, 1), (1, 1, 1, 2), (3, 2, 2, 4)])]);
}

#[test]
fn a_joiner_that_cannot_fetch_disturbs_nobody_and_is_given_up() {
    let mut run = two_of_three();
    run.joins(3);
    run.ready(3, 0);
    assert_eq!(run.not_fetched(3, 0), [fetch(3, 0)]);
    assert_eq!(run.not_fetched(3, 0), [fetch(3, 1)]);
    let unreachable = Command::Evict(WorkerId(3), Loss::Unreachable("refused".into()));
    assert_eq!(run.not_fetched(3, 0), [unreachable]);
}

#[test]
fn a_joiner_that_cannot_load_ends_no_run() {
    let mut run = two_of_three();
    run.joins(3);
    let failure = Failure { message: "no data".into(), state_intact: true, recurs: false };
    assert_eq!(
        run.on(Event::Failed(WorkerId(3), failure)),
        [Command::Evict(WorkerId(3), Loss::Unable("no data".into()))]
    );
}

#[test]
fn a_joiner_that_fetches_for_too_long_is_given_up() {
    let mut run = two_of_three();
    run.joins(3);
    run.ready(3, 0);
    let mut commands = Vec::new();
    for half_minute in 1..=20_u32 {
        // Steps are short, so the timeout does not come from their length.
        let step = 1000 * u64::from(half_minute);
        let at = |worker| (worker, step, Phase::Computing);
        commands.extend(run.after(STALL_AFTER / 2, &[at(0), at(1), (3, 0, Phase::Idle)]));
    }
    assert_eq!(commands, []);
    let commands = run.after(
        Duration::from_secs(1),
        &[(0, 40_000, Phase::Computing), (1, 40_000, Phase::Computing), (3, 0, Phase::Idle)],
    );
    let [Command::Evict(WorkerId(3), Loss::Unresponsive(_))] = commands[..] else {
        panic!("{commands:?}")
    };
}

#[test]
fn a_joiner_that_is_lost_after_the_pause_holds_up_nobody() {
    let mut run = two_of_three();
    run.joins(3);
    run.ready(3, 0);
    run.ready(3, 12);
    run.ready(0, 15);
    assert_eq!(run.ready(1, 15), [fetch(3, 1)]);
    assert_eq!(run.lose(3), [start(3, &[(0, 0, 0, 2), (1, 1, 2, 4)])]);
}

#[test]
fn an_unproven_joiner_is_not_waited_for() {
    let mut run = two_of_three();
    run.joins(3);
    assert_eq!(run.lose(1), [abort(2, &[0])]);
    assert_eq!(run.ready(3, 0), []);
    assert_eq!(run.interrupted(0, 11), [start(3, &[(0, 0, 0, 4)]), fetch(3, 0)]);
}

#[test]
fn a_joiner_that_comes_while_all_pause_is_brought_in_afterwards() {
    let mut run = running(3);
    run.lose(2);
    run.lose(1);
    run.interrupted(0, 10);
    run.joins(3);
    run.ready(3, 0);
    assert_eq!(run.ready(3, 12), [pause(2, &[0])]);
    run.joins(4);
    assert_eq!(run.ready(4, 0), []);
    assert_eq!(run.ready(0, 15), [fetch(3, 0)]);
    let next = start(3, &[(0, 0, 0, 2), (3, 1, 2, 4)]);
    assert_eq!(run.ready(3, 15), [next, fetch(4, 3)]);
}

#[test]
fn a_spare_fetches_ahead_and_steps_in_when_a_member_is_lost() {
    let mut run = running(2);
    assert_eq!(run.joins(2), [admit(2, None)]);
    assert_eq!(run.ready(2, 0), [fetch(2, 1)]);
    assert_eq!(run.ready(2, 9), []);
    assert_eq!(run.lose(1), [abort(1, &[0])]);
    assert_eq!(run.interrupted(0, 10), [fetch(2, 0)]);
    assert_eq!(run.ready(2, 10), [start(2, &[(0, 0, 0, 2), (2, 1, 2, 4)])]);
}

#[test]
fn a_spare_steps_in_also_when_a_joiner_is_lost() {
    let mut run = two_of_three();
    run.joins(3);
    assert_eq!(run.joins(4), [admit(4, None)]);
    run.ready(4, 0);
    assert_eq!(run.ready(4, 12), []);
    assert_eq!(run.lose(3), [pause(2, &[0, 1])]);
    assert_eq!(run.engine.rank(WorkerId(4)), Some(Rank(2)));
}

#[test]
fn a_spare_gets_the_rank_that_became_free_while_it_fetched() {
    let mut run = two_of_three();
    run.joins(3);
    run.joins(4);
    run.ready(4, 0);
    assert_eq!(run.lose(3), []);
    assert_eq!(run.ready(4, 12), [pause(2, &[0, 1])]);
}

#[test]
fn a_spare_gets_the_rank_that_it_asked_for_if_it_can() {
    let mut run = crate::run::Run::after_restart(settings(3), 7, &[0, 1, 2]);
    run.on(Event::Joined(WorkerId(5), join(Some(2))));
    run.returns(0, 0, Some(7));
    run.ready(5, 0);
    run.ready(5, 9);
    run.after(crate::run::DEAD_AFTER, &[(0, 9, Phase::Waiting), (5, 9, Phase::Idle)]);
    assert_eq!(run.interrupted(0, 9), [start(8, &[(0, 0, 0, 2), (5, 2, 2, 4)])]);
}

#[test]
fn a_joiner_does_not_keep_a_run_from_completing() {
    let mut run = two_of_three();
    run.joins(3);
    run.ready(3, 0);
    assert_eq!(run.ready(0, STEPS), []);
    // The new worker has fetched the last state, so no pause is needed.
    assert_eq!(run.ready(3, STEPS), []);
    let completed = Command::Finish(Outcome::Completed(at(STEPS).digest));
    assert_eq!(run.ready(1, STEPS), [completed]);
}

#[test]
fn a_worker_is_given_up_only_for_its_own_failures() {
    let mut run = running_as(settings(2));
    run.lose(1);
    run.interrupted(0, 1);
    // Two failures are forgotten once the worker is in a generation.
    run.joins(2);
    run.ready(2, 0);
    run.not_fetched(2, 0);
    run.not_fetched(2, 0);
    assert_eq!(run.ready(2, 5), [pause(2, &[0])]);
    assert_eq!(run.ready(0, 5), [start(3, &[(0, 0, 0, 2), (2, 1, 2, 4)])]);
    run.interrupted(0, 7);
    assert_eq!(run.interrupted(2, 6), [fetch(2, 0)]);
    assert_eq!(run.not_fetched(2, 6), [fetch(2, 0)]);
    assert_eq!(run.after(JOIN_TIMEOUT, &[(0, 7, Phase::Idle), (2, 6, Phase::Idle)]), []);
}
