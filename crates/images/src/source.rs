//! What lies at a path, as images one by one.

use std::path::{Path, PathBuf};

use crate::{
    ImagesError, Shape,
    folder::Folder,
    idx_set::{self, IdxSet},
    numpy::Arrays,
};

/// How images are read that leave a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Pixels of a side that pictures are scaled to; as they are, if all are of one size.
    pub side: Option<u32>,
    /// What colours are kept.
    pub colour: Colour,
}

/// What colours of pictures are kept.
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

/// A part of a set, as it lies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What is learned from; all there is, if nothing is set apart for testing.
    Train,
    /// What is set apart for testing.
    Test,
}

/// One image.
#[derive(Clone, Copy, Debug)]
pub struct Example<'a> {
    /// As many bytes as the shape has: rows from the top, in them pixels, in them channels.
    pub pixels: &'a [u8],
    /// Its class, if the set has labels.
    pub label: Option<u32>,
}

/// Takes in one image after the other.
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

/// Finds out what lies at a path: a folder of IDX files or of pictures, a `.npy` or `.npz` file.
///
/// # Errors
/// The path is no set of images, or one that cannot be read; the file is named.
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
        let what = "no set of images: name a folder of pictures or of IDX files, or a .npy or .npz \
                    file";
        return Err(ImagesError::file(path, what));
    };
    let source = Source { path: path.into(), kind };
    if !source.shape().is_valid() {
        let what = format!("images of {} are beyond what is read", source.shape());
        return Err(ImagesError::file(path, what));
    }
    Ok(source)
}

impl Source {
    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// In words, what was found.
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

    /// How many images a part has; none where the set has no such part.
    #[must_use]
    pub fn count(&self, part: Part) -> Option<u64> {
        match &self.kind {
            Kind::Folder(folder) => folder.count(part),
            Kind::Idx(set) => set.count(part),
            Kind::Arrays(arrays) => arrays.count(part),
        }
    }

    /// The names of the classes in the order of the labels, where the set has names.
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

    /// Whether its images come class by class, in an order that nobody chose.
    #[must_use]
    pub const fn is_in_order_of_classes(&self) -> bool {
        matches!(self.kind, Kind::Folder(_))
    }

    /// Files beside the images that are left alone.
    #[must_use]
    pub const fn ignored(&self) -> usize {
        match &self.kind {
            Kind::Folder(folder) => folder.ignored(),
            Kind::Idx(_) | Kind::Arrays(_) => 0,
        }
    }

    /// Shows the images of a part, in an order that is always the same.
    ///
    /// # Errors
    /// The first image that cannot be read, or what the visitor says.
    pub fn each(&self, part: Part, visit: &mut Visitor<'_>) -> Result<(), ImagesError> {
        match &self.kind {
            Kind::Folder(folder) => folder.each(part, visit),
            Kind::Idx(set) => set.each(part, visit),
            Kind::Arrays(arrays) => arrays.each(part, visit),
        }
    }
}
