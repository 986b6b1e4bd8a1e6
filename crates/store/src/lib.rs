//! Checkpoints in an object store: a folder for one run.
//!
//! The folder holds what outlives a disk: `step-00001170.safetensors`, the files of a run's `checkpoints/` under
//! their own names, and `config.json`, which names their run. An object appears whole or not at all, and only what
//! has verified on a disk is put there. [`Store`] puts, finds, fetches and retires; [`Mirror`] does so on a thread of
//! its own, so that training never waits for the network.
//!
//! The copy on the leader's disk comes first: it is there at once and without a network, it waits while the store
//! is slow or away (so no snapshot is held in memory), and the upload is verified against it.
//!
//! All calls block: this crate hides its async code. It knows nothing of runs or configurations. The crate
//! object_store finds credentials in the environment. Start at `store.rs`.

mod cause;
mod error;
mod mirror;
mod place;
mod store;

pub use error::StoreError;
pub use mirror::{Mirror, Unstored};
pub use store::{Newest, Store};
