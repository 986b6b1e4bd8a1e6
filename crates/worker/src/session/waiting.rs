//! Logs at growing intervals what a worker waits for.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Session, link::Link, participation::Participation};

/// How long a wait lasts before it is logged; the time doubles with each line.
const LOGGED_AFTER: Duration = Duration::from_secs(5);

/// The current wait, with its begin.
#[derive(Debug)]
pub(super) struct Wait {
    what: Option<&'static str>,
    begun: Instant,
    logged_after: Duration,
}

impl Default for Wait {
    fn default() -> Self {
        Self { what: None, begun: Instant::now(), logged_after: LOGGED_AFTER }
    }
}

impl Wait {
    /// Notes what the worker waits for now; none if it does not wait.
    pub(super) fn enter(&mut self, what: Option<&'static str>) {
        if self.what != what {
            *self = Self { what, ..Self::default() };
        }
    }

    /// Waits until the next log line is due. Returns what the worker waits for, and for how long.
    pub(super) async fn due(&mut self) -> (&'static str, Duration) {
        let Some(what) = self.what else { return std::future::pending().await };
        sleep_until(self.begun + self.logged_after).await;
        (what, self.next())
    }

    /// The time after which this line is due; the next line is due after twice this time.
    fn next(&mut self) -> Duration {
        let waited = self.logged_after;
        self.logged_after *= 2;
        waited
    }
}

impl Session {
    /// What this worker waits for.
    pub(super) fn waits_for(&self) -> Option<&'static str> {
        match (&self.link, &self.participation) {
            (Link::Down(_), _) => Some("the coordinator to come back"),
            (_, Participation::Idle) if self.pending.ready.is_none() => {
                Some("its model to be ready")
            }
            (_, Participation::Idle) if self.is_spare => {
                Some("a rank to become free: this worker is a spare")
            }
            (_, Participation::Idle) => Some("the coordinator, which waits for other workers"),
            (_, Participation::Fetching(_)) => Some("the state of another worker"),
            (_, Participation::Connecting(_)) => Some("the connections to the other members"),
            (_, Participation::Training(..)) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_logged_at_growing_intervals_and_another_one_begins_anew() {
        let mut wait = Wait::default();
        wait.enter(Some("one"));
        for seconds in [5, 10, 20] {
            assert_eq!(wait.next(), Duration::from_secs(seconds));
            wait.enter(Some("one"));
        }
        wait.enter(Some("other"));
        assert_eq!(wait.next(), Duration::from_secs(5));
    }
}
