//! A digit that a person names: by its label, by its place in the test set, or as a picture.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use clap::builder::{OsStringValueParser, TypedValueParser as _, ValueParser, ValueParserFactory};
use images::{Images, Shape};

use crate::drawing;

/// What was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// The first test image of a digit.
    Label(u8),
    /// A test image by its index.
    Index(u32),
    /// A PNG or JPEG file.
    Picture(PathBuf),
}

impl ValueParserFactory for Pick {
    type Parser = ValueParser;

    fn value_parser() -> ValueParser {
        OsStringValueParser::new().try_map(Self::parse).into()
    }
}

impl Pick {
    fn parse(what: OsString) -> Result<Self, String> {
        // A path need not be a text.
        let Some(text) = what.to_str() else { return Ok(Self::Picture(what.into())) };
        if let Some(index) = text.strip_prefix("test:") {
            let index =
                index.parse().map_err(|_| format!("no index of a test image: {index:?}"))?;
            return Ok(Self::Index(index));
        }
        match text.parse::<i64>() {
            Ok(label @ 0..=9) => Ok(Self::Label(label as u8)),
            Ok(label) if label < 0 => Err(format!("there is no digit {label}")),
            Ok(label) => Err(format!("there is no digit {label}; a test image is test:{label}")),
            Err(_) => Ok(Self::Picture(what.into())),
        }
    }

    /// The file, where it is one.
    pub(crate) fn picture(&self) -> Option<&Path> {
        match self {
            Self::Picture(path) => Some(path),
            Self::Label(_) | Self::Index(_) => None,
        }
    }

    /// The 784 pixels.
    pub(crate) fn pixels(&self, test: &Images) -> Result<Vec<u8>> {
        let count = test.len() as u32;
        let index = match self {
            Self::Picture(path) => return drawing::read(path),
            Self::Index(index) => *index,
            Self::Label(label) => (0..count)
                .find(|index| test.label(*index) == Some(u32::from(*label)))
                .with_context(|| format!("there is no {label} among the {count} test images"))?,
        };
        ensure!(index < count, "there is no test image {index}: there are {count}, from 0");
        Ok(test.image(index).to_vec())
    }
}

/// Images of pixels that came one by one; nobody asks for their labels.
pub(crate) fn unlabelled(pixels: Vec<u8>) -> Result<Images> {
    Ok(Images::new(Shape::grey(28, 28), pixels, Vec::new())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use images::PIXELS;

    use super::*;

    #[test]
    fn labels_indices_and_paths_are_told_apart() {
        let parse = |text: &str| Pick::parse(text.into());
        assert_eq!(parse("3"), Ok(Pick::Label(3)));
        assert_eq!(parse("test:17"), Ok(Pick::Index(17)));
        assert_eq!(parse("./3.png"), Ok(Pick::Picture("./3.png".into())));
        let error = "there is no digit 11; a test image is test:11";
        assert_eq!(parse("11"), Err(error.into()));
        assert!(parse("test:x").is_err());
        let path = OsString::from_vec(b"dr\xffwing.png".into());
        assert_eq!(Pick::parse(path.clone()), Ok(Pick::Picture(path.into())));
    }

    #[test]
    fn what_the_set_lacks_is_named() {
        let images = Images::new(Shape::grey(28, 28), vec![5; 2 * PIXELS], vec![4, 7]).unwrap();
        assert_eq!(Pick::Label(7).pixels(&images).unwrap(), [5; PIXELS]);
        let error = |pick: Pick| pick.pixels(&images).unwrap_err().to_string();
        assert_eq!(error(Pick::Label(3)), "there is no 3 among the 2 test images");
        assert_eq!(error(Pick::Index(2)), "there is no test image 2: there are 2, from 0");
    }
}
