//! The state that members share in a segment. All members together advance it as one member would do
//! alone. It is complete at every step, even if a member stops or wakes in the middle of an update.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use crate::stories;
use collective::{
    AllReduce as _, Contribution, Control, Generation, Interrupted, Node, Rank, STATE_VECTORS,
    StateVectors, shared::SharedState,
};
use transport::{
    Group,
    shm::{Abort, Segment, Shm, Takeover},
};

/// A segment of this length has several parts, and not a whole number of blocks.
const LENGTH: usize = 40_003;

const RANGES: [(u32, u32); 3] = [(0, 1), (1, 4), (4, 5)];

const SHARDS: u32 = 5;

type State = [Vec<f32>; STATE_VECTORS];

fn initial() -> State {
    let vector = |salt: f32| (0..LENGTH).map(|i| salt + (i % 977) as f32).collect();
    [0.25, 0.5, 0.75].map(vector)
}

/// The update of a block of the state.
fn advance_block(
    sum: &[f32],
    [a, b, c]: [&[f32]; STATE_VECTORS],
    [next_a, next_b, next_c]: [&mut [f32]; STATE_VECTORS],
) {
    for (i, sum) in sum.iter().enumerate() {
        next_b[i] = b[i] * 0.5 + sum;
        next_c[i] = c[i] * 0.25 + sum * sum;
        next_a[i] = a[i] - next_b[i] * 1e-3;
    }
}

/// The states after 0, 1, .. steps, as a single member computes them.
fn alone(steps: u64) -> Vec<State> {
    let mut states = vec![initial()];
    for step in 0..steps {
        let sum = stories::tree_sum(Node::root(SHARDS), step, LENGTH);
        let old = &states[states.len() - 1];
        let mut next = old.clone();
        let [a, b, c] = &mut next;
        advance_block(&sum, old.each_ref().map(Vec::as_slice), [a, b, c]);
        states.push(next);
    }
    states
}

#[track_caller]
fn assert_same(found: &dyn StateVectors, expected: &State, what: &str) {
    for (found, expected) in found.vectors().into_iter().zip(expected) {
        assert!(stories::same_bits(found, expected), "{what}");
    }
}

fn members() -> Vec<Shm> {
    let group = Group {
        run_id: "test".into(),
        generation: Generation(1),
        shards: SHARDS,
        length: LENGTH,
        rank: Rank(0),
        peers: stories::peers(&RANGES),
        shares_state: true,
    };
    let (leader, rendezvous) = Segment::create(&group).unwrap();
    let opened = (1..RANGES.len() as u32).map(|rank| {
        let group = Group { rank: Rank(rank), ..group.clone() };
        Segment::open(&group, &rendezvous).unwrap()
    });
    let segments = std::iter::once(leader).chain(opened);
    segments.map(|segment| segment.into_all_reduce().unwrap()).collect()
}

fn shared(shm: &mut Shm) -> &mut dyn SharedState {
    shm.shared_state().unwrap()
}

fn bring_in(shm: &mut Shm, state: &State) -> Result<Arc<dyn StateVectors>, Interrupted> {
    let state = state.each_ref().map(Vec::as_slice);
    shared(shm).bring_in(stories::train(0), state)?;
    Ok(shared(shm).held())
}

fn gather(shm: &mut Shm, step: u64) -> Result<(), Interrupted> {
    let contribution: Contribution = stories::contribute(shm, step, LENGTH, Control::default());
    let outcome = shared(shm).gather(stories::train(step), &contribution)?;
    assert_eq!(outcome.tally.examples, u64::from(SHARDS));
    Ok(())
}

fn advance(shm: &mut Shm) -> Result<Arc<dyn StateVectors>, Interrupted> {
    shared(shm).advance(&mut |parts| parts.for_each(|part| part.each(advance_block)))?;
    Ok(shared(shm).held())
}

#[test]
fn all_members_have_the_state_that_one_would_have_alone() {
    const STEPS: u64 = 7;
    let states = &alone(STEPS);
    thread::scope(|scope| {
        for mut shm in members() {
            scope.spawn(move || {
                let mut held = bring_in(&mut shm, &states[0]).unwrap();
                for step in 0..STEPS {
                    assert_same(&*held, &states[step as usize], "before a step");
                    gather(&mut shm, step).unwrap();
                    assert_same(&*held, &states[step as usize], "in a step");
                    held = advance(&mut shm).unwrap();
                }
                drop(shm);
                assert_same(&*held, &states[STEPS as usize], "when all have left");
            });
        }
    });
}

/// The place at which the last member stops.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Stop {
    BeforeBringingIn,
    BeforeContributing,
    BeforeUpdating,
    InUpdate,
}

/// The step in which the last member stops.
const STOPS_IN: u64 = 3;

/// Advances the state until the generation has ended. Gives the member's state and its step.
fn goes_on(mut shm: Shm, states: &[State]) -> (Shm, Option<Arc<dyn StateVectors>>, u64) {
    let mut held = bring_in(&mut shm, &states[0]).ok();
    let mut steps = 0;
    while let Some(now) = &held
        && gather(&mut shm, steps).is_ok()
    {
        assert_same(&**now, &states[steps as usize], "in a step");
        let Ok(next) = advance(&mut shm) else { break };
        (held, steps) = (Some(next), steps + 1);
    }
    (shm, held, steps)
}

/// Stops at a place in a step, and goes on when it is woken.
fn stops(
    mut shm: Shm,
    states: &[State],
    stop: Stop,
    stand_still: impl Fn(),
) -> Result<(), Interrupted> {
    let stand_still = |place| {
        if stop == place {
            stand_still();
        }
    };
    stand_still(Stop::BeforeBringingIn);
    let mut held = bring_in(&mut shm, &states[0])?;
    for step in 0..STOPS_IN {
        gather(&mut shm, step)?;
        held = advance(&mut shm)?;
    }
    stand_still(Stop::BeforeContributing);
    gather(&mut shm, STOPS_IN)?;
    stand_still(Stop::BeforeUpdating);
    let mut blocks = 0;
    let advanced = shared(&mut shm).advance(&mut |parts| {
        parts.for_each(|part| {
            part.each(|sum, old, new| {
                advance_block(sum, old, new);
                blocks += 1;
                if blocks == 3 {
                    stand_still(Stop::InUpdate);
                }
            });
        });
    });
    if advanced.is_ok() {
        held = shared(&mut shm).held();
        assert_same(&*held, &states[STOPS_IN as usize + 1], "the one that woke");
    } else {
        assert_same(&*held, &states[STOPS_IN as usize], "the one that woke in vain");
    }
    advanced
}

/// The last member stops until all others have seen the end of the generation and read their states.
/// Then it wakes, and goes on as if nothing had happened.
fn wakes_later(stop: Stop) {
    let states = &alone(STOPS_IN + 1);
    let mut members = members();
    let sleeper = members.pop().unwrap();
    let aborts: Vec<Abort> = members.iter().map(Shm::abort_handle).collect();
    let (stopped, has_stopped) = mpsc::channel();
    let (wake, is_woken) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let start = |shm| scope.spawn(move || goes_on(shm, states));
        let others: Vec<_> = members.into_iter().map(start).collect();
        let sleeping = scope.spawn(move || {
            stops(sleeper, states, stop, || {
                stopped.send(()).unwrap();
                is_woken.recv().unwrap();
            })
        });
        has_stopped.recv().unwrap();
        aborts.iter().for_each(Abort::abort);
        let others: Vec<_> = others.into_iter().map(|other| other.join().unwrap()).collect();
        let expected = if stop == Stop::BeforeBringingIn { None } else { Some(STOPS_IN) };
        for (_, held, steps) in &others {
            assert_eq!(held.as_ref().map(|_| *steps), expected, "{stop:?}");
        }
        wake.send(()).unwrap();
        let woken = sleeping.join().unwrap();
        assert!(woken.is_err() || matches!(stop, Stop::BeforeUpdating | Stop::InUpdate));
        for (_, held, _) in &others {
            let Some(held) = held else { continue };
            assert_same(&**held, &states[STOPS_IN as usize], "after the last one woke");
        }
    });
}

#[test]
fn a_member_that_wakes_later_changes_no_state_that_others_have() {
    for stop in
        [Stop::BeforeBringingIn, Stop::BeforeContributing, Stop::BeforeUpdating, Stop::InUpdate]
    {
        wakes_later(stop);
    }
}

/// Calls `act` for all members at once.
fn together<T: Send>(members: &mut [Shm], act: impl Fn(&mut Shm) -> T + Sync) -> Vec<T> {
    let act = &act;
    thread::scope(|scope| {
        let start = |shm| scope.spawn(move || act(shm));
        let threads: Vec<_> = members.iter_mut().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// The state can be copied in its step, and in the next step until all have contributed to it.
#[test]
fn a_state_is_copied_by_one_that_is_no_member_until_it_is_overwritten() {
    const STEPS: u64 = 3;
    let states = &alone(STEPS);
    let mut members = members();
    let mut held = together(&mut members, |shm| bring_in(shm, &states[0]).unwrap());
    let mut last: Option<Takeover> = None;
    for step in 0..STEPS {
        for member in &held {
            let place = member.place().unwrap().parse().unwrap();
            assert_copied(&Takeover::open(place).unwrap(), &states[step as usize]);
        }
        let takeover = Takeover::open(held[1].place().unwrap().parse().unwrap()).unwrap();
        let mut begun: State = std::array::from_fn(|_| vec![0.0; LENGTH]);
        last.iter().for_each(|last| last.copy(&mut begun).unwrap());
        held = Vec::new();
        together(&mut members, |shm| gather(shm, step).unwrap());
        if let Some(last) = last {
            assert!(!last.is_there(), "all may write there now");
            assert_same(&begun, &states[step as usize - 1], "copied before that");
        }
        assert_copied(&takeover, &states[step as usize]);
        held.extend(together(&mut members, |shm| advance(shm).unwrap()));
        assert_copied(&takeover, &states[step as usize]);
        last = Some(takeover);
    }
    // After the members are gone, a takeover that was opened before can still copy the state.
    let takeover = Takeover::open(held[0].place().unwrap().parse().unwrap()).unwrap();
    drop((members, held));
    assert_copied(&takeover, &states[STEPS as usize]);
}

fn assert_copied(takeover: &Takeover, expected: &State) {
    let mut copy: State = std::array::from_fn(|_| vec![0.0; LENGTH]);
    takeover.copy(&mut copy).unwrap();
    assert!(takeover.is_there());
    assert_same(&copy, expected, "a copy");
}

/// Holding a state too long is a bug of the program. It panics, and no state is overwritten.
#[test]
#[should_panic(expected = "a scoped thread panicked")]
fn a_state_that_is_held_is_not_written_to() {
    let states = &alone(2);
    thread::scope(|scope| {
        for mut shm in members() {
            scope.spawn(move || {
                let first = bring_in(&mut shm, &states[0]).unwrap();
                gather(&mut shm, 0).unwrap();
                let _second = advance(&mut shm).unwrap();
                // This would let the others write to the first buffer.
                let refused = gather(&mut shm, 1);
                drop(first);
                refused.unwrap();
            });
        }
    });
}

/// A single member has no shared state; it has the sum instead.
#[test]
fn without_it_there_is_a_sum() {
    let group = Group {
        run_id: "test".into(),
        generation: Generation(1),
        shards: 1,
        length: LENGTH,
        rank: Rank(0),
        peers: stories::peers(&[(0, 1)]),
        shares_state: true,
    };
    let mut lone = Segment::create(&group).unwrap().0.into_all_reduce().unwrap();
    assert!(lone.shared_state().is_none());
    let contribution = stories::contribute(&mut lone, 0, LENGTH, Control::default());
    lone.all_reduce(stories::train(0), &contribution).unwrap();
    assert!(stories::same_bits(lone.sum(), &stories::tree_sum(Node::root(1), 0, LENGTH)));
}
