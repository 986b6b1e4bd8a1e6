//! The connection to the coordinator, or the attempts to reconnect.

use std::pin::Pin;

use anyhow::Result;

use crate::control::Joined;

/// The state of the connection to the coordinator.
pub(super) enum Link {
    Up(Box<Joined>),
    /// The attempts to reconnect.
    Down(Pin<Box<dyn Future<Output = Result<Box<Joined>>> + Send>>),
}
