//! Prints what the run waits for: on a terminal in the status line, elsewhere in lines, at growing
//! intervals.

use std::{
    mem::{Discriminant, discriminant},
    time::{Duration, Instant},
};

use history::Event as Happened;
use membership::{Newcomers, Phase, Waiting, WorkerId};
use tokio::time::timeout;

use super::RunningCoordinator;
use crate::console::Console;

/// How long a wait lasts before it is printed: on a terminal, and elsewhere. Elsewhere the time
/// doubles with each line.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// The most workers that are named; further ones are only counted.
const NAMED: usize = 4;

/// The current waits, and their durations.
#[derive(Debug, Default)]
pub(super) struct Waits {
    current: Option<Wait>,
    /// The wait for new workers while the members train.
    newcomers: Option<Wait>,
    /// When the members' last step was reported.
    last_step: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Wait {
    /// None if the wait is no state of the engine, such as the wait for a step.
    kind: Option<Discriminant<Waiting>>,
    begun: Instant,
    told_after: Duration,
}

impl Waits {
    pub(super) fn note_step(&mut self) {
        self.last_step = Some(Instant::now());
    }

    /// Continues the wait of this kind, or begins a new one at `begun` (default: now).
    fn enter(&mut self, kind: Option<Discriminant<Waiting>>, begun: Option<Instant>) -> &mut Wait {
        let is_other = |wait: &Wait| wait.kind != kind || begun.is_some_and(|b| b > wait.begun);
        if self.current.as_ref().is_none_or(is_other) {
            self.current = None;
        }
        let begun = begun.unwrap_or_else(Instant::now);
        self.current.get_or_insert(Wait { kind, begun, told_after: TOLD_AFTER })
    }
}

impl Default for Wait {
    fn default() -> Self {
        Self { kind: None, begun: Instant::now(), told_after: TOLD_AFTER }
    }
}

impl Wait {
    /// Prints the wait if it is due: on a terminal in the status line, else as a line.
    pub(super) fn tell(&mut self, console: &Console, what: &str) {
        let waited = self.begun.elapsed();
        let line = format!("{what} ({} s)", waited.as_secs());
        if console.is_terminal() {
            console.waiting((waited >= SHOWN_AFTER).then_some(line));
        } else if self.is_due() {
            console.line(&line);
        }
    }

    /// Whether another line is due.
    fn is_due(&mut self) -> bool {
        let is_due = self.begun.elapsed() >= self.told_after;
        if is_due {
            self.told_after *= 2;
        }
        is_due
    }
}

impl RunningCoordinator<'_> {
    /// Prints what the run waits for, if it is due.
    pub(super) fn tell_waiting(&mut self) {
        self.tell_newcomers();
        match (self.waited_for(), &mut self.waits.current) {
            (Some(text), Some(wait)) => wait.tell(&self.console, &text),
            _ => self.console.waiting(None),
        }
    }

    /// Prints which workers are about to take part while training goes on.
    fn tell_newcomers(&mut self) {
        let Newcomers { loading, transfers } = self.engine.newcomers();
        let text = match (&transfers[..], &loading[..]) {
            ([], []) => return self.waits.newcomers = None,
            ([], loading) => format!("Waiting for {} to get ready", self.names(loading)),
            (transfers, _) => self.describe_transfers(transfers),
        };
        let wait = self.waits.newcomers.get_or_insert_default();
        if wait.is_due() {
            let seconds = wait.begun.elapsed().as_secs();
            self.console.line(&format!("{text}; training goes on ({seconds} s)"));
        }
    }

    /// What the run waits for, if it waits; `waits` has the duration.
    fn waited_for(&mut self) -> Option<String> {
        if self.outcome.is_some() {
            return None;
        }
        let now = self.epoch.elapsed();
        if let Some(waiting) = self.engine.waiting(now) {
            let text = self.describe_waiting(&waiting);
            self.waits.enter(Some(discriminant(&waiting)), None);
            return Some(text);
        }
        let begun = self.waits.last_step;
        let begun = begun.max(self.generation_began);
        let wait = self.waits.enter(None, begun);
        (wait.begun.elapsed() >= TOLD_AFTER).then(|| self.describe_step())
    }

    /// What the run waits for, and for how long it has waited; for requests for the status.
    pub(super) fn waits_for(&self) -> Option<(String, Duration)> {
        let waiting = self.engine.waiting(self.epoch.elapsed());
        let (text, wait) = match (&waiting, &self.waits.current) {
            (_, _) if self.outcome.is_some() => return None,
            (Some(waiting), wait) => (self.describe_waiting(waiting), wait.as_ref()),
            (None, Some(wait)) if wait.begun.elapsed() >= TOLD_AFTER => {
                (self.describe_step(), Some(wait))
            }
            (None, _) => return None,
        };
        let kind = waiting.as_ref().map(discriminant);
        let waited = wait.filter(|wait| wait.kind == kind).map(|wait| wait.begun.elapsed());
        Some((text, waited.unwrap_or_default()))
    }

    fn describe_waiting(&self, waiting: &Waiting) -> String {
        let seconds = |time: &Duration| format!("{:.0} s", time.as_secs_f64().ceil());
        match waiting {
            Waiting::Workers { ready, needed, needed_later, loading, left } => {
                let loading = match &loading[..] {
                    [] => String::new(),
                    loading => format!(", {} not yet", self.names(loading)),
                };
                let then = match (needed_later, ready) {
                    (later, ready) if later < needed && ready >= later => {
                        format!("the run begins with {ready} in {}", seconds(left))
                    }
                    (later, _) if later < needed => {
                        format!("giving up in {} if fewer than {later} are", seconds(left))
                    }
                    _ => format!("giving up in {}", seconds(left)),
                };
                format!("Waiting for workers: {ready} of {needed} are ready{loading}; {then}")
            }
            Waiting::Returning { missing, left } => {
                let names: Vec<String> = missing.iter().map(|r| format!("rank {r}")).collect();
                format!(
                    "Waiting for {} of generation {} to reconnect, for {} more",
                    listed(&names),
                    self.engine.generation(),
                    seconds(left)
                )
            }
            Waiting::Transfer { transfers } => self.describe_transfers(transfers),
            Waiting::Stopping { members, left: None } => {
                format!("Waiting for {} to finish the current step", self.names(members))
            }
            Waiting::Stopping { members, left: Some(left) } => {
                let left = seconds(left);
                format!("Waiting for {} to stop, for {left} more", self.names(members))
            }
            Waiting::Saving { worker, left } => {
                let left = seconds(left);
                format!("Waiting for {} to write a checkpoint, for {left} more", self.name(*worker))
            }
        }
    }

    fn describe_transfers(&self, transfers: &[(WorkerId, WorkerId)]) -> String {
        let workers: Vec<WorkerId> = transfers.iter().map(|(worker, _)| *worker).collect();
        let mut donors: Vec<WorkerId> = transfers.iter().map(|(_, donor)| *donor).collect();
        donors.sort_unstable();
        donors.dedup();
        let (workers, donors) = (self.names(&workers), self.names(&donors));
        format!("Waiting for {workers} to copy the state of {donors}")
    }

    /// The members that the others wait for, if no step has been done for a while.
    fn describe_step(&self) -> String {
        let at = |phase: Phase| -> Vec<WorkerId> {
            let is_at = |worker: &WorkerId| {
                let last = self.connections.get(worker).and_then(|connection| connection.last);
                last.is_some_and(|(progress, _)| progress.phase == phase)
            };
            self.members.iter().map(|(_, worker)| *worker).filter(is_at).collect()
        };
        let busy = [
            (Phase::Connecting, "to connect to the others"),
            (Phase::Saving, "to write files"),
            (Phase::Computing, "to compute"),
        ];
        let busy = busy.into_iter().map(|(phase, what)| (at(phase), what));
        match busy.into_iter().find(|(workers, _)| !workers.is_empty()) {
            Some((workers, what)) => {
                let step = self.record.step();
                format!("Waiting for {} {what}, after step {step}", self.names(&workers))
            }
            None => format!("Waiting for a step after step {}", self.record.step()),
        }
    }

    fn names(&self, workers: &[WorkerId]) -> String {
        let names: Vec<String> = workers.iter().map(|worker| self.name(*worker)).collect();
        listed(&names)
    }

    /// Prints and records that a run begins with fewer workers than it asks for.
    pub(super) fn tell_beginning(&mut self, members: usize) {
        self.generation_began = Some(Instant::now());
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let workers = self.launch.config().operation.workers;
        if members < workers as usize {
            let waited = self.epoch.elapsed();
            self.console.line(&format!(
                "Beginning with {members} of {workers} workers after {:.0} s; the others may still \
                 join",
                waited.as_secs_f64()
            ));
            let (members, workers) = (members as u64, workers.into());
            let waited_seconds = waited.as_secs_f64();
            self.note(Happened::BegunWithFewer { members, workers, waited_seconds });
        }
    }
}

/// Waits for `work`, and prints the wait if it lasts.
pub(crate) async fn during<T>(console: &Console, what: &str, work: impl Future<Output = T>) -> T {
    let mut wait = Wait::default();
    let mut work = std::pin::pin!(work);
    loop {
        match timeout(SHOWN_AFTER, &mut work).await {
            Ok(done) => {
                console.waiting(None);
                return done;
            }
            Err(_) => wait.tell(console, what),
        }
    }
}

/// The first names, and the number of further ones.
fn listed(names: &[String]) -> String {
    match names {
        [] => "nobody".into(),
        [one] => one.clone(),
        names if names.len() <= NAMED => {
            let (last, others) = names.split_last().unwrap_or((&names[0], &[]));
            format!("{} and {last}", others.join(", "))
        }
        names => format!("{} and {} others", names[..NAMED].join(", "), names.len() - NAMED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_workers_are_named_and_many_are_counted() {
        let names: Vec<String> = (0..9).map(|rank| format!("rank {rank}")).collect();
        assert_eq!(listed(&names[..1]), "rank 0");
        assert_eq!(listed(&names[..3]), "rank 0, rank 1 and rank 2");
        assert_eq!(listed(&names), "rank 0, rank 1, rank 2, rank 3 and 5 others");
    }

    #[test]
    fn a_wait_begins_anew_with_another_kind_or_a_step() {
        let mut waits = Waits::default();
        let begun = Instant::now().checked_sub(TOLD_AFTER * 3).unwrap();
        let kind = Some(discriminant(&Waiting::Transfer { transfers: vec![] }));
        let wait = waits.enter(kind, Some(begun));
        assert!(wait.is_due() && wait.is_due() && !wait.is_due(), "after 5 s, 10 s, and not 20 s");
        assert_eq!(waits.enter(kind, None).begun, begun, "it is still the same");
        assert!(!waits.enter(None, None).is_due());
        let step = Instant::now();
        assert_eq!(waits.enter(None, Some(step)).begun, step);
        assert_eq!(waits.enter(None, Some(begun)).begun, step);
    }
}
