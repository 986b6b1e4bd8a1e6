//! A GPU for tests, on machines that have none: libraries that replace the CUDA driver, its compiler and
//! NCCL, and run the VAE's kernels on the CPU. README.md says what they can show and what they cannot.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// The folder of the libraries. A process whose loader searches this folder first (`LD_LIBRARY_PATH`) has
/// a GPU. The folder is empty on processors other than x86-64.
pub const FOLDER: &str = env!("EMULATED_GPU");

/// Whether the libraries exist for this processor.
pub const IS_THERE: bool = cfg!(target_arch = "x86_64");

/// How the driver's library was compiled: the compiler, and its arguments.
const COMPILER: Option<&str> = option_env!("EMULATED_GPU_COMPILER");

const SOURCES: [&str; 3] = ["simt.cpp", "kernels.cpp", "driver.cpp"];

/// Compiles the driver's library into a folder once more, with AddressSanitizer. Returns the library that
/// a process must be started with (`LD_PRELOAD`), or none if the compiler has no AddressSanitizer.
///
/// # Errors
/// The compiler cannot be started, or fails.
pub fn sanitized(folder: &Path) -> io::Result<Option<PathBuf>> {
    let mut words = COMPILER.unwrap_or_default().split('\u{1f}');
    let program = words.next().unwrap_or_default();
    let asked = Command::new(program).arg("-print-file-name=libasan.so").output()?;
    let library = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
    // Without AddressSanitizer, the compiler prints the name without a path.
    if !library.is_absolute() || !library.is_file() {
        return Ok(None);
    }
    let mut compiler = Command::new(program);
    compiler.current_dir(env!("CARGO_MANIFEST_DIR")).args(words);
    compiler.args(["-fsanitize=address", "-fno-omit-frame-pointer", "-O1"]);
    compiler.args(SOURCES.map(|source| Path::new("src").join(source)));
    let status = compiler.arg("-o").arg(folder.join("libcuda.so.1")).status()?;
    if status.success() {
        Ok(Some(library))
    } else {
        Err(io::Error::other(format!("{compiler:?}: {status}")))
    }
}
