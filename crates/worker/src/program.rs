//! The program that runs, and its digest: two builds that differ may compute different bits.

use std::{
    fs::File,
    io::{self, Read as _},
    sync::OnceLock,
};

use sha2::{Digest as _, Sha256};

/// The program of this process, even if its file was replaced after the start.
const PATH: &str = "/proc/self/exe";

const BUFFER_BYTES: usize = 256 << 10;

/// The SHA-256 of this program's file; empty if the file cannot be read.
pub(crate) fn digest() -> &'static [u8] {
    static DIGEST: OnceLock<Vec<u8>> = OnceLock::new();
    DIGEST.get_or_init(|| {
        digest_of(PATH).unwrap_or_else(|error| {
            tracing::warn!("cannot read {PATH}: {error}: this worker cannot report its build");
            Vec::new()
        })
    })
}

fn digest_of(path: &str) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; BUFFER_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            bytes => hasher.update(&buffer[..bytes]),
        }
    }
    Ok(hasher.finalize().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_file_that_runs() {
        let file = std::env::current_exe().unwrap();
        assert_eq!(digest(), digest_of(file.to_str().unwrap()).unwrap());
        assert_eq!(digest().len(), 32);
    }
}
