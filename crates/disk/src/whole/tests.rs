//! Writes whole files to paths where all kinds of files may exist.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::{temporary, try_folder, try_write};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn pipe(folder: &Path) -> PathBuf {
    let pipe = folder.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    pipe
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_file_is_replaced_whole_and_nothing_stays_beside_it() {
    let folder = folder();
    let path = folder.path().join("file");
    for bytes in [&b"first"[..], b"second, longer", b""] {
        try_write(&path).unwrap();
        write_whole(&path, bytes).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_a_killed_writer_left_goes_and_what_a_live_one_needs_stays() {
    let folder = folder();
    let live = temporary(folder.path()).unwrap();
    temporary(folder.path()).unwrap().keep().unwrap();
    write_whole(&folder.path().join("file"), b"bytes").unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    assert!(live.path().exists());
}

#[test]
fn a_place_that_cannot_be_is_named() {
    let folder = folder();
    fs::write(folder.path().join("file"), "mine").unwrap();
    symlink("loop", folder.path().join("loop")).unwrap();
    for place in ["", "missing/file", "file/below", "loop"] {
        let path = folder.path().join(place);
        for error in [write_whole(&path, b"bytes").unwrap_err(), try_write(&path).unwrap_err()] {
            let message = error.to_string();
            assert!(message.starts_with(&format!("cannot write {}", path.display())), "{message}");
            assert!(!message.contains(".lockstep-"), "{message}");
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_file_keeps_its_mode_and_its_owner() {
    let folder = folder();
    let path = folder.path().join("file");
    fs::write(&path, "old").unwrap();
    for bits in [0o600, 0o640, 0o664, 0o755] {
        fs::set_permissions(&path, Permissions::from_mode(bits)).unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(mode(&path), bits);
    }
    if is_root() {
        std::os::unix::fs::chown(&path, Some(65_534), Some(65_534)).unwrap();
        write_whole(&path, b"newer").unwrap();
        let there = fs::metadata(&path).unwrap();
        assert_eq!((there.uid(), there.gid()), (65_534, 65_534));
        assert_eq!(mode(&path), 0o755);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn links_are_followed() {
    let folder = folder();
    fs::create_dir(folder.path().join("there")).unwrap();
    let path = |name: &str| folder.path().join(name);
    symlink("there/file", path("link")).unwrap();
    symlink(path("link"), path("second")).unwrap();
    // The target of the links does not exist at first, and exists the second time.
    for bytes in [b"first", b"again"] {
        write_whole(&path("second"), bytes).unwrap();
        assert!(path("link").is_symlink() && path("second").is_symlink());
        assert_eq!(fs::read(path("there/file")).unwrap(), bytes);
        assert!(!path("there/file").is_symlink());
    }
    symlink("missing/file", path("astray")).unwrap();
    write_whole(&path("astray"), b"x").unwrap_err();
    assert!(path("astray").is_symlink());
}

#[test]
fn all_names_of_a_file_stay_names_of_it() {
    let folder = folder();
    let (path, other) = (folder.path().join("file"), folder.path().join("other"));
    fs::write(&path, "a longer text than the next").unwrap();
    fs::hard_link(&path, &other).unwrap();
    write_whole(&path, b"new").unwrap();
    assert_eq!(
        (fs::read(&path).unwrap(), fs::read(&other).unwrap()),
        (b"new".into(), b"new".into())
    );
    assert_eq!(fs::metadata(&path).unwrap().nlink(), 2);
}

#[test]
fn a_device_stays_a_device() {
    let folder = folder();
    let mut devices = vec![PathBuf::from("/dev/null")];
    let own = folder.path().join("null");
    // The test makes its own device, if that is permitted.
    if Command::new("mknod").arg(&own).args(["c", "1", "3"]).output().unwrap().status.success() {
        devices.push(own);
    }
    let link = folder.path().join("link");
    symlink("/dev/null", &link).unwrap();
    devices.push(link.clone());
    for device in devices {
        let before = fs::metadata(&device).unwrap();
        try_write(&device).unwrap();
        write_whole(&device, b"bytes").unwrap();
        let after = fs::metadata(&device).unwrap();
        assert!(after.file_type().is_char_device(), "{}", device.display());
        assert_eq!((after.ino(), after.mode()), (before.ino(), before.mode()));
    }
    assert!(link.is_symlink());
    let full = write_whole(Path::new("/dev/full"), b"bytes").unwrap_err().to_string();
    assert!(full.starts_with("cannot write /dev/full: No space left"), "{full}");
}

#[test]
fn a_disk_is_never_written_over() {
    let folder = folder();
    let disk = folder.path().join("disk");
    // No driver has this number, so opening the device would fail; it must not be opened at all.
    let made = Command::new("mknod").arg(&disk).args(["b", "240", "7"]).output().unwrap();
    if !made.status.success() {
        return;
    }
    let message = write_whole(&disk, b"bytes").unwrap_err().to_string();
    assert!(message.ends_with("it is a disk"), "{message}");
    assert!(fs::metadata(&disk).unwrap().file_type().is_block_device());
}

#[test]
fn a_pipe_is_written_to() {
    let folder = folder();
    let pipe = pipe(folder.path());
    try_write(&pipe).unwrap();
    let long = vec![7; 300_000];
    let read = std::thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read(&pipe).unwrap());
        write_whole(&pipe, &long).unwrap();
        reader.join().unwrap()
    });
    assert!(read == long);
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

#[test]
fn a_pipe_that_nobody_reads_is_not_waited_for_without_end() {
    let folder = folder();
    let message = write_whole(&pipe(folder.path()), b"bytes").unwrap_err().to_string();
    assert!(message.contains("nobody has read from the pipe"), "{message}");
}

#[test]
fn a_reader_that_goes_away_is_told_apart() {
    let folder = folder();
    let pipe = pipe(folder.path());
    let error = std::thread::scope(|scope| {
        scope.spawn(|| File::open(&pipe).unwrap().read_exact(&mut [0; 10]).unwrap());
        write_whole(&pipe, &vec![7; 300_000]).unwrap_err()
    });
    assert!(error.is_closed_pipe(), "{error}");
}

#[test]
fn a_file_that_is_mounted_by_itself_is_written_in_place() {
    let folder = folder();
    let (path, source) = (folder.path().join("file"), folder.path().join("source"));
    fs::write(&path, "").unwrap();
    fs::write(&source, "old and longer").unwrap();
    let mount = |command: &mut Command| command.output().is_ok_and(|run| run.status.success());
    if !mount(Command::new("mount").arg("--bind").args([&source, &path])) {
        return;
    }
    let written = write_whole(&path, b"new");
    assert!(mount(Command::new("umount").arg("--lazy").arg(&path)));
    written.unwrap();
    assert_eq!(fs::read(&source).unwrap(), b"new");
}

#[test]
fn a_file_without_the_mark_stays() {
    let folder = folder();
    let path = folder.path().join("README.md");
    write_own(&path, b"made by us, first", b"made by us").unwrap();
    write_own(&path, b"made by us, again", b"made by us").unwrap();
    fs::write(&path, "mine").unwrap();
    let message = write_own(&path, b"made by us", b"made by us").unwrap_err().to_string();
    assert!(message.contains("README.md is there already"), "{message}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    // An empty file may be overwritten.
    File::create(&path).unwrap();
    write_own(&path, b"made by us", b"made by us").unwrap();
    assert!(!holds(&path, b""));
}

#[test]
fn a_mark_beyond_the_beginning_is_none() {
    let folder = folder();
    let path = folder.path().join("file");
    let mut file = File::create(&path).unwrap();
    file.write_all(&vec![0; MARKED_BYTES as usize]).unwrap();
    file.write_all(b"mark").unwrap();
    assert!(!holds(&path, b"mark"));
}

#[test]
fn trying_a_folder_leaves_nothing() {
    let folder = folder();
    try_folder(folder.path()).unwrap();
    try_folder(&folder.path().join("a/b/c")).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    fs::write(folder.path().join("file"), "").unwrap();
    for place in [folder.path().join("file/below"), "/proc/lockstep/run".into()] {
        let message = try_folder(&place).unwrap_err().to_string();
        assert!(message.starts_with(&format!("cannot write {}", place.display())), "{message}");
    }
}
