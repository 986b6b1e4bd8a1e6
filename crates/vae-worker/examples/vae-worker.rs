//! `vae-worker` with its crash points armed, for `tests/crash_points.rs`.

#[path = "../src/main.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main()
}
