//! The pixels of a set: in memory, or mapped from a file.
//!
//! A small file is read into memory. Any other file is mapped, so that all workers of a host share its
//! memory and the file may be larger than memory. A mapped file must not be changed while a run
//! reads it. The data set's folder obeys this: whole files are renamed into place once. If somebody truncates
//! a mapped file during a run, the run ends.
#![allow(unsafe_code, reason = "a mapping changes if its file changes")]

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use memmap2::{Advice, Mmap};

/// A larger file is mapped.
const MEMORY_BYTES_MAX: u64 = 1 << 20;

/// A larger mapped file is not expected to stay in memory as a whole.
const RESIDENT_BYTES_MAX: u64 = 256 << 20;

/// Bytes that do not change, after a header that is skipped.
#[derive(Debug)]
pub(crate) enum Pixels {
    Memory { bytes: Vec<u8>, header: usize },
    Mapped { map: Mmap, header: usize },
}

impl Pixels {
    /// The content of a file after its first `header` bytes.
    pub(crate) fn open(path: &Path, header: usize) -> io::Result<Self> {
        Self::open_within(path, header, MEMORY_BYTES_MAX)
    }

    fn open_within(path: &Path, header: usize, memory_bytes_max: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        if length < header as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if length <= memory_bytes_max {
            let mut bytes = Vec::with_capacity(length as usize);
            file.read_to_end(&mut bytes)?;
            return if bytes.len() < header {
                Err(io::ErrorKind::UnexpectedEof.into())
            } else {
                Ok(Self::Memory { bytes, header })
            };
        }
        // SAFETY: the bytes are only read, and any byte is a valid pixel. The module's docs demand that the file
        // is not changed meanwhile; its digest was verified before.
        let map = unsafe { Mmap::map(&file) }?;
        // An epoch reads images in a random order. If the system refuses the advice, only speed is lost.
        if length > RESIDENT_BYTES_MAX {
            let _refused = map.advise(Advice::Random);
        }
        Ok(Self::Mapped { map, header })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Memory { bytes, header } => &bytes[*header..],
            Self::Mapped { map, header } => &map[*header..],
        }
    }
}

impl From<Vec<u8>> for Pixels {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Memory { bytes, header: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_has_the_same_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"header and pixels").unwrap();
        for memory_bytes_max in [0, 100] {
            let pixels = Pixels::open_within(file.path(), 7, memory_bytes_max).unwrap();
            assert_eq!(pixels.bytes(), b"and pixels");
            assert_eq!(matches!(pixels, Pixels::Mapped { .. }), memory_bytes_max == 0);
        }
        Pixels::open(file.path(), 18).unwrap_err();
    }
}
