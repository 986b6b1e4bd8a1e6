//! Sets of images: what a person has (IDX files, numpy arrays, a folder of pictures), in one
//! form that every worker reads.
//!
//! - [`source`] finds out what lies at a path, and gives its images one by one
//! - [`pack`] writes them as four IDX files: training and test images, with their labels
//! - [`sheet`] draws some of them side by side, for people
//!
//! A set of more bytes than memory passes through: nothing here holds more than a few images
//! at a time, but for arrays that numpy compressed. This crate knows nothing of training.
//! Start at [`source::open`].

mod error;
mod folder;
mod holdout;
mod idx;
mod idx_set;
mod numpy;
mod picture;
mod shape;

pub mod pack;
pub mod sheet;
pub mod source;

pub use error::ImagesError;
pub use pack::{Packed, pack};
pub use shape::Shape;
pub use source::{Colour, Example, Options, Part, Source};
