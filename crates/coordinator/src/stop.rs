//! Signals to a coordinator. The first asks it to stop after the current step, the second to end
//! its workers and itself at once, and the third ends the process, whatever it does.

use anyhow::{Context as _, Result};
use process::signals::{self, Listening, Stop};
use telemetry::Outlet;
use tokio::sync::watch;

use crate::console::Console;

/// The signals that came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    /// The last one; none if there was none.
    pub(crate) last: Option<Stop>,
    times: u32,
}

impl Asked {
    /// Whether the run is to stop.
    pub(crate) fn wants_stop(&self) -> bool {
        self.times > 0
    }

    /// Whether nothing is to be waited for any more.
    pub(crate) fn is_impatient(&self) -> bool {
        self.times > 1
    }
}

/// While this lives, a signal ends the program at once, and with it what fetches the data set.
pub(crate) fn listen_while_fetching() -> Result<Listening> {
    let heed = |stop: Stop| {
        data::fetch::end_children();
        std::process::exit(i32::from(stop.exit_code()));
    };
    signals::listen(heed).context("cannot listen for signals")
}

/// Listens from now on; signals end the program at once before that, and when what is returned has
/// been dropped. Where SIGTERM is no reason to stop the run, it ends this process: what the next
/// coordinator has to know is on the disk.
pub(crate) fn listen(
    leave_on_sigterm: bool,
    workers_wait: std::time::Duration,
    console: Console,
) -> Result<(Listening, watch::Receiver<Asked>)> {
    let (sender, asked) = watch::channel(Asked::default());
    let heed = move |stop: Stop| {
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
        if sender.borrow().is_impatient() {
            signals::end_at_next();
        }
    };
    let listening = signals::listen(heed).context("cannot listen for signals")?;
    Ok((listening, asked))
}
