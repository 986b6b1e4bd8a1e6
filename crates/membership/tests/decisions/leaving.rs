//! Workers that want to leave: nothing is aborted, and their state stays in the run.

use membership::{Command, Event, Failure, Outcome, Phase, WorkerId};

use crate::run::{
    JOIN_TIMEOUT, PERSIST_TIMEOUT, STEPS, abort, admit, at, dismiss, fetch, pause, persist,
    running, start,
};

#[test]
fn all_pause_and_go_on_without_it() {
    let mut run = running(3);
    assert_eq!(run.leaves(1), [pause(1, &[0, 1, 2])]);
    run.ready(0, 10);
    run.ready(1, 10);
    let next = start(2, &[(0, 0, 0, 2), (2, 2, 2, 4)]);
    assert_eq!(run.ready(2, 10), [dismiss(1), next]);
}

#[test]
fn the_leader_may_leave() {
    let mut run = running(2);
    assert_eq!(run.leaves(0), [pause(1, &[0, 1])]);
    run.ready(0, 10);
    assert_eq!(run.ready(1, 10), [dismiss(0), start(2, &[(1, 1, 0, 4)])]);
}

#[test]
fn it_goes_only_once_another_has_its_state() {
    let mut run = running(2);
    run.leaves(0);
    // Worker 1 is interrupted before it has finished the step.
    run.ready(0, 11);
    assert_eq!(run.interrupted(1, 10), [fetch(1, 0)]);
    assert_eq!(run.ready(1, 11), [dismiss(0), start(2, &[(1, 1, 0, 4)])]);
}

#[test]
fn who_has_paused_already_goes_once_the_others_have() {
    let mut run = running(3);
    run.leaves(1);
    run.ready(2, 10);
    assert_eq!(run.leaves(2), []);
    run.ready(1, 10);
    assert_eq!(run.ready(0, 10), [dismiss(1), dismiss(2), start(2, &[(0, 0, 0, 4)])]);
}

#[test]
fn the_last_one_saves_its_state_first() {
    let mut run = running(1);
    assert_eq!(run.leaves(0), [pause(1, &[0])]);
    assert_eq!(run.ready(0, 10), [persist(0)]);
    let wait = Command::Wait { present: 0, needed: 1 };
    assert_eq!(run.on(Event::Saved(WorkerId(0))), [dismiss(0), wait]);
    // The next worker loads that checkpoint.
    assert_eq!(run.joins(1), [admit(1, Some(0))]);
    assert_eq!(run.ready(1, 10), [start(2, &[(1, 0, 0, 4)])]);
}

#[test]
fn when_all_leave_one_of_them_saves() {
    let mut run = running(2);
    run.leaves(0);
    assert_eq!(run.leaves(1), []);
    run.ready(1, 10);
    assert_eq!(run.ready(0, 10), [persist(0)]);
    assert_eq!(run.on(Event::Saved(WorkerId(0))), [dismiss(0), persist(1)]);
    let wait = Command::Wait { present: 0, needed: 1 };
    assert_eq!(run.on(Event::Saved(WorkerId(1))), [dismiss(1), wait]);
}

#[test]
fn who_comes_while_the_last_one_saves_takes_over() {
    let mut run = running(1);
    run.leaves(0);
    run.ready(0, 10);
    run.joins(1);
    assert_eq!(run.ready(1, 0), []);
    let commands = run.on(Event::Saved(WorkerId(0)));
    assert_eq!(commands[0], dismiss(0));
}

#[test]
fn a_leaving_worker_that_dies_while_it_saves_is_not_waited_for() {
    let mut run = running(1);
    run.leaves(0);
    assert_eq!(run.ready(0, 10), [persist(0)]);
    assert_eq!(run.lose(0), [Command::Wait { present: 0, needed: 1 }]);

    let mut run = running(1);
    run.leaves(0);
    run.ready(0, 10);
    let commands = run.after(PERSIST_TIMEOUT, &[(0, 10, Phase::Saving)]);
    assert!(matches!(commands[0], Command::Evict(WorkerId(0), _)), "{commands:?}");
}

#[test]
fn a_leaving_worker_lost_before_the_pause_is_a_lost_member() {
    let mut run = running(2);
    run.leaves(0);
    assert_eq!(run.lose(0), [abort(1, &[1])]);
    assert_eq!(run.interrupted(1, 10), [start(2, &[(1, 1, 0, 4)])]);
}

#[test]
fn who_is_no_member_goes_at_once() {
    let mut run = running(2);
    run.joins(2);
    assert_eq!(run.leaves(2), [dismiss(2)]);
    run.joins(3);
    run.ready(3, 0);
    assert_eq!(run.leaves(3), [dismiss(3)]);
    run.joins(4);
    run.ready(4, 0);
    run.ready(4, 9);
    assert_eq!(run.leaves(4), [dismiss(4)]);
}

#[test]
fn a_leaving_member_does_not_keep_a_run_from_completing() {
    let mut run = running(2);
    run.leaves(1);
    run.ready(0, STEPS);
    let completed = Command::Finish(Outcome::Completed(at(STEPS).digest));
    assert_eq!(run.ready(1, STEPS), [completed]);
}

#[test]
fn when_saving_fails_the_run_ends_for_that_reason() {
    let mut run = running(2);
    run.leaves(0);
    run.leaves(1);
    run.ready(0, 10);
    assert_eq!(run.ready(1, 10), [persist(0)]);
    let full = Failure { message: "disk full".into(), state_intact: true, recurs: false };
    assert_eq!(run.on(Event::Failed(WorkerId(0), full)), [persist(1)]);
    let commands = run.on(Event::Saved(WorkerId(1)));
    let [Command::Finish(Outcome::WorkerFailed { message, .. })] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!(message, "disk full");
}

#[test]
fn a_run_that_all_have_left_ends_after_the_join_timeout() {
    let mut run = running(1);
    run.leaves(0);
    run.ready(0, 10);
    run.on(Event::Saved(WorkerId(0)));
    let commands = run.after(JOIN_TIMEOUT, &[]);
    let [Command::Finish(Outcome::WorkersMissing { present: 0, needed: 1, .. })] = commands[..]
    else {
        panic!("{commands:?}")
    };
}
