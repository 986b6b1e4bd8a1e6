//! Models by libtorch's autograd: [`Autograd`] makes a [`model::Model`] from any module and objective written in tch, on
//! any device.
//!
//! The bits of such models depend on libtorch, the kind of device, the CPU's instruction set, and the model's fixed
//! number of threads. A program with such models says so by [`LIBTORCH`]. Start reading at `model.rs`.

pub mod blas;
pub mod libtorch;

mod attempt;
mod gpus;
mod inputs;
mod model;

pub use self::{
    inputs::Inputs,
    model::{Autograd, Parameters},
};

/// libtorch, for programs whose models compute with it.
pub const LIBTORCH: ::model::Library = ::model::Library {
    version: libtorch::VERSION,
    check: || libtorch::check().map_err(|wrong| wrong.to_string()),
    settle: || blas::deterministic().to_string(),
    bf16_unit: blas::bf16_name,
    open_gpus: gpus::open,
};
