//! The IDX format: big-endian sizes, then the elements.
//!
//! Layout: two zero bytes, the element type, the number of dimensions, one `u32` for the size of each, then
//! the elements in row-major order and nothing else. A reader handles a file of any length and allocates
//! nothing by a size that the header claims. It does not know what the numbers mean.

use std::io::{self, Read};

/// The most dimensions that are read; no file of images has more.
pub const DIMENSIONS_MAX: usize = 4;

/// The type of a file's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Unsigned bytes.
    Byte = 0x08,
    /// Signed 32-bit integers: labels of more than 256 classes.
    Int = 0x0c,
}

/// The header of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type of the elements.
    pub element: Element,
    /// The size of each dimension, slowest first.
    pub shape: Vec<u32>,
}

impl Header {
    /// Reads a header; the error says what is wrong and where.
    pub fn read(reader: &mut impl Read) -> Result<Self, String> {
        let mut magic = [0; 4];
        read_exactly(reader, &mut magic)?;
        let element = match magic {
            [0, 0, 0x08, _] => Element::Byte,
            [0, 0, 0x0c, _] => Element::Int,
            [0, 0, other, _] => {
                return Err(format!(
                    "its elements are of type {other:#04x}: only bytes (0x08) and, for labels, \
                     32-bit integers (0x0c) are read"
                ));
            }
            [first, second, ..] => {
                return Err(format!("it begins with {first:#04x} {second:#04x}: not an IDX file"));
            }
        };
        let dimensions = usize::from(magic[3]);
        if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
            return Err(format!("it has {dimensions} dimensions: 1 to {DIMENSIONS_MAX} are read"));
        }
        let mut shape = Vec::with_capacity(dimensions);
        for _ in 0..dimensions {
            let mut size = [0; 4];
            read_exactly(reader, &mut size)?;
            shape.push(u32::from_be_bytes(size));
        }
        Ok(Self { element, shape })
    }

    /// The number of bytes of elements that follow the header.
    pub fn bytes(&self) -> u128 {
        let size = match self.element {
            Element::Byte => 1,
            Element::Int => 4_u128,
        };
        self.shape.iter().fold(size, |bytes, side| bytes.saturating_mul(u128::from(*side)))
    }

    /// The bytes of a header.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0, 0, self.element as u8, self.shape.len() as u8];
        bytes.extend(self.shape.iter().flat_map(|size| size.to_be_bytes()));
        bytes
    }
}

fn read_exactly(reader: &mut impl Read, bytes: &mut [u8]) -> Result<(), String> {
    reader.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => "it ends within its header".to_owned(),
        _ => format!("it cannot be read: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn errors_say_what_is_wrong() {
        let line = |mut bytes: &[u8]| Header::read(&mut bytes).unwrap_err();
        assert_eq!(line(b""), "it ends within its header");
        assert_eq!(line(&[0, 0, 8, 3, 0, 0]), "it ends within its header");
        assert_eq!(line(&[0, 0, 8, 9]), "it has 9 dimensions: 1 to 4 are read");
        assert_eq!(line(b"\x89PNG"), "it begins with 0x89 0x50: not an IDX file");
        assert!(line(&[0, 0, 0x0d, 1]).starts_with("its elements are of type 0x0d"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..32), magic: bool) {
            if magic && bytes.len() > 3 {
                bytes[..3].copy_from_slice(&[0, 0, 8]);
            }
            if let Ok(header) = Header::read(&mut &bytes[..]) {
                prop_assert_eq!(&header.to_bytes()[..], &bytes[..header.to_bytes().len()]);
            }
        }
    }
}
