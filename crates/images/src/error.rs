//! Everything that can go wrong with a set of images. Each error names the file and says what to do.

use std::{io, path::PathBuf};

use data::DataError;

use crate::Shape;

/// Why a set cannot be read or packed.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// The operating system reported an error.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A file does not hold what its name or its place says.
    #[error("{}: {what}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// The shape is out of bounds.
    #[error("images of {0} are not supported: a side is 1 to 1024 pixels, channels are 1 or 3")]
    Shape(Shape),
    /// The numbers of pixels and of labels do not fit together.
    #[error(
        "{bytes} bytes and {labels} labels do not match images of {shape}: each has {} bytes",
        shape.bytes()
    )]
    Unpaired {
        /// Bytes of all images together.
        bytes: usize,
        /// The shape that each image should have.
        shape: Shape,
        /// The number of labels.
        labels: usize,
    },
    /// There are more images than a 32-bit index can number.
    #[error("{0} images are more than a 32-bit index can number")]
    TooMany(usize),
    /// PNG cannot hold the contact sheet.
    #[error("no contact sheet can be drawn: {0}")]
    Sheet(#[source] image::ImageError),
    /// A file of the set is missing, or has other content.
    #[error(transparent)]
    Data(#[from] DataError),
}

impl ImagesError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn file(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::File { path: path.into(), what: what.into() }
    }
}
