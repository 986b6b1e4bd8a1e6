//! Processes: which one is meant by a number ([`birth`]), and the signals that ask one to stop
//! ([`signals`]). It knows nothing of what a program does.

pub mod signals;

mod birth;

pub use birth::birth;
