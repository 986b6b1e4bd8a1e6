//! Reads and writes one checkpoint file as a stream: tensors are written with their digest, and verified when read.
//!
//! Both directions use one small buffer, so the file's bytes are never in memory beside the tensors. `directory.rs`
//! gives the file its name and makes it durable.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::header::{self, ELEMENT_BYTES, HEADER_BYTES_MAX, Header, PREFIX_BYTES, ZERO_DIGEST};
use crate::{Checkpoint, CheckpointError, Metadata, Tensor, TensorView};

/// Large enough for few system calls, small enough to stay in the cache between copying, hashing and writing.
const BUFFER_BYTES: usize = 256 << 10;

/// The result of [`verify`]: the data of a file, without its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The metadata of the file.
    pub metadata: Metadata,
    /// SHA-256 of the tensor bytes, in lowercase hex.
    pub sha256: String,
}

/// Reads a checkpoint and verifies all of it: the header's digest, the size, the tensors' digest.
///
/// # Errors
/// The first error found. Whatever the file holds, the call allocates at most a small multiple of the file's size.
pub fn read(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let (mut file, header) = open(path, path)?;
    let mut body = Body::new(path, &mut file);
    let mut tensors = BTreeMap::new();
    for (name, shape) in &header.tensors {
        // `open` has checked that the file is as long as the shapes say, so the file's size bounds this length.
        let length = shape.iter().product();
        let mut data = Vec::with_capacity(length);
        body.floats(length, |bytes| {
            let (elements, _) = bytes.as_chunks::<ELEMENT_BYTES>();
            data.extend(elements.iter().map(|element| f32::from_le_bytes(*element)));
        })?;
        tensors.insert(name.clone(), Tensor { shape: shape.clone(), data });
    }
    body.finish(&header)?;
    Ok(Checkpoint { metadata: header.metadata, tensors, sha256: header.sha256 })
}

/// Verifies a checkpoint as [`read`] does, without keeping the tensors.
///
/// # Errors
/// As [`read`].
pub fn verify(path: &Path) -> Result<Verified, CheckpointError> {
    verify_as(path, path)
}

/// Verifies the file at `place`; errors name `path` instead.
pub(crate) fn verify_as(path: &Path, place: &Path) -> Result<Verified, CheckpointError> {
    let (mut file, header) = open(path, place)?;
    let mut body = Body::new(path, &mut file);
    for (_, shape) in &header.tensors {
        body.floats(shape.iter().product(), |_| ())?;
    }
    body.finish(&header)?;
    Ok(Verified { metadata: header.metadata, sha256: header.sha256 })
}

/// Opens the file at `place` and verifies everything but the tensors. The next byte read is the tensors' first byte.
fn open(path: &Path, place: &Path) -> Result<(File, Header), CheckpointError> {
    crashpoint::reach!("checkpoint.reading");
    let io = |action| CheckpointError::io(action, path);
    // Checked before opening: opening a pipe would wait for a writer.
    if !std::fs::metadata(place).map_err(io("read"))?.is_file() {
        return Err(CheckpointError::NotAFile { path: path.into() });
    }
    let mut file = File::open(place).map_err(io("open"))?;
    let found = file.metadata().map_err(io("read"))?.len();
    let truncated = |expected| CheckpointError::Truncated { path: path.into(), expected, found };
    if found == 0 {
        return Err(CheckpointError::Empty { path: path.into() });
    }
    if found < PREFIX_BYTES as u64 {
        return Err(truncated(PREFIX_BYTES as u64));
    }
    let mut prefix = [0; PREFIX_BYTES];
    file.read_exact(&mut prefix).map_err(io("read"))?;
    let json_bytes = u64::from_le_bytes(prefix);
    if json_bytes > HEADER_BYTES_MAX {
        let reason = format!(
            "its first 8 bytes say {json_bytes} bytes of header, at most {HEADER_BYTES_MAX} can be"
        );
        return Err(CheckpointError::NotSafetensors { path: path.into(), reason });
    }
    let header_bytes = PREFIX_BYTES as u64 + json_bytes;
    if header_bytes > found {
        return Err(truncated(header_bytes));
    }
    // The header's size is bounded by `HEADER_BYTES_MAX` and by the file's size.
    let mut bytes = vec![0; header_bytes as usize];
    bytes[..PREFIX_BYTES].copy_from_slice(&prefix);
    file.read_exact(&mut bytes[PREFIX_BYTES..]).map_err(io("read"))?;

    let header = header::decode(path, &bytes)?;
    let expected = header_bytes.saturating_add(header.data_bytes);
    if found < expected {
        return Err(truncated(expected));
    }
    if found > expected {
        return Err(CheckpointError::TooLong { path: path.into(), expected, found });
    }
    Ok((file, header))
}

/// The tensor bytes of an open file, hashed while they are read.
struct Body<'a> {
    path: &'a Path,
    file: &'a mut File,
    hasher: Sha256,
    buffer: Vec<u8>,
}

impl<'a> Body<'a> {
    fn new(path: &'a Path, file: &'a mut File) -> Body<'a> {
        Body { path, file, hasher: Sha256::new(), buffer: vec![0; BUFFER_BYTES] }
    }

    /// Calls `sink` with the bytes of the next `length` floats, in pieces of whole floats.
    fn floats(
        &mut self,
        length: usize,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<(), CheckpointError> {
        let mut left = length * ELEMENT_BYTES;
        while left > 0 {
            let piece = &mut self.buffer[..left.min(BUFFER_BYTES)];
            self.file.read_exact(piece).map_err(CheckpointError::io("read", self.path))?;
            self.hasher.update(&*piece);
            sink(piece);
            left -= piece.len();
        }
        Ok(())
    }

    fn finish(self, header: &Header) -> Result<(), CheckpointError> {
        let found = header::hex(&self.hasher.finalize());
        if found == header.sha256 {
            return Ok(());
        }
        let (path, expected) = (self.path.into(), header.sha256.clone());
        Err(CheckpointError::TensorsDamaged { path, expected, found })
    }
}

/// A checkpoint about to be written: tensors checked and in the order of the file.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    metadata: &'a Metadata,
    tensors: Vec<TensorView<'a>>,
    placeholder: Vec<u8>,
}

impl<'a> Draft<'a> {
    /// Refuses tensors that could not be read back. `path` is only for errors.
    pub(crate) fn new(
        path: &Path,
        metadata: &'a Metadata,
        tensors: &[TensorView<'a>],
    ) -> Result<Draft<'a>, CheckpointError> {
        let mut tensors = tensors.to_vec();
        tensors.sort_by_key(|tensor| tensor.name);
        for tensor in &tensors {
            check(tensor)?;
        }
        if let Some(pair) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(refused(&pair[0], "the name is given twice".into()));
        }
        let placeholder = encode(path, metadata, &tensors, ZERO_DIGEST)?;
        let json_bytes = (placeholder.len() - PREFIX_BYTES) as u64;
        if json_bytes > HEADER_BYTES_MAX {
            let (bytes, max) = (json_bytes, HEADER_BYTES_MAX);
            return Err(CheckpointError::HeaderTooLarge { path: path.into(), bytes, max });
        }
        Ok(Draft { metadata, tensors, placeholder })
    }

    /// The size of the file in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let floats: usize = self.tensors.iter().map(|tensor| tensor.data.len()).sum();
        (self.placeholder.len() + floats * ELEMENT_BYTES) as u64
    }

    /// The SHA-256 of the tensor bytes, in hex, without writing them anywhere.
    pub(crate) fn sha256(&self) -> io::Result<String> {
        self.stream(&mut io::sink())
    }

    /// Writes the whole file. The header comes first but holds the digest of the tensors. So a placeholder is written
    /// first and replaced at the end, and the tensors are read only once.
    pub(crate) fn write(&self, path: &Path, file: &mut File) -> Result<(), CheckpointError> {
        let error = CheckpointError::write(path, self.bytes());
        file.write_all(&self.placeholder).map_err(&error)?;
        let sha256 = self.stream(file).map_err(&error)?;
        let header = encode(path, self.metadata, &self.tensors, &sha256)?;
        crashpoint::reach!("checkpoint.half-written");
        file.seek(SeekFrom::Start(0)).map_err(&error)?;
        file.write_all(&header).map_err(&error)
    }

    fn stream(&self, out: &mut impl Write) -> io::Result<String> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        for tensor in &self.tensors {
            for floats in tensor.data.chunks(BUFFER_BYTES / ELEMENT_BYTES) {
                let piece = &mut buffer[..floats.len() * ELEMENT_BYTES];
                let (elements, _) = piece.as_chunks_mut::<ELEMENT_BYTES>();
                for (element, float) in elements.iter_mut().zip(floats) {
                    *element = float.to_le_bytes();
                }
                hasher.update(&*piece);
                out.write_all(piece)?;
            }
        }
        Ok(header::hex(&hasher.finalize()))
    }
}

fn encode(
    path: &Path,
    metadata: &Metadata,
    tensors: &[TensorView<'_>],
    sha256: &str,
) -> Result<Vec<u8>, CheckpointError> {
    header::encode(metadata, tensors, sha256).map_err(|error| CheckpointError::Io {
        action: "encode the header of",
        path: path.into(),
        source: error.into(),
    })
}

fn check(tensor: &TensorView<'_>) -> Result<(), CheckpointError> {
    if tensor.name == "__metadata__" {
        return Err(refused(tensor, "safetensors reserves the name".into()));
    }
    let elements = tensor.shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
    if elements == Some(tensor.data.len()) {
        return Ok(());
    }
    let reason = format!("its shape is {:?} but it has {} values", tensor.shape, tensor.data.len());
    Err(refused(tensor, reason))
}

fn refused(tensor: &TensorView<'_>, reason: String) -> CheckpointError {
    CheckpointError::Tensor { name: tensor.name.to_string(), reason }
}
