//! A set of images, in memory or mapped from a file.
//!
//! An image is rows from the top; a row is pixels from the left; a pixel is its channels. PNG, the IDX files that
//! [`mod@crate::pack`] writes and the pictures that are drawn use the same order, so nothing is reordered between a
//! file and a model or a screen.

use std::sync::Arc;

use data::{Batch, Collate, Column, Dataset, Pass, Values};

use crate::{ImagesError, Shape, mapped::Pixels};

/// The value of a white pixel.
const WHITE: f32 = 255.0;
/// The number of words in a block of a random stream.
const WORDS: usize = 4;

/// Images of one shape, with or without labels. A clone shares the pixels.
#[derive(Clone, Debug)]
pub struct Images {
    shape: Shape,
    count: u32,
    pixels: Arc<Pixels>,
    /// One label per image, or none at all.
    labels: Arc<[u32]>,
    classes: Arc<[String]>,
}

impl Images {
    /// A set from the pixels of all images, one image after the other, and one label per image, or no labels.
    ///
    /// # Errors
    /// The shape is out of bounds, the pixels are not a whole number of images, or the number of labels differs.
    pub fn new(shape: Shape, pixels: Vec<u8>, labels: Vec<u32>) -> Result<Self, ImagesError> {
        Self::from_parts(shape, Pixels::from(pixels), labels)
    }

    pub(crate) fn from_parts(
        shape: Shape,
        pixels: Pixels,
        labels: Vec<u32>,
    ) -> Result<Self, ImagesError> {
        if !shape.is_valid() {
            return Err(ImagesError::Shape(shape));
        }
        let (bytes, images) = (pixels.bytes().len(), pixels.bytes().len() / shape.bytes());
        if images * shape.bytes() != bytes || ![0, images].contains(&labels.len()) {
            return Err(ImagesError::Unpaired { bytes, shape, labels: labels.len() });
        }
        let count = u32::try_from(images).map_err(|_| ImagesError::TooMany(images))?;
        let (pixels, labels) = (Arc::new(pixels), labels.into());
        Ok(Self { shape, count, pixels, labels, classes: Arc::default() })
    }

    /// The same set with the classes' names, in the order of the labels.
    #[must_use]
    pub fn with_classes(self, classes: impl Into<Arc<[String]>>) -> Self {
        Self { classes: classes.into(), ..self }
    }

    /// The shape of each image.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// The number of images; it fits a `u32`.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether the set has no images.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The numbers of one image, from 0 (black) to 255 (white).
    ///
    /// # Panics
    /// If `index` is not below [`Images::len`].
    #[must_use]
    pub fn image(&self, index: u32) -> &[u8] {
        assert!(index < self.count, "image {index} of {}", self.count);
        let bytes = self.shape.bytes();
        let begin = index as usize * bytes;
        &self.pixels.bytes()[begin..begin + bytes]
    }

    /// The numbers of all images, one image after the other.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.pixels.bytes()[..self.len() * self.shape.bytes()]
    }

    /// Whether the images have labels.
    #[must_use]
    pub fn is_labelled(&self) -> bool {
        !self.labels.is_empty()
    }

    /// The label of one image, if the set has labels.
    ///
    /// # Panics
    /// If `index` is not below [`Images::len`].
    #[must_use]
    pub fn label(&self, index: u32) -> Option<u32> {
        assert!(index < self.count, "image {index} of {}", self.count);
        self.labels.get(index as usize).copied()
    }

    /// One more than the largest label; 0 without labels.
    #[must_use]
    pub fn label_count(&self) -> u32 {
        self.labels.iter().take(self.len()).max().map_or(0, |most| most + 1)
    }

    /// The names of the classes in the order of the labels; empty if they have no names.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The name of a class, or its number if it has no name.
    #[must_use]
    pub fn class(&self, label: u32) -> String {
        self.classes.get(label as usize).cloned().unwrap_or_else(|| label.to_string())
    }

    /// Writes the pixels of some images to `out`, from 0 to 1, one row per image.
    ///
    /// # Panics
    /// If `out` has not the length of the images' bytes, or an index is not below [`Images::len`].
    pub fn gather_pixels(&self, indices: &[u32], out: &mut [f32]) {
        let bytes = self.shape.bytes();
        assert_eq!(out.len(), indices.len() * bytes, "{bytes} floats an image");
        for (row, index) in out.chunks_exact_mut(bytes).zip(indices) {
            unit_pixels(self.image(*index), row);
        }
    }

    /// Replaces the content of `out` with the labels of some images. `out` becomes empty if there are no labels.
    ///
    /// # Panics
    /// If an index is not below [`Images::len`].
    pub fn gather_labels(&self, indices: &[u32], out: &mut Vec<i64>) {
        out.clear();
        out.extend(indices.iter().filter_map(|index| self.label(*index)).map(i64::from));
    }

    /// Writes one image with each number black or white: white with the probability grey level / 255. The draws are
    /// those of the pass.
    ///
    /// # Panics
    /// If `out` has not the length of an image, or `index` is not below [`Images::len`].
    pub fn binarize(&self, index: u32, pass: Pass, out: &mut [u8]) {
        assert_eq!(out.len(), self.shape.bytes(), "as many numbers as an image has");
        self.binarize_from(index, pass, 0, out);
    }

    /// [`Images::binarize`] for a part of an image that starts at number `begin`, a multiple of four.
    ///
    /// # Panics
    /// If the image has fewer numbers, `begin` is not a multiple of four, or `index` is not below [`Images::len`].
    pub fn binarize_from(&self, index: u32, pass: Pass, begin: usize, out: &mut [u8]) {
        assert_eq!(begin % WORDS, 0, "a block is drawn at a time");
        let greys = &self.image(index)[begin..begin + out.len()];
        let stream = pass.stream(index);
        for (block, (grey, out)) in greys.chunks(WORDS).zip(out.chunks_mut(WORDS)).enumerate() {
            let words = stream.block((begin / WORDS + block) as u32);
            for ((word, grey), out) in words.into_iter().zip(grey).zip(out) {
                // A uniform word is below this bound with a probability of exactly grey / 255.
                let white = u64::from(word) * 255 < u64::from(*grey) << 32;
                *out = if white { u8::MAX } else { 0 };
            }
        }
    }

    /// All images with the pass's draws, black or white, in memory.
    #[must_use]
    pub fn binarized(&self, pass: Pass) -> Self {
        let bytes = self.shape.bytes();
        let mut drawn = vec![0; self.len() * bytes];
        for (index, image) in (0..self.count).zip(drawn.chunks_exact_mut(bytes)) {
            self.binarize(index, pass, image);
        }
        Self { pixels: Arc::new(drawn.into()), ..self.clone() }
    }

    /// Keeps the first `n` images, or all if there are fewer. The memory is not freed; clones may share it.
    pub fn truncate(&mut self, n: usize) {
        if n < self.len() {
            self.count = n as u32;
        }
    }
}

impl Dataset for Images {
    fn count(&self) -> u32 {
        self.count
    }
}

/// Two columns: the images as bytes, `[n, height, width, channels]`, and their labels as integers, `[n]`. A set without
/// labels has only the first column.
impl Collate for Images {
    fn collate(batch: &Batch<'_, Self>) -> Vec<Column> {
        let images = batch.data;
        let Shape { height, width, channels } = images.shape;
        let [height, width, channels] = [height, width, channels].map(|size| size as usize);
        let bytes = batch.indices.iter().flat_map(|index| images.image(*index)).copied().collect();
        let pixels = Column::new([batch.len(), height, width, channels], Values::Bytes(bytes));
        let mut labels = Vec::new();
        images.gather_labels(batch.indices, &mut labels);
        if !images.is_labelled() {
            return vec![pixels];
        }
        vec![pixels, Column::new([batch.len()], Values::Integers(labels))]
    }
}

/// Writes grey levels as pixels from 0 to 1: exactly x / 255, as torchvision computes it.
pub fn unit_pixels(greys: &[u8], out: &mut [f32]) {
    for (out, grey) in out.iter_mut().zip(greys) {
        *out = f32::from(*grey) / WHITE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape::grey(28, 28);
    const PIXELS: usize = SHAPE.bytes();

    #[test]
    fn gathers_in_the_order_of_the_indices() {
        let pixels = (0..3u8).flat_map(|image| [image * 100; PIXELS]).collect();
        let images = Images::new(SHAPE, pixels, vec![7, 8, 900]).unwrap();
        let mut pixels = vec![-1.0; 3 * PIXELS];
        images.gather_pixels(&[2, 0, 2], &mut pixels);
        assert!(pixels[..PIXELS].iter().all(|pixel| *pixel == 200.0 / 255.0));
        assert!(pixels[PIXELS..2 * PIXELS].iter().all(|pixel| *pixel == 0.0));
        assert_eq!(pixels[..PIXELS], pixels[2 * PIXELS..]);
        let mut labels = vec![1, 2, 3, 4];
        images.gather_labels(&[2, 0, 2], &mut labels);
        assert_eq!((labels, images.label_count()), (vec![900, 7, 900], 901));
        let columns = Images::collate(&Batch::of(&images, &[2, 0]));
        assert_eq!((&columns[0].shape[..], &columns[1].shape[..]), (&[2, 28, 28, 1][..], &[2][..]));
        assert_eq!(columns[1].values, Values::Integers(vec![900, 7]));
    }

    #[test]
    fn pixels_are_correctly_rounded_quotients() {
        let images = Images::new(Shape::grey(1, 256), (0..=255).collect(), vec![]).unwrap();
        let mut out = vec![0.0; 256];
        images.gather_pixels(&[0], &mut out);
        for (at, pixel) in out.iter().enumerate() {
            assert_eq!(*pixel, (at as f64 / 255.0) as f32);
        }
    }

    #[test]
    fn any_shape_with_labels_or_without() {
        let shape = Shape { height: 2, width: 3, channels: 3 };
        let images = Images::new(shape, (0..36).collect(), vec![]).unwrap();
        assert_eq!((images.len(), images.image(1)[0], images.label(1)), (2, 18, None));
        assert_eq!(
            (images.is_labelled(), images.label_count(), images.class(4)),
            (false, 0, "4".into())
        );
        let line =
            |shape, pixels, labels| Images::new(shape, pixels, labels).unwrap_err().to_string();
        let wrong = line(shape, vec![0; 35], vec![]);
        assert_eq!(
            wrong,
            "35 bytes and 0 labels do not match images of 2 x 3 RGB: each has 18 bytes"
        );
        assert!(line(shape, vec![0; 36], vec![1]).contains("36 bytes and 1 labels"));
        assert!(line(Shape { channels: 2, ..shape }, vec![], vec![]).contains("2 x 3"));
        assert!(Images::new(SHAPE, vec![], vec![]).unwrap().is_empty());
    }

    #[test]
    fn a_pixel_is_white_as_often_as_it_is_grey() {
        const EPOCHS: u64 = 4000;
        let pixels: Vec<u8> = (0..2 * PIXELS).map(|at| (at % 256) as u8).collect();
        let images = Images::new(SHAPE, pixels, vec![3, 4]).unwrap();
        let mut whites = vec![0_u64; PIXELS];
        let mut drawn = [0; PIXELS];
        for epoch in 0..EPOCHS {
            images.binarize(1, Pass::train(5, epoch), &mut drawn);
            for (count, pixel) in whites.iter_mut().zip(&drawn) {
                assert!([0, 255].contains(pixel));
                *count += u64::from(*pixel / 255);
            }
        }
        for (count, grey) in whites.into_iter().zip(images.image(1)) {
            let (expected, p) =
                (EPOCHS as f64 * f64::from(*grey) / 255.0, f64::from(*grey) / 255.0);
            // Five standard deviations; zero for black and white, which never change.
            let bound = 5.0 * (EPOCHS as f64 * p * (1.0 - p)).sqrt();
            assert!((count as f64 - expected).abs() <= bound, "{count} of {grey}");
        }
    }

    #[test]
    fn draws_depend_on_seed_pass_and_image() {
        let images = Images::new(SHAPE, vec![128; 3 * PIXELS], vec![0; 3]).unwrap();
        let draw = |index, pass| {
            let mut drawn = [0; PIXELS];
            images.binarize(index, pass, &mut drawn);
            drawn
        };
        let pass = Pass::train(0, 2);
        assert_eq!(draw(1, pass), draw(1, pass));
        let others = [
            draw(1, Pass::train(1, 2)),
            draw(1, Pass::train(0, 0)),
            draw(1, Pass::test(0)),
            draw(0, pass),
        ];
        assert!(others.iter().all(|other| *other != draw(1, pass)));
        let (mut rest, pass) = ([0; 84], Pass::train(0, 2));
        images.binarize_from(1, pass, 700, &mut rest);
        assert_eq!(rest, draw(1, pass)[700..]);
        // Binarizing a binary image does not change it.
        let drawn = images.binarized(Pass::test(3));
        assert_eq!(drawn.image(2), drawn.binarized(Pass::test(0)).image(2));
    }

    #[test]
    fn truncating_keeps_pixels_and_labels_together() {
        let pixels = (0..3).flat_map(|image| [image; PIXELS]).collect();
        let mut images = Images::new(SHAPE, pixels, vec![0, 1, 2]).unwrap();
        images.truncate(9);
        assert_eq!(images.len(), 3);
        images.truncate(2);
        assert_eq!((images.len(), images.count(), images.label_count()), (2, 2, 2));
        assert_eq!(images.image(1), &[1; PIXELS]);
    }
}
