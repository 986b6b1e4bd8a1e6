//! Files of a run directory, opened and read.

use std::{
    fs::{File, OpenOptions},
    io::Read as _,
    path::Path,
};

use anyhow::{Context as _, Result};

/// The most bytes of a file that are read.
const BYTES_MAX: u64 = 64 << 20;

/// Reads a file, up to a bound.
pub(crate) fn read(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&read_bytes(path)?).into_owned())
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    disk::open_regular(path)
        .and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes)
}

/// Opens a file for appending; makes it if there is none.
pub(crate) fn append(path: &Path) -> Result<File> {
    let file = disk::refuse_pipe(path)
        .and_then(|()| OpenOptions::new().create(true).append(true).open(path));
    file.with_context(|| format!("cannot open {} for writing", path.display()))
}

/// Opens a file of lines for appending; a last line that was cut off is removed first.
pub(crate) fn append_lines(path: &Path) -> Result<File> {
    history::append_lines(path).with_context(|| format!("cannot write {}", path.display()))
}
