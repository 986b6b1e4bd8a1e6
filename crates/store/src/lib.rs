//! Checkpoints in an object store: one folder for one run.
//!
//! The folder holds the files that must outlive a disk: the files of a run's `checkpoints/` under their own names,
//! such as `step-00001170.safetensors`, and `config.json`, which names their run. An object appears completely or not
//! at all, and only a checkpoint that has verified on a disk is uploaded. [`Store`] uploads, finds, fetches and
//! deletes; [`Mirror`] uploads on its own thread, so that training never waits for the network.
//!
//! The leader's disk gets a checkpoint first: the disk is fast and needs no network. The file waits there while the
//! store is slow or unreachable, so no snapshot is held in memory.
//!
//! All calls block: this crate hides its async code. It knows nothing of runs or configurations. The crate
//! object_store finds credentials in the environment. Start at `store.rs`.

mod cause;
mod error;
mod mirror;
mod remote;
mod store;

pub use error::StoreError;
pub use mirror::{Mirror, Unstored};
pub use store::{Newest, Store};
