//! Reads the files of a data set as images, in the form that [`mod@crate::pack`] writes and the sets of
//! [`mod@crate::named`] have.

use std::{fs, path::Path};

use config::Manifest;
use data::{Files, Splits};

use crate::{
    Images, ImagesError, Shape,
    idx::{Element, Header},
    mapped::Pixels,
    named,
    pack::CLASSES,
};

/// The training and the test part of the data set: the images with their labels and the names of the classes, if the
/// set has any. The files must have been verified.
///
/// # Errors
/// A file is missing, is not an IDX file, or does not fit the others. The error names the file.
pub fn splits(files: &Files) -> Result<Splits<Images>, ImagesError> {
    let manifest = files.manifest();
    let part = |prefix: &str, count: u32| {
        let find = |kind: &str| {
            let is = |name: &&String| name.starts_with(&format!("{prefix}-{kind}-idx"));
            manifest.files.iter().map(|file| &file.name).find(is)
        };
        let images = find("images").ok_or_else(|| {
            let what = format!("the data set {} has no file {prefix}-images-idx*", manifest.name);
            ImagesError::file(files.folder(), what)
        })?;
        let labels = find("labels").map(|labels| files.path(labels)).transpose()?;
        let path = files.path(images)?;
        let images = open(&path, labels.as_deref())?;
        if images.len() != count as usize {
            let what = format!("its images are {}, where the data set has {count}", images.len());
            return Err(ImagesError::file(path, what));
        }
        Ok(images)
    };
    let train: Images = part("train", manifest.train)?;
    let test: Images = part("t10k", manifest.test)?;
    if train.shape() != test.shape() || train.is_labelled() != test.is_labelled() {
        let what = format!(
            "images of {} to learn from and of {} to test with, or only one of both with labels",
            train.shape(),
            test.shape()
        );
        return Err(ImagesError::file(files.folder(), what));
    }
    let classes = class_names(files, manifest)?;
    Ok(Splits { train: train.with_classes(classes.clone()), test: test.with_classes(classes) })
}

fn class_names(files: &Files, manifest: &Manifest) -> Result<Vec<String>, ImagesError> {
    if manifest.file(CLASSES).is_none() {
        return Ok(named::classes(manifest));
    }
    let path = files.path(CLASSES)?;
    let text = fs::read_to_string(&path).map_err(ImagesError::io("read", &path))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The images of an IDX file, with the labels from another IDX file.
///
/// # Errors
/// A file is not an IDX file, or does not fit the other. The error names the file.
pub fn open(images: &Path, labels: Option<&Path>) -> Result<Images, ImagesError> {
    let header = read_header(images)?;
    let shape = shape(images, &header)?;
    let pixels = elements(images, &header)?;
    let labels = match labels {
        None => Vec::new(),
        Some(path) => {
            let header = read_header(path)?;
            if header.shape.len() != 1 {
                let what = format!("its shape is {:?}: [n] is expected of labels", header.shape);
                return Err(ImagesError::file(path, what));
            }
            numbers(path, header.element, elements(path, &header)?.bytes())?
        }
    };
    Images::from_parts(shape, pixels, labels)
        .map_err(|error| ImagesError::file(images, error.to_string()))
}

/// The shape of each image, from the header.
pub(crate) fn shape(path: &Path, header: &Header) -> Result<Shape, ImagesError> {
    match (header.element, &header.shape[..]) {
        (Element::Byte, [_, height, width]) => Ok(Shape::grey(*height, *width)),
        (Element::Byte, [_, height, width, channels]) => {
            Ok(Shape { height: *height, width: *width, channels: *channels })
        }
        _ => {
            let what = format!(
                "its shape is {:?}: bytes of [n, height, width] or [n, height, width, 3] are images",
                header.shape
            );
            Err(ImagesError::file(path, what))
        }
    }
}

fn read_header(path: &Path) -> Result<Header, ImagesError> {
    let mut file = fs::File::open(path).map_err(ImagesError::io("open", path))?;
    Header::read(&mut file).map_err(|what| ImagesError::file(path, what))
}

/// The elements after the header; their number must be the header's.
fn elements(path: &Path, header: &Header) -> Result<Pixels, ImagesError> {
    let pixels =
        Pixels::open(path, header.to_bytes().len()).map_err(ImagesError::io("read", path))?;
    let (expected, found) = (header.bytes(), pixels.bytes().len());
    if expected != found as u128 {
        let what = format!("its header announces {expected} bytes of data, but {found} follow");
        return Err(ImagesError::file(path, what));
    }
    Ok(pixels)
}

fn numbers(path: &Path, element: Element, bytes: &[u8]) -> Result<Vec<u32>, ImagesError> {
    let (words, _) = bytes.as_chunks::<4>();
    let of_word = |(index, word): (usize, &[u8; 4])| {
        let label = i32::from_be_bytes(*word);
        u32::try_from(label)
            .map_err(|_| ImagesError::file(path, format!("label {index} is {label}, below zero")))
    };
    match element {
        Element::Byte => Ok(bytes.iter().map(|byte| u32::from(*byte)).collect()),
        Element::Int => words.iter().enumerate().map(of_word).collect(),
    }
}

#[cfg(test)]
mod tests {
    use config::FileEntry;
    use data::hex;
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// A file of `n` elements, each of the shape `shape`.
    fn idx(n: u32, shape: &[u32]) -> Vec<u8> {
        let shape = [&[n], shape].concat();
        let mut bytes = Header { element: Element::Byte, shape: shape.clone() }.to_bytes();
        let each: u32 = shape[1..].iter().product();
        bytes.extend((0..n).flat_map(|index| vec![index as u8; each as usize]));
        bytes
    }

    /// Writes the files of a data set and describes it.
    fn set(folder: &Path, contents: [Vec<u8>; 4], counts: [u32; 2]) -> Files {
        let names = ["train-images", "train-labels", "t10k-images", "t10k-labels"];
        let files = names.iter().zip(contents).map(|(name, content)| {
            let kind = if name.ends_with("images") { "idx3" } else { "idx1" };
            let name = format!("{name}-{kind}-ubyte");
            fs::write(folder.join(&name), &content).unwrap();
            let sha256 = hex(&Sha256::digest(&content));
            FileEntry { name, bytes: content.len() as u64, sha256, sources: Vec::new() }
        });
        let [train, test] = counts;
        let manifest = Manifest { name: "set".into(), files: files.collect(), train, test };
        manifest.validate().unwrap();
        Files::verified(folder, &manifest).unwrap()
    }

    #[test]
    fn a_small_set_loads() {
        let root = tempfile::tempdir().unwrap();
        let contents = [idx(5, &[3, 4]), idx(5, &[]), idx(2, &[3, 4]), idx(2, &[])];
        let set = splits(&set(root.path(), contents, [5, 2])).unwrap();
        assert_eq!((set.train.len(), set.test.len()), (5, 2));
        assert_eq!((set.train.shape(), set.train.image(4)), (Shape::grey(3, 4), &[4; 12][..]));
        assert_eq!((set.train.label(3), set.test.label(1)), (Some(3), Some(1)));
        assert_eq!(set.train.class(3), "3");
    }

    #[test]
    fn files_which_do_not_belong_together_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let images = || idx(5, &[3, 4]);
        let error = |images: Vec<u8>, labels: Vec<u8>| {
            let files = set(root.path(), [images, labels, idx(2, &[3, 4]), idx(2, &[])], [5, 2]);
            splits(&files).unwrap_err().to_string()
        };
        let name = root.path().join("train-images-idx3-ubyte").display().to_string();
        let unpaired = error(images(), idx(4, &[]));
        assert_eq!(
            unpaired,
            format!(
                "{name}: 60 bytes and 4 labels do not match images of 3 x 4 grey: each has 12 bytes"
            )
        );
        assert!(error(idx(5, &[4, 4]), idx(5, &[])).contains("images of 4 x 4 grey to learn from"));
        assert!(error(b"text".to_vec(), idx(5, &[])).contains("not an IDX file"));
        assert!(error(images(), images()).contains("[n] is expected of labels"));
        assert!(
            error(idx(4, &[3, 4]), idx(4, &[]))
                .contains("its images are 4, where the data set has 5")
        );
        let mut short = images();
        short.pop();
        let line = error(short, idx(5, &[]));
        assert_eq!(line, format!("{name}: its header announces 60 bytes of data, but 59 follow"));
    }
}
