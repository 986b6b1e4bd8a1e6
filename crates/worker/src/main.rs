//! The program `vae-worker`; all of it is in the library beside.

fn main() -> std::process::ExitCode {
    worker::main()
}
