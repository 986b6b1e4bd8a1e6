//! The control loop's reaction to signals.

use membership::{Event, Outcome};

use super::RunningCoordinator;

impl RunningCoordinator<'_> {
    /// Carries out the request of the last signals.
    pub(super) fn handle_signals(&mut self) {
        let asked = *self.asked.borrow_and_update();
        if asked.must_end_now() {
            self.is_cut_short = true;
        } else if asked.wants_stop() {
            self.console.line("Stopping after the current step ...");
            self.decide(Event::StopRequested);
        }
    }

    /// Kills the workers that were started here, and prints what happens to the others.
    pub(super) fn cut_short(&mut self) {
        let killed = self.children.kill_all();
        let others = self.connections.values();
        let others = others.filter(|other| !self.children.started(&other.process)).count();
        let url = self.launch.config().operation.checkpoint_url.as_ref();
        if let (Some(url), Some(Outcome::Completed(_))) = (url, &self.outcome) {
            let message = format!("the last checkpoint may not be stored at {url}");
            self.unfinished.get_or_insert(message);
        }
        let workers = |count| match count {
            1 => "1 worker that was".to_owned(),
            _ => format!("{count} workers that were"),
        };
        if killed > 0 {
            self.console.line(&format!("Killed {} started here", workers(killed)));
        }
        if others > 0 {
            let (others, seconds) =
                (workers(others), self.launch.coordinator_timeout.as_secs_f64());
            self.console.line(&format!(
                "Left without a coordinator: {others} not started here; they save and end after up to \
                 {seconds:.0} s"
            ));
        }
    }
}
