//! File systems without some operations, such as CIFS, FUSE and NFS: if a run can do without the
//! operation, it prints a warning, and the bits are the same as on any file system.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::{
    Place, Process, SMALL, assert_same_tensors, coordinator_at, note_left_out, programs, reference,
};

/// A preloaded library that refuses the operations that such file systems refuse, below the folder
/// REFUSING_FOLDER.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int is_below(const char *path) {
    const char *folder = getenv("REFUSING_FOLDER");
    return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_there(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

static int refuse(int code) { errno = code; return -1; }

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int fsync(int fd) {
    struct stat there;
    if (is_there(fd) && fstat(fd, &there) == 0 && S_ISDIR(there.st_mode)) return refuse(EINVAL);
    return NEXT(fsync)(fd);
}
int fchmod(int fd, mode_t mode) {
    return is_there(fd) ? refuse(EPERM) : NEXT(fchmod)(fd, mode);
}
int chmod(const char *path, mode_t mode) {
    return is_below(path) ? refuse(EPERM) : NEXT(chmod)(path, mode);
}
int flock(int fd, int operation) {
    return is_there(fd) ? refuse(ENOLCK) : NEXT(flock)(fd, operation);
}
int symlink(const char *target, const char *path) {
    return is_below(path) ? refuse(EPERM) : NEXT(symlink)(target, path);
}
int link(const char *from, const char *to) {
    return is_below(to) ? refuse(EPERM) : NEXT(link)(from, to);
}
int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    return is_below(to) ? refuse(EPERM) : NEXT(linkat)(from_folder, from, to_folder, to, flags);
}
"#;

/// Compiles the shim; none if there is no compiler.
fn shim(place: &Place) -> Option<PathBuf> {
    let (source, shim) = (place.path("shim.c"), place.path("shim.so"));
    fs::write(&source, SHIM).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).args([&shim, &source]).arg("-ldl");
    match compiler.output() {
        Ok(compiled) => {
            let errors = String::from_utf8_lossy(&compiled.stderr);
            assert!(compiled.status.success(), "{errors}");
            Some(shim)
        }
        Err(error) => {
            note_left_out("limited file systems", &format!("cc cannot be started: {error}"));
            None
        }
    }
}

/// A program for which the file system refuses operations below `folder`.
fn on_refusing(folder: &Path, shim: &Path, program: &str) -> Command {
    let mut command = Command::new(programs().join(program));
    command.env("LD_PRELOAD", shim).env("REFUSING_FOLDER", folder).current_dir(folder);
    command
}

#[test]
fn a_run_on_a_file_system_without_conveniences() {
    let place = Place::new();
    let Some(shim) = shim(&place) else { return };
    let folder = place.path("mount");
    fs::create_dir(&folder).unwrap();
    let folder = fs::canonicalize(folder).unwrap();
    let mut command = on_refusing(&folder, &shim, "vae-coordinator");
    let flags = format!("{SMALL} --epochs 2 --workers 2 --spawn --listen 127.0.0.1:0");
    command.args(flags.split_whitespace());
    let exit = Process::start("coordinator", &mut command).wait().succeeded();

    // The run is complete, its bits are right, and each refused operation is reported once.
    let run_dir = fs::read_dir(folder.join("runs")).unwrap().next().unwrap().unwrap().path();
    let newest = checkpoint::Directory::open(run_dir.join("checkpoints")).newest().unwrap();
    assert_same_tensors(&newest.checkpoint.unwrap().1, &reference(2));
    for words in [
        ["cannot lock", "make sure that no other"],
        ["cannot sync the folder", "power cut"],
        ["cannot restrict access to", "journal.jsonl"],
        ["cannot create the link", "runs/latest"],
    ] {
        let is_told = |line: &&str| words.iter().all(|word| line.contains(word));
        assert!(exit.lines().any(|line| is_told(&line)), "{words:?}: {exit}");
        let mut told: Vec<&str> = exit.lines().filter(is_told).collect();
        let all = told.len();
        // Each worker prints its own warning.
        told.sort_unstable();
        told.dedup_by_key(|line| line.split("WARN").last().unwrap_or_default());
        assert!(all <= 3 * told.len(), "too often: {exit}");
    }

    let mut again = on_refusing(&folder, &shim, "vae-coordinator");
    again.args(["--resume", "--epochs", "3", "--spawn", "--listen", "127.0.0.1:0", "--run-dir"]);
    Process::start("coordinator", again.arg(&run_dir)).wait().succeeded();
    let newest = checkpoint::Directory::open(run_dir.join("checkpoints")).newest().unwrap();
    assert_same_tensors(&newest.checkpoint.unwrap().1, &reference(3));

    let mut sample = on_refusing(&folder, &shim, "vae");
    sample.args(["sample", "--output", "samples.png", "--checkpoint"]).arg(&run_dir);
    for _ in 0..2 {
        Process::start("vae", &mut sample).wait().succeeded();
    }
    assert!(folder.join("samples.png").exists());
    for command in ["certs init --dir ca", "certs issue --dir ca --host a.example"] {
        let mut certs = on_refusing(&folder, &shim, "vae-coordinator");
        certs.args(command.split_whitespace());
        Process::start("certs", &mut certs).wait().succeeded();
    }
    let mut certs = on_refusing(&folder, &shim, "vae-coordinator");
    certs.args(["certs", "init", "--dir", "ca"]);
    Process::start("certs", &mut certs).wait().failed_with(&["is there already"]);
}

/// The run works without the link to the newest run, and a folder in the link's place is left
/// alone.
#[test]
fn something_else_is_called_latest() {
    let place = Place::new();
    let latest = place.path("runs/latest");
    fs::create_dir_all(latest.join("mine")).unwrap();
    let mut command = Command::new(programs().join("vae-coordinator"));
    let flags = format!("{SMALL} --epochs 1 --workers 1 --spawn --listen 127.0.0.1:0");
    command.args(flags.split_whitespace()).current_dir(place.path(""));
    let exit = Process::start("coordinator", &mut command).wait().succeeded();
    assert!(exit.text().contains("is not a link to a run and stays as it is"), "{exit}");
    assert!(latest.join("mine").is_dir() && !latest.is_symlink());
}

/// A new run in a folder that contains another program's file with the name of a checkpoint.
#[test]
fn a_folder_that_holds_files_of_others() {
    let place = Place::new();
    let file = place.file("checkpoints/step-00000094.safetensors");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "of another program").unwrap();
    let words = [place.run_dir.to_str().unwrap(), "checkpoints", "belongs to no run", "--run-dir"];
    coordinator_at(&place, &format!("{SMALL} --workers 1 --spawn")).wait().failed_with(&words);
    assert_eq!(fs::read(&file).unwrap(), b"of another program");
    let names: Vec<OsString> =
        fs::read_dir(&place.run_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["checkpoints"]);
}
