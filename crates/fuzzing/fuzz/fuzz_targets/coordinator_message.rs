//! Hands `fuzzing::coordinator_message` to libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::coordinator_message(bytes));
