//! Refuses to write over a file that a person would miss.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::{DiskError, refuse_foreign};

/// Refuses a file at a path that the program has chosen, for example a default of `--output`. A file that `program` has
/// written has one of the `marks`, and may be replaced.
///
/// # Errors
/// [`DiskError::Unnamed`].
pub fn refuse_unnamed(
    path: &Path,
    marks: &[&[u8]],
    program: &'static str,
) -> Result<(), DiskError> {
    match marks.iter().any(|mark| refuse_foreign(path, mark).is_ok()) {
        true => Ok(()),
        false => Err(DiskError::Unnamed { path: path.into(), program }),
    }
}

/// Refuses a file that is one of the `inputs`, also by another of its names.
///
/// # Errors
/// [`DiskError::Input`].
pub fn refuse_input<'a>(
    path: &Path,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<(), DiskError> {
    let file = |path: &Path| {
        let there = fs::metadata(path).ok().filter(Metadata::is_file)?;
        Some((there.dev(), there.ino()))
    };
    let Some(own) = file(path) else { return Ok(()) };
    match inputs.into_iter().all(|input| file(input) != Some(own)) {
        true => Ok(()),
        false => Err(DiskError::Input { path: path.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_mark_is_replaced_only_if_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture");
        let refused = || refuse_unnamed(&path, &[b"mark", b"other"], "vae");
        refused().unwrap();
        for (content, is_own) in [("mine", false), ("an other", true), ("mark", true), ("", true)] {
            fs::write(&path, content).unwrap();
            assert_eq!(refused().is_ok(), is_own, "{content}");
        }
        fs::write(&path, "mine").unwrap();
        let message = refused().unwrap_err().to_string();
        assert!(message.contains("nothing shows that vae has written it"), "{message}");
    }

    #[test]
    fn an_input_is_found_by_each_of_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("input"), "bytes").unwrap();
        fs::write(path("other"), "bytes").unwrap();
        fs::hard_link(path("input"), path("hard")).unwrap();
        std::os::unix::fs::symlink("input", path("link")).unwrap();
        for (name, is_input) in
            [("input", true), ("hard", true), ("link", true), ("other", false), ("none", false)]
        {
            assert_eq!(refuse_input(&path(name), [&*path("input")]).is_err(), is_input, "{name}");
        }
    }
}
