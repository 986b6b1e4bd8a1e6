//! Files of lines, one JSON object each.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Bytes of a file that are read back at the most.
const BYTES_MAX: u64 = 64 << 20;

/// Reads a file, up to a bound.
pub(crate) fn read(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&read_bytes(path)?).into_owned())
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes)
}

/// Opens a file for appending, made now if there is none.
pub(crate) fn append(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("cannot open {} for writing", path.display()))
}

/// Opens a file of lines; a last line that was cut off goes, since nothing was done upon it.
pub(crate) fn append_lines(path: &Path) -> Result<File> {
    let file = append(path)?;
    let bytes = read_bytes(path)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if whole < bytes.len() && (bytes.len() as u64) < BYTES_MAX {
        file.set_len(whole as u64).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(file)
}

/// Appends a line.
pub(crate) fn append_line(file: &mut File, object: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(object)?;
    line.push(b'\n');
    file.write_all(&line)
}
