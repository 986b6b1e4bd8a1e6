//! Everything that can be wrong with a set of images, each with the file and what to do.

use std::{io, path::PathBuf};

use data::DataError;

use crate::Shape;

/// Why a set cannot be read or packed.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what its name or place says.
    #[error("{}: {what}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// A shape that no image has.
    #[error("images of {0} are beyond what is read")]
    Shape(Shape),
    /// Pixels and labels do not belong together.
    #[error(
        "{bytes} bytes and {labels} labels are no images of {shape}: each has {} bytes",
        shape.bytes()
    )]
    Unpaired {
        /// Bytes of all images together.
        bytes: usize,
        /// What was to be the shape of each.
        shape: Shape,
        /// How many labels.
        labels: usize,
    },
    /// More images than an index can tell apart.
    #[error("{0} images are more than an index of 32 bits can tell apart")]
    TooMany(usize),
    /// A contact sheet that PNG cannot hold.
    #[error("no contact sheet can be drawn: {0}")]
    Sheet(#[source] image::ImageError),
    /// A file of the set is missing, or is another one.
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
