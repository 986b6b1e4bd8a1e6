//! A GPU for tests, on machines that have none: libraries in the place of the CUDA driver and its
//! compiler, which run the VAE's kernels on the CPU. README.md says what they show, and what not.

/// The folder of the libraries. A process whose loader searches it first (`LD_LIBRARY_PATH`) has a GPU.
/// Nothing is in it but on x86-64.
pub const FOLDER: &str = env!("EMULATED_GPU");

/// Whether there are libraries for this processor.
pub const IS_THERE: bool = cfg!(target_arch = "x86_64");
