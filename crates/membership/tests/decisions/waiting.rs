//! The engine's description of what a run waits for.

use std::time::Duration;

use collective::Rank;
use membership::{Event, Newcomers, Phase, Settings, Waiting, WorkerId};

use crate::run::{DEAD_AFTER, JOIN_TIMEOUT, PERSIST_TIMEOUT, Run, STALL_AFTER, running, settings};

const SECOND: Duration = Duration::from_secs(1);

fn waiting(run: &Run) -> Option<Waiting> {
    run.engine.waiting(run.now)
}

#[test]
fn for_workers_at_the_beginning_and_for_how_long() {
    let mut run = Run::new(Settings { min_workers: 2, ..settings(3) });
    run.joins(0);
    run.ready(0, 0);
    run.joins(1);
    run.after(SECOND, &[(0, 0, Phase::Idle), (1, 0, Phase::Idle)]);
    let loading = vec![WorkerId(1)];
    let left = JOIN_TIMEOUT - SECOND;
    let expected = Waiting::Workers { ready: 1, needed: 3, needed_later: 2, loading, left };
    assert_eq!(waiting(&run), Some(expected));
    run.ready(1, 0);
    run.joins(2);
    run.ready(2, 0);
    assert_eq!(waiting(&run), None, "all are there");
}

#[test]
fn for_workers_when_too_few_are_left() {
    let mut run = running(1);
    run.lose(0);
    let (left, loading) = (JOIN_TIMEOUT, vec![]);
    let expected = Waiting::Workers { ready: 0, needed: 1, needed_later: 1, loading, left };
    assert_eq!(waiting(&run), Some(expected));
}

#[test]
fn for_members_that_have_yet_to_stop() {
    let mut run = running(3);
    run.lose(1);
    let members = vec![WorkerId(0), WorkerId(2)];
    let left = Some(STALL_AFTER);
    assert_eq!(waiting(&run), Some(Waiting::Stopping { members, left }));
    run.interrupted(0, 7);
    let members = vec![WorkerId(2)];
    assert_eq!(waiting(&run), Some(Waiting::Stopping { members, left }));
    // Worker 2 has not done the last step.
    run.interrupted(2, 6);
    let transfers = vec![(WorkerId(2), WorkerId(0))];
    assert_eq!(waiting(&run), Some(Waiting::Transfer { transfers }));
    run.ready(2, 7);
    assert_eq!(waiting(&run), None);
}

#[test]
fn for_a_state_that_it_takes_to_go_on() {
    let mut run = Run::new(Settings { min_workers: 2, ..settings(2) });
    (0..2).for_each(|worker| drop(run.joins(worker)));
    (0..2).for_each(|worker| drop(run.ready(worker, 0)));
    run.lose(1);
    run.interrupted(0, 7);
    run.joins(2);
    run.ready(2, 0);
    let transfers = vec![(WorkerId(2), WorkerId(0))];
    assert_eq!(waiting(&run), Some(Waiting::Transfer { transfers }));
    run.ready(2, 7);
    assert_eq!(waiting(&run), None);
}

#[test]
fn for_the_current_step_and_then_for_a_checkpoint_when_it_is_stopped() {
    let mut run = running(2);
    run.on(Event::StopRequested);
    let members = vec![WorkerId(0), WorkerId(1)];
    assert_eq!(waiting(&run), Some(Waiting::Stopping { members, left: None }));
    run.ready(0, 5);
    run.ready(1, 5);
    let saving = Waiting::Saving { worker: WorkerId(0), left: PERSIST_TIMEOUT };
    assert_eq!(waiting(&run), Some(saving));
    run.on(Event::Saved(WorkerId(0)));
    assert_eq!(waiting(&run), None);
}

#[test]
fn for_members_that_a_coordinator_has_not_heard_of_yet() {
    let mut run = Run::after_restart(settings(2), 4, &[0, 1]);
    run.returns(7, 1, Some(4));
    let missing = vec![Rank(0)];
    assert_eq!(waiting(&run), Some(Waiting::Returning { missing, left: DEAD_AFTER }));
    run.returns(8, 0, Some(4));
    assert_eq!(waiting(&run), None);
}

/// The run does not wait for new workers, but the engine lists them.
#[test]
fn a_newcomer_holds_nobody_up() {
    let mut run = running(2);
    assert_eq!(run.engine.newcomers(), Newcomers::default());
    run.lose(1);
    run.interrupted(0, 7);
    run.joins(9);
    let loading = vec![WorkerId(9)];
    assert_eq!(run.engine.newcomers(), Newcomers { loading, transfers: vec![] });
    run.ready(9, 0);
    let transfers = vec![(WorkerId(9), WorkerId(0))];
    assert_eq!(run.engine.newcomers(), Newcomers { loading: vec![], transfers });
    assert_eq!(waiting(&run), None);
}
