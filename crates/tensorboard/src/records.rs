//! The format of a record in a file: the length, its checksum, the bytes, and their checksum.

use crate::crc::crc32c;

/// The constant in the masking of a checksum, as the TFRecord format defines it.
const MASK: u32 = 0xa282_ead8;

/// Makes a record of these bytes.
pub(crate) fn record(body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), body, &masked(body)].concat()
}

fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c(bytes).rotate_right(15).wrapping_add(MASK).to_le_bytes()
}

/// The bodies of the records in a file.
#[cfg(test)]
pub(crate) fn read(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut bodies = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<8>() {
        assert_eq!(rest[..4], masked(length));
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
        let (body, rest) = rest[4..].split_at(length);
        assert_eq!(rest[..4], masked(body));
        bodies.push(body);
        bytes = &rest[4..];
    }
    bodies
}
