//! Describes why a signal ended a process, and what to do about it.

use rustix::process::{Resource, Signal};

use crate::{MemoryKills, memory_limit, shown};

/// The sender of SIGKILL, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killer {
    /// The coordinator that had started the process.
    Coordinator,
    /// The kernel, because the control group has reached its memory limit.
    Group,
    /// Very likely the kernel: it killed a process because the machine had no memory left.
    Machine,
    /// A person or another program: the kernel has counted no kill for lack of memory.
    Somebody,
    /// Unknown, because the kernel's counts cannot be read.
    Unknown,
}

impl Killer {
    /// Finds the killer from the kernel's counts of kills `before` and `now`.
    #[must_use]
    pub fn between(before: MemoryKills, now: MemoryKills) -> Self {
        let more = |before: Option<u64>, now: Option<u64>| Some(now? > before.unwrap_or_default());
        // The group's count covers only its own processes; the machine's count covers all processes.
        match (more(before.group, now.group), more(before.machine, now.machine)) {
            (Some(true), _) => Self::Group,
            (Some(false), _) | (None, Some(false)) => Self::Somebody,
            (None, Some(true)) => Self::Machine,
            (None, None) => Self::Unknown,
        }
    }

    fn cause(self) -> String {
        let fewer = "give it more memory, or lower --workers, --batch-size or --hidden-dim";
        match self {
            Self::Coordinator => "by the coordinator".to_owned(),
            Self::Group => {
                let limit = memory_limit().filter(|limit| limit.group.is_some());
                // If the group has no limit, the machine itself has run out of memory.
                let whose = limit.map_or("on this machine".to_owned(), |limit| {
                    let megabytes = limit.bytes / 1_000_000;
                    format!("in its control group (container), which may use {megabytes} MB")
                });
                format!("by the kernel, for lack of memory {whose}: {fewer}")
            }
            Self::Machine => {
                format!("most likely by the kernel, as this machine had no memory left: {fewer}")
            }
            Self::Somebody => {
                "by a person or another program; the kernel counts no lack of memory".to_owned()
            }
            Self::Unknown => {
                "by a person, by another program, or by the kernel for lack of memory (`dmesg` \
                 tells)"
                    .to_owned()
            }
        }
    }
}

/// Names the signal that ended a process, and its likely cause. `killer` is the sender of a SIGKILL.
#[must_use]
pub fn describe_signal(signal: i32, killer: Killer) -> String {
    let (name, cause) = match Signal::from_named_raw(signal) {
        Some(Signal::KILL) => ("SIGKILL", killer.cause()),
        Some(named) => known(named),
        None => return format!("ended by signal {signal}"),
    };
    match cause.is_empty() {
        true => format!("ended by {name}"),
        false => format!("ended by {name}, {cause}"),
    }
}

fn known(signal: Signal) -> (&'static str, String) {
    let (name, cause) = match signal {
        Signal::XFSZ => {
            let limit = shown(Resource::Fsize);
            let cause =
                format!("for it wrote a file of more than {limit} bytes (ulimit -f): raise that");
            return ("SIGXFSZ", cause);
        }
        Signal::XCPU => {
            ("SIGXCPU", "for it has used the CPU time that it may (ulimit -t): raise that limit")
        }
        Signal::BUS => (
            "SIGBUS",
            "for memory of a file or shared memory could not be had: a disk, /dev/shm or the \
             memory is full",
        ),
        Signal::SEGV => (
            "SIGSEGV",
            "for an invalid access to memory: an error of this program, of a library or of the \
             machine's memory",
        ),
        Signal::ILL => (
            "SIGILL",
            "for an instruction that this CPU does not have: the program or libtorch was built \
             for another one",
        ),
        Signal::FPE => ("SIGFPE", "for an impossible division"),
        Signal::ABORT => ("SIGABRT", "by itself: its last lines say why"),
        Signal::SYS => ("SIGSYS", "for a system call that is forbidden here (seccomp)"),
        Signal::TERM => ("SIGTERM", ""),
        Signal::INT => ("SIGINT", ""),
        Signal::HUP => ("SIGHUP", ""),
        Signal::QUIT => ("SIGQUIT", ""),
        Signal::PIPE => ("SIGPIPE", ""),
        Signal::TRAP => ("SIGTRAP", ""),
        Signal::USR1 => ("SIGUSR1", ""),
        Signal::USR2 => ("SIGUSR2", ""),
        Signal::ALARM => ("SIGALRM", ""),
        _ => ("another signal", ""),
    };
    (name, cause.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_the_kernels_where_it_has_counted_one() {
        let kills = |group, machine| MemoryKills { group, machine };
        for (before, now, expected) in [
            (kills(Some(1), Some(1)), kills(Some(2), Some(2)), Killer::Group),
            (kills(Some(1), Some(1)), kills(Some(1), Some(2)), Killer::Somebody),
            (kills(None, Some(1)), kills(None, Some(2)), Killer::Machine),
            (kills(Some(1), Some(1)), kills(Some(1), Some(1)), Killer::Somebody),
            (kills(None, Some(1)), kills(None, Some(1)), Killer::Somebody),
            (kills(None, None), kills(None, None), Killer::Unknown),
        ] {
            assert_eq!(Killer::between(before, now), expected, "{before:?} {now:?}");
        }
    }

    #[test]
    fn a_signal_is_named_with_its_likely_cause() {
        for (signal, killer, words) in [
            (9, Killer::Group, "SIGKILL, by the kernel, for lack of memory"),
            (9, Killer::Somebody, "SIGKILL, by a person or another program"),
            (9, Killer::Unknown, "dmesg"),
            (Signal::XFSZ.as_raw(), Killer::Unknown, "SIGXFSZ, for it wrote a file of more than"),
            (Signal::BUS.as_raw(), Killer::Unknown, "/dev/shm"),
            (4, Killer::Unknown, "SIGILL, for an instruction that this CPU does not have"),
            (15, Killer::Unknown, "ended by SIGTERM"),
            (60, Killer::Unknown, "ended by signal 60"),
        ] {
            let text = describe_signal(signal, killer);
            assert!(text.contains(words), "{signal}: {text}");
        }
    }
}
