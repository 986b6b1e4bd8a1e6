//! Sets of images: a person's own files (IDX files, numpy arrays, a folder of pictures), in one
//! form that every worker reads.
//!
//! - [`set`]: images with their labels, by index, in memory or mapped from files: a data set
//! - [`mod@dataset`]: finds the set that a person gives by name or by path
//! - [`named`]: sets that are known by name; [`read`]: the files of a set, as images
//! - [`source`]: finds out what is at a path, and reads its images one at a time
//! - [`mod@pack`]: writes images as four IDX files: training and test images, with their labels
//! - [`sheet`]: draws some images side by side, for a person
//!
//! A set may be larger than memory: nothing here holds more than a few images at a time, except for
//! compressed numpy arrays. This crate knows nothing of training.
//! Start at [`set`].

pub mod dataset;
mod error;
mod folder;
mod holdout;
pub mod idx;
mod idx_set;
mod mapped;
mod numpy;
mod picture;
mod shape;

pub mod named;
pub mod pack;
pub mod read;
pub mod set;
pub mod sheet;
pub mod source;

pub use dataset::{Dataset, dataset, describe_images};
pub use error::ImagesError;
pub use pack::{Packed, pack};
pub use picture::read as picture;
pub use read::splits;
pub use set::{Images, unit_pixels};
pub use shape::Shape;
pub use source::{Colour, Example, Options, Part, Source};

/// Numbers of an MNIST image: 28 rows of 28 pixels.
pub const PIXELS: usize = Shape::grey(28, 28).bytes();
