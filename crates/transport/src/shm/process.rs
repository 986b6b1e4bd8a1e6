//! Finds out whether a process still lives, by its id and its start time, because ids are reused.

use std::{fs, io};

/// One process of this host, now or in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Its process id.
    pub(super) pid: u32,
    /// Its start time, in clock ticks since the host was started.
    pub(super) started: u64,
}

impl Process {
    /// This process.
    pub(super) fn this() -> io::Result<Self> {
        let pid = std::process::id();
        let stat = stat(pid)?;
        let (_, started) = parse(&stat).ok_or_else(|| io::Error::other("/proc is not readable"))?;
        Ok(Self { pid, started })
    }

    /// Whether the process is certainly gone. A zombie counts as gone.
    pub(super) fn is_gone(self) -> bool {
        match stat(self.pid) {
            Ok(stat) => parse(&stat).is_some_and(|(state, started)| {
                matches!(state, 'Z' | 'X') || started != self.started
            }),
            // ESRCH: the process ended between opening and reading.
            Err(error) => {
                error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
            }
        }
    }
}

fn stat(pid: u32) -> io::Result<String> {
    // The text contains the command's name, which may have any bytes.
    fs::read(format!("/proc/{pid}/stat")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The state and the start time: the fields 3 and 22 of proc_pid_stat(5).
fn parse(stat: &str) -> Option<(char, u64)> {
    // Field 2 is in parentheses, and may contain parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_lives_is_killed_and_is_gone_before_it_is_reaped() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let (_, started) = parse(&stat(child.id()).unwrap()).unwrap();
        let process = Process { pid: child.id(), started };
        assert!(!process.is_gone() && !Process::this().unwrap().is_gone());
        assert!(Process { started: started + 1, ..process }.is_gone());
        child.kill().unwrap();
        while !process.is_gone() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(process.is_gone());
    }

    #[test]
    fn the_name_of_a_command_cannot_mislead() {
        let stat = "7 (a) Z 1 (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 1234 20";
        assert_eq!(parse(stat), Some(('S', 1234)));
    }
}
