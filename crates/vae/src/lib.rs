//! The variational autoencoder: computed by hand, on slices, for CPUs in either precision
//! ([`Vae`]) and for GPUs ([`cuda::Vae`]), and through libtorch's autograd for all else and as
//! the oracle of the tests ([`vae_autograd`]); and one with convolutions, by autograd
//! ([`conv_vae`]). Either encodes and decodes as a [`Codec`].
//!
//! `vae.rs` checks lengths and chooses the precision, `engine.rs` keeps the memory, and the
//! computation is in `pass.rs`; start there. `task.rs` is what workers see of it.

pub mod cuda;

mod codec;
mod conv;
mod element;
mod engine;
mod importance;
mod kernels;
mod network;
mod objective;
mod pass;
mod prepare;
mod samples;
mod task;
mod vae;
mod work;

pub use codec::{Codec, codec};
pub use conv::{ConvNet, conv_vae};
pub use objective::{Coder, vae_autograd};
pub use prepare::prepare;
pub use task::VaeTask;
pub use vae::{Settings, TERMS, Vae};
