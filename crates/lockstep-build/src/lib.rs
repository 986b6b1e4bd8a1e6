//! For the build script of a program that embeds libtorch:
//!
//! ```no_run
//! lockstep_build::link();
//! ```
//!
//! A build script of one's own is needed because flags of the linker hold for one package alone.

#![allow(clippy::print_stdout, reason = "a build script talks to cargo by printing")]

use std::{env, fs, io, path::Path};

/// Where the crates that say it have their libtorch: `lockstep`, and `torch-sys`.
const LIBRARIES: [&str; 2] = ["DEP_LOCKSTEP_LIBTORCH_LIB", "DEP_TCH_LIBTORCH_LIB"];

/// A variable that is set where programs are built to be passed on: they must not name a place on this machine.
pub const RELEASE: &str = "LOCKSTEP_RELEASE";

/// Lets the package's programs find libtorch without LD_LIBRARY_PATH, and libtorch's MKL find the
/// function that unlocks its fast and reproducible path, which the crate `model` exports.
///
/// The package must depend on `lockstep` or on `torch-sys`.
pub fn link() {
    println!("cargo:rerun-if-changed=build.rs");
    // Searched before LD_LIBRARY_PATH, which may lead to another libtorch (DT_RPATH); without this
    // flag, after it (DT_RUNPATH).
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
    // A release has libtorch beside the programs; a checkout has it where it was built against.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    for variable in LIBRARIES.iter().chain([&RELEASE]) {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if env::var_os(RELEASE).is_some() {
        // Room for any other place that a package of these programs has.
        println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/lockstep");
    } else if let Some(lib) = LIBRARIES.iter().find_map(|variable| env::var(variable).ok()) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rustc-link-arg=-Wl,--export-dynamic-symbol=mkl_serv_intel_cpu_true");
}

/// A hash of the CUDA sources in a folder, by name and content (FNV-1a with 64 bits): the name under which
/// `cargo xtask kernels` keeps what it compiles of them.
///
/// # Errors
/// A file cannot be read.
pub fn sources_hash(folder: &Path) -> io::Result<String> {
    let entries: io::Result<Vec<_>> = fs::read_dir(folder)?.collect();
    let mut files: Vec<_> = entries?.into_iter().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|kind| kind == "cu" || kind == "cuh"));
    files.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for path in files {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        for byte in name.iter().chain(&fs::read(&path)?) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(format!("{hash:016x}"))
}
