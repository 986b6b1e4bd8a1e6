//! The variational autoencoder with dense layers, written by hand on slices, for CPUs in either precision ([`Vae`]) and
//! for GPUs ([`cuda::Vae`]). A network encodes and decodes as a [`Codec`]. The network with convolutions is in
//! the crate `vae-conv`, because it needs libtorch.
//!
//! `vae.rs` checks lengths and chooses the precision, `computation.rs` keeps the memory, and the
//! computation is in `pass.rs`; start there. `task.rs` is the interface to workers.

pub mod cuda;

mod codec;
mod computation;
mod element;
mod importance;
mod kernels;
mod network;
mod pass;
mod prepare;
mod samples;
mod task;
mod vae;
mod work;

pub use codec::Codec;
pub use element::gather_pixels as gather;
pub use network::layout;
pub use prepare::prepare;
pub use task::{Dense, Networks, VaeTask, other_program};
pub use vae::{Settings, TERMS, Vae};
