//! For the build script of a program that embeds libtorch:
//!
//! ```no_run
//! lockstep_build::link();
//! ```
//!
//! Each program's package needs its own build script, because linker flags apply to one package only.

#![allow(clippy::print_stdout, reason = "a build script talks to cargo by printing")]

use std::{env, fs, io, path::Path};

/// The variables in which `lockstep` and `torch-sys` tell build scripts the folder of libtorch's libraries.
const LIBRARIES: [&str; 2] = ["DEP_LOCKSTEP_LIBTORCH_LIB", "DEP_TCH_LIBTORCH_LIB"];

/// The environment variable that marks a build of a release: its programs must not contain a path of this
/// machine.
pub const RELEASE: &str = "LOCKSTEP_RELEASE";

/// Lets the package's programs find libtorch without LD_LIBRARY_PATH. Also lets libtorch's MKL find
/// `mkl_serv_intel_cpu_true`, which the crate `autograd` exports: MKL then uses its fast, reproducible code.
///
/// The package must depend on `lockstep` or on `torch-sys`.
pub fn link() {
    println!("cargo:rerun-if-changed=build.rs");
    // DT_RPATH is searched before LD_LIBRARY_PATH, which may lead to another libtorch. Without this flag
    // the linker writes DT_RUNPATH, which is searched after LD_LIBRARY_PATH.
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
    // A release has libtorch beside the programs; a checkout uses the libtorch that it was linked with.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    for variable in LIBRARIES.iter().chain([&RELEASE]) {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if env::var_os(RELEASE).is_some() {
        // This makes the library path longer, because `cargo xtask dist --wheel` overwrites it in place.
        println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/lockstep");
    } else if let Some(lib) = LIBRARIES.iter().find_map(|variable| env::var(variable).ok()) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rustc-link-arg=-Wl,--export-dynamic-symbol=mkl_serv_intel_cpu_true");
}

/// A hash of the CUDA sources in a folder, by name and content (FNV-1a with 64 bits). `cargo xtask kernels`
/// names the folder of the compiled kernels after this hash.
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
