//! Why the workers of `--spawn` have died: the signal, the likely cause, and how often.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use limits::{Killer, MemoryKills};

use crate::spawn::Exit;

/// The count of kills that a death is compared with is at least this old: the coordinator hears of a
/// death only some time after the kill.
const COUNT_AGE_MIN: Duration = Duration::from_secs(5);

/// The deaths of workers so far.
#[derive(Debug)]
pub(crate) struct Deaths {
    /// The kernel's count of kills at least [`COUNT_AGE_MIN`] ago, and a newer one.
    before: MemoryKills,
    since: MemoryKills,
    counted: Instant,
    /// For each slot: how often its worker has died, and why the last time.
    tally: BTreeMap<u32, (u32, String)>,
}

impl Deaths {
    pub(crate) fn new() -> Self {
        let now = MemoryKills::so_far();
        Self { before: now, since: now, counted: Instant::now(), tally: BTreeMap::new() }
    }

    /// Forgets kills that are too old to explain a death from now on. To be called often.
    pub(crate) fn pass_time(&mut self) {
        if self.counted.elapsed() >= COUNT_AGE_MIN {
            self.before = std::mem::replace(&mut self.since, MemoryKills::so_far());
            self.counted = Instant::now();
        }
    }

    /// How a worker's process ended, and the likely cause if a signal ended it.
    pub(crate) fn explain(&mut self, slot: u32, exit: &Exit) -> String {
        let cause = match exit.signal {
            None => exit.status.clone(),
            Some(signal) => {
                let now = MemoryKills::so_far();
                let killer = match exit.killed_here {
                    true => Killer::Coordinator,
                    false => Killer::between(self.before, now),
                };
                match killer {
                    // One kill explains one death.
                    Killer::Group => self.before.group = self.before.group.map(|kills| kills + 1),
                    Killer::Machine => {
                        self.before.machine = self.before.machine.map(|kills| kills + 1);
                    }
                    _ => {}
                }
                limits::describe_signal(signal, killer)
            }
        };
        let (times, last) = self.tally.entry(slot).or_default();
        *times += 1;
        last.clone_from(&cause);
        cause
    }

    /// A summary of all deaths, for a run that ends because workers are missing; none if no worker
    /// has died.
    pub(crate) fn summary(&self) -> Option<String> {
        let one = |(slot, (times, last)): (&u32, &(u32, String))| match times {
            1 => format!("worker {slot} {last}"),
            _ => format!("worker {slot} died {times} times, the last time it {last}"),
        };
        let all: Vec<String> = self.tally.iter().map(one).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}
