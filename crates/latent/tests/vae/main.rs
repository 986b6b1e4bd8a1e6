//! Runs the program `vae` as a user runs it, on a small model that is trained here once.
//!
//! One file per scenario; `harness.rs` has the model and the runs.

mod bad_input;
mod conv;
mod evaluation;
mod export;
mod harness;
mod outputs;
mod pictures;
mod runtime;
mod tables;
