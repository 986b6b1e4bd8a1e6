//! The program `vae-worker`: a worker of the VAE. The crate `worker` does all of it.

use std::process::ExitCode;

pub(crate) fn main() -> ExitCode {
    worker::main::<vae::VaeTask>(&worker::Program {
        name: "vae-worker",
        version: env!("CARGO_PKG_VERSION"),
    })
}
