//! A release is installed from an archive or with pip: its programs run as they do here.
//!
//! The programs are those of the other scenarios. `cargo xtask dist --check` builds a release twice in two places and
//! compares the bytes; this takes too long for a test.

use std::{
    env,
    fmt::Write as _,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::{
    Exit, Place, Process, SMALL, assert_same_tensors, leave_out, programs, reference,
};

/// The folder with the libtorch that the programs were built with.
fn libtorch() -> PathBuf {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.libtorch");
    env::var_os("LIBTORCH").map_or_else(own, PathBuf::from).canonicalize().unwrap()
}

/// A command without the environment variables that lead to this checkout's libtorch.
fn bare(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    for name in ["LIBTORCH", "LD_LIBRARY_PATH", "PYTHONPATH"] {
        command.env_remove(name);
    }
    command
}

fn run(command: &mut Command) -> Exit {
    let name = command.get_program().display().to_string();
    Process::start(&name, command).wait()
}

/// Packs the programs of this build. Returns the folder.
fn packed(place: &Place, name: &str, flags: &str) -> PathBuf {
    let output = place.path(name);
    let mut xtask = Command::new(programs().join("xtask"));
    // `cargo test` sets the variable to the folder of the tests, but xtask expects its own folder in it.
    xtask.env_remove("CARGO_MANIFEST_DIR");
    xtask.arg("dist").args(flags.split_whitespace()).arg("--programs").arg(programs());
    run(xtask.arg("--output").arg(&output)).succeeded();
    output
}

/// The file in a folder whose name ends with `end`.
fn ending(folder: &Path, end: &str) -> PathBuf {
    let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.to_string_lossy().ends_with(end)).unwrap()
}

#[test]
fn an_archive_is_unpacked_and_its_programs_run() {
    let place = Place::new();
    // No libtorch, which takes minutes to pack.
    let flags = "--no-libtorch --level 1";
    let dist = packed(&place, "dist", flags);
    let sums = fs::read_to_string(dist.join("SHA256SUMS")).unwrap();
    assert_eq!(sums.lines().count(), 2, "{sums}");
    run(Command::new("sha256sum").args(["--check", "SHA256SUMS"]).current_dir(&dist)).succeeded();
    let again = packed(&place, "again", flags);
    assert_eq!(sums, fs::read_to_string(again.join("SHA256SUMS")).unwrap());

    if Command::new("zstd").arg("--version").output().is_err() {
        leave_out("LOCKSTEP_RELEASE_REQUIRED", "unpacking a release", "zstd is not installed");
        return;
    }
    for end in ["linux.tar.zst", "debug.tar.zst"] {
        let mut tar = Command::new("tar");
        tar.arg("--extract").arg("--zstd").arg("--file").arg(ending(&dist, end));
        run(tar.current_dir(place.path(""))).succeeded();
    }
    let release = ending(&place.path(""), "-linux");
    for file in [
        "bin/.debug/vae.debug",
        "LICENSE",
        "README.md",
        "licenses/rust-packages.txt",
        "share/completions/_vae-worker",
        "share/man/man1/vae-sample.1",
    ] {
        assert!(release.join(file).is_file(), "{file}");
    }
    let version = |program: &str| {
        let mut command = bare(release.join("bin").join(program));
        command.arg("--version");
        command
    };
    for program in ["vae-coordinator", "vae-worker"] {
        run(&mut version(program)).succeeded();
    }
    for program in ["vae-worker-conv", "vae"] {
        let lost = run(&mut version(program));
        assert!(!lost.status.success() && lost.text().contains("libtorch_cpu.so"), "{lost}");
    }
    symlink(libtorch().join("lib"), release.join("lib")).unwrap();
    for program in ["vae-worker-conv", "vae"] {
        run(&mut version(program)).succeeded();
    }
}

#[test]
fn man_pages_are_read_without_a_warning() {
    if Command::new("groff").arg("--version").output().is_err() {
        leave_out("LOCKSTEP_RELEASE_REQUIRED", "reading man pages", "groff is not installed");
        return;
    }
    let place = Place::new();
    for program in ["vae-coordinator", "vae-worker", "vae"] {
        let mut command = Command::new(programs().join(program));
        run(command.arg("--write-manual").arg(place.path("share"))).succeeded();
    }
    let pages = fs::read_dir(place.path("share/man1")).unwrap();
    let pages: Vec<PathBuf> = pages.map(|page| page.unwrap().path()).collect();
    let read = |page: &Path| {
        let mut groff = Command::new("groff");
        run(groff.args(["-man", "-Tutf8", "-ww", "-z"]).arg(page)).succeeded().text()
    };
    for page in &pages {
        assert_eq!(read(page), "", "{}", page.display());
        let text = fs::read_to_string(page).unwrap();
        let sections = [".SH EXAMPLES", ".SH \"EXIT STATUS\""];
        // `vae`, `certs`, `config` and `dataset` only have subcommands.
        let leads_on = ["-certs.1", "-config.1", "-dataset.1", "/vae.1"];
        if !leads_on.iter().any(|end| page.to_string_lossy().ends_with(end)) {
            assert!(sections.iter().all(|section| text.contains(section)), "{}", page.display());
        }
    }
    assert!(pages.len() > 20, "{pages:?}");
    let broken = place.path("broken.1");
    fs::write(&broken, ".TH broken 1\n.SH NAME\n\\fBa\\fR\n.NOSUCH\n").unwrap();
    assert!(!read(&broken).is_empty(), "a mistake is found");
}

/// Makes a wheel of a package without code, with only the files that pip requires.
fn stand_in(folder: &Path, name: &str, version: &str) {
    let about = format!("{name}-{version}.dist-info");
    let mut record = String::new();
    let mut write = |path: &str, text: &str| {
        fs::create_dir_all(folder.join(path).parent().unwrap()).unwrap();
        fs::write(folder.join(path), text).unwrap();
        let _infallible = writeln!(record, "{path},,");
    };
    write(&format!("{name}/__init__.py"), "");
    write(
        &format!("{about}/METADATA"),
        &format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"),
    );
    write(
        &format!("{about}/WHEEL"),
        "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    );
    write(&format!("{about}/RECORD"), "");
    fs::write(folder.join(&about).join("RECORD"), record).unwrap();
    let file = format!("{name}-{version}-py3-none-any.whl");
    let mut zip = Command::new("python3");
    zip.args(["-m", "zipfile", "-c", &file, name, &about]).current_dir(folder);
    run(&mut zip).succeeded();
}

/// PyTorch's own wheel has 0.5 GB, and requires 2 GB more. So pip installs an empty package of the same name and
/// version, and libtorch's libraries are linked to their place in this package.
#[test]
fn pip_installs_programs_that_train_and_sample() {
    let place = Place::new();
    let wheels = packed(&place, "wheels", "--wheel");
    let torch = place.path("torch");
    stand_in(&torch, "torch", "2.11.0");
    let environment = place.path("environment");
    let mut venv = bare("python3");
    run(venv.args(["-m", "venv", "--without-pip"]).arg(&environment)).succeeded();
    let bin = environment.join("bin");
    let mut pip = bare("python3");
    pip.args(["-m", "pip", "--python"]).arg(bin.join("python")).args(["install", "--no-index"]);
    pip.arg("--find-links").arg(&torch).arg(ending(&wheels, ".whl"));
    run(&mut pip).succeeded();

    let vae = || bare(bin.join("vae"));
    let lost = run(vae().arg("--version"));
    assert!(!lost.status.success() && lost.text().contains("libtorch_cpu.so"), "{lost}");
    // The package torch is in another folder than the programs.
    symlink(libtorch().join("lib"), torch.join("torch/lib")).unwrap();
    run(vae().arg("--version").env("PYTHONPATH", &torch)).succeeded();
    // The package torch is beside the programs.
    let packages = ending(&environment.join("lib"), "").join("site-packages");
    symlink(libtorch().join("lib"), packages.join("torch/lib")).unwrap();

    let mut train = bare(bin.join("vae-coordinator"));
    train.args(SMALL.split_whitespace()).args(["--workers", "2", "--spawn", "--epochs", "1"]);
    train.args(["--listen", "127.0.0.1:0", "--no-board", "--run-dir"]).arg(&place.run_dir);
    run(&mut train).succeeded();
    assert_same_tensors(&place.newest(), &reference(1));
    let picture = place.path("samples.png");
    let mut sample = vae();
    sample.args(["sample", "--checkpoint"]).arg(&place.run_dir).arg("--output").arg(&picture);
    run(&mut sample).succeeded();
    assert!(fs::metadata(picture).unwrap().len() > 0);
    assert!(environment.join("share/man/man1/vae.1").is_file());
}
