//! The program `vae-coordinator`; what it says of its task is in the library beside.

fn main() -> std::process::ExitCode {
    vae_coordinator::main()
}
