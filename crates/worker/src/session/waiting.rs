//! What a worker waits for, told ever more seldom to whoever reads its log.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Phase, Session, away::Link};

/// How long something is waited for before it is told; the time doubles with each line.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// What is waited for, since when.
#[derive(Debug)]
pub(super) struct Wait {
    what: Option<&'static str>,
    begun: Instant,
    told_after: Duration,
}

impl Default for Wait {
    fn default() -> Self {
        Self { what: None, begun: Instant::now(), told_after: TOLD_AFTER }
    }
}

impl Wait {
    /// Notes what is waited for now, if anything is.
    pub(super) fn enter(&mut self, what: Option<&'static str>) {
        if self.what != what {
            *self = Self { what, ..Self::default() };
        }
    }

    /// Waits until it is time to tell again. Returns what is waited for, and for how long.
    pub(super) async fn due(&mut self) -> (&'static str, Duration) {
        let Some(what) = self.what else { return std::future::pending().await };
        sleep_until(self.begun + self.told_after).await;
        (what, self.next())
    }

    /// The time after which it is told now, and not again before twice that time.
    fn next(&mut self) -> Duration {
        let waited = self.told_after;
        self.told_after *= 2;
        waited
    }
}

impl Session {
    /// What this worker waits for.
    pub(super) fn waits_for(&self) -> Option<&'static str> {
        match (&self.link, &self.phase) {
            (Link::Down(_), _) => Some("the coordinator to come back"),
            (_, Phase::Idle) if self.pending.ready.is_none() => Some("its model to be ready"),
            (_, Phase::Idle) => Some("the coordinator, which waits for other workers"),
            (_, Phase::Fetching(_)) => Some("the state of another worker"),
            (_, Phase::Connecting(_)) => Some("the connections to the other members"),
            (_, Phase::Training(..)) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_of_ever_more_seldom_and_begins_anew_with_another() {
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
