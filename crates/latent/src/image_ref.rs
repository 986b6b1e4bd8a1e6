//! An image that a user names: by its class, by its index in the test set, or as a picture file.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::builder::{OsStringValueParser, TypedValueParser as _, ValueParser, ValueParserFactory};
use images::Images;

use crate::trained::Trained;

/// The image that was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageRef {
    /// The first test image of a class.
    Label(u32),
    /// A test image by its index.
    Index(u32),
    /// A PNG or JPEG file, or the name of a class.
    Picture(PathBuf),
}

impl ValueParserFactory for ImageRef {
    type Parser = ValueParser;

    fn value_parser() -> ValueParser {
        OsStringValueParser::new().try_map(Self::parse).into()
    }
}

impl ImageRef {
    fn parse(what: OsString) -> Result<Self, String> {
        // A path need not be UTF-8.
        let Some(text) = what.to_str() else { return Ok(Self::Picture(what.into())) };
        if let Some(index) = text.strip_prefix("test:") {
            let index =
                index.parse().map_err(|_| format!("not an index of a test image:  {index:?}"))?;
            return Ok(Self::Index(index));
        }
        match text.parse::<i64>() {
            Ok(label) => {
                let label =
                    u32::try_from(label).map_err(|_| format!("there is no class {label}"))?;
                Ok(Self::Label(label))
            }
            Err(_) => Ok(Self::Picture(what.into())),
        }
    }

    /// The path, if it names a file.
    pub(crate) fn picture(&self) -> Option<&Path> {
        match self {
            Self::Picture(path) => Some(path),
            Self::Label(_) | Self::Index(_) => None,
        }
    }

    /// The pixels of the image.
    pub(crate) fn pixels(&self, trained: &Trained, test: &Images) -> Result<Vec<u8>> {
        let class = |path: &Path| test.classes().iter().position(|class| path == Path::new(class));
        match self {
            Self::Picture(path) => match class(path).filter(|_| !path.exists()) {
                Some(label) => Self::Label(label as u32).of_set(test),
                None => trained.picture(path),
            },
            Self::Label(_) | Self::Index(_) => self.of_set(test),
        }
    }

    fn of_set(&self, test: &Images) -> Result<Vec<u8>> {
        let count = test.len() as u32;
        let index = match self {
            Self::Index(index) => *index,
            Self::Label(label) => {
                let first = (0..count).find(|index| test.label(*index) == Some(*label));
                let (class, classes) = (test.class(*label), test.label_count());
                first.with_context(|| match classes {
                    0 => format!("the data set has no labels: a test image is test:{label}"),
                    _ => format!(
                        "there is no {class} among the {count} test images, whose classes are 0 to \
                         {}; a test image is test:{label}",
                        classes - 1
                    ),
                })?
            }
            Self::Picture(path) => bail!("{} is a file", path.display()),
        };
        ensure!(index < count, "there is no test image {index}: there are {count}, from 0");
        Ok(test.image(index).to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use images::Shape;

    use super::*;

    #[test]
    fn labels_indices_and_paths_are_told_apart() {
        let parse = |text: &str| ImageRef::parse(text.into());
        assert_eq!(parse("3"), Ok(ImageRef::Label(3)));
        assert_eq!(parse("test:17"), Ok(ImageRef::Index(17)));
        assert_eq!(parse("./3.png"), Ok(ImageRef::Picture("./3.png".into())));
        assert_eq!(parse("11"), Ok(ImageRef::Label(11)));
        assert_eq!(parse("-1"), Err("there is no class -1".into()));
        assert!(parse("test:x").is_err());
        let path = OsString::from_vec(b"dr\xffwing.png".into());
        assert_eq!(ImageRef::parse(path.clone()), Ok(ImageRef::Picture(path.into())));
    }

    #[test]
    fn what_the_set_lacks_is_named() {
        let images = Images::new(Shape::grey(1, 2), vec![5, 5, 6, 6], vec![4, 7]).unwrap();
        assert_eq!(ImageRef::Label(7).of_set(&images).unwrap(), [6, 6]);
        let error = |pick: ImageRef| pick.of_set(&images).unwrap_err().to_string();
        let missing = error(ImageRef::Label(3));
        assert!(
            missing.starts_with("there is no 3 among the 2 test images, whose classes are 0 to 7")
        );
        assert!(missing.ends_with("a test image is test:3"), "{missing}");
        assert_eq!(error(ImageRef::Index(2)), "there is no test image 2: there are 2, from 0");
    }
}
