//! Examples as columns of plain numbers, of which a model by autograd makes tensors.
//!
//! A data set of one's own implements [`Collate`]; [`Columns`] and [`Text`] are two that are ready. Nothing here knows
//! tensors or files.

use std::{ops::Range, sync::Arc};

use thiserror::Error;

use crate::{Batch, Dataset, Splits};

/// The same part of several examples, one example after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its dimensions; the first counts the examples.
    pub shape: Vec<usize>,
    /// Its numbers, row-major.
    pub values: Values,
}

/// The numbers of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Bytes, as pixels and characters are.
    Bytes(Vec<u8>),
    /// Integers, as labels are.
    Integers(Vec<i64>),
    /// Numbers in single precision.
    Floats(Vec<f32>),
}

impl Values {
    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Bytes(values) => values.len(),
            Self::Integers(values) => values.len(),
            Self::Floats(values) => values.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of these indices, of so many numbers each.
    fn rows(&self, width: usize, indices: &[u32]) -> Self {
        fn gather<T: Copy>(values: &[T], width: usize, indices: &[u32]) -> Vec<T> {
            let row = |index: &u32| &values[*index as usize * width..][..width];
            indices.iter().flat_map(row).copied().collect()
        }
        match self {
            Self::Bytes(values) => Self::Bytes(gather(values, width, indices)),
            Self::Integers(values) => Self::Integers(gather(values, width, indices)),
            Self::Floats(values) => Self::Floats(gather(values, width, indices)),
        }
    }
}

impl Column {
    /// A column of these dimensions, the first of which counts the examples.
    ///
    /// # Panics
    /// If the shape is not that of the values.
    #[must_use]
    pub fn new(shape: impl Into<Vec<usize>>, values: Values) -> Self {
        let shape = shape.into();
        assert!(!shape.is_empty(), "the first dimension of a column counts the examples");
        assert_eq!(shape.iter().product::<usize>(), values.len(), "a column of shape {shape:?}");
        Self { shape, values }
    }

    /// Numbers in one example.
    fn width(&self) -> usize {
        self.shape[1..].iter().product()
    }
}

/// A data set whose examples can be put together in columns.
pub trait Collate: Dataset + Sized {
    /// The batch's examples, in its order: always the same number of columns. What is drawn for an example, as for
    /// augmentation, comes from the stream of [`Batch::visit`] and the example's index.
    fn collate(batch: &Batch<'_, Self>) -> Vec<Column>;
}

/// A data set in memory: columns with a row for each example.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns {
    count: u32,
    columns: Vec<Column>,
}

/// Columns that are no data set.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("columns need the same number of examples, at least one; these have {counts:?}")]
pub struct UnequalColumns {
    /// How many examples each column has.
    pub counts: Vec<usize>,
}

impl Columns {
    /// A table of these columns.
    ///
    /// # Errors
    /// Where there are none, or they have different numbers of examples.
    pub fn new(columns: Vec<Column>) -> Result<Self, UnequalColumns> {
        let counts: Vec<usize> = columns.iter().map(|column| column.shape[0]).collect();
        let same = counts.windows(2).all(|pair| pair[0] == pair[1]);
        let count = counts.first().and_then(|count| u32::try_from(*count).ok());
        match count.filter(|count| same && *count > 0) {
            Some(count) => Ok(Self { count, columns }),
            None => Err(UnequalColumns { counts }),
        }
    }
}

impl Dataset for Columns {
    fn count(&self) -> u32 {
        self.count
    }
}

impl Collate for Columns {
    fn collate(batch: &Batch<'_, Self>) -> Vec<Column> {
        let gather = |column: &Column| {
            let mut shape = column.shape.clone();
            shape[0] = batch.len();
            Column { shape, values: column.values.rows(column.width(), batch.indices) }
        };
        batch.data.columns.iter().map(gather).collect()
    }
}

/// A text as examples: pieces of the same number of bytes, each overlapping the next by one, so that every byte but the
/// first is once the one to be foretold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    bytes: Arc<[u8]>,
    /// The bytes of the pieces in the whole text.
    pieces: Range<usize>,
    length: usize,
}

impl Text {
    /// The pieces that a text of so many bytes has, to learn from and to evaluate on: the last `1 / held_out` of them
    /// are the test.
    #[must_use]
    pub const fn counts(bytes: u64, length: u32, held_out: u32) -> (u32, u32) {
        let pieces = bytes.saturating_sub(1) / length as u64;
        let pieces = if pieces > u32::MAX as u64 { u32::MAX } else { pieces as u32 };
        let test = pieces / held_out;
        (pieces - test, test)
    }

    /// The two parts of a text; an example is `length + 1` bytes.
    ///
    /// # Panics
    /// If `length` or `held_out` is zero.
    #[must_use]
    pub fn split(bytes: impl Into<Arc<[u8]>>, length: u32, held_out: u32) -> Splits<Self> {
        let bytes = bytes.into();
        let (train, test) = Self::counts(bytes.len() as u64, length, held_out);
        let (train, test, length) = (train as usize, test as usize, length as usize);
        let part = |pieces| Self { bytes: Arc::clone(&bytes), pieces, length };
        Splits { train: part(0..train), test: part(train..train + test) }
    }
}

impl Dataset for Text {
    fn count(&self) -> u32 {
        self.pieces.len() as u32
    }
}

impl Collate for Text {
    /// One column of bytes, `[n, length + 1]`.
    fn collate(batch: &Batch<'_, Self>) -> Vec<Column> {
        let Self { bytes, pieces, length } = batch.data;
        let piece = |index: &u32| &bytes[(pieces.start + *index as usize) * length..][..=*length];
        let values = batch.indices.iter().flat_map(piece).copied().collect();
        vec![Column::new([batch.len(), length + 1], Values::Bytes(values))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_gathered_in_the_order_of_the_indices() {
        let pixels = Column::new([3, 2, 1], Values::Bytes(vec![1, 2, 3, 4, 5, 6]));
        let labels = Column::new([3], Values::Integers(vec![-1, 0, 1]));
        let set = Columns::new(vec![pixels, labels]).unwrap();
        assert_eq!(set.count(), 3);
        let columns = Columns::collate(&Batch::of(&set, &[2, 0, 2]));
        assert_eq!(columns[0], Column::new([3, 2, 1], Values::Bytes(vec![5, 6, 1, 2, 5, 6])));
        assert_eq!(columns[1], Column::new([3], Values::Integers(vec![1, -1, 1])));
    }

    #[test]
    fn columns_have_one_row_for_each_example() {
        let floats = |count| Column::new([count], Values::Floats(vec![0.0; count]));
        let error = Columns::new(vec![floats(2), floats(3)]).unwrap_err().to_string();
        assert!(error.contains("[2, 3]"), "{error}");
        assert!(Columns::new(Vec::new()).is_err());
    }

    #[test]
    fn a_text_is_cut_into_pieces_that_overlap_by_one() {
        let Splits { train, test } = Text::split(&b"abcdefghijk!"[..], 2, 5);
        assert_eq!(Text::counts(12, 2, 5), (4, 1));
        assert_eq!((train.count(), test.count()), (4, 1));
        let bytes = |set, indices: &[u32]| match Text::collate(&Batch::of(set, indices)).remove(0) {
            Column { values: Values::Bytes(bytes), .. } => String::from_utf8(bytes).unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!((bytes(&train, &[1, 0]), bytes(&test, &[0])), ("cdeabc".into(), "ijk".into()));
        assert_eq!(Text::counts(0, 2, 5), (0, 0));
    }
}
