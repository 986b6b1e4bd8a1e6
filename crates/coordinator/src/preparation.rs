//! What a coordinator still does before it can take in workers. Those that ask meanwhile are told,
//! and come again.

use std::sync::{Arc, Mutex, PoisonError};

use protocol::{convert::printable, status};
use tonic::Status;

/// What is being prepared; clones are of the same. None: nothing any more.
#[derive(Clone, Debug)]
pub(crate) struct Preparation(Arc<Mutex<Option<String>>>);

impl Preparation {
    pub(crate) fn begin() -> Self {
        Self(Arc::new(Mutex::new(Some("it has just been started".to_owned()))))
    }

    /// Notes what is done now.
    pub(crate) fn note(&self, what: &str) {
        self.set(Some(printable(what.trim())));
    }

    /// From now on workers are taken in.
    pub(crate) fn end(&self) {
        self.set(None);
    }

    fn set(&self, what: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// Refuses a call that comes too early.
    #[allow(clippy::result_large_err, reason = "the status is what the service answers")]
    pub(crate) fn check(&self) -> Result<(), Status> {
        let what = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        what.as_deref().map_or(Ok(()), |what| Err(status::preparing(what)))
    }
}
