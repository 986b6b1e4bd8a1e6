//! Explores every path of a small run: three workers, two shards, up to two faults and a restart
//! of the coordinator, in every order in which messages can arrive.
//!
//! A path is a sequence of states. The test checks that no path contains a cycle, and that every
//! path ends with a completed run. So the run always completes once faults stop. (The crate
//! `stateright` does not find cycles, and depends on a web server.)

#![allow(clippy::print_stderr, reason = "people read the path of a failed check")]

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hash, Hasher},
    time::{Duration, Instant},
};

use collective::Step;
use membership::{Outcome, Settings};

use crate::world::{Action, Fault, World};

const SETTINGS: Settings = Settings {
    workers: 3,
    min_workers: 1,
    shards: 2,
    steps: Step(2),
    dead_after: Duration::from_secs(10),
    stall_after: Duration::from_secs(30),
    join_timeout: Duration::from_secs(60),
    persist_timeout: Duration::from_secs(60),
    allow_mixed_devices: false,
};

/// If the engine decides nothing in this many ticks, it will never decide anything.
const TICKS_MAX: u32 = 40;

/// No run takes this many moves.
const DEPTH_MAX: usize = 300;

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    world: World,
    faults_left: u8,
    restarts_left: u8,
    /// Whether a killed process is replaced by a new one.
    replaces: bool,
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Act(Action),
    Fault(Fault),
    /// Time passes until something happens.
    Wait,
}

impl State {
    fn moves(&self) -> Vec<Move> {
        if self.world.outcome.is_some() {
            return Vec::new();
        }
        let actions = self.world.actions();
        // A local action has the same result at any later time, so it is done at once.
        let local = actions.iter().find(|action| self.world.is_local(**action)).map(|a| vec![*a]);
        let is_local = local.is_some();
        let mut moves: Vec<Move> = local.unwrap_or(actions).into_iter().map(Move::Act).collect();
        if moves.is_empty() {
            moves.push(Move::Wait);
        }
        if self.faults_left > 0 && !is_local {
            let processes = 0..self.world.workers.len();
            let faults = processes.flat_map(|process| self.world.faults(process));
            let modelled = faults.filter(|fault| match fault {
                Fault::Kill(_) => !self.replaces,
                Fault::Replace(_) => self.replaces,
                Fault::Interrupt(_) | Fault::FailFetch(_) => true,
                _ => false,
            });
            moves.extend(modelled.map(Move::Fault));
        }
        if self.restarts_left > 0 {
            moves.push(Move::Fault(Fault::RestartCoordinator));
        }
        moves
    }

    fn after(&self, next: Move) -> Self {
        let mut state = self.clone();
        match next {
            Move::Act(action) => state.world.act(action),
            Move::Fault(fault) => {
                match fault {
                    Fault::RestartCoordinator => state.restarts_left -= 1,
                    _ => state.faults_left -= 1,
                }
                state.world.inflict(fault);
            }
            Move::Wait => {
                let has_decided = (0..TICKS_MAX).any(|_| state.world.pass(SETTINGS.dead_after / 2));
                assert!(has_decided, "nothing will ever happen any more");
            }
        }
        state
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = Folded::default();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// A 64-bit hash by folded multiplication, as in wyhash. The default hash would take a third of the
/// time of the exploration.
#[derive(Default)]
struct Folded(u64);

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value ^ 0xA076_1D64_78BD_642F) * 0xE703_7ED1_A0B4_28DB;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A state on the current path, and the moves that remain to be tried from there.
struct Visit {
    state: State,
    fingerprint: u64,
    moves: Vec<Move>,
    last: Option<Move>,
}

impl Visit {
    fn new(state: State, fingerprint: u64) -> Self {
        let moves = state.moves();
        Self { state, fingerprint, moves, last: None }
    }
}

/// Follows every path; returns the number of states.
fn explore(start: State, path: &mut Vec<Visit>) -> usize {
    // For each state, whether it is on the current path.
    let mut seen: HashMap<u64, bool, BuildHasherDefault<Folded>> = HashMap::default();
    seen.insert(start.fingerprint(), true);
    path.push(Visit::new(start.clone(), start.fingerprint()));
    while let Some(depth) = path.len().checked_sub(1) {
        assert!(depth < DEPTH_MAX, "the run has no end");
        let visit = &mut path[depth];
        visit.last = visit.moves.pop();
        let Some(next) = visit.last else {
            if visit.state.moves().is_empty() {
                let outcome = &visit.state.world.outcome;
                assert!(matches!(outcome, Some(Outcome::Completed(_))), "ended with {outcome:?}");
            }
            seen.insert(visit.fingerprint, false);
            path.pop();
            continue;
        };
        let state = visit.state.after(next);
        let fingerprint = state.fingerprint();
        match seen.get(&fingerprint) {
            Some(true) => panic!("the run goes in circles"),
            Some(false) => {}
            None => {
                seen.insert(fingerprint, true);
                path.push(Visit::new(state, fingerprint));
            }
        }
    }
    seen.len()
}

/// Prints the path to the state in which a check failed.
struct Story(Vec<Visit>);

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let moves: Vec<Move> = self.0.iter().filter_map(|visit| visit.last).collect();
            eprintln!("after {moves:?}\nin {:?}", self.0.last().map(|visit| &visit.state.world));
        }
    }
}

fn explore_all(workers: u32, faults_left: u8, restarts_left: u8, replaces: bool) {
    let started = Instant::now();
    let world = World::new(Settings { workers, ..SETTINGS }, workers as usize);
    let start = State { world, faults_left, restarts_left, replaces };
    let mut story = Story(Vec::new());
    let states = explore(start, &mut story.0);
    eprintln!("{states} states in {:.1} s", started.elapsed().as_secs_f64());
}

#[test]
fn two_faults_and_a_restart_of_the_coordinator() {
    explore_all(3, 2, 1, false);
}

#[test]
fn two_of_three_workers_replaced() {
    explore_all(3, 2, 0, true);
}

#[test]
fn one_of_two_workers_replaced_and_a_restart_of_the_coordinator() {
    explore_all(2, 1, 1, true);
}

#[test]
#[ignore = "takes a minute: run it with --ignored"]
fn one_of_three_workers_replaced_and_a_restart_of_the_coordinator() {
    explore_all(3, 1, 1, true);
}
