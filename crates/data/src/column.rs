//! Examples as columns of plain numbers, from which an autograd model makes tensors.
//!
//! A user's own data set implements [`Collate`]; [`Columns`] and [`Text`] are two implementations that exist already.
//! This file knows neither tensors nor files.

use std::{ops::Range, sync::Arc};

use thiserror::Error;

use crate::{Batch, Dataset, Splits};

/// The same part of several examples, one example after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The dimensions; the first is the number of examples.
    pub shape: Vec<usize>,
    /// The numbers, row-major.
    pub values: Values,
}

/// The numbers of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Bytes, such as pixels or characters.
    Bytes(Vec<u8>),
    /// Integers, such as labels.
    Integers(Vec<i64>),
    /// Numbers in single precision.
    Floats(Vec<f32>),
}

impl Values {
    /// The number of values.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Bytes(values) => values.len(),
            Self::Integers(values) => values.len(),
            Self::Floats(values) => values.len(),
        }
    }

    /// Whether there are no values.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows at these indices; a row has `width` numbers.
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
    /// A column of these dimensions; the first is the number of examples.
    ///
    /// # Panics
    /// If the product of the dimensions is not the number of values.
    #[must_use]
    pub fn new(shape: impl Into<Vec<usize>>, values: Values) -> Self {
        let shape = shape.into();
        assert!(!shape.is_empty(), "the first dimension of a column counts the examples");
        assert_eq!(shape.iter().product::<usize>(), values.len(), "a column of shape {shape:?}");
        Self { shape, values }
    }

    /// The numbers of one example.
    fn width(&self) -> usize {
        self.shape[1..].iter().product()
    }
}

/// A data set whose examples can be collected into columns.
pub trait Collate: Dataset + Sized {
    /// The batch's examples, in its order. The number of columns is always the same. Random draws for an example, for
    /// augmentation for instance, come from the stream of [`Batch::visit`] and the example's index.
    fn collate(batch: &Batch<'_, Self>) -> Vec<Column>;
}

/// A data set in memory: columns with one row per example.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns {
    count: u32,
    columns: Vec<Column>,
}

/// The columns do not form a data set.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("columns need the same number of examples, at least one; these have {counts:?}")]
pub struct UnequalColumns {
    /// How many examples each column has.
    pub counts: Vec<usize>,
}

impl Columns {
    /// A data set of these columns.
    ///
    /// # Errors
    /// If there are no columns, if they have no examples, or if their numbers of examples differ.
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

/// A text as examples: pieces of equal length, where each piece overlaps the next by one byte. So every byte of the
/// pieces, except the first of all, is predicted exactly once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    bytes: Arc<[u8]>,
    /// The range of the pieces, counted in the whole text, that belong to this part.
    pieces: Range<usize>,
    length: usize,
}

impl Text {
    /// The numbers of training and of test pieces in a text of `bytes` bytes. The last `1 / held_out` of the pieces are
    /// the test part.
    #[must_use]
    pub const fn counts(bytes: u64, length: u32, held_out: u32) -> (u32, u32) {
        let pieces = bytes.saturating_sub(1) / length as u64;
        let pieces = if pieces > u32::MAX as u64 { u32::MAX } else { pieces as u32 };
        let test = pieces / held_out;
        (pieces - test, test)
    }

    /// The training and the test part of a text; an example has `length + 1` bytes.
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
