//! Memory: how much this process may use, and whether the kernel has killed processes for lack of it.

use std::{fs, path::PathBuf};

use thiserror::Error;

use crate::cgroup::{self, Group, System, Version};

/// The most memory that this process can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The limit in bytes.
    pub bytes: u64,
    /// The control group that sets the limit; none if the limit is the machine's whole memory.
    pub group: Option<PathBuf>,
}

/// A process may use less memory than it will need.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{who} takes at least {:.2} GB of memory, and {} {:.2} GB", gigabytes(*.needed), place(limit), gigabytes(.limit.bytes))]
pub struct TooLittleMemory {
    /// The part of the program that needs the memory.
    pub who: String,
    /// The memory needed, in bytes.
    pub needed: u64,
    /// The available memory.
    pub limit: MemoryLimit,
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

fn place(limit: &MemoryLimit) -> String {
    limit.group.as_ref().map_or("this machine has".to_owned(), |group| {
        format!("the control group (container) {} may use", group.display())
    })
}

/// Checks that `needed` bytes of memory fit within `limit`. The memory that other processes use is not
/// considered. `who` is named in the error.
///
/// # Errors
/// When the limit is not larger than `needed`.
pub fn ensure_memory(
    who: &str,
    needed: u64,
    limit: Option<MemoryLimit>,
) -> Result<(), TooLittleMemory> {
    match limit.filter(|limit| limit.bytes <= needed) {
        None => Ok(()),
        Some(limit) => Err(TooLittleMemory { who: who.to_owned(), needed, limit }),
    }
}

/// The kernel's counts of processes killed for lack of memory; none if a count cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryKills {
    /// Kills in this process's control group.
    pub group: Option<u64>,
    /// Kills on the whole machine.
    pub machine: Option<u64>,
}

/// The smallest of the machine's memory and the limits of all control groups of this process.
#[must_use]
pub fn memory_limit() -> Option<MemoryLimit> {
    System::default().memory_limit()
}

/// All memory of this machine, without regard to control groups.
#[must_use]
pub fn machine_memory() -> Option<MemoryLimit> {
    System::default().machine_memory().map(|bytes| MemoryLimit { bytes, group: None })
}

impl MemoryKills {
    /// The counts up to now.
    #[must_use]
    pub fn so_far() -> Self {
        System::default().memory_kills()
    }
}

impl System {
    fn memory_limit(&self) -> Option<MemoryLimit> {
        let limits = self.groups("memory").into_iter().filter_map(|group| {
            let (bytes, group) = group.least(match group.version {
                // Without a limit, this file holds a number larger than any machine's memory.
                Version::One => "memory.limit_in_bytes",
                Version::Two => "memory.max",
            })?;
            Some(MemoryLimit { bytes, group: Some(group) })
        });
        let machine = self.machine_memory().map(|bytes| MemoryLimit { bytes, group: None });
        // If limits are equal, the machine's comes first: a group with that limit limits nothing.
        machine.into_iter().chain(limits).min_by_key(|limit| limit.bytes)
    }

    fn machine_memory(&self) -> Option<u64> {
        let info = fs::read_to_string(self.proc.join("meminfo")).ok()?;
        let line = info.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    }

    fn memory_kills(&self) -> MemoryKills {
        let of_group = |group: &Group| {
            group.count(
                match group.version {
                    Version::One => "memory.oom_control",
                    Version::Two => "memory.events",
                },
                "oom_kill",
            )
        };
        let vmstat = fs::read_to_string(self.proc.join("vmstat")).ok();
        MemoryKills {
            group: self.groups("memory").iter().filter_map(of_group).reduce(u64::max),
            machine: vmstat.and_then(|text| cgroup::count(&text, "oom_kill")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::tests::machine;

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:       8000000 kB\nMemFree:        1 kB\n");
    const MOUNT_2: (&str, &str) =
        ("proc/self/mountinfo", "41 31 0:38 / /cg rw - cgroup2 cgroup2 rw,nsdelegate\n");
    const MOUNT_1: (&str, &str) =
        ("proc/self/mountinfo", "35 31 0:32 / /cg rw - cgroup cgroup rw,memory\n");

    fn limit(files: &[(&str, &str)]) -> (u64, Option<String>) {
        let (folder, system) = machine(&[&[MEMINFO], files].concat());
        let MemoryLimit { bytes, group } = system.memory_limit().unwrap();
        let group = group
            .map(|group| group.strip_prefix(folder.path()).unwrap().to_string_lossy().into_owned());
        (bytes, group)
    }

    #[test]
    fn the_least_limit_from_the_own_group_to_the_top_holds() {
        let own = ("proc/self/cgroup", "0::/jobs/7/worker\n");
        let group = |at: &str| Some(at.to_owned());
        assert_eq!(limit(&[]), (8_192_000_000, None), "no groups");
        let unlimited = ("cg/jobs/7/worker/memory.max", "max\n");
        assert_eq!(limit(&[MOUNT_2, own, unlimited]), (8_192_000_000, None));
        let above = ("cg/jobs/memory.max", "300000000\n");
        assert_eq!(limit(&[MOUNT_2, own, unlimited, above]), (300_000_000, group("cg/jobs")));
        let below = ("cg/jobs/7/worker/memory.max", "200000000\n");
        assert_eq!(limit(&[MOUNT_2, own, below, above]).0, 200_000_000);
        let beyond = ("cg/jobs/memory.max", "9000000000\n");
        assert_eq!(limit(&[MOUNT_2, own, beyond]), (8_192_000_000, None));
        let own = ("proc/self/cgroup", "4:memory:/jobs\n0::/\n");
        let limited = ("cg/jobs/memory.limit_in_bytes", "300000000\n");
        assert_eq!(limit(&[MOUNT_1, own, limited]), (300_000_000, group("cg/jobs")));
        let unlimited = ("cg/jobs/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit(&[MOUNT_1, own, unlimited]), (8_192_000_000, None));
    }

    #[test]
    fn the_kernels_kills_are_counted_in_either_version() {
        let vmstat = ("proc/vmstat", "pgfault 7\noom_kill 5\n");
        let kills = |files: &[(&str, &str)]| {
            let (_kept, system) = machine(&[&[vmstat], files].concat());
            system.memory_kills()
        };
        assert_eq!(kills(&[]), MemoryKills { group: None, machine: Some(5) });
        let (_kept, two) = machine(&[
            MOUNT_2,
            ("proc/self/cgroup", "0::/jobs\n"),
            ("cg/jobs/memory.events", "low 0\nhigh 9\nmax 8\noom 3\noom_kill 2\n"),
        ]);
        assert_eq!(two.memory_kills(), MemoryKills { group: Some(2), machine: None });
        let (_kept, one) = machine(&[
            MOUNT_1,
            ("proc/self/cgroup", "4:memory:/jobs\n"),
            ("cg/jobs/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"),
        ]);
        assert_eq!(one.memory_kills(), MemoryKills { group: Some(4), machine: None });
    }
}
