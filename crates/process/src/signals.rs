//! The signals that ask a program to stop: SIGINT (Ctrl-C), SIGTERM, and SIGHUP (the terminal was
//! closed).
//!
//! [`install`] is the first call of a program. From then on, each of the three signals ends the program at
//! once, with the exit code that shells use for it. The system's default is not enough in a container,
//! because the kernel drops signals to process 1 that have no handler. A program that has work to finish
//! calls [`listen`], and receives the signals instead.

use std::{
    fs, io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
    iterator::{Handle, Signals},
};

/// Two SIGTERM within this time count as one. For example, timeout(1) signals its child and then the child's
/// process group.
const REPEAT: Duration = Duration::from_millis(20);

/// Whether the next signal ends the program.
static ENDS_AT_ONCE: AtomicBool = AtomicBool::new(true);

/// Whether SIGHUP was ignored when the program began, as under nohup(1).
static HANGUP_IGNORED: AtomicBool = AtomicBool::new(false);

/// A signal that asks the program to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGHUP.
    Hangup,
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Stop {
    const ALL: [Self; 3] = [Self::Hangup, Self::Interrupt, Self::Terminate];

    /// The exit code of a program that the signal stopped: 128 plus its number, as in shells.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Hangup => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }

    const fn number(self) -> i32 {
        match self {
            Self::Hangup => SIGHUP,
            Self::Interrupt => SIGINT,
            Self::Terminate => SIGTERM,
        }
    }

    fn of(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|stop| stop.number() == number)
    }

    /// The signals that are handled: all, but not SIGHUP if it was ignored.
    fn handled() -> impl Iterator<Item = Self> {
        let ignores_hangup = HANGUP_IGNORED.load(Ordering::Relaxed);
        Self::ALL.into_iter().filter(move |stop| *stop != Self::Hangup || !ignores_hangup)
    }
}

/// Makes each of the signals end the program from now on. To be called first, and once.
///
/// # Errors
/// The error of the system.
pub fn install() -> io::Result<()> {
    HANGUP_IGNORED.store(is_ignored(SIGHUP), Ordering::Relaxed);
    for stop in Stop::handled() {
        let code = i32::from(stop.exit_code());
        flag::register_conditional_shutdown(stop.number(), code, &ENDS_AT_ONCE)?;
    }
    Ok(())
}

/// Whether this program ignores a signal. It is called before any handler is installed, so the answer is
/// that of the program's start.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Makes the next signal end the program, even while a listener exists.
pub fn end_at_next() {
    ENDS_AT_ONCE.store(true, Ordering::SeqCst);
}

/// While this value exists, signals do not end the program.
#[derive(Debug)]
pub struct Listening(Handle);

impl Drop for Listening {
    fn drop(&mut self) {
        end_at_next();
        self.0.close();
    }
}

/// Calls `handle`, on a new thread, with each signal that comes from now on. A second call means that a person
/// wants an immediate end. A login session that ends sends several signals; so a SIGHUP after another
/// signal is not passed on, nor is the first other signal after a SIGHUP.
///
/// # Errors
/// The error of the system.
pub fn listen(mut handle: impl FnMut(Stop) + Send + 'static) -> io::Result<Listening> {
    let mut signals = Signals::new(Stop::handled().map(Stop::number))?;
    let listening = Listening(signals.handle());
    ENDS_AT_ONCE.store(false, Ordering::SeqCst);
    let mut seen = Seen::default();
    let wait = move || {
        for number in signals.forever() {
            if let Some(stop) = Stop::of(number).filter(|stop| seen.is_news(*stop, Instant::now()))
            {
                handle(stop);
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(listening)
}

/// The signals that have come so far.
#[derive(Debug, Default)]
struct Seen {
    any: bool,
    /// Whether only a SIGHUP has come.
    only_hangup: bool,
    terminated: Option<Instant>,
}

impl Seen {
    /// Whether a signal that came at `now` is a new request, and no repetition.
    fn is_news(&mut self, stop: Stop, now: Instant) -> bool {
        let is_first = !std::mem::replace(&mut self.any, true);
        if stop == Stop::Hangup {
            self.only_hangup |= is_first;
            return is_first;
        }
        let last = if stop == Stop::Terminate { self.terminated.replace(now) } else { None };
        let is_repeat = last.is_some_and(|last| now.duration_since(last) < REPEAT);
        !std::mem::take(&mut self.only_hangup) && !is_repeat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_shells() {
        for stop in Stop::ALL {
            assert_eq!(i32::from(stop.exit_code()), 128 + stop.number());
            assert_eq!(Stop::of(stop.number()), Some(stop));
        }
    }

    #[test]
    fn repeats_are_no_news() {
        let begun = Instant::now();
        let mut seen = Seen::default();
        assert!(seen.is_news(Stop::Terminate, begun));
        assert!(!seen.is_news(Stop::Terminate, begun + REPEAT / 2), "timeout(1) sends two");
        assert!(!seen.is_news(Stop::Hangup, begun + REPEAT * 9), "nobody is impatient");
        assert!(seen.is_news(Stop::Terminate, begun + REPEAT * 9));
        assert!(seen.is_news(Stop::Interrupt, begun + REPEAT * 9));
        assert!(seen.is_news(Stop::Interrupt, begun + REPEAT * 9));
        let mut seen = Seen::default();
        assert!(seen.is_news(Stop::Hangup, begun));
        assert!(!seen.is_news(Stop::Terminate, begun), "a session that ends sends both");
        assert!(seen.is_news(Stop::Terminate, begun + REPEAT * 9));
    }
}
