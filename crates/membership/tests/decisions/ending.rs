//! The end of a run, from every state of the engine.

use collective::{Digest, Rank, Step};
use membership::{
    Command, Event, Failure, Outcome, Phase, Position, ReadyCause, Refusal, Settings, WorkerId,
};

use crate::run::{
    PERSIST_TIMEOUT, STEPS, abort, at, fetch, pause, persist, running, running_as, settings,
};

fn interrupted_after(step: u64) -> Vec<Command> {
    vec![Command::Finish(Outcome::Interrupted(Step(step)))]
}

fn completed() -> Vec<Command> {
    vec![Command::Finish(Outcome::Completed(at(STEPS).digest))]
}

fn failed(worker: u64, message: &str, state_intact: bool) -> Event {
    Event::Failed(
        WorkerId(worker),
        Failure { message: message.into(), state_intact, recurs: false },
    )
}

fn worker_failed(rank: u32, message: &str) -> Vec<Command> {
    let message = message.into();
    vec![Command::Finish(Outcome::WorkerFailed { rank: Rank(rank), message, recurs: false })]
}

#[test]
fn completes_when_every_member_holds_the_last_state() {
    let mut run = running(2);
    assert_eq!(run.ready(0, STEPS), []);
    assert_eq!(run.ready(1, STEPS), completed());
    assert_eq!(run.ready(1, STEPS), []);
    assert_eq!(run.joins(2), [Command::Refuse(WorkerId(2), Refusal::Ending)]);
}

#[test]
fn last_states_that_differ_are_an_error() {
    let mut run = running(2);
    run.ready(0, STEPS);
    let other = Position { digest: Digest([0; 16]), ..at(STEPS) };
    let commands = run.on(Event::Ready(WorkerId(1), other, ReadyCause::AsTold));
    assert!(matches!(commands[..], [Command::Finish(Outcome::Diverged(_))]), "{commands:?}");
}

#[test]
fn a_stop_pauses_saves_and_interrupts() {
    let mut run = running(2);
    assert_eq!(run.on(Event::StopRequested), [pause(1, &[0, 1])]);
    assert_eq!(run.joins(2), [Command::Refuse(WorkerId(2), Refusal::Ending)]);
    assert_eq!(run.on(Event::StopRequested), []);
    assert_eq!(run.ready(1, 10), []);
    assert_eq!(run.ready(0, 10), [persist(0)]);
    assert_eq!(run.on(Event::StopRequested), []);
    assert_eq!(run.on(Event::Saved(WorkerId(0))), interrupted_after(10));
    assert_eq!(run.on(Event::StopRequested), []);
}

#[test]
fn a_stop_in_the_last_step_completes() {
    let mut run = running(1);
    run.on(Event::StopRequested);
    assert_eq!(run.ready(0, STEPS), completed());
}

#[test]
fn a_stop_while_recovering_saves_the_furthest_state() {
    let mut run = running(3);
    run.lose(2);
    assert_eq!(run.on(Event::StopRequested), []);
    assert_eq!(run.interrupted(0, 10), []);
    assert_eq!(run.interrupted(1, 11), [persist(1)]);
    assert_eq!(run.on(Event::Saved(WorkerId(1))), interrupted_after(11));
}

#[test]
fn a_stop_while_one_fetches_saves_the_donors_state() {
    let mut run = running(3);
    run.lose(2);
    run.interrupted(0, 10);
    assert_eq!(run.interrupted(1, 11), [fetch(0, 1)]);
    assert_eq!(run.on(Event::StopRequested), [persist(1)]);
}

#[test]
fn a_stop_while_the_run_waits_saves_the_state() {
    let mut run = running_as(Settings { min_workers: 2, ..settings(2) });
    run.lose(1);
    run.interrupted(0, 10);
    assert_eq!(run.on(Event::StopRequested), [persist(0)]);
}

#[test]
fn a_stop_while_a_leaving_worker_saves_is_done_with_that() {
    let mut run = running(1);
    run.leaves(0);
    run.ready(0, 10);
    assert_eq!(run.on(Event::StopRequested), []);
    assert_eq!(run.on(Event::Saved(WorkerId(0))), interrupted_after(10));
}

#[test]
fn a_stop_after_the_last_one_has_left_tells_the_step_that_it_saved() {
    let mut run = running(1);
    run.leaves(0);
    run.ready(0, 10);
    run.on(Event::Saved(WorkerId(0)));
    assert_eq!(run.on(Event::StopRequested), interrupted_after(10));
}

#[test]
fn the_step_that_is_told_is_the_one_that_was_saved() {
    let mut run = running(2);
    run.returns(2, 1, Some(1));
    run.lose(1);
    run.on(Event::StopRequested);
    assert_eq!(run.interrupted(0, 10), [persist(0)]);
    // Worker 2 had trained on alone; it reports its step too late to be saved.
    assert_eq!(run.interrupted(2, 11), []);
    assert_eq!(run.on(Event::Saved(WorkerId(0))), interrupted_after(10));
}

#[test]
fn a_member_lost_in_a_stop_does_not_keep_the_run_from_stopping() {
    let mut run = running(2);
    run.on(Event::StopRequested);
    assert_eq!(run.ready(0, 11), []);
    assert_eq!(run.lose(1), [persist(0)]);
    assert_eq!(run.on(Event::Saved(WorkerId(0))), interrupted_after(11));
}

#[test]
fn when_all_are_told_to_go_at_once_it_is_an_interruption() {
    let mut run = running(2);
    assert_eq!(run.leaves(1), [pause(1, &[0, 1])]);
    assert_eq!(run.on(Event::StopRequested), []);
    assert_eq!(run.leaves(0), []);
    run.ready(0, 10);
    assert_eq!(run.ready(1, 10), [persist(0)]);
    assert_eq!(run.on(Event::Saved(WorkerId(0))), interrupted_after(10));
}

#[test]
fn a_failure_stops_the_members_and_the_furthest_saves() {
    let mut run = running(3);
    assert_eq!(run.on(failed(0, "disk full", true)), [abort(1, &[1, 2])]);
    run.interrupted(1, 10);
    assert_eq!(run.interrupted(2, 11), [persist(2)]);
    assert_eq!(run.on(Event::Saved(WorkerId(2))), worker_failed(0, "disk full"));
}

#[test]
fn when_saving_fails_the_next_survivor_tries() {
    let mut run = running(3);
    run.on(failed(2, "loss is not finite", true));
    run.interrupted(0, 10);
    assert_eq!(run.interrupted(1, 10), [persist(0)]);
    assert_eq!(run.on(failed(0, "disk full", true)), [persist(1)]);
    assert_eq!(run.lose(1), worker_failed(2, "loss is not finite"));
}

#[test]
fn states_that_are_not_to_be_trusted_are_not_saved() {
    let mut run = running(2);
    assert_eq!(run.on(failed(1, "states differ", false)), [abort(1, &[0])]);
    assert_eq!(run.interrupted(0, 10), worker_failed(1, "states differ"));
}

#[test]
fn the_stronger_of_two_reasons_is_the_one_that_is_told() {
    let mut run = running(2);
    run.on(Event::StopRequested);
    run.on(failed(1, "states differ", false));
    assert_eq!(run.ready(0, 10), worker_failed(1, "states differ"));

    let mut run = running(3);
    run.on(failed(1, "disk full", true));
    run.on(failed(2, "disk fuller", true));
    run.on(Event::StopRequested);
    assert_eq!(run.interrupted(0, 10), [persist(0)]);
    assert_eq!(run.on(Event::Saved(WorkerId(0))), worker_failed(1, "disk full"));
}

#[test]
fn a_worker_that_does_not_save_in_time_is_given_up() {
    let mut run = running(1);
    run.on(Event::StopRequested);
    run.ready(0, 3);
    let commands = run.after(PERSIST_TIMEOUT, &[(0, 3, Phase::Saving)]);
    assert!(matches!(commands[0], Command::Evict(WorkerId(0), _)), "{commands:?}");
    assert!(matches!(commands[1], Command::Finish(Outcome::Interrupted(_))), "{commands:?}");
}
