//! Named tensors in one flat vector of f32. It knows neither their meaning nor their values.

use std::ops::Range;

use crate::ModelError;

/// Every tensor begins at a multiple of this many floats: 64 bytes, which is a cache line and the
/// widest vector register.
pub(crate) const ALIGNMENT_FLOATS: usize = 16;

/// The name and place of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name, as in PyTorch.
    pub name: String,
    /// The dimensions, outermost first; the elements are row-major.
    pub shape: Vec<usize>,
    /// The indices of its elements, without padding.
    pub range: Range<usize>,
}

/// The places of all tensors, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    entries: Vec<Entry>,
    len: usize,
}

impl Layout {
    /// Places the tensors one after the other. Padding is zero in every vector of this
    /// layout, and no operation changes it.
    ///
    /// # Panics
    ///
    /// If the sum of the sizes exceeds `usize`. Sizes from user input must be checked before.
    pub fn new(tensors: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        let mut layout = Self::default();
        for (name, shape) in tensors {
            let size = shape.iter().try_fold(1_usize, |size, &side| size.checked_mul(side));
            let end = size.and_then(|size| layout.len.checked_add(size));
            let padded = end.and_then(|end| end.checked_next_multiple_of(ALIGNMENT_FLOATS));
            let (Some(end), Some(padded)) = (end, padded) else {
                panic!("the layout's length exceeds usize at {name} of shape {shape:?}");
            };
            layout.entries.push(Entry { name, shape, range: layout.len..end });
            layout.len = padded;
        }
        layout
    }

    /// The tensors, in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The length of a flat vector, padding included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the layout has no elements.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of parameters, without padding.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.entries.iter().map(|entry| entry.range.len()).sum()
    }

    /// Sets the padding between the tensors to zero.
    ///
    /// # Panics
    ///
    /// If the vector does not have the layout's length.
    pub fn zero_padding(&self, vector: &mut [f32]) {
        assert_eq!(vector.len(), self.len, "vector and layout differ in length");
        let starts = self.entries.iter().skip(1).map(|entry| entry.range.start);
        for (entry, next) in self.entries.iter().zip(starts.chain([self.len])) {
            vector[entry.range.end..next].fill(0.0);
        }
    }

    /// A flat vector of the tensors; `tensor` returns a tensor's shape and values by its name.
    ///
    /// # Errors
    ///
    /// The first tensor that is missing or has another shape.
    pub fn gather<'a>(
        &self,
        tensor: impl Fn(&str) -> Option<(&'a [usize], &'a [f32])>,
    ) -> Result<Vec<f32>, ModelError> {
        let mut flat = vec![0.0; self.len];
        for Entry { name, shape, range } in &self.entries {
            let missing = || ModelError::Missing { name: name.clone() };
            let (found, values) = tensor(name).ok_or_else(missing)?;
            if found != shape || values.len() != range.len() {
                let (name, expected, found) = (name.clone(), shape.clone(), found.to_vec());
                return Err(ModelError::Shape { name, expected, found });
            }
            flat[range.clone()].copy_from_slice(values);
        }
        Ok(flat)
    }

    /// The indices of the tensor `name`.
    #[must_use]
    pub fn range(&self, name: &str) -> Option<Range<usize>> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| entry.range.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout::new([
            ("a.weight".to_owned(), vec![3, 5]),
            ("a.bias".to_owned(), vec![16]),
            ("scalar".to_owned(), vec![]),
        ])
    }

    #[test]
    fn tensors_begin_at_multiples_of_the_alignment() {
        let layout = layout();
        assert_eq!(layout.range("a.weight"), Some(0..15));
        assert_eq!(layout.range("a.bias"), Some(16..32));
        assert_eq!(layout.range("scalar"), Some(32..33));
        assert_eq!(layout.range("b"), None);
        assert_eq!((layout.len(), layout.parameters()), (48, 32));
        assert_eq!(layout.entries()[0].shape, [3, 5]);
    }

    #[test]
    fn tensors_are_gathered_by_name_and_shape() {
        let layout = layout();
        let values = [2.0; 16];
        let given = |name: &str| -> Option<(&[usize], &[f32])> {
            match name {
                "a.weight" => Some((&[3, 5], &values[..15])),
                "a.bias" => Some((&[16], &values)),
                _ => None,
            }
        };
        let error = layout.gather(given).unwrap_err();
        assert_eq!(error.to_string(), "it has no tensor scalar");
        let scalar = |name: &str| given(name).or(Some((&[][..], &values[..1])));
        let flat = layout.gather(scalar).unwrap();
        assert_eq!(flat.iter().sum::<f32>(), 64.0);
        let other = |name: &str| scalar(name).map(|(_, values)| (&[7][..], values));
        let error = layout.gather(other).unwrap_err();
        assert_eq!(error.to_string(), "tensor a.weight has shape [7], the model's is [3, 5]");
    }

    #[test]
    fn padding_is_zeroed_and_nothing_else() {
        let layout = layout();
        let mut vector = vec![1.0; layout.len()];
        layout.zero_padding(&mut vector);
        assert_eq!(vector.iter().filter(|value| **value == 1.0).count(), layout.parameters());
        assert_eq!((vector[15], vector[31], vector[32], vector[33]), (0.0, 1.0, 1.0, 0.0));
    }

    #[test]
    #[should_panic(expected = "exceeds usize at huge")]
    fn a_length_beyond_usize_is_refused() {
        let _ = Layout::new([("huge".to_owned(), vec![usize::MAX, 2])]);
    }
}
