//! Ctrl-C. The terminal sends it to xtask and its children alike; the children decide what it
//! means.
//!
//! xtask only takes note of it, so that it outlives its child, can tidy up and can pass on the exit
//! status. It is a handler and not `SIG_IGN`, because the children would inherit the latter and
//! could not be stopped.

use anyhow::Context;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

static SEEN: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From here on Ctrl-C no longer ends this process.
pub(crate) fn install() -> anyhow::Result<()> {
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&SEEN))
        .context("cannot install the handler for Ctrl-C")?;
    Ok(())
}

/// From here on SIGTERM counts as Ctrl-C, for a command that has children to end first.
pub(crate) fn install_for_termination() -> anyhow::Result<()> {
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&SEEN))
        .context("cannot install the handler for SIGTERM")?;
    Ok(())
}

/// Whether Ctrl-C was pressed since the start.
pub(crate) fn seen() -> bool {
    SEEN.load(Ordering::Relaxed)
}
