//! The program `vae-coordinator`; all of it is in the library beside.

fn main() -> std::process::ExitCode {
    coordinator::main()
}
