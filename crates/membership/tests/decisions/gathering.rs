//! The beginning of a run: which workers are admitted, and when the first generation starts.

use std::time::Duration;

use collective::{Digest, Generation, Rank};
use membership::{
    Command, Event, Failure, Join, Outcome, Position, ReadyCause, Refusal, Settings, WorkerId,
};

use crate::run::{
    JOIN_TIMEOUT, Run, admit, at, dismiss, fetch, fingerprint, join, join_from, persist, running,
    settings, start,
};

fn refused(worker: u64, reason: Refusal) -> Vec<Command> {
    vec![Command::Refuse(WorkerId(worker), reason)]
}

#[test]
fn starts_when_all_are_ready_with_the_shards_dealt_in_rank_order() {
    let mut run = Run::new(settings(2));
    assert_eq!(run.on(Event::Joined(WorkerId(7), join(Some(1)))), [admit(7, Some(1))]);
    assert_eq!(run.ready(7, 0), []);
    assert_eq!(run.joins(8), [admit(8, Some(0))]);
    assert_eq!(run.ready(8, 0), [start(1, &[(8, 0, 0, 2), (7, 1, 2, 4)])]);
    assert_eq!(run.engine.members(), [WorkerId(8), WorkerId(7)]);
}

#[test]
fn members_on_one_host_get_neighbouring_shards_and_keep_their_ranks() {
    let mut run = Run::new(settings(4));
    for (worker, host, rank) in [(0, "a", None), (1, "b", Some(1)), (2, "a", None), (3, "b", None)]
    {
        run.on(Event::Joined(WorkerId(worker), join_from(host, rank)));
    }
    (0..3).for_each(|worker| drop(run.ready(worker, 0)));
    let dealt = [(0, 0, 0, 1), (1, 1, 2, 3), (2, 2, 1, 2), (3, 3, 3, 4)];
    assert_eq!(run.ready(3, 0), [start(1, &dealt)]);
}

#[test]
fn a_worker_that_can_share_memory_with_nobody_is_no_neighbour() {
    let mut run = Run::new(settings(3));
    run.on(Event::Joined(WorkerId(0), join(None)));
    run.on(Event::Joined(WorkerId(1), join_from("a", None)));
    run.on(Event::Joined(WorkerId(2), join(None)));
    (0..2).for_each(|worker| drop(run.ready(worker, 0)));
    let dealt = [(0, 0, 0, 1), (1, 1, 1, 2), (2, 2, 2, 4)];
    assert_eq!(run.ready(2, 0), [start(1, &dealt)]);
}

#[test]
fn a_generation_number_is_never_used_twice() {
    let mut run = Run::after_restart(settings(1), 41, &[]);
    run.joins(0);
    run.ready(0, 0);
    assert_eq!(run.engine.generation(), Generation(42));
}

#[test]
fn ranks_that_are_taken_or_do_not_exist_are_refused() {
    let mut run = Run::new(settings(2));
    run.on(Event::Joined(WorkerId(0), join(Some(0))));
    let asks = |rank| Event::Joined(WorkerId(1), join(Some(rank)));
    assert_eq!(run.on(asks(0)), refused(1, Refusal::RankTaken(Rank(0))));
    let no_such_rank = Refusal::NoSuchRank { rank: Rank(2), workers: 2 };
    assert_eq!(run.on(asks(2)), refused(1, no_such_rank));
}

#[test]
fn workers_that_compute_other_bits_are_refused() {
    let other = || Join { fingerprint: fingerprint("avx2"), ..join(None) };
    let mut run = Run::new(settings(2));
    run.joins(0);
    let commands = run.on(Event::Joined(WorkerId(1), other()));
    assert!(matches!(&commands[..], [Command::Refuse(_, Refusal::MixedFingerprints { .. })]));

    let mut run = Run::new(Settings { allow_mixed_devices: true, ..settings(2) });
    run.joins(0);
    assert_eq!(run.on(Event::Joined(WorkerId(1), other())), [admit(1, Some(1))]);
}

#[test]
fn more_workers_than_ranks_wait_as_spares_up_to_a_number() {
    let mut run = Run::new(settings(1));
    run.joins(0);
    for worker in 1..=8 {
        assert_eq!(run.joins(worker), [admit(worker, None)]);
    }
    assert_eq!(run.joins(9), refused(9, Refusal::Full { workers: 1, spares: 8 }));
}

#[test]
fn a_worker_lost_while_gathering_frees_its_rank() {
    let mut run = Run::new(settings(1));
    run.joins(0);
    assert_eq!(run.lose(0), []);
    assert_eq!(run.on(Event::Joined(WorkerId(1), join(Some(0)))), [admit(1, Some(0))]);
}

#[test]
fn after_the_join_timeout_those_who_came_begin() {
    let mut run = Run::new(settings(3));
    run.joins(0);
    run.ready(0, 0);
    assert_eq!(run.after(JOIN_TIMEOUT - Duration::from_secs(1), &alive(1)), []);
    assert_eq!(run.after(Duration::from_secs(1), &alive(1)), [start(1, &[(0, 0, 0, 4)])]);
}

#[test]
fn workers_that_never_come_end_the_run() {
    let mut run = Run::new(Settings { min_workers: 2, ..settings(3) });
    run.joins(0);
    run.ready(0, 0);
    let commands = run.after(JOIN_TIMEOUT, &alive(1));
    let [Command::Finish(outcome)] = &commands[..] else { panic!("{commands:?}") };
    assert!(matches!(outcome, Outcome::WorkersMissing { present: 1, .. }), "{outcome:?}");
}

#[test]
fn a_worker_behind_at_the_beginning_fetches_first() {
    let mut run = Run::new(settings(2));
    run.joins(0);
    run.joins(1);
    run.ready(0, 0);
    assert_eq!(run.ready(1, 40), [fetch(0, 1)]);
    assert_eq!(run.ready(0, 40), [start(1, &[(0, 0, 0, 2), (1, 1, 2, 4)])]);
}

#[test]
fn a_process_that_cannot_begin_ends_a_run_that_has_not_begun() {
    let mut run = Run::new(settings(2));
    let commands = run.on(Event::GivenUp(Rank(1), "exit status: 1".into()));
    let [Command::Finish(Outcome::WorkerFailed { rank: Rank(1), message, .. })] = &commands[..]
    else {
        panic!("{commands:?}")
    };
    assert!(message.contains("exit status: 1"), "{message}");
    assert_eq!(running(2).on(Event::GivenUp(Rank(1), "killed".into())), []);
}

#[test]
fn a_worker_that_leaves_before_the_beginning_is_let_go() {
    let mut run = Run::new(settings(2));
    run.joins(0);
    assert_eq!(run.leaves(0), [dismiss(0)]);
    run.joins(1);
    run.ready(1, 0);
    assert_eq!(run.leaves(1), [dismiss(1)]);
    assert_eq!(run.engine.present(), 0);
}

#[test]
fn a_state_from_before_a_restart_is_saved_by_a_run_that_ends_while_gathering() {
    let mut run = Run::after_restart(settings(3), 7, &[]);
    run.returns(0, 0, None);
    run.ready(0, 50);
    assert_eq!(run.on(Event::StopRequested), [persist(0)]);

    let mut run = Run::after_restart(settings(3), 7, &[]);
    run.returns(0, 0, None);
    run.ready(0, 50);
    assert_eq!(run.leaves(0), [persist(0)]);
}

#[test]
fn a_stop_before_the_beginning_ends_at_once() {
    let mut run = Run::new(settings(2));
    run.joins(0);
    run.ready(0, 0);
    let commands = run.on(Event::StopRequested);
    assert!(matches!(commands[..], [Command::Finish(Outcome::Interrupted(_))]), "{commands:?}");
    assert_eq!(run.joins(1), refused(1, Refusal::Ending));
}

#[test]
fn a_worker_that_cannot_go_on_before_the_beginning_ends_the_run() {
    let mut run = Run::new(settings(2));
    run.joins(0);
    let failure = Failure { message: "no data".into(), state_intact: true, recurs: false };
    let outcome = Outcome::WorkerFailed { rank: Rank(0), message: "no data".into(), recurs: false };
    assert_eq!(run.on(Event::Failed(WorkerId(0), failure)), [Command::Finish(outcome)]);
}

#[test]
fn states_that_differ_at_the_beginning_never_train() {
    let mut run = Run::new(settings(3));
    (0..3).for_each(|worker| drop(run.joins(worker)));
    run.ready(0, 0);
    run.ready(2, 0);
    let odd = Position { digest: Digest([9; 16]), ..at(0) };
    let commands = run.on(Event::Ready(WorkerId(1), odd, ReadyCause::AsTold));
    let [Command::Finish(Outcome::Diverged(divergence))] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!(divergence.odd_ranks(), [Rank(1)]);
}

fn alive(workers: u64) -> Vec<(u64, u64, membership::Phase)> {
    (0..workers).map(|worker| (worker, 0, membership::Phase::Idle)).collect()
}
