//! Archives whose bytes depend only on the files in them, and checksums.

use crate::staging;
use anyhow::Context;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// The name of the file with checksums, which `sha256sum --check` reads.
pub(super) const CHECKSUMS: &str = "SHA256SUMS";

/// Packs a folder under its own name: files in the order of names, all with the same time, and with root as the
/// owner.
pub(super) fn write(folder: &Path, archive: &Path, time: u64, level: i32) -> anyhow::Result<()> {
    let shown = archive.display();
    stdout::say!("packing {shown}");
    let pack = || {
        let compressed = zstd::Encoder::new(File::create(archive)?, level)?;
        let mut files = tar::Builder::new(compressed);
        append(&mut files, folder, Path::new(folder.file_name().unwrap_or_default()), time)?;
        files.into_inner()?.finish()?.sync_all()
    };
    pack().with_context(|| format!("cannot write {shown}"))
}

fn append(
    files: &mut tar::Builder<impl io::Write>,
    path: &Path,
    name: &Path,
    time: u64,
) -> io::Result<()> {
    let found = fs::metadata(path)?;
    let is_program = found.is_dir() || found.permissions().mode() & 0o100 != 0;
    let mut header = tar::Header::new_gnu();
    header.set_mtime(time);
    header.set_mode(if is_program { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    if !found.is_dir() {
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(found.len());
        return files.append_data(&mut header, name, File::open(path)?);
    }
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    files.append_data(&mut header, name, io::empty())?;
    for entry in staging::entries(path).map_err(io::Error::other)? {
        append(files, &entry, &name.join(entry.file_name().unwrap_or_default()), time)?;
    }
    Ok(())
}

/// Writes the checksums of all files in a folder into a file of this folder.
pub(super) fn write_checksums(folder: &Path) -> anyhow::Result<()> {
    let mut text = String::new();
    for file in staging::entries(folder)? {
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.file_name().unwrap_or_default().display();
        let _infallible = writeln!(text, "{}  {name}", hex(&Sha256::digest(bytes)));
    }
    fs::write(folder.join(CHECKSUMS), text).context("cannot write checksums")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    /// A folder with these files, made in this order.
    fn folder(parent: &Path, names: &[&str], changed: SystemTime) {
        for name in names {
            let path = parent.join("release").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, name).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(changed).unwrap();
            let mode = if name.starts_with("bin") { 0o700 } else { 0o600 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let [one, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let names = ["bin/b", "bin/a", "README.md", "share/man/page.1"];
        let reversed: Vec<&str> = names.iter().rev().copied().collect();
        folder(one.path(), &names, SystemTime::UNIX_EPOCH + Duration::from_hours(1));
        folder(other.path(), &reversed, SystemTime::UNIX_EPOCH + Duration::from_hours(9));
        let packed = |place: &Path| {
            let archive = place.join("archive.tar.zst");
            write(&place.join("release"), &archive, 7, 3).unwrap();
            fs::read(archive).unwrap()
        };
        let bytes = packed(one.path());
        assert_eq!(bytes, packed(other.path()));

        let mut archive = tar::Archive::new(zstd::Decoder::new(&bytes[..]).unwrap());
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap()), (7, 0));
            (entry.path().unwrap().display().to_string(), header.mode().unwrap())
        });
        let entries: Vec<_> = entries.collect();
        let names: Vec<&str> = entries.iter().map(|(name, _)| &name[..]).collect();
        assert_eq!(
            names,
            [
                "release",
                "release/README.md",
                "release/bin",
                "release/bin/a",
                "release/bin/b",
                "release/share",
                "release/share/man",
                "release/share/man/page.1"
            ]
        );
        assert_eq!((entries[1].1, entries[3].1), (0o644, 0o755));
    }

    #[test]
    fn checksums_are_those_of_the_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("empty"), "").unwrap();
        write_checksums(folder.path()).unwrap();
        let text = fs::read_to_string(folder.path().join(CHECKSUMS)).unwrap();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(text, format!("{empty}  empty\n"));
    }
}
