//! NumPy's file format, version 1.0: a magic, a header that is a Python literal, the elements.
//!
//! Records are written packed, so that `numpy.load` gives an array with the fields `index`,
//! `label`, `mean` and `log_variance`. Plain arrays of f32 are read too.

use anyhow::{Context as _, Result, ensure};

use super::Table;

const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
/// The elements begin at a multiple of this.
const ALIGNMENT: usize = 64;

fn header(descr: &str, shape: &str) -> Vec<u8> {
    let mut text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': ({shape}), }}");
    let unpadded = MAGIC.len() + 2 + text.len() + 1;
    text.push_str(&" ".repeat(unpadded.next_multiple_of(ALIGNMENT) - unpadded));
    text.push('\n');
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [MAGIC, &len.to_le_bytes(), text.as_bytes()].concat()
}

fn record(dim: usize) -> String {
    format!(
        "[('index', '<u4'), ('label', '|u1'), ('mean', '<f4', ({dim},)), \
         ('log_variance', '<f4', ({dim},))]"
    )
}

/// A plain array.
pub(crate) fn array(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let shape: String = shape.iter().map(|side| format!("{side}, ")).collect();
    let mut bytes = header("'<f4'", shape.trim_end());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

pub(super) fn write(table: &Table<'_>) -> Vec<u8> {
    let mut bytes = header(&record(table.latents.dim), &format!("{},", table.labels.len()));
    for (index, (label, mean, log_variance)) in table.rows().enumerate() {
        bytes.extend((index as u32).to_le_bytes());
        bytes.push(label);
        bytes.extend(mean.iter().chain(log_variance).flat_map(|value| value.to_le_bytes()));
    }
    bytes
}

pub(super) fn read(bytes: &[u8], dim: usize) -> Result<Vec<f32>> {
    let rest = bytes.strip_prefix(MAGIC).context("it is not a NumPy file of version 1.0")?;
    let (len, rest) = rest.split_first_chunk().context("it is cut off")?;
    let len = usize::from(u16::from_le_bytes(*len));
    let (header, body) = rest.split_at_checked(len).context("it is cut off")?;
    let header = std::str::from_utf8(header).context("its header is no text")?;
    let records = header.contains(&record(dim));
    let shape = header.split("'shape': (").nth(1).and_then(|rest| rest.split(')').next());
    let shape: Vec<usize> = shape
        .context("its header has no shape")?
        .split(',')
        .map(str::trim)
        .filter(|side| !side.is_empty())
        .map(|side| side.parse().context("its header has no shape"))
        .collect::<Result<_>>()?;
    // Where a row's means begin, and how long it is.
    let (skip, stride) = if records { (5, 5 + 8 * dim) } else { (0, 4 * dim) };
    if !records {
        let plain = header.contains("'descr': '<f4'") && header.contains("'fortran_order': False");
        ensure!(plain, "it holds neither records of vae encode nor f32 in rows");
        ensure!(shape.get(1) == Some(&dim) && shape.len() == 2, "its shape is {shape:?}");
    }
    let size = shape.first().and_then(|rows| rows.checked_mul(stride));
    ensure!(size == Some(body.len()), "its size does not fit its shape {shape:?}");
    let rows = body.chunks_exact(stride).flat_map(|row| row[skip..][..4 * dim].as_chunks().0);
    Ok(rows.map(|value| f32::from_le_bytes(*value)).collect())
}
