//! Whether memory of some size can be had, asked before it is needed: an allocation that
//! fails later would end the process without a word that helps.

use crate::ModelError;

/// Fails where `bytes` exceed what the machine or the process's control groups have. Where
/// that cannot be read, only sizes that no allocation can have are refused.
///
/// # Errors
///
/// [`ModelError::Memory`], with what `purpose` says.
pub fn check(bytes: u128, purpose: impl FnOnce() -> String) -> Result<(), ModelError> {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    let limit = limits::memory_limit().map_or(isize::MAX.unsigned_abs() as u64, |most| most.bytes);
    if bytes > limit {
        return Err(ModelError::Memory { purpose: purpose(), bytes });
    }
    Ok(())
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
