//! The program `vae-coordinator`; the library of this crate describes its task.

fn main() -> std::process::ExitCode {
    vae_coordinator::main()
}
