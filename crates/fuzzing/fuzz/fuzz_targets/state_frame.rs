//! Hands `fuzzing::state_frame` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::state_frame(bytes));
