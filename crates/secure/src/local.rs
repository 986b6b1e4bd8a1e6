//! Sockets within this machine, between processes of one user.
//!
//! Their names are in no file system: a name is gone with its process, however that ends, and
//! nothing is left behind. Such a name has no permissions; any user of this machine can see it,
//! connect to it, or take it first. So each side asks the kernel for the user at the other end,
//! before a byte is sent, and closes a connection of another user.
//!
//! The bytes do not leave the kernel, and a process that could listen in there can read a worker's
//! keys as well: so there is no TLS over these sockets. What a peer may ask for is not decided here.

use std::io;

use tokio::net::{UnixListener, UnixStream};
use tokio_stream::{Stream, StreamExt as _, wrappers::UnixListenerStream};

use crate::{Address, refusal};

/// Listens for processes of this machine that connect to `address` by a local socket.
///
/// # Errors
/// When the name is taken, or the system has no such names: peers then use the address.
pub fn listen(address: &Address) -> io::Result<UnixListener> {
    UnixListener::bind(name(address))
}

/// Connects to what listens on this machine beside `address`.
///
/// # Errors
/// When no process listens, or a process of another user.
pub async fn connect(address: &Address) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(name(address)).await?;
    check(&stream)?;
    Ok(stream)
}

/// The connections that `listener` accepts of this user's processes.
pub fn incoming(
    listener: UnixListener,
) -> impl Stream<Item = io::Result<UnixStream>> + Send + Unpin + 'static {
    UnixListenerStream::new(listener).filter(|accepted| {
        let Ok(stream) = accepted else { return true };
        let checked = check(stream);
        if let Err(error) = &checked {
            refusal::turned_away(&format!("a process on this machine: {error}"));
        }
        checked.is_ok()
    })
}

/// The leading zero is what keeps the name out of the file system.
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
