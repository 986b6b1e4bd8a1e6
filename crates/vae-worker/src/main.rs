//! The program `vae-worker`: a worker of the VAE. The crate `worker` does all of it.

use std::process::ExitCode;

use vae::VaeTask;

pub(crate) fn main() -> ExitCode {
    worker::main::<VaeTask>(&worker::Program {
        name: "vae-worker",
        version: env!("CARGO_PKG_VERSION"),
        library: None,
        other_program: Some(vae::other_program),
    })
}
