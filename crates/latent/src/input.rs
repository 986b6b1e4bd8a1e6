//! Reads the files that a user gives to a command: as a whole, up to a size limit.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::FileTypeExt as _,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};

/// The content of a file or a pipe, of at most `max` bytes.
pub(crate) fn read(path: &Path, max: u64) -> Result<Vec<u8>> {
    let shown = path.display();
    let content = || {
        // A device such as /dev/zero has no end.
        let kind = fs::metadata(path)?.file_type();
        ensure!(!kind.is_char_device() && !kind.is_block_device(), "it is a device");
        let mut bytes = Vec::new();
        File::open(path)?.take(max + 1).read_to_end(&mut bytes)?;
        ensure!(bytes.len() as u64 <= max, "it has more than {max} bytes");
        Ok(bytes)
    };
    content().with_context(|| format!("cannot read {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_not_read_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        let error = |path: &Path| format!("{:#}", read(path, 4).unwrap_err());
        assert!(error(&path).ends_with("it has more than 4 bytes"));
        assert!(error(Path::new("/dev/zero")).ends_with("cannot read /dev/zero: it is a device"));
        assert!(error(folder.path()).contains("Is a directory"));
    }
}
