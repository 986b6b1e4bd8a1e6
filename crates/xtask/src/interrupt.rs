//! Ctrl-C. The terminal sends SIGINT to xtask and to its children; the children handle it
//! themselves.
//!
//! xtask only notes the signal, so that it outlives its child, can clean up and can pass on the
//! exit status. It uses a handler and not `SIG_IGN`, because children inherit `SIG_IGN` and could
//! then not be stopped.

use anyhow::Context;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

static SEEN: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// After this call Ctrl-C no longer ends this process.
pub(crate) fn install() -> anyhow::Result<()> {
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&SEEN))
        .context("cannot install the handler for Ctrl-C")?;
    Ok(())
}

/// After this call SIGTERM counts as Ctrl-C, for a command that must end its children first.
pub(crate) fn install_for_termination() -> anyhow::Result<()> {
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&SEEN))
        .context("cannot install the handler for SIGTERM")?;
    Ok(())
}

/// Whether Ctrl-C was pressed since [`install`].
pub(crate) fn seen() -> bool {
    SEEN.load(Ordering::Relaxed)
}
