//! `vae-coordinator` with its crash points armed, for `tests/crash_points.rs`.

fn main() -> std::process::ExitCode {
    vae_coordinator::main()
}
