//! The loader's information in a program's file: the library path, and the version of glibc. The library path is
//! changed in place, as by `chrpath`.

use anyhow::{Context, ensure};
use memchr::memmem;
use std::fs;
use std::path::Path;

/// The beginning of the library path that `lockstep_build::link` gives programs.
const BEGINNING: &[u8] = b"\0$ORIGIN/../lib";

/// The beginning of the versions of glibc's symbols.
const GLIBC: &[u8] = b"GLIBC_2.";

/// Replaces a program's library path by another one, which must not be longer. A program without such a path stays as
/// it is.
pub(super) fn set_library_path(program: &Path, path: &str) -> anyhow::Result<()> {
    let shown = program.display();
    let mut bytes = fs::read(program).with_context(|| format!("cannot read {shown}"))?;
    let mut places = memmem::find_iter(&bytes, BEGINNING);
    let (place, another) = (places.next().map(|place| place + 1), places.next());
    ensure!(another.is_none(), "{shown} has two strings that begin like its library path");
    let Some(place) = place else { return Ok(()) };
    let length = bytes[place..].iter().position(|byte| *byte == 0).unwrap_or_default();
    ensure!(path.len() <= length, "{shown} has no room for the path {path}: it has {length} bytes");
    bytes[place..place + length].fill(0);
    bytes[place..place + path.len()].copy_from_slice(path.as_bytes());
    fs::write(program, bytes).with_context(|| format!("cannot write {shown}"))
}

/// The second number of the oldest version of glibc that has all symbols of the program.
pub(super) fn glibc(program: &Path) -> anyhow::Result<u32> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let after = |place: usize| {
        let number = &bytes[place + GLIBC.len()..];
        let digits = number.iter().take_while(|byte| byte.is_ascii_digit()).count();
        str::from_utf8(&number[..digits]).ok()?.parse::<u32>().ok()
    };
    memmem::find_iter(&bytes, GLIBC)
        .filter_map(after)
        .max()
        .with_context(|| format!("{} needs no glibc", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_takes_the_place_of_a_longer_one() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, b"one\0$ORIGIN/../lib:/a/long/path\0two").unwrap();
        set_library_path(&program, "$ORIGIN/../../torch/lib").unwrap();
        assert_eq!(fs::read(&program).unwrap(), b"one\0$ORIGIN/../../torch/lib\0\0\0\0\0two");
        fs::write(&program, b"one\0$ORIGIN/../lib\0two").unwrap();
        let error = set_library_path(&program, "$ORIGIN/../../torch/lib").unwrap_err().to_string();
        assert!(error.contains("no room"), "{error}");
        fs::write(&program, b"one\0$ORIGIN/../lib\0$ORIGIN/../lib\0").unwrap();
        set_library_path(&program, "x").unwrap_err();
        fs::write(&program, b"no path").unwrap();
        set_library_path(&program, "x").unwrap();
    }

    #[test]
    fn the_newest_symbol_names_the_glibc() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, b"GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.4\0GLIBC_PRIVATE\0GLIBC_2.").unwrap();
        assert_eq!(glibc(&program).unwrap(), 34);
        fs::write(&program, b"static").unwrap();
        glibc(&program).unwrap_err();
    }
}
