//! The connection to the coordinator, or the attempts to reconnect.

use anyhow::Result;
use secure::connection::BoxFuture;

use crate::control::Joined;

/// The state of the connection to the coordinator.
pub(super) enum Link {
    Up(Box<Joined>),
    /// The attempts to reconnect.
    Down(BoxFuture<'static, Result<Box<Joined>>>),
}
