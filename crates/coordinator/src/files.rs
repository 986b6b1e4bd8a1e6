//! Files of lines, one JSON object each.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
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

/// Opens a file of lines, each a JSON object. A last line that was cut off goes, since nothing was
/// done upon it; one that lacks only its end is given that, so that no other is glued to it.
pub(crate) fn append_lines(path: &Path) -> Result<File> {
    let mut file = append(path)?;
    end_last_line(&mut file, path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file)
}

fn end_last_line(file: &mut File, path: &Path) -> io::Result<()> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(());
    }
    let length = metadata.len();
    let begin = last_line(&mut File::open(path)?, length)?;
    if begin == length {
        return Ok(());
    }
    let mut last = Vec::new();
    let mut reader = File::open(path)?;
    reader.seek(SeekFrom::Start(begin))?;
    reader.take(BYTES_MAX).read_to_end(&mut last)?;
    match serde_json::from_slice::<serde::de::IgnoredAny>(&last) {
        Ok(_) => file.write_all(b"\n"),
        // Where a file cannot be made shorter, the line is ended.
        Err(_) => file.set_len(begin).or_else(|_| file.write_all(b"\n")),
    }
}

/// Where the last line begins of a file of that length; at its end if it ends with a whole line.
fn last_line(file: &mut File, length: u64) -> io::Result<u64> {
    let mut block = [0; 1 << 16];
    let mut end = length;
    while end > 0 {
        let begin = end.saturating_sub(block.len() as u64);
        let size = usize::try_from(end - begin).unwrap_or(block.len());
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut block[..size])?;
        if let Some(newline) = block[..size].iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + newline as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

/// Appends a line.
pub(crate) fn append_line(file: &mut File, object: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(object)?;
    line.push(b'\n');
    file.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file holds that was opened and written to.
    fn after_another_line(before: &[u8]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines.jsonl");
        std::fs::write(&path, before).unwrap();
        append_line(&mut append_lines(&path).unwrap(), &serde_json::json!({ "b": 2 })).unwrap();
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn a_line_is_never_glued_to_one_that_was_cut_off() {
        let whole = &b"{\"a\":1}\n{\"b\":2}\n"[..];
        for before in ["{\"a\":1}\n", "{\"a\":1}\n{\"a", "{\"a\":1}\n\0\0\0", "{\"a\":1}"] {
            let found = after_another_line(before.as_bytes());
            assert_eq!(String::from_utf8_lossy(&found), String::from_utf8_lossy(whole));
        }
        assert_eq!(after_another_line(b"{\"cut"), b"{\"b\":2}\n");
        assert_eq!(after_another_line(b""), b"{\"b\":2}\n");
    }

    #[test]
    fn a_file_may_be_of_any_size() {
        let line = [b"[\"".to_vec(), vec![b'x'; 200_000], b"\"]\n".to_vec()].concat();
        let whole = line.repeat(2);
        let cut_off = [whole.clone(), line[..150_000].to_vec()].concat();
        let found = after_another_line(&cut_off);
        assert!(found == [whole, b"{\"b\":2}\n".to_vec()].concat(), "{} bytes", found.len());
        // Beyond what is read back of a journal.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines.jsonl");
        let file = File::create(&path).unwrap();
        file.set_len(BYTES_MAX + 10).unwrap();
        drop(file);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\n{\"cut").unwrap();
        append_lines(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), BYTES_MAX + 11);
    }
}
