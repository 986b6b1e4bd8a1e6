//! The connection to the coordinator, or the attempts to have one again.

use std::pin::Pin;

use anyhow::Result;

use crate::control::Joined;

/// The way to the coordinator.
pub(super) enum Link {
    Up(Box<Joined>),
    /// The attempts to reconnect.
    Down(Pin<Box<dyn Future<Output = Result<Box<Joined>>> + Send>>),
}
