//! Opens a named pipe for writing. This waits for a reader, up to a timeout.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// How long a reader may take to open the other end.
const READER_TIMEOUT: Duration =
    if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(60) };

/// Time between two attempts.
const POLL: Duration = Duration::from_millis(20);

/// Opens a pipe for writing, once a reader has opened the other end.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let deadline = Instant::now() + READER_TIMEOUT;
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    loop {
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(pipe) => {
                // From here on, a write waits for a slow reader, as usual.
                rustix::fs::fcntl_setfl(&pipe, OFlags::WRONLY)?;
                return Ok(File::from(pipe));
            }
            Err(Errno::NXIO) if Instant::now() < deadline => thread::sleep(POLL),
            Err(Errno::NXIO) => {
                let seconds = READER_TIMEOUT.as_secs();
                let reason = format!("nobody has read from the pipe within {seconds} s");
                return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
            }
            Err(error) => return Err(error.into()),
        }
    }
}
