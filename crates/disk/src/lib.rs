//! Writes files for all programs: a file appears whole or not at all, and other programs' files are not touched.
//!
//! - [`write_whole`] writes a file at a path that a person named; [`try_write`] checks beforehand whether it can.
//! - [`write_own`] writes a file under a name that the program chose; an existing file of another program stays.
//! - [`temporary`], [`put_new`] and [`sweep`] are for callers that write a file piece by piece.
//! - [`convenience`] has the operations that a file system may refuse without harm.
//!
//! This crate does not know the content of files. Start reading at `whole.rs`.

pub mod convenience;
mod destination;
mod error;
mod pipe;
mod precious;
mod regular;
mod temporary;
mod whole;

pub use convenience::{create_folder, sync_data, sync_file, sync_folder};
pub use destination::{is_standard_output, is_stream, try_folder, try_write};
pub use error::DiskError;
pub use precious::{refuse_input, refuse_unnamed};
pub use regular::{is_device, open_regular, refuse_pipe};
pub use temporary::{put_new, sweep, temporary, temporary_private};
pub use whole::{Draft, holds, refuse_foreign, write_own, write_whole};
