//! Signals to a coordinator. The first asks it to stop after the current step. The second asks it to
//! kill the workers that it started, and to end. The third ends the process in any case.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use process::signals::{self, Listening, Stop};
use telemetry::Outlet;
use tokio::sync::watch;

use crate::{console::Console, undo::Undo};

/// The signals that have come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    /// The last signal; none if there was none.
    pub(crate) last: Option<Stop>,
    times: u32,
}

impl Asked {
    /// Whether the run is to stop.
    pub(crate) fn wants_stop(&self) -> bool {
        self.times > 0
    }

    /// Whether the coordinator must end at once, without waiting for its workers.
    pub(crate) fn must_end_now(&self) -> bool {
        self.times > 1
    }
}

/// Listens for signals during the whole life of a coordinator.
#[derive(Debug)]
pub(crate) struct Signals {
    pub(crate) asked: watch::Receiver<Asked>,
    /// Removes the files made so far when a signal ends the program; none once the run can be stopped
    /// in order.
    preparing: Arc<Mutex<Option<Undo>>>,
    _listening: Listening,
}

impl Signals {
    /// From now on a signal asks the run to stop.
    pub(crate) fn prepared(&self) {
        *self.preparing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Listens from now on. While a run is prepared, a signal ends the program and the processes that fetch
/// the data set at once, and removes the files of `undo`. After that, a signal asks the run to stop.
/// With `leave_on_sigterm`, SIGTERM and SIGHUP end only this process: the next coordinator finds all
/// it needs on the disk.
pub(crate) fn listen(
    undo: Undo,
    leave_on_sigterm: bool,
    workers_wait: std::time::Duration,
    console: Console,
) -> Result<Signals> {
    let preparing = Arc::new(Mutex::new(Some(undo)));
    let is_preparing = Arc::clone(&preparing);
    let (sender, asked) = watch::channel(Asked::default());
    let handle = move |stop: Stop| {
        // The lock is held while the process ends, so that no more files are made meanwhile.
        let preparing = is_preparing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(undo) = &*preparing {
            data::fetch::end_children();
            undo.undo();
            std::process::exit(i32::from(stop.exit_code()));
        }
        drop(preparing);
        if leave_on_sigterm && stop != Stop::Interrupt && !sender.borrow().wants_stop() {
            tracing::warn!(
                "leaving the run to its workers, which wait up to {:.0} s for a coordinator that \
                 resumes it",
                workers_wait.as_secs_f64()
            );
            console.end();
            Outlet::flush_all();
            std::process::exit(i32::from(stop.exit_code()));
        }
        sender.send_modify(|asked| {
            asked.times += 1;
            asked.last = Some(stop);
        });
        if sender.borrow().must_end_now() {
            signals::end_at_next();
        }
    };
    let listening = signals::listen(handle).context("cannot listen for signals")?;
    Ok(Signals { asked, preparing, _listening: listening })
}
