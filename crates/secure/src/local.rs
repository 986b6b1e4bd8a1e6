//! Sockets within this machine, between processes of one user.
//!
//! Their names are abstract, not in a file system: a name disappears with its process, and no file
//! is left behind. An abstract name has no permissions: any user of this machine can see it,
//! connect to it, or take it first. So each side asks the kernel for the user at the other end
//! before it sends a byte, and closes a connection of another user.
//!
//! The bytes do not leave the kernel, and a process that could read them there could read a worker's
//! keys as well. So there is no TLS over these sockets. This module does not decide which requests a
//! peer may make.

use std::io;

use tokio::net::{UnixListener, UnixStream};
use tokio_stream::{Stream, StreamExt as _, wrappers::UnixListenerStream};

use crate::{Address, rejection};

/// Listens for processes of this machine that connect to `address` by a local socket.
///
/// # Errors
/// The name is taken, or the system has no abstract names. Peers then connect to the address itself.
pub fn listen(address: &Address) -> io::Result<UnixListener> {
    UnixListener::bind(name(address))
}

/// Connects to the local socket of the process that listens at `address` on this machine.
///
/// # Errors
/// No process listens there, or the process belongs to another user.
pub async fn connect(address: &Address) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(name(address)).await?;
    check(&stream)?;
    Ok(stream)
}

/// The connections to `listener` from processes of this user; others are closed.
pub fn incoming(
    listener: UnixListener,
) -> impl Stream<Item = io::Result<UnixStream>> + Send + Unpin + 'static {
    UnixListenerStream::new(listener).filter(|accepted| {
        let Ok(stream) = accepted else { return true };
        let checked = check(stream);
        if let Err(error) = &checked {
            rejection::turned_away(&format!("a process on this machine: {error}"));
        }
        checked.is_ok()
    })
}

/// The leading zero byte makes the name abstract.
fn name(address: &Address) -> String {
    format!("\0lockstep {address}")
}

fn check(stream: &UnixStream) -> io::Result<()> {
    let (theirs, own) = (stream.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
    if theirs == own {
        return Ok(());
    }
    let reason = format!("it is of user {theirs}, not of {own}");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}
