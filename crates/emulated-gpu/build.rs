//! Compiles the emulated libraries with the C++ compiler of this machine.

#![allow(clippy::print_stdout, reason = "a build script talks to cargo by printing")]

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
};

/// The folder of the kernels' sources, which the C++ sources include.
const KERNELS: &str = "../vae/src/cuda";

const DRIVER: (&str, &[&str]) = ("libcuda.so.1", &["simt.cpp", "kernels.cpp", "driver.cpp"]);
const COMPILER: (&str, &[&str]) = ("libnvrtc.so.13", &["nvrtc.cpp"]);
/// It is linked with the driver, so it is compiled after the driver.
const COLLECTIVES: (&str, &[&str]) = ("libnccl.so.2", &["nccl.cpp"]);

fn main() -> Result<(), Box<dyn Error>> {
    for folder in ["src", KERNELS] {
        println!("cargo:rerun-if-changed={folder}");
    }
    let folder = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    println!("cargo:rustc-env=EMULATED_GPU={}", folder.display());
    // The fibers are written for x86-64.
    if env::var("CARGO_CFG_TARGET_ARCH")? != "x86_64" {
        return Ok(());
    }
    [DRIVER, COMPILER, COLLECTIVES].iter().try_for_each(|library| compile(&folder, library))
}

fn compile(folder: &Path, (name, sources): &(&str, &[&str])) -> Result<(), Box<dyn Error>> {
    let mut compiler = cc::Build::new()
        .cpp(true)
        .std("c++20")
        .opt_level(3)
        .pic(true)
        .debug(false)
        // As in the GPU's build: only an explicit `fmaf` is fused.
        .flags(["-mfma", "-ffp-contract=off", "-fvisibility=hidden", "-shared"])
        .flags(["-Wno-unknown-pragmas", "-Wno-unused-parameter", "-Wno-unused-variable"])
        .include(KERNELS)
        .cargo_metadata(false)
        .try_get_compiler()?
        .to_command();
    if *name == DRIVER.0 {
        let words = [compiler.get_program()].into_iter().chain(compiler.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        println!("cargo:rustc-env=EMULATED_GPU_COMPILER={}", words.join("\u{1f}"));
    }
    compiler.args(sources.iter().map(|source| Path::new("src").join(source)));
    compiler.arg("-o").arg(folder.join(name)).arg(format!("-Wl,-soname,{name}"));
    if *name == COLLECTIVES.0 {
        compiler.arg("-L").arg(folder).arg(format!("-l:{}", DRIVER.0));
    }
    let status = compiler.status()?;
    if status.success() { Ok(()) } else { Err(format!("{compiler:?}: {status}").into()) }
}
