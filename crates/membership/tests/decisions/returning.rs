//! A restarted coordinator admits the workers again.

use std::time::Duration;

use collective::Step;
use membership::{Command, Event, Outcome, Phase};

use crate::run::{
    DEAD_AFTER, Run, STEPS, TICK, abort, admit, adopt, at, fetch, pause, persist, settings, start,
};

fn restarted(generation: u64, members: &[u32]) -> Run {
    Run::after_restart(settings(3), generation, members)
}

#[test]
fn members_that_still_compute_go_on_in_their_generation() {
    let mut run = restarted(7, &[0, 1]);
    assert_eq!(run.returns(0, 0, Some(7)), [adopt(0, 0)]);
    assert_eq!(run.returns(1, 1, Some(7)), [adopt(1, 1)]);
    let alive = [(0, 9, Phase::Waiting), (1, 9, Phase::Waiting)];
    assert_eq!(run.after(2 * DEAD_AFTER, &alive), []);
    assert_eq!(run.ready(0, STEPS), []);
    let completed = Command::Finish(Outcome::Completed(at(STEPS).digest));
    assert_eq!(run.ready(1, STEPS), [completed]);
}

#[test]
fn a_member_that_is_idle_shows_that_the_generation_cannot_go_on() {
    let mut run = restarted(7, &[0, 1]);
    assert_eq!(run.returns(0, 0, Some(7)), [adopt(0, 0)]);
    // Worker 1 is idle, because it was never told of generation 7.
    assert_eq!(run.returns(1, 1, None), [adopt(1, 1), abort(7, &[0, 1])]);
    assert_eq!(run.ready(1, 5), []);
    assert_eq!(run.interrupted(0, 5), [start(8, &[(0, 0, 0, 2), (1, 1, 2, 4)])]);
}

#[test]
fn a_member_of_a_stale_generation_is_stopped() {
    let mut run = restarted(7, &[0, 1]);
    assert_eq!(run.returns(0, 0, Some(6)), [adopt(0, 0), abort(6, &[0]), abort(7, &[0])]);
    assert_eq!(run.returns(1, 1, Some(6)), [adopt(1, 1), abort(6, &[1])]);
    assert_eq!(run.interrupted(0, 5), []);
    assert_eq!(run.interrupted(1, 6), [fetch(0, 1)]);
    assert_eq!(run.ready(0, 6), [start(8, &[(0, 0, 0, 2), (1, 1, 2, 4)])]);
}

#[test]
fn the_last_step_is_done_again_unless_all_members_finish_it_in_sight() {
    let mut run = restarted(7, &[0, 1]);
    run.returns(1, 1, Some(7));
    assert_eq!(run.ready(1, STEPS), []);
    // The leader was interrupted, so it has not saved the last state.
    assert_eq!(run.returns(0, 0, None), [adopt(0, 0), abort(7, &[0])]);
    assert_eq!(run.ready(0, STEPS - 1), [fetch(0, 1)]);
    assert_eq!(run.ready(0, STEPS), [start(8, &[(0, 0, 0, 2), (1, 1, 2, 4)])]);
    run.ready(0, STEPS);
    let completed = Command::Finish(Outcome::Completed(at(STEPS).digest));
    assert_eq!(run.ready(1, STEPS), [completed]);
}

#[test]
fn members_that_do_not_come_back_are_given_up() {
    let mut run = restarted(7, &[0, 1]);
    run.returns(1, 1, Some(7));
    let alive = [(1, 9, Phase::Waiting)];
    assert_eq!(run.after(DEAD_AFTER - Duration::from_millis(1), &alive), []);
    assert_eq!(run.after(Duration::from_millis(1), &alive), [abort(7, &[1])]);
    assert_eq!(run.interrupted(1, 9), [start(8, &[(1, 1, 0, 4)])]);
}

#[test]
fn a_new_worker_gets_no_rank_that_a_member_may_come_back_to() {
    let mut run = restarted(7, &[0, 1, 2]);
    assert_eq!(run.joins(5), [admit(5, None)]);
    run.returns(0, 0, Some(7));
    run.returns(1, 1, Some(7));
    assert_eq!(run.ready(5, 0), [fetch(5, 1)]);
    let alive = [(0, 9, Phase::Waiting), (1, 9, Phase::Waiting), (5, 0, Phase::Idle)];
    assert_eq!(run.after(DEAD_AFTER, &alive), [abort(7, &[0, 1])]);
    run.interrupted(0, 9);
    run.interrupted(1, 9);
    assert_eq!(run.engine.generation().0, 8);
}

#[test]
fn a_returning_worker_that_was_no_member_joins_anew() {
    let mut run = restarted(7, &[0, 1]);
    assert_eq!(run.returns(2, 2, Some(6)), [admit(2, Some(2)), abort(6, &[2])]);
    run.returns(0, 0, Some(7));
    run.returns(1, 1, Some(7));
    run.alive(1, 9, Phase::Waiting);
    assert_eq!(run.interrupted(2, 4), [fetch(2, 1)]);
}

#[test]
fn a_pause_is_told_to_members_that_come_back_after_it() {
    let mut run = restarted(7, &[0, 1]);
    run.on(Event::StopRequested);
    assert_eq!(run.returns(0, 0, Some(7)), [adopt(0, 0), pause(7, &[0])]);
    assert_eq!(run.returns(1, 1, Some(7)), [adopt(1, 1), pause(7, &[1])]);
    run.ready(0, 10);
    assert_eq!(run.ready(1, 10), [persist(0)]);
    let interrupted = Command::Finish(Outcome::Interrupted(Step(10)));
    assert_eq!(run.on(Event::Saved(membership::WorkerId(0))), [interrupted]);
}

#[test]
fn a_joiner_that_is_there_first_fetches_once_a_member_is_back() {
    let mut run = restarted(7, &[0, 1]);
    assert_eq!(run.joins(5), [admit(5, Some(2))]);
    assert_eq!(run.ready(5, 0), []);
    assert_eq!(run.returns(0, 0, Some(7)), [adopt(0, 0), fetch(5, 0)]);
}

#[test]
fn a_spare_that_is_ahead_does_not_take_over_a_state_that_is_behind() {
    let mut run = Run::after_restart(settings(1), 7, &[0]);
    run.returns(0, 0, Some(7));
    run.joins(5);
    assert_eq!(run.ready(5, 9), []);
    assert_eq!(run.after(TICK, &[(0, 8, Phase::Computing), (5, 9, Phase::Idle)]), []);
    let commands = run.after(TICK, &[(0, 9, Phase::Computing), (5, 9, Phase::Idle)]);
    assert_eq!(commands, [fetch(5, 0)]);
}
