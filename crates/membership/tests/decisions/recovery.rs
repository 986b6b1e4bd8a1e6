//! A member is lost: the other members recover, and no step is lost.

use std::time::Duration;

use collective::{Digest, Rank};
use membership::{Command, Event, Loss, Outcome, Phase, Position, ReadyCause, Settings, WorkerId};

use crate::run::{
    JOIN_TIMEOUT, STEPS, abort, admit, at, fetch, persist, running, running_as, settings, start,
};

#[test]
fn survivors_catch_up_and_go_on_with_the_shards_dealt_anew() {
    let mut run = running(3);
    assert_eq!(run.lose(2), [abort(1, &[0, 1])]);
    assert_eq!(run.interrupted(0, 10), []);
    assert_eq!(run.interrupted(1, 11), [fetch(0, 1)]);
    assert_eq!(run.ready(0, 11), [start(2, &[(0, 0, 0, 2), (1, 1, 2, 4)])]);
}

#[test]
fn it_makes_no_difference_when_a_survivor_notices_first() {
    let mut run = running(3);
    assert_eq!(run.interrupted(0, 10), [abort(1, &[1, 2])]);
    assert_eq!(run.interrupted(1, 10), []);
    assert_eq!(run.lose(2), [start(2, &[(0, 0, 0, 2), (1, 1, 2, 4)])]);
}

#[test]
fn a_generation_that_breaks_with_nobody_lost_starts_again() {
    let mut run = running(2);
    assert_eq!(run.interrupted(1, 10), [abort(1, &[0])]);
    assert_eq!(run.interrupted(0, 10), [start(2, &[(0, 0, 0, 2), (1, 1, 2, 4)])]);
}

#[test]
fn the_next_member_leads_when_the_leader_is_gone() {
    let mut run = running(3);
    run.lose(0);
    run.interrupted(1, 10);
    assert_eq!(run.interrupted(2, 10), [start(2, &[(1, 1, 0, 2), (2, 2, 2, 4)])]);
}

#[test]
fn two_at_once() {
    let mut run = running(3);
    assert_eq!(run.lose(0), [abort(1, &[1, 2])]);
    assert_eq!(run.lose(1), []);
    assert_eq!(run.interrupted(2, 10), [start(2, &[(2, 2, 0, 4)])]);
}

/// Half of the remaining members have not done the last step.
#[test]
fn half_of_a_thousand_at_once() {
    let mut run = running_as(Settings { shards: 1000, ..settings(1000) });
    let lost = (0..1000).step_by(2);
    let commands: Vec<Command> = lost.flat_map(|worker| run.lose(worker)).collect();
    assert!(matches!(&commands[..], [Command::Abort(_, told)] if told.len() == 999));
    let left: Vec<u64> = (0..1000).skip(1).step_by(2).collect();
    let (behind, ahead) = left.split_at(left.len() / 2);
    behind.iter().for_each(|worker| assert_eq!(run.interrupted(*worker, 10), []));
    let commands: Vec<Command> =
        ahead.iter().flat_map(|worker| run.interrupted(*worker, 11)).collect();
    // Each worker that is behind has its own donor.
    let donors = ahead.iter().rev();
    let fetches: Vec<Command> = behind.iter().zip(donors).map(|(w, d)| fetch(*w, *d)).collect();
    assert_eq!(commands, fetches);
    let commands: Vec<Command> = behind.iter().flat_map(|worker| run.ready(*worker, 11)).collect();
    let member = |(index, worker): (u32, &u64)| (*worker, 2 * index + 1, 2 * index, 2 * index + 2);
    let members: Vec<_> = (0..).zip(&left).map(member).collect();
    assert_eq!(commands, [start(2, &members)]);
}

#[test]
fn several_that_are_behind_share_the_donors() {
    let mut run = running_as(Settings { shards: 8, ..settings(5) });
    run.lose(4);
    run.interrupted(0, 10);
    run.interrupted(1, 10);
    run.interrupted(2, 11);
    // The donor with the lowest rank is taken last.
    assert_eq!(run.interrupted(3, 11), [fetch(0, 3), fetch(1, 2)]);
}

#[test]
fn a_donor_lost_while_it_donates_is_replaced_by_whoever_is_furthest_then() {
    let mut run = running(3);
    run.lose(2);
    run.interrupted(0, 10);
    assert_eq!(run.interrupted(1, 11), [fetch(0, 1)]);
    assert_eq!(run.lose(1), []);
    // No worker has step 11 any more, so it is done again.
    assert_eq!(run.not_fetched(0, 10), [start(2, &[(0, 0, 0, 4)])]);
}

#[test]
fn a_failed_fetch_tries_another_donor_and_the_third_failure_is_the_last() {
    let mut run = running(4);
    run.lose(3);
    run.interrupted(0, 10);
    run.interrupted(1, 11);
    assert_eq!(run.interrupted(2, 11), [fetch(0, 2)]);
    assert_eq!(run.not_fetched(0, 10), [fetch(0, 1)]);
    assert_eq!(run.not_fetched(0, 10), [fetch(0, 2)]);
    let unreachable = Command::Evict(WorkerId(0), Loss::Unreachable("refused".into()));
    let next = start(2, &[(1, 1, 0, 2), (2, 2, 2, 4)]);
    assert_eq!(run.not_fetched(0, 10), [unreachable, next]);
}

#[test]
fn a_donor_that_two_others_cannot_reach_is_given_up_instead_of_them() {
    let mut run = running(4);
    run.lose(3);
    run.interrupted(0, 10);
    run.interrupted(1, 10);
    assert_eq!(run.interrupted(2, 11), [fetch(0, 2), fetch(1, 2)]);
    assert_eq!(run.not_fetched(0, 10), [fetch(0, 2)]);
    let isolated = Command::Evict(WorkerId(2), Loss::Isolated("refused".into()));
    assert_eq!(run.not_fetched(1, 10), [isolated]);
    assert_eq!(run.not_fetched(0, 10), [start(2, &[(0, 0, 0, 2), (1, 1, 2, 4)])]);
}

#[test]
fn the_furthest_state_is_fetched_even_from_a_worker_without_a_rank() {
    let mut run = running(3);
    run.joins(3);
    assert_eq!(run.ready(3, 0), [fetch(3, 2)]);
    assert_eq!(run.ready(3, 9), []);
    assert_eq!(run.interrupted(2, 10), [abort(1, &[0, 1])]);
    // Worker 1 has lost only its connection, and reconnects before the coordinator knows of the loss.
    assert_eq!(run.returns(4, 1, Some(1)), [admit(4, None), abort(1, &[4])]);
    assert_eq!(run.interrupted(4, 11), []);
    assert_eq!(run.lose(1), []);
    // The first spare gets the rank, the second has the state.
    assert_eq!(run.interrupted(0, 10), [fetch(0, 4), fetch(3, 4), fetch(2, 4)]);
    assert_eq!(run.engine.rank(WorkerId(3)), Some(Rank(1)));
    assert_eq!(run.engine.rank(WorkerId(4)), None);
}

#[test]
fn below_the_minimum_the_run_waits_and_says_so_once() {
    let mut run = running_as(Settings { min_workers: 2, ..settings(2) });
    run.lose(1);
    assert_eq!(run.interrupted(0, 10), [Command::Wait { present: 1, needed: 2 }]);
    let alive = [(0, 10, Phase::Idle)];
    assert_eq!(run.after(Duration::from_secs(10), &alive), []);
    assert_eq!(run.joins(2), [admit(2, Some(1))]);
    assert_eq!(run.ready(2, 0), [fetch(2, 0)]);
    assert_eq!(run.ready(2, 10), [start(2, &[(0, 0, 0, 2), (2, 1, 2, 4)])]);
}

#[test]
fn when_too_few_come_the_state_is_saved() {
    let mut run = running_as(Settings { min_workers: 2, ..settings(2) });
    run.lose(1);
    run.interrupted(0, 10);
    assert_eq!(run.after(JOIN_TIMEOUT, &[(0, 10, Phase::Idle)]), [persist(0)]);
    let commands = run.on(Event::Saved(WorkerId(0)));
    let flag = "min-workers";
    let waited = JOIN_TIMEOUT;
    let missing = Outcome::WorkersMissing { present: 1, needed: 2, flag, waited, cause: None };
    assert_eq!(commands, [Command::Finish(missing)]);
}

#[test]
fn when_all_are_gone_the_run_waits_for_others() {
    let mut run = running(1);
    assert_eq!(run.lose(0), [Command::Wait { present: 0, needed: 1 }]);
    assert_eq!(run.joins(1), [admit(1, Some(0))]);
    assert_eq!(run.ready(1, 0), [start(2, &[(1, 0, 0, 4)])]);
}

#[test]
fn a_member_lost_in_the_last_step_has_it_done_again_so_that_it_is_saved() {
    let mut run = running(2);
    assert_eq!(run.ready(1, STEPS), []);
    assert_eq!(run.lose(0), [start(2, &[(1, 1, 0, 4)])]);
    let completed = Command::Finish(Outcome::Completed(at(STEPS).digest));
    assert_eq!(run.ready(1, STEPS), [completed]);
}

#[test]
fn survivors_whose_states_differ_end_the_run_and_the_odd_one_is_named() {
    let mut run = running(4);
    run.lose(3);
    run.interrupted(0, 10);
    run.interrupted(1, 10);
    let odd = Position { digest: Digest([99; 16]), ..at(10) };
    let cause = ReadyCause::Interrupted("reset".into());
    let commands = run.on(Event::Ready(WorkerId(2), odd, cause));
    let [Command::Finish(Outcome::Diverged(divergence))] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!(divergence.odd_ranks(), [Rank(2)]);
    assert_eq!(divergence.step.0, 10);
}

#[test]
fn a_worker_that_is_back_before_its_end_is_known_waits_for_it() {
    let mut run = running(2);
    run.alive(1, 10, Phase::Waiting);
    // The connection of worker 1 is cut; its process reconnects as worker 2.
    assert_eq!(run.returns(2, 1, Some(1)), [admit(2, None), abort(1, &[2])]);
    assert_eq!(run.interrupted(2, 10), [fetch(2, 1)]);
    assert_eq!(run.lose(1), [abort(1, &[0])]);
    assert_eq!(run.interrupted(0, 10), [start(2, &[(0, 0, 0, 4)])]);
    // The fetch from worker 1, which is the same process, has failed.
    assert_eq!(run.not_fetched(2, 10), [fetch(2, 0)]);
    assert_eq!(run.ready(2, 12), [Command::Pause(run.engine.generation(), vec![WorkerId(0)])]);
}
