//! Another libtorch is on the library path: the programs use their own libtorch, or name the file
//! that was loaded. The worker of dense networks has none, and becomes the one that has.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::{Fleet, Place, Process, SMALL, programs, worker_in};

/// Compiles this source to a shared library of this name.
fn library(folder: &Path, name: &str, source: &str) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let (text, library) = (folder.join("source.cpp"), folder.join(name));
    fs::write(&text, source).unwrap();
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let mut command = Command::new(compiler.split_whitespace().next().unwrap());
    command.args(["-shared", "-fPIC"]).arg(format!("-Wl,-soname,{name}"));
    let made = command.arg("-o").arg(&library).arg(&text).status().unwrap();
    assert!(made.success(), "{} cannot be made", library.display());
    library
}

#[test]
fn one_in_the_library_path_is_passed_over() {
    let place = Place::new();
    let folder = place.path("foreign");
    for name in ["libtorch_cpu.so", "libtorch.so", "libc10.so", "libgomp.so.1"] {
        library(&folder, name, "extern \"C\" int nothing() { return 0; }");
    }
    let environment = format!("LD_LIBRARY_PATH={}", folder.display());
    let flags = format!("{SMALL} --architecture conv --workers 1 --epochs 1");
    let mut fleet = Fleet::without_workers(&place, &flags);
    let flags = format!("--coordinator {} --threads 1", fleet.url);
    fleet.workers.push(worker_in(&environment, &flags));
    fleet.completed();
    let mut vae = Command::new(programs().join("vae"));
    vae.env("LD_LIBRARY_PATH", &folder).args(["evaluate", "--no-features", "--checkpoint"]);
    vae.arg(&place.run_dir).args(["--importance-samples", "0"]);
    Process::start("vae", &mut vae).wait().succeeded();
}

#[test]
fn one_that_comes_first_all_the_same_is_named_with_its_version() {
    let place = Place::new();
    let version = "extern \"C\" unsigned long long aoti_torch_abi_version() { \
                   return 0x0102030000000000ULL; }";
    let liar = library(&place.path("foreign"), "libliar.so", version);
    for program in ["vae-worker-conv", "vae"] {
        let mut command = Command::new(programs().join(program));
        command.arg("--version").env("LD_PRELOAD", &liar);
        let words = ["needs libtorch", "1.2.3", &liar.display().to_string(), "LD_PRELOAD"];
        Process::start(program, &mut command).wait().failed_with(&words);
    }
}

#[test]
fn a_worker_of_dense_networks_loads_no_libtorch() {
    let place = Place::new();
    let mut fleet = Fleet::without_workers(&place, &format!("{SMALL} --workers 1 --epochs 200"));
    fleet.add("--threads 1");
    fleet.wait_for_event(&place, "joined", 1);
    let maps = fs::read_to_string(format!("/proc/{}/maps", fleet.workers[0].id())).unwrap();
    assert!(maps.contains("/vae-worker") && !maps.contains("libtorch"), "{maps}");
}

#[test]
fn a_worker_names_the_program_with_convolutions_that_is_not_there() {
    let place = Place::new();
    let alone = place.path("vae-worker");
    fs::copy(programs().join("vae-worker"), &alone).unwrap();
    let fleet = Fleet::without_workers(&place, &format!("{SMALL} --architecture conv --workers 1"));
    let mut command = Command::new(&alone);
    command.args(["--threads", "1", "--coordinator", &fleet.url]);
    let worker = Process::start("vae-worker", &mut command).wait();
    worker.failed_with(&[
        "the run's model needs",
        "vae-worker-conv",
        "install it beside vae-worker",
    ]);
}
