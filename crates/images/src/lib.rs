//! Sets of images: what a person has (IDX files, numpy arrays, a folder of pictures), in one
//! form that every worker reads.
//!
//! - [`set`]: images in memory or mapped from files, by index, with their labels: a data set
//! - [`mod@dataset`]: the set that a person names, by its name or by where it lies
//! - [`named`]: sets that are known by name, and [`read`]: the files of a set, as images
//! - [`source`] finds out what lies at a path, and gives its images one by one
//! - [`mod@pack`] writes them as four IDX files: training and test images, with their labels
//! - [`sheet`] draws some of them side by side, for people
//!
//! A set of more bytes than memory passes through: nothing here holds more than a few images
//! at a time, but for arrays that numpy compressed. This crate knows nothing of training.
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

/// Numbers of an image of MNIST, 28 rows of 28.
pub const PIXELS: usize = Shape::grey(28, 28).bytes();
