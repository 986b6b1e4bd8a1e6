//! TensorBoard's own reader of event files, for the scenarios that write such: in `.tensorboard/`, for
//! the python3 of this machine. Nothing but tests fetches or uses it.
//!
//! The folder has `site/`, to be named in PYTHONPATH, and a stamp. It appears complete
//! (`staging.rs`). tests/runs.rs looks for it there.

use crate::python::{self, Dependencies};
use crate::staging::put_in_place;
use crate::{prerequisites, workspace};
use anyhow::Context;
use std::path::Path;
use std::{env, fs};

/// Set where tests must not do without it.
const REQUIRED: &str = "LOCKSTEP_TENSORBOARD_REQUIRED";

/// Holds the first requirement and the version of Python: some wheels serve one version alone.
const STAMP: &str = "version";

/// TensorBoard and what its reader needs: a part of what its own metadata asks for.
const REQUIREMENTS: [&str; 6] = [
    "tensorboard==2.21.0",
    "absl-py==2.5.1",
    "numpy==2.4.6",
    "packaging==26.4",
    "pillow==13.0.0",
    "protobuf==7.36.2",
];

/// The way out for who cannot fetch it.
const INSTEAD: &str = "the test that needs it is left out";

/// Makes sure that the reader is in place. Where it cannot be had, this says so, and is an error
/// only where the reader is required.
pub(crate) fn ensure() -> anyhow::Result<()> {
    match fetch() {
        Err(error) if env::var_os(REQUIRED).is_none() => {
            stdout::say!("no TensorBoard, so its reader reads nothing in tests: {error:#}");
            Ok(())
        }
        result => result,
    }
}

fn fetch() -> anyhow::Result<()> {
    prerequisites::python(INSTEAD)?;
    let stamp = format!("{}, Python {}", REQUIREMENTS[0], python::version()?);
    let destination = workspace::root().join(".tensorboard");
    put_in_place(
        &destination,
        || is_installed(&destination, &stamp),
        |scratch| {
            stdout::say!("fetching {stamp} into {} (30 MB)", destination.display());
            let staged = scratch.folder("tensorboard")?;
            let site = scratch.folder("tensorboard/site")?;
            let requirements = REQUIREMENTS.map(str::to_owned);
            python::install(&requirements, Dependencies::Leave, &site, INSTEAD)?;
            fs::write(staged.join(STAMP), format!("{stamp}\n"))
                .context("cannot write the stamp")?;
            Ok(staged)
        },
    )
}

fn is_installed(folder: &Path, stamp: &str) -> bool {
    fs::read_to_string(folder.join(STAMP)).is_ok_and(|found| found.trim() == stamp)
}
