//! Hands `fuzzing::worker_message` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::worker_message(bytes));
