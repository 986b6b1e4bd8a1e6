//! Checkpoints where the cluster keeps them: a folder in an object store, for one run.
//!
//! The folder holds what outlives a disk: `step-00001170.safetensors`, the files of a run's `checkpoints/` under
//! their own names, and `config.json`, which says whose they are. An object appears whole or not at all, and only what
//! has verified on a disk is put there. [`Store`] puts, finds, fetches and retires; [`Mirror`] does so on a thread of
//! its own, so that nobody waits for a network.
//!
//! The copy on the leader's disk stays the first one: it is there at once and without a network, it is what waits
//! while the store is slow or away (so no snapshot is held in memory), and what the upload was verified against.
//!
//! All calls block: this crate hides its async code. It knows nothing of runs or configurations, and credentials are
//! what the crate object_store finds in the environment. Start at `store.rs`.

mod cause;
mod error;
mod mirror;
mod place;
mod store;

pub use error::StoreError;
pub use mirror::{Mirror, Unstored};
pub use store::{Newest, Store};
