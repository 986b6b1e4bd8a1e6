//! Processes: their identity beyond the number ([`birth()`]), the memory of this process, and the signals that ask a
//! process to stop ([`signals`]). The crate knows nothing of what a program does.

pub mod signals;

mod birth;
mod memory;

pub use birth::birth;
pub use memory::memory_bytes;
