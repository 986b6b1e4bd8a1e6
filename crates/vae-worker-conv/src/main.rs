//! The program `vae-worker-conv`: `vae-worker` becomes it if the run's network needs libtorch.

use std::process::ExitCode;

use vae::VaeTask;
use vae_conv::AllNetworks;

pub(crate) fn main() -> ExitCode {
    worker::main::<VaeTask<AllNetworks>>(&worker::Program {
        name: "vae-worker-conv",
        version: env!("CARGO_PKG_VERSION"),
        library: Some(autograd::LIBTORCH),
        other_program: None,
    })
}
