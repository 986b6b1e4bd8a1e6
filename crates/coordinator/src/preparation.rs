//! The work that a coordinator must do before it admits workers. A worker that asks to join meanwhile
//! is told of this work, and tries again.

use std::sync::{Arc, Mutex, PoisonError};

use protocol::{convert::printable, status};
use tonic::Status;

/// The work that still goes on; none when it is done. Clones share the same value.
#[derive(Clone, Debug)]
pub(crate) struct Preparation(Arc<Mutex<Option<String>>>);

impl Preparation {
    pub(crate) fn begin() -> Self {
        Self(Arc::new(Mutex::new(Some("it has just been started".to_owned()))))
    }

    /// Sets the description of the current work.
    pub(crate) fn note(&self, what: &str) {
        self.set(Some(printable(what.trim())));
    }

    /// From now on workers are admitted.
    pub(crate) fn end(&self) {
        self.set(None);
    }

    fn set(&self, what: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// Refuses a call while the work goes on.
    #[allow(clippy::result_large_err, reason = "the status is what the service answers")]
    pub(crate) fn check(&self) -> Result<(), Status> {
        let what = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        what.as_deref().map_or(Ok(()), |what| Err(status::preparing(what)))
    }
}
