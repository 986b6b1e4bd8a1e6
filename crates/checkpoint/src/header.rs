//! Encodes the header of a checkpoint, and decodes a header that may be damaged or hostile.
//!
//! A file is an 8-byte little-endian length, that many bytes of JSON, then the tensors' bytes in the order of their
//! names. The JSON has the format of safetensors: `__metadata__` (strings only), then name -> dtype, shape, offsets.
//! Our metadata has two digests. `sha256` covers the tensor bytes. `header_sha256` covers the length and the JSON,
//! with its own 64 digits set to zero. So the header's size is known before the digests, and every byte of the file
//! is covered.
//!
//! This file does no I/O; it uses the path only in errors.

use std::fmt::Write as _;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata as Layout, TensorInfo};
use serde::ser::{Serialize, SerializeMap, Serializer};
use sha2::{Digest as _, Sha256};

use crate::{CheckpointError, FORMAT_VERSION, Metadata, TensorView};

/// Bytes of the length at the beginning of a file.
pub(crate) const PREFIX_BYTES: usize = 8;
/// The bound of the JSON, so that reading a hostile file costs little. Tens of thousands of tensors and epochs fit.
pub(crate) const HEADER_BYTES_MAX: u64 = 16 << 20;
/// Bytes of one tensor element.
pub(crate) const ELEMENT_BYTES: usize = 4;
/// Stands for a digest that is not known yet.
pub(crate) const ZERO_DIGEST: &str =
    "0000000000000000000000000000000000000000000000000000000000000000";

/// The most characters of a file's text that an error quotes.
const EXCERPT_CHARS_MAX: usize = 120;

/// The bytes before the header digest. Inside a JSON string the quotes would be escaped, and after a tensor of this
/// name comes an object, so the first match is the field itself.
const DIGEST_FIELD: &[u8] = b"\"header_sha256\":\"";

/// A decoded header whose digest is correct.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: Metadata,
    /// The SHA-256 of the tensor bytes, in hex.
    pub(crate) sha256: String,
    /// The names and shapes in the order of the tensors' bytes, which are contiguous from the end of the header.
    pub(crate) tensors: Vec<(String, Vec<usize>)>,
    /// The sum of the tensors' sizes.
    pub(crate) data_bytes: u64,
}

/// The JSON object with its fields in a fixed order, so that equal checkpoints give equal files.
struct Json<'a> {
    metadata: &'a [(&'static str, &'a str)],
    tensors: &'a [(&'a str, TensorInfo)],
}

/// A list of pairs as an object.
struct Pairs<'a>(&'a [(&'static str, &'a str)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + self.tensors.len()))?;
        map.serialize_entry("__metadata__", &Pairs(self.metadata))?;
        for (name, info) in self.tensors {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}

/// The length prefix and the JSON, for tensors sorted by name. `sha256` must have 64 digits, so the size does not
/// depend on its value.
pub(crate) fn encode(
    metadata: &Metadata,
    tensors: &[TensorView<'_>],
    sha256: &str,
) -> serde_json::Result<Vec<u8>> {
    let (step, seed) = (metadata.step.to_string(), metadata.seed.to_string());
    let ledger = serde_json::to_string(&metadata.ledger)?;
    let arithmetic = serde_json::to_string(&metadata.arithmetic)?;
    let fields = [
        ("format_version", FORMAT_VERSION),
        ("header_sha256", ZERO_DIGEST),
        ("sha256", sha256),
        ("run_id", &metadata.run_id),
        ("step", &step),
        ("seed", &seed),
        ("configuration", &metadata.configuration),
        ("ledger", &ledger),
    ];
    // Files of earlier versions do not have the field; an empty one is left out too.
    let known = (!metadata.arithmetic.is_empty()).then_some(("arithmetic", &*arithmetic));
    let fields: Vec<(&str, &str)> = fields.into_iter().chain(known).collect();
    let mut end = 0;
    let infos: Vec<_> = tensors
        .iter()
        .map(|tensor| {
            let begin = end;
            end += tensor.data.len() * ELEMENT_BYTES;
            let (shape, data_offsets) = (tensor.shape.to_vec(), (begin, end));
            (tensor.name, TensorInfo { dtype: Dtype::F32, shape, data_offsets })
        })
        .collect();

    let mut bytes = vec![0; PREFIX_BYTES];
    serde_json::to_writer(&mut bytes, &Json { metadata: &fields, tensors: &infos })?;
    // safetensors requires tensors aligned to 8 bytes, and spaces as padding.
    bytes.resize(bytes.len().next_multiple_of(PREFIX_BYTES), b' ');
    let json_bytes = (bytes.len() - PREFIX_BYTES) as u64;
    bytes[..PREFIX_BYTES].copy_from_slice(&json_bytes.to_le_bytes());

    if let Some(at) = digest_position(&bytes) {
        let digest = hex(&Sha256::digest(&bytes));
        bytes[at..at + digest.len()].copy_from_slice(digest.as_bytes());
    }
    Ok(bytes)
}

/// Reads and verifies a header: `bytes` is the length prefix and the JSON.
pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<Header, CheckpointError> {
    let json = bytes.get(PREFIX_BYTES..).unwrap_or_default();
    let layout: Layout = match serde_json::from_slice(json) {
        Ok(layout) => layout,
        Err(error) => {
            // A file that still has our digest field was a checkpoint: report that it is damaged.
            verify_digest(path, bytes)?;
            let reason = excerpt(&error.to_string());
            return Err(CheckpointError::NotSafetensors { path: path.into(), reason });
        }
    };
    let foreign = || CheckpointError::Foreign { path: path.into() };
    let fields = layout.metadata().as_ref().ok_or_else(foreign)?;
    let version = fields.get("format_version").ok_or_else(foreign)?;
    if version != FORMAT_VERSION {
        return Err(CheckpointError::Version {
            path: path.into(),
            found: excerpt(version),
            supported: FORMAT_VERSION,
        });
    }
    if !verify_digest(path, bytes)? {
        let (key, reason) = ("header_sha256", "is missing".into());
        return Err(CheckpointError::Metadata { path: path.into(), key, reason });
    }

    let field = |key: &'static str| {
        fields.get(key).cloned().ok_or_else(|| CheckpointError::Metadata {
            path: path.into(),
            key,
            reason: "is missing".into(),
        })
    };
    let number = |key: &'static str| {
        let text = field(key)?;
        text.parse::<u64>().map_err(|error| CheckpointError::Metadata {
            path: path.into(),
            key,
            reason: format!("is `{}`, a number expected ({error})", excerpt(&text)),
        })
    };
    // Files of earlier versions do not have the field.
    let arithmetic = fields.get("arithmetic").map_or("[]", |text| text);
    let arithmetic =
        serde_json::from_str(arithmetic).map_err(|error| CheckpointError::Metadata {
            path: path.into(),
            key: "arithmetic",
            reason: format!("cannot be read: {}", excerpt(&error.to_string())),
        })?;
    let ledger = field("ledger")?;
    let ledger = serde_json::from_str(&ledger).map_err(|error| CheckpointError::Metadata {
        path: path.into(),
        key: "ledger",
        reason: format!("cannot be read: {}", excerpt(&error.to_string())),
    })?;
    Ok(Header {
        metadata: Metadata {
            run_id: field("run_id")?,
            step: number("step")?,
            seed: number("seed")?,
            configuration: field("configuration")?,
            ledger,
            arithmetic,
        },
        sha256: field("sha256")?,
        tensors: tensors(path, &layout)?,
        data_bytes: layout.data_len() as u64,
    })
}

/// The tensors in the order of their bytes. The parser of the layout has checked that the tensors are contiguous from
/// zero, and as long as their shapes say.
fn tensors(path: &Path, layout: &Layout) -> Result<Vec<(String, Vec<usize>)>, CheckpointError> {
    let mut tensors = Vec::new();
    for name in layout.offset_keys() {
        let Some(info) = layout.info(&name) else { continue };
        if info.dtype != Dtype::F32 {
            let (name, found) = (excerpt(&name), info.dtype.to_string());
            return Err(CheckpointError::ElementType { path: path.into(), name, found });
        }
        tensors.push((name, info.shape.clone()));
    }
    Ok(tensors)
}

/// Whether the header has its digest. A wrong digest is an error.
fn verify_digest(path: &Path, bytes: &[u8]) -> Result<bool, CheckpointError> {
    let Some(at) = digest_position(bytes) else { return Ok(false) };
    let Some(carried) = bytes.get(at..at + ZERO_DIGEST.len()) else { return Ok(false) };
    let mut hasher = Sha256::new();
    hasher.update(&bytes[..at]);
    hasher.update(ZERO_DIGEST.as_bytes());
    hasher.update(&bytes[at + ZERO_DIGEST.len()..]);
    let found = hex(&hasher.finalize());
    if found.as_bytes() == carried {
        return Ok(true);
    }
    let expected = String::from_utf8_lossy(carried).escape_default().to_string();
    Err(CheckpointError::HeaderDamaged { path: path.into(), expected, found })
}

/// The index of the first digit of the header digest.
fn digest_position(bytes: &[u8]) -> Option<usize> {
    let field = bytes.windows(DIGEST_FIELD.len()).position(|window| window == DIGEST_FIELD)?;
    Some(field + DIGEST_FIELD.len())
}

/// The beginning of a text from a file, fit for one line of an error.
fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT_CHARS_MAX).flat_map(char::escape_debug).collect()
}

/// Lowercase hex.
pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(2 * digest.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EpochLedger;

    fn metadata() -> Metadata {
        Metadata {
            run_id: "r\"header_sha256\":\"\u{1F600}".into(),
            step: 7,
            seed: u64::MAX,
            configuration: r#"{"a":"\"header_sha256\":\"x\""}"#.into(),
            ledger: vec![EpochLedger {
                images: 3,
                index_sum: 12,
                loss_terms: vec![0.1],
                test_losses: vec![],
                validation_loss: None,
            }],
            arithmetic: vec!["cpu/\"AVX2\"/f32/libtorch 2".into(), "cuda".into()],
        }
    }

    #[test]
    fn a_file_of_an_earlier_version_has_no_arithmetic_and_is_read() {
        let metadata = Metadata { arithmetic: Vec::new(), ..metadata() };
        let bytes = encode(&metadata, &[], ZERO_DIGEST).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("arithmetic"));
        assert_eq!(decode(Path::new("x"), &bytes).unwrap().metadata, metadata);
    }

    #[test]
    fn what_is_encoded_decodes_even_when_strings_look_like_the_digest() {
        let view = TensorView { name: "header_sha256", shape: &[2], data: &[1.0, 2.0] };
        let bytes = encode(&metadata(), &[view], ZERO_DIGEST).unwrap();
        let header = decode(Path::new("x"), &bytes).unwrap();
        assert_eq!(header.metadata, metadata());
        assert_eq!(header.tensors, [("header_sha256".to_string(), vec![2])]);
        assert_eq!(header.data_bytes, 8);
    }

    #[test]
    fn size_is_a_multiple_of_eight_and_independent_of_the_digest() {
        let data = [0.0; 6];
        let view = TensorView { name: "a", shape: &[2, 3], data: &data };
        let zero = encode(&metadata(), &[view], ZERO_DIGEST).unwrap();
        let other = encode(&metadata(), &[view], &hex(&[0xab; 32])).unwrap();
        assert_eq!(zero.len(), other.len());
        assert_eq!(zero.len() % 8, 0);
        assert_ne!(zero, other);
    }
}
