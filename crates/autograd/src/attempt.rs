//! Operations of libtorch that may fail. tch panics when an operation fails; this file turns the panic into an
//! error. It does the same for a panic of an objective.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

use model::ModelError;

thread_local! {
    /// Whether a panic of this thread becomes an error, and is not reported by the panic hook.
    static ATTEMPTS: Cell<bool> = const { Cell::new(false) };
    /// The source location of the last such panic.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs operations that may panic in tch. After an error, the data that they changed must not be used.
///
/// # Errors
///
/// [`ModelError::Libtorch`], with the first line of libtorch's message; [`ModelError::Panicked`]
/// for a panic that does not come from tch.
pub(crate) fn attempt<T>(operations: impl FnOnce() -> T) -> Result<T, ModelError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if ATTEMPTS.get() {
                PLACE.set(info.location().map(ToString::to_string).unwrap_or_default());
            } else {
                hook(info);
            }
        }));
    });
    let outer = ATTEMPTS.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(operations));
    ATTEMPTS.set(outer);
    result.map_err(|panic| {
        let (reason, is_libtorch) = reason(&*panic);
        let place = PLACE.take();
        if is_libtorch {
            ModelError::Libtorch(reason)
        } else {
            ModelError::Panicked { reason, place }
        }
    })
}

/// The reason in a panic message of tch, ``called .. on an `Err` value: Torch("REASON\nstack ..")``, and
/// whether the message has this form.
fn reason(panic: &(dyn Any + Send)) -> (String, bool) {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it failed");
    let torch = text.split_once("Torch(\"");
    let inner = torch.map_or(text, |(_, inner)| inner);
    let end = inner.find("\\n").into_iter().chain(inner.find('\n')).min().unwrap_or(inner.len());
    (inner[..end].trim_end_matches("\")").to_owned(), torch.is_some())
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn an_operation_that_fails_is_an_error_of_one_line() {
        let product = attempt(|| {
            let matrix = |side| Tensor::zeros([side, side], (Kind::Float, Device::Cpu));
            matrix(2).matmul(&matrix(3))
        });
        let error = product.unwrap_err().to_string();
        assert!(
            error.starts_with("libtorch: mat1 and mat2 shapes cannot be multiplied"),
            "{error}"
        );
        assert!(!error.contains("\\n") && !error.contains("called"), "{error}");
        assert_eq!(attempt(|| 7), Ok(7));
        let own = attempt(|| panic!("seven")).unwrap_err().to_string();
        assert!(own.starts_with("a panic at ") && own.ends_with(": seven"), "{own}");
    }
}
