//! Memory, files and processor time of a running process, from the kernel.

use std::{fs, time::Duration};

use super::Process;

/// The resources of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holding {
    pub(crate) resident_bytes: u64,
    /// The largest resident memory so far.
    pub(crate) peak_bytes: u64,
    pub(crate) files: usize,
    /// In user mode and in the kernel, by all threads.
    pub(crate) processor_time: Duration,
}

impl Holding {
    pub(crate) fn of(process: &Process) -> Self {
        let folder = format!("/proc/{}", process.id());
        let status = fs::read_to_string(format!("{folder}/status")).unwrap();
        let bytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).expect(field);
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
        };
        let stat = fs::read_to_string(format!("{folder}/stat")).unwrap();
        // "id (name) state ...": the name may contain any characters, so parsing begins after it.
        // Fields 14 and 15 are the ticks in user mode and in the kernel.
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        Self {
            resident_bytes: bytes("VmRSS:"),
            peak_bytes: bytes("VmHWM:"),
            files: fs::read_dir(format!("{folder}/fd")).unwrap().count(),
            processor_time: Duration::from_secs_f64(ticks as f64 / ticks_per_second),
        }
    }
}
