//! Memory and processor time of a running process, from the kernel.
//!
//! A process that has ended has no readings; callers keep the last one.

use std::fs;
use std::time::Duration;

/// The memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// The largest resident memory so far.
    pub(super) peak: u64,
    /// The memory that is resident now.
    pub(super) resident: u64,
    /// The part of the resident memory that is not backed by files: heap and stacks.
    pub(super) anonymous: u64,
    /// The part of the resident memory that is shared and not backed by files on a disk.
    pub(super) shared: u64,
}

/// None if the process has ended.
pub(super) fn memory(process: u32) -> Option<Memory> {
    parse_status(&fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

fn parse_status(status: &str) -> Option<Memory> {
    let bytes = |field: &str| {
        let rest = status.lines().find_map(|line| line.strip_prefix(field))?;
        let kib = rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
        Some(kib * 1024)
    };
    Some(Memory {
        peak: bytes("VmHWM:")?,
        resident: bytes("VmRSS:")?,
        anonymous: bytes("RssAnon:")?,
        shared: bytes("RssShmem:")?,
    })
}

/// The processor time of a process so far, in user mode and in the kernel, over all threads. None
/// if the process has ended.
pub(super) fn processor_time(process: u32) -> Option<Duration> {
    let ticks = parse_stat(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)?;
    Some(Duration::from_secs_f64(
        ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64,
    ))
}

/// utime + stime, in ticks of the clock.
fn parse_stat(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, and may contain any characters.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let field = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(field(11)? + field(12)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_status() {
        let status = "Name:\tworker\nVmHWM:\t  2048 kB\nVmRSS:\t 1024 kB\nRssAnon:\t 512 kB\n\
                      RssFile:\t 448 kB\nRssShmem:\t 64 kB\n";
        let (anonymous, shared) = (512 << 10, 64 << 10);
        let expected = Memory { peak: 2 << 20, resident: 1 << 20, anonymous, shared };
        assert_eq!(parse_status(status), Some(expected));
        assert_eq!(parse_status("Name:\tzombie\nState:\tZ\n"), None);
    }

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "12 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 70 30 0 0 20 0 1 0 99";
        assert_eq!(parse_stat(stat), Some(100));
        assert_eq!(parse_stat("12 (a) S 1"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let process = std::process::id();
        assert!(memory(process).is_some_and(|memory| memory.peak >= memory.anonymous));
        assert!(processor_time(process).is_some());
    }
}
