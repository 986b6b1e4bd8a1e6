//! Checks before an allocation whether the machine has enough memory. A later failure of the
//! allocation would end the process without a useful message.

use crate::ModelError;

/// Fails if `bytes` exceeds the memory of the machine or of the process's control groups. If
/// these cannot be read, only sizes that no allocation can have are refused.
///
/// # Errors
///
/// [`ModelError::Memory`], with the text of `purpose`.
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
