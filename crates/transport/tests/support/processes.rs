//! Members as separate processes. A test starts them, sends them lines, reads their lines with a
//! deadline, and kills them.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

/// The mark before a line of a member, because a test binary prints other lines too.
pub(crate) const MARK: char = '@';

/// The most lines of a member that wait to be read.
const UNHEARD_LINES_MAX: usize = 1 << 16;

/// A member's process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Member {
    process: Child,
    lines: Receiver<String>,
}

impl Member {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let stdout = BufReader::new(process.stdout.take().expect("its output is piped"));
        let (heard, lines) = mpsc::sync_channel(UNHEARD_LINES_MAX);
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let Some((_, speech)) = line.split_once(MARK) else { continue };
                if heard.send(speech.to_owned()).is_err() {
                    return;
                }
            }
        });
        Self { process, lines }
    }

    /// The rest of the next line that begins with `word`, if it comes in time.
    pub(crate) fn recv(&self, word: &str, deadline: Duration) -> Option<String> {
        loop {
            let line = self.lines.recv_timeout(deadline).ok()?;
            if let Some(rest) = line.strip_prefix(word) {
                return Some(rest.trim().to_owned());
            }
        }
    }

    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.process.stdin.as_mut().expect("its input is piped");
        writeln!(stdin, "{line}").expect("it listens");
    }

    #[allow(dead_code, reason = "the benchmark kills nobody")]
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Kills the process at once, as a failing machine would, and leaves a zombie.
    #[allow(dead_code, reason = "the benchmark kills nobody")]
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it can be killed");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// Sends a line from a member to the test.
pub(crate) fn say(line: &str) {
    // The process that started this one may be gone.
    let _gone = writeln!(std::io::stdout(), "{MARK}{line}");
}

/// The next line that the test has sent to this member.
pub(crate) fn listen() -> Option<String> {
    let mut line = String::new();
    let bytes = std::io::stdin().read_line(&mut line).ok()?;
    (bytes > 0).then(|| line.trim_end().to_owned())
}
