//! Processes: which one is meant by a number ([`birth`]), how much memory this one has, and the signals that ask one to stop
//! ([`signals`]). It knows nothing of what a program does.

pub mod signals;

mod birth;
mod memory;

pub use birth::birth;
pub use memory::memory_bytes;
