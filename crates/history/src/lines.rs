//! Files of lines, each a JSON object. They are opened in a way that never joins a new line to a line
//! that was cut off.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use serde::Serialize;

/// The most bytes of a row: a row about 64 ranks takes a few thousand. A longer line is no row.
pub(crate) const LINE_BYTES_MAX: usize = 1 << 20;

/// The most bytes of a last line without a newline that may be complete. A line of a journal can be
/// long, because it can list thousands of members.
const LAST_LINE_BYTES_MAX: u64 = 64 << 20;

/// Bytes that are read at a time.
const BLOCK: usize = 1 << 16;

/// Opens a file of lines, each a JSON object, for appending; makes it if there is none. A last line
/// that was cut off is removed, because nothing depends on it yet. A complete last line without a
/// newline gets one. The file may be of any size: it is read backward, a block at a time, to its last
/// line.
///
/// # Errors
/// When the file cannot be opened, read or written.
pub fn append_lines(path: &Path) -> io::Result<File> {
    disk::refuse_pipe(path)?;
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(file);
    }
    let length = metadata.len();
    let mut reader = File::open(path)?;
    let begin = last_line(&mut reader, length)?;
    if begin == length {
        return Ok(file);
    }
    let is_whole = length - begin <= LAST_LINE_BYTES_MAX && {
        let mut last = Vec::new();
        reader.seek(SeekFrom::Start(begin))?;
        reader.take(LAST_LINE_BYTES_MAX).read_to_end(&mut last)?;
        serde_json::from_slice::<serde::de::IgnoredAny>(&last).is_ok()
    };
    match is_whole {
        true => file.write_all(b"\n")?,
        // If the file cannot be made shorter, the line gets a newline.
        false => file.set_len(begin).or_else(|_| file.write_all(b"\n"))?,
    }
    Ok(file)
}

/// Where the last line without a newline begins, in a file of this length; the file's end if the last
/// line has a newline.
fn last_line(file: &mut File, length: u64) -> io::Result<u64> {
    let mut block = [0; BLOCK];
    let mut end = length;
    while end > 0 {
        let begin = end.saturating_sub(BLOCK as u64);
        let size = usize::try_from(end - begin).unwrap_or(BLOCK);
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut block[..size])?;
        if let Some(newline) = block[..size].iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + newline as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

/// Appends a line in one write.
///
/// # Errors
/// When the object has no JSON, or the file cannot be written.
pub fn append_line(file: &mut File, object: &impl Serialize) -> io::Result<()> {
    file.write_all(&line(object)?)
}

/// An object as a line.
pub(crate) fn line(object: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(object)?;
    line.push(b'\n');
    Ok(line)
}

/// Cuts a growing file into lines, a block at a time.
#[derive(Debug)]
pub(crate) struct LineReader {
    file: File,
    /// Where the next line begins.
    offset: u64,
    /// The bytes that were read.
    buffer: Vec<u8>,
    /// Bytes at the front of the buffer that belong to lines already returned.
    used: usize,
    /// Bytes at the front of the buffer that were already searched for a newline.
    searched: usize,
    /// Whether the beginning of the line was dropped, because the line is too long.
    is_too_long: bool,
}

/// The next item in a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A line, without its newline.
    Whole(&'a [u8]),
    /// A line that is too long.
    TooLong,
    /// There is no complete line yet.
    End,
}

impl LineReader {
    /// Reads from an offset where a line begins.
    pub(crate) fn new(mut file: File, offset: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(offset))?;
        let (buffer, used, searched, is_too_long) = (Vec::new(), 0, 0, false);
        Ok(Self { file, offset, buffer, used, searched, is_too_long })
    }

    /// Where the next line begins.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the file is now shorter than the part that was read.
    pub(crate) fn is_cut(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() < self.offset)
    }

    pub(crate) fn next_line(&mut self) -> io::Result<Line<'_>> {
        loop {
            let unread = &self.buffer[self.searched..];
            if let Some(found) = unread.iter().position(|byte| *byte == b'\n') {
                let (begin, end) = (self.used, self.searched + found);
                self.offset += (end + 1 - begin) as u64;
                (self.used, self.searched) = (end + 1, end + 1);
                if std::mem::take(&mut self.is_too_long) {
                    return Ok(Line::TooLong);
                }
                return Ok(Line::Whole(&self.buffer[begin..end]));
            }
            self.searched = self.buffer.len();
            if !self.fill()? {
                self.forget()?;
                return Ok(Line::End);
            }
        }
    }

    /// Drops the read part of an incomplete line, because the line may be cut off and written anew.
    fn forget(&mut self) -> io::Result<()> {
        self.buffer.clear();
        (self.used, self.searched) = (0, 0);
        self.file.seek(SeekFrom::Start(self.offset)).map(drop)
    }

    /// Reads another block. Returns whether there were any bytes.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.used);
        (self.searched, self.used) = (self.searched - self.used, 0);
        if self.buffer.len() > LINE_BYTES_MAX {
            self.offset += self.buffer.len() as u64;
            self.buffer.clear();
            (self.searched, self.is_too_long) = (0, true);
        }
        let before = self.buffer.len();
        self.buffer.resize(before + BLOCK, 0);
        let read = self.file.read(&mut self.buffer[before..]);
        self.buffer.truncate(before + read.as_ref().map_or(0, |read| *read));
        Ok(read? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content of a file after it was opened and another line was appended.
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
        // Only the end of the file is read, even if the last line has no newline.
        const LONG: u64 = LAST_LINE_BYTES_MAX + 10;
        for end in [&b"\n{\"cut"[..], b"\n", b""] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("lines.jsonl");
            File::create(&path).unwrap().set_len(LONG).unwrap();
            OpenOptions::new().append(true).open(&path).unwrap().write_all(end).unwrap();
            append_lines(&path).unwrap();
            let kept = if end.is_empty() { 0 } else { LONG + 1 };
            assert_eq!(std::fs::metadata(&path).unwrap().len(), kept);
        }
    }

    #[test]
    fn lines_are_read_as_they_come() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines.jsonl");
        let mut file = append_lines(&path).unwrap();
        let mut reader = LineReader::new(File::open(&path).unwrap(), 0).unwrap();
        assert_eq!(reader.next_line().unwrap(), Line::End);
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(reader.next_line().unwrap(), Line::Whole(b"one"));
        assert_eq!(reader.next_line().unwrap(), Line::End);
        assert_eq!(reader.offset(), 4);
        file.write_all(b"o\n\nthree\n").unwrap();
        for line in [&b"two"[..], b"", b"three"] {
            assert_eq!(reader.next_line().unwrap(), Line::Whole(line));
        }
        assert_eq!(reader.offset(), 15);
        let long = vec![b'x'; 3 * LINE_BYTES_MAX];
        file.write_all(&[&long[..], b"\nfour\n"].concat()).unwrap();
        assert_eq!(reader.next_line().unwrap(), Line::TooLong);
        assert_eq!(reader.next_line().unwrap(), Line::Whole(b"four"));
        assert_eq!(reader.offset(), file.metadata().unwrap().len());
        assert_eq!(reader.next_line().unwrap(), Line::End);
        assert!(!reader.is_cut().unwrap());
        file.set_len(3).unwrap();
        assert!(reader.is_cut().unwrap());
    }
}
