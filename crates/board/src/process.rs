//! Reads the resource usage of this process from the system.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};

/// The resource usage of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: f64,
    pub(crate) virtual_bytes: f64,
    /// Unix seconds.
    pub(crate) started: f64,
    pub(crate) threads: f64,
    pub(crate) open_files: f64,
}

/// The resource usage of this process; none without /proc.
pub(crate) fn usage() -> Option<Usage> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // "id (name) state ...": the name may contain any characters, so the fields are split after it.
    let fields: Vec<f64> = stat.rsplit(") ").next()?.split(' ').skip(1).map(number).collect();
    let field = |number: usize| fields.get(number - 4).copied().unwrap_or_default();
    let ticks = clock_ticks_per_second() as f64;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let booted = system.lines().find_map(|line| line.strip_prefix("btime ")).map_or(0.0, number);
    Some(Usage {
        cpu_seconds: (field(14) + field(15)) / ticks,
        threads: field(20),
        started: booted + field(22) / ticks,
        virtual_bytes: field(23),
        resident_bytes: field(24) * page_size() as f64,
        open_files: fs::read_dir("/proc/self/fd").ok()?.count() as f64,
    })
}

fn number(text: &str) -> f64 {
    text.trim().parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn the_numbers_are_of_this_process() {
        let usage = usage().unwrap();
        assert!((1.0..1e6).contains(&usage.threads), "{usage:?}");
        assert!(usage.resident_bytes > 1e5 && usage.virtual_bytes > usage.resident_bytes);
        assert!(usage.open_files >= 3.0 && usage.cpu_seconds >= 0.0);
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(usage.started);
        // The kernel gives the time of the boot in whole seconds.
        assert!(started < SystemTime::now() + Duration::from_secs(3));
    }
}
