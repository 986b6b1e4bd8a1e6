//! The MNIST set: its four files with the digests they must have, and the images in memory.
//!
//! Loading verifies every byte, so a run can rely on everybody having the same images. It does not know where the files
//! came from. Copyright of the set: Yann LeCun and Corinna Cortes, CC BY-SA 3.0.

use std::path::Path;

use config::{FileEntry, Manifest};

use crate::DataError;
use crate::batch::{Dataset, Splits, Visit};
use crate::idx;
use crate::raw::{self, RawFile};

/// Pixels of an image: 28 rows of 28.
pub const PIXELS: usize = (SIDE * SIDE) as usize;
const SIDE: u32 = 28;
/// Words of a block of a stream.
const WORDS: usize = 4;

/// The raw files: training images and labels, test images and labels.
pub const FILES: [RawFile; 4] = [
    RawFile {
        name: "train-images-idx3-ubyte",
        sha256: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        bytes: 47_040_016,
    },
    RawFile {
        name: "train-labels-idx1-ubyte",
        sha256: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        bytes: 60_008,
    },
    RawFile {
        name: "t10k-images-idx3-ubyte",
        sha256: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        bytes: 7_840_016,
    },
    RawFile {
        name: "t10k-labels-idx1-ubyte",
        sha256: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        bytes: 10_008,
    },
];

/// The set as a run knows it.
#[must_use]
pub fn manifest() -> Manifest {
    let entry = |file: &RawFile| FileEntry {
        name: file.name.into(),
        bytes: file.bytes,
        sha256: file.sha256.into(),
        sources: Vec::new(),
    };
    let files = FILES.iter().map(entry).collect();
    Manifest { name: "mnist".into(), files, train: 60_000, test: 10_000 }
}

/// Which part of the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// 60,000 images to learn from.
    Train,
    /// 10,000 images to evaluate on.
    Test,
}

/// Images with their labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    pub(crate) pixels: Vec<u8>,
    pub(crate) labels: Vec<u8>,
}

impl Images {
    /// From grey pixels, row-major `[n, 784]`, and n labels.
    ///
    /// # Errors
    /// If there are not 784 pixels a label, or more images than a `u32` can number.
    pub fn new(pixels: Vec<u8>, labels: Vec<u8>) -> Result<Images, DataError> {
        if labels.len().checked_mul(PIXELS) != Some(pixels.len()) {
            let (pixels, labels) = (pixels.len(), labels.len());
            return Err(DataError::Unpaired { pixels, labels });
        }
        if u32::try_from(labels.len()).is_err() {
            return Err(DataError::TooMany { found: labels.len() });
        }
        Ok(Images { pixels, labels })
    }

    /// How many images; fits a `u32`.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The 784 pixels of one image, 0 black to 255 white.
    ///
    /// # Panics
    /// If `index` is not below [`Images::len`].
    pub fn image(&self, index: u32) -> &[u8] {
        let begin = index as usize * PIXELS;
        &self.pixels[begin..begin + PIXELS]
    }

    /// The label of one image.
    ///
    /// # Panics
    /// If `index` is not below [`Images::len`].
    pub fn label(&self, index: u32) -> u8 {
        self.labels[index as usize]
    }

    /// Writes the pixels of one image, black or white: white with the probability of their grey, drawn for the visit.
    ///
    /// # Panics
    /// If `out` is not 784 long, or `index` is not below [`Images::len`].
    pub fn binarize(&self, index: u32, visit: Visit, out: &mut [u8]) {
        assert_eq!(out.len(), PIXELS, "784 pixels");
        let stream = visit.stream(index);
        let greys = self.image(index).chunks(WORDS);
        for (block, (grey, out)) in greys.zip(out.chunks_mut(WORDS)).enumerate() {
            for ((word, grey), out) in stream.block(block as u32).into_iter().zip(grey).zip(out) {
                // A word is below grey / 255 of its range with exactly that probability.
                let white = u64::from(word) * 255 < u64::from(*grey) << 32;
                *out = if white { u8::MAX } else { 0 };
            }
        }
    }

    /// Keeps the first `n` images, or all where there are fewer.
    pub fn truncate(&mut self, n: usize) {
        self.labels.truncate(n);
        self.pixels.truncate(self.labels.len() * PIXELS);
    }
}

impl Dataset for Images {
    fn count(&self) -> u32 {
        // Images::new refuses more.
        self.labels.len() as u32
    }
}

/// Both parts of the set.
pub type Mnist = Splits<Images>;

impl Mnist {
    /// Loads the set from the four raw files in `directory` and verifies each.
    ///
    /// # Errors
    /// The first file which is missing or not the canonical one, and what to do about it.
    pub fn load(directory: &Path) -> Result<Mnist, DataError> {
        load_files(directory, &FILES)
    }

    /// Keeps the first images of both parts.
    pub fn truncate(&mut self, train: u32, test: u32) {
        self.train.truncate(train as usize);
        self.test.truncate(test as usize);
    }

    /// Makes the test images black and white, for a run that draws its pixels so. Training images
    /// are drawn at each visit.
    pub fn binarize_test(&mut self, seed: u64) {
        let visit = Visit::test(seed);
        let mut drawn = vec![0; self.test.pixels.len()];
        for (index, image) in (0..self.test.count()).zip(drawn.chunks_exact_mut(PIXELS)) {
            self.test.binarize(index, visit, image);
        }
        self.test.pixels = drawn;
    }

    /// One part of the set.
    pub fn split(&self, split: Split) -> &Images {
        match split {
            Split::Train => &self.train,
            Split::Test => &self.test,
        }
    }
}

fn load_files(directory: &Path, files: &[RawFile; 4]) -> Result<Mnist, DataError> {
    let [train_images, train_labels, test_images, test_labels] = files;
    let part = |images: &RawFile, labels: &RawFile| {
        let pixels =
            elements(directory, images, "[n, 28, 28]", |shape| matches!(shape, [_, SIDE, SIDE]))?;
        let labels = elements(directory, labels, "[n]", |shape| shape.len() == 1)?;
        Images::new(pixels, labels)
    };
    Ok(Mnist { train: part(train_images, train_labels)?, test: part(test_images, test_labels)? })
}

/// The elements of a verified file of the expected shape.
fn elements(
    directory: &Path,
    file: &RawFile,
    expected: &'static str,
    fits: impl FnOnce(&[u32]) -> bool,
) -> Result<Vec<u8>, DataError> {
    let mut bytes = raw::read(directory, file)?;
    let path = || directory.join(file.name);
    let parsed = idx::parse(&bytes).map_err(|source| DataError::Idx { path: path(), source })?;
    if !fits(parsed.shape()) {
        let found = parsed.shape().to_vec();
        return Err(DataError::Shape { path: path(), expected, found });
    }
    // The header is cut off in place: the elements are not held twice.
    let header_bytes = bytes.len() - parsed.data().len();
    bytes.drain(..header_bytes);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::raw::tests::raw;

    #[test]
    fn a_pixel_is_white_as_often_as_it_is_grey() {
        const EPOCHS: u64 = 4000;
        let pixels: Vec<u8> = (0..2 * PIXELS).map(|at| (at % 256) as u8).collect();
        let images = Images::new(pixels, vec![3, 4]).unwrap();
        let mut whites = vec![0_u64; PIXELS];
        let mut drawn = [0; PIXELS];
        for epoch in 0..EPOCHS {
            images.binarize(1, Visit::train(5, epoch), &mut drawn);
            for (count, pixel) in whites.iter_mut().zip(&drawn) {
                assert!([0, 255].contains(pixel));
                *count += u64::from(*pixel / 255);
            }
        }
        for (count, grey) in whites.into_iter().zip(images.image(1)) {
            let (expected, p) =
                (EPOCHS as f64 * f64::from(*grey) / 255.0, f64::from(*grey) / 255.0);
            // Five standard deviations; none for black and white, which stay.
            let bound = 5.0 * (EPOCHS as f64 * p * (1.0 - p)).sqrt();
            assert!((count as f64 - expected).abs() <= bound, "{count} of {grey}");
        }
    }

    #[test]
    fn draws_depend_on_seed_visit_and_image() {
        let images = Images::new(vec![128; 3 * PIXELS], vec![0; 3]).unwrap();
        let draw = |index, visit| {
            let mut drawn = [0; PIXELS];
            images.binarize(index, visit, &mut drawn);
            drawn
        };
        let visit = Visit::train(0, 2);
        assert_eq!(draw(1, visit), draw(1, visit));
        let others = [
            draw(1, Visit::train(1, 2)),
            draw(1, Visit::train(0, 0)),
            draw(1, Visit::test(0)),
            draw(0, visit),
        ];
        assert!(others.iter().all(|other| *other != draw(1, visit)));
    }

    /// A file of `n` elements each `size` bytes long, `shape` being that of one element.
    fn file(n: u32, shape: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, 1 + shape.len() as u8];
        for size in [n].iter().chain(shape) {
            bytes.extend(size.to_be_bytes());
        }
        let each: u32 = shape.iter().product();
        bytes.extend((0..n).flat_map(|index| vec![index as u8; each as usize]));
        bytes
    }

    /// Writes four files and gives their descriptions.
    fn set(directory: &Path, contents: [Vec<u8>; 4]) -> [RawFile; 4] {
        std::array::from_fn(|index| {
            fs::write(directory.join(FILES[index].name), &contents[index]).unwrap();
            raw(FILES[index].name, &contents[index])
        })
    }

    #[test]
    fn a_small_set_loads() {
        let root = tempfile::tempdir().unwrap();
        let contents = [file(5, &[28, 28]), file(5, &[]), file(2, &[28, 28]), file(2, &[])];
        let files = set(root.path(), contents);
        let set = load_files(root.path(), &files).unwrap();
        assert_eq!((set.train.len(), set.split(Split::Test).len()), (5, 2));
        assert_eq!(set.train.image(4), [4; PIXELS]);
        assert_eq!((set.train.label(3), set.test.label(1)), (3, 1));
    }

    #[test]
    fn files_which_do_not_belong_together_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let error = |images: Vec<u8>, labels: Vec<u8>| {
            let files = set(root.path(), [images, labels, file(0, &[28, 28]), file(0, &[])]);
            load_files(root.path(), &files).unwrap_err()
        };
        assert!(matches!(error(file(5, &[28, 28]), file(4, &[])), DataError::Unpaired { .. }));
        let shape = error(file(5, &[28, 27]), file(5, &[])).to_string();
        assert!(shape.ends_with("has shape [5, 28, 27], [n, 28, 28] expected"), "{shape}");
        assert!(matches!(error(b"text".to_vec(), file(5, &[])), DataError::Idx { .. }));
    }

    #[test]
    fn a_changed_byte_names_the_file() {
        let root = tempfile::tempdir().unwrap();
        let contents = [file(5, &[28, 28]), file(5, &[]), file(2, &[28, 28]), file(2, &[])];
        let files = set(root.path(), contents);
        for file in files {
            let path = root.path().join(file.name);
            let sound = fs::read(&path).unwrap();
            let mut changed = sound.clone();
            *changed.last_mut().unwrap() ^= 1;
            fs::write(&path, changed).unwrap();
            let error = load_files(root.path(), &files).unwrap_err();
            assert!(
                matches!(&error, DataError::Damaged { path: at, .. } if *at == path),
                "{error}"
            );
            fs::write(&path, sound).unwrap();
        }
        load_files(root.path(), &files).unwrap();
    }

    #[test]
    fn truncating_keeps_pixels_and_labels_together() {
        let pixels = (0..3).flat_map(|image| [image; PIXELS]).collect();
        let mut images = Images::new(pixels, vec![0, 1, 2]).unwrap();
        images.truncate(9);
        assert_eq!(images.len(), 3);
        images.truncate(2);
        assert_eq!(
            (images.len(), images.is_empty(), images.image(1)),
            (2, false, &[1; PIXELS][..])
        );
        assert!(Images::new(vec![0; PIXELS], vec![]).is_err());
        assert!(Images::new(vec![], vec![]).unwrap().is_empty());
    }
}
