//! The variational autoencoder, in three implementations. It is written by hand on slices, for CPUs in either
//! precision ([`Vae`]) and for GPUs ([`cuda::Vae`]). Through libtorch's autograd ([`vae_autograd`]) it serves all
//! other devices, and is the oracle of the tests. The convolutional network uses autograd too
//! ([`conv_vae`]). The networks encode and decode as a [`Codec`].
//!
//! `vae.rs` checks lengths and chooses the precision, `engine.rs` keeps the memory, and the
//! computation is in `pass.rs`; start there. `task.rs` is the interface to workers.

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
