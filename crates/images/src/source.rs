//! Reads the images at a path one at a time, whatever their format.

use std::path::{Path, PathBuf};

use crate::{
    ImagesError, Shape,
    folder::Folder,
    idx_set::{self, IdxSet},
    numpy::Arrays,
};

/// How to read images whose format leaves a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The side in pixels that pictures are scaled to. Without it, pictures of one size keep their size.
    pub side: Option<u32>,
    /// The colours that are kept.
    pub colour: Colour,
}

/// Which colours of pictures are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Colour {
    /// RGB where a picture has colour, else grey.
    #[default]
    Auto,
    /// Grey.
    Grey,
    /// RGB.
    Rgb,
}

/// A part of a set at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The part to train on; all images, if the set has no test part.
    Train,
    /// The part to test with.
    Test,
}

/// One image.
#[derive(Clone, Copy, Debug)]
pub struct Example<'a> {
    /// The bytes of the image, as many as the shape has: rows from the top, pixels from the left, channels.
    pub pixels: &'a [u8],
    /// Its class, if the set has labels.
    pub label: Option<u32>,
}

/// Receives one image after the other.
pub type Visitor<'a> = dyn FnMut(Example<'_>) -> Result<(), ImagesError> + 'a;

/// A set of images.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Folder(Folder),
    Idx(IdxSet),
    Arrays(Arrays),
}

/// Finds out what is at a path: a folder of IDX files or of pictures, a `.npy` or a `.npz` file.
///
/// # Errors
/// The path is not a set of images, or the set cannot be read. The error names the file.
pub fn open(path: &Path, options: &Options) -> Result<Source, ImagesError> {
    let metadata = path.metadata().map_err(ImagesError::io("read", path))?;
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let kind = if metadata.is_dir() {
        match idx_set::find(path)? {
            Some(files) => Kind::Idx(IdxSet::open(files)?),
            None => Kind::Folder(Folder::open(path, options)?),
        }
    } else if ["npy", "npz"].contains(&ending.as_str()) {
        Kind::Arrays(Arrays::open(path)?)
    } else {
        let what = "not a set of images: name a folder of pictures or of IDX files, or a .npy or .npz \
                    file";
        return Err(ImagesError::file(path, what));
    };
    let source = Source { path: path.into(), kind };
    if !source.shape().is_valid() {
        let what = format!(
            "images of {} are not supported: a side is 1 to 1024 pixels, channels are 1 or 3",
            source.shape()
        );
        return Err(ImagesError::file(path, what));
    }
    Ok(source)
}

impl Source {
    /// The path of the set.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was found, in words.
    #[must_use]
    pub const fn describe(&self) -> &'static str {
        match self.kind {
            Kind::Folder(_) => "a folder of pictures",
            Kind::Idx(_) => "IDX files",
            Kind::Arrays(_) => "numpy arrays",
        }
    }

    /// The shape of each image.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        match &self.kind {
            Kind::Folder(folder) => folder.shape(),
            Kind::Idx(set) => set.shape(),
            Kind::Arrays(arrays) => arrays.shape(),
        }
    }

    /// The number of images of a part; `None` if the set has no such part.
    #[must_use]
    pub fn count(&self, part: Part) -> Option<u64> {
        match &self.kind {
            Kind::Folder(folder) => folder.count(part),
            Kind::Idx(set) => set.count(part),
            Kind::Arrays(arrays) => arrays.count(part),
        }
    }

    /// The names of the classes in the order of the labels; empty if they have no names.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        match &self.kind {
            Kind::Folder(folder) => folder.classes(),
            Kind::Idx(_) | Kind::Arrays(_) => &[],
        }
    }

    /// Whether its images have labels.
    #[must_use]
    pub const fn is_labelled(&self) -> bool {
        match &self.kind {
            Kind::Folder(folder) => folder.is_labelled(),
            Kind::Idx(set) => set.is_labelled(),
            Kind::Arrays(arrays) => arrays.is_labelled(),
        }
    }

    /// Whether the images come class by class, in an order that has no meaning.
    #[must_use]
    pub const fn is_in_order_of_classes(&self) -> bool {
        matches!(self.kind, Kind::Folder(_))
    }

    /// The number of other files beside the images, which are ignored.
    #[must_use]
    pub const fn ignored(&self) -> usize {
        match &self.kind {
            Kind::Folder(folder) => folder.ignored(),
            Kind::Idx(_) | Kind::Arrays(_) => 0,
        }
    }

    /// Passes the images of a part to `visit`, always in the same order.
    ///
    /// # Errors
    /// The first image that cannot be read, or the visitor's error.
    pub fn each(&self, part: Part, visit: &mut Visitor<'_>) -> Result<(), ImagesError> {
        match &self.kind {
            Kind::Folder(folder) => folder.each(part, visit),
            Kind::Idx(set) => set.each(part, visit),
            Kind::Arrays(arrays) => arrays.each(part, visit),
        }
    }
}
