//! The IDX format of the MNIST files: big-endian sizes, then bytes.
//!
//! Layout: two zero bytes, the element type (0x08, unsigned byte), the number of dimensions, one `u32` for each,
//! then the elements in row-major order and nothing else. The parser borrows from its input and allocates nothing,
//! whatever the input claims. It does not know what the numbers mean.

/// The element type of unsigned bytes, the only one there is in MNIST.
const UNSIGNED_BYTE: u8 = 0x08;
/// The bytes before the sizes.
const MAGIC_BYTES: usize = 4;
/// The bytes of one size.
const SIZE_BYTES: usize = 4;
/// More dimensions than any file of this kind has.
pub const DIMENSIONS_MAX: usize = 4;

/// A parsed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idx<'a> {
    sizes: [u32; DIMENSIONS_MAX],
    dimensions: usize,
    data: &'a [u8],
}

impl<'a> Idx<'a> {
    /// The size of each dimension, slowest first.
    pub fn shape(&self) -> &[u32] {
        &self.sizes[..self.dimensions]
    }

    /// The elements; as many as the product of the shape.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }
}

/// Why bytes are not an IDX file of unsigned bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdxError {
    /// The first bytes are those of something else.
    #[error(
        "byte {at} is {found:#04x}, {expected:#04x} expected: not an idx file of unsigned bytes"
    )]
    Magic {
        /// Offset from the beginning of the file.
        at: usize,
        /// The byte that belongs there.
        expected: u8,
        /// The byte that is there.
        found: u8,
    },
    /// None, or too many to be real.
    #[error("byte 3 says {found} dimensions, 1 to {DIMENSIONS_MAX} expected")]
    Dimensions {
        /// The number claimed.
        found: u8,
    },
    /// The header itself is cut off.
    #[error("the header takes {expected} bytes, the file has {found}")]
    HeaderTruncated {
        /// Bytes the header takes, as far as it can be told.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// More or fewer elements than the header says.
    #[error("the sizes in the header call for {expected} bytes of data, {found} follow")]
    Length {
        /// The product of the sizes.
        expected: u128,
        /// Bytes there are after the header.
        found: usize,
    },
}

/// Parses a whole file.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse(bytes: &[u8]) -> Result<Idx<'_>, IdxError> {
    let truncated = |expected| IdxError::HeaderTruncated { expected, found: bytes.len() };
    let (magic, rest) = bytes.split_first_chunk::<MAGIC_BYTES>().ok_or(truncated(MAGIC_BYTES))?;
    for (at, expected) in [0, 0, UNSIGNED_BYTE].into_iter().enumerate() {
        let found = magic[at];
        if found != expected {
            return Err(IdxError::Magic { at, expected, found });
        }
    }
    let dimensions = usize::from(magic[3]);
    if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
        return Err(IdxError::Dimensions { found: magic[3] });
    }
    let sizes_bytes = dimensions * SIZE_BYTES;
    let (header, data) =
        rest.split_at_checked(sizes_bytes).ok_or(truncated(MAGIC_BYTES + sizes_bytes))?;
    let mut sizes = [0; DIMENSIONS_MAX];
    for (size, bytes) in sizes.iter_mut().zip(header.as_chunks::<SIZE_BYTES>().0) {
        *size = u32::from_be_bytes(*bytes);
    }
    // Four factors below 2^32 cannot overflow 128 bits.
    let expected = sizes[..dimensions].iter().map(|size| u128::from(*size)).product();
    if expected != data.len() as u128 {
        return Err(IdxError::Length { expected, found: data.len() });
    }
    Ok(Idx { sizes, dimensions, data })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(shape: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, UNSIGNED_BYTE, shape.len() as u8];
        bytes.extend(shape.iter().flat_map(|size| size.to_be_bytes()));
        bytes.extend(data);
        bytes
    }

    #[test]
    fn the_largest_claims_are_only_wrong() {
        let bytes = encode(&[u32::MAX; 4], &[1, 2]);
        let expected = u128::from(u32::MAX).pow(4);
        assert_eq!(parse(&bytes), Err(IdxError::Length { expected, found: 2 }));
    }

    #[test]
    fn errors_say_where() {
        let line = |bytes: &[u8]| parse(bytes).unwrap_err().to_string();
        assert_eq!(line(b""), "the header takes 4 bytes, the file has 0");
        assert_eq!(line(&[0, 0, 8, 3, 0, 0]), "the header takes 16 bytes, the file has 6");
        assert_eq!(line(&[0, 0, 8, 9]), "byte 3 says 9 dimensions, 1 to 4 expected");
        let gzip = line(&[0x1f, 0x8b, 8, 0]);
        assert_eq!(gzip, "byte 0 is 0x1f, 0x00 expected: not an idx file of unsigned bytes");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..64), magic: bool) {
            if magic && bytes.len() > 3 {
                bytes[..3].copy_from_slice(&[0, 0, UNSIGNED_BYTE]);
            }
            let _ = parse(&bytes);
        }

        #[test]
        fn what_was_encoded_is_parsed(
            shape in prop::collection::vec(0u32..6, 1..=DIMENSIONS_MAX), fill: u8,
        ) {
            let data = vec![fill; shape.iter().product::<u32>() as usize];
            let bytes = encode(&shape, &data);
            let parsed = parse(&bytes).unwrap();
            prop_assert_eq!(parsed.shape(), &shape[..]);
            prop_assert_eq!(parsed.data(), &data[..]);
        }

        #[test]
        fn any_other_length_is_refused(n in 1u32..5, change in 1usize..20, longer: bool) {
            let mut bytes = encode(&[n, 2, 2], &vec![7; n as usize * 4]);
            let length = if longer { bytes.len() + change } else { bytes.len().saturating_sub(change) };
            bytes.resize(length, 0);
            prop_assert!(parse(&bytes).is_err());
        }
    }
}
