//! The memory of this process.

use std::fs;

/// The resident memory of this process now, in bytes; none if the system does not tell.
#[must_use]
pub fn memory_bytes() -> Option<u64> {
    resident(&fs::read_to_string("/proc/self/status").ok()?)
}

/// The value of the line `VmRSS`, in bytes.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t  1036 kB\n"), Some(1_060_864));
        assert_eq!((resident("VmRSS: many kB"), resident("")), (None, None));
        assert!(memory_bytes().is_none_or(|bytes| bytes > 1 << 16));
    }
}
