//! Whether memory of some size can be had, asked before it is needed: an allocation that
//! fails later would end the process without a word that helps.

use std::fs;

use crate::ModelError;

/// Where Linux says how much memory a control group may use: a number or `max`.
const GROUP_LIMIT: &str = "/sys/fs/cgroup/memory.max";
const MACHINE_LIMIT: &str = "/proc/meminfo";

/// Fails where `bytes` exceed what the machine or the process's control group has. Where
/// neither can be read, only sizes that no allocation can have are refused.
///
/// # Errors
///
/// [`ModelError::Memory`], with what `purpose` says.
pub fn check(bytes: u128, purpose: impl FnOnce() -> String) -> Result<(), ModelError> {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    let limits = [machine_limit(), group_limit()];
    let limit = limits.into_iter().flatten().min().unwrap_or(isize::MAX.unsigned_abs() as u64);
    if bytes > limit {
        return Err(ModelError::Memory { purpose: purpose(), bytes });
    }
    Ok(())
}

fn machine_limit() -> Option<u64> {
    let text = fs::read_to_string(MACHINE_LIMIT).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kilobytes.checked_mul(1024)
}

fn group_limit() -> Option<u64> {
    fs::read_to_string(GROUP_LIMIT).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_can_be_had_and_an_exabyte_cannot() {
        assert_eq!(check(4096, || unreachable!()), Ok(()));
        for bytes in [1 << 60, u128::MAX] {
            let error = check(bytes, || "this test".to_owned()).unwrap_err();
            assert!(matches!(&error, ModelError::Memory { bytes, .. } if *bytes >= 1 << 60));
            assert!(error.to_string().starts_with("this test needs"), "{error}");
        }
    }
}
