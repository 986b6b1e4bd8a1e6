//! What all programs ask of a file system: files that appear whole, and nothing of other people's touched.
//!
//! - [`write_whole`] puts a file where a person named one; [`try_write`] finds out beforehand whether it can.
//! - [`write_own`] puts a file under a name that the program chose: a file there that this project has not written stays.
//! - [`temporary`], [`put_new`] and [`sweep`] are for callers that write a file piece by piece.
//! - [`convenience`] is the one rule for what a file system may refuse without harm.
//!
//! This crate does not know what is in a file. Start at `whole.rs`.

pub mod convenience;
mod error;
mod pipe;
mod place;
mod temporary;
mod whole;

pub use convenience::{create_folder, sync_data, sync_file, sync_folder};
pub use error::DiskError;
pub use place::{is_standard_output, is_stream, try_folder, try_write};
pub use temporary::{put_new, sweep, temporary, temporary_private};
pub use whole::{Draft, holds, refuse_foreign, write_own, write_whole};
