//! NumPy's file format: a magic, a header that is a Python literal, then the elements.
//!
//! Records are written packed, in version 1.0, so that `numpy.load` gives an array with the fields
//! `index`, `label`, `mean` and `log_variance`. The reader accepts such records, and plain arrays of any
//! number type, byte order and order of axes.

use std::io::Cursor;

use anyhow::{Context as _, Result, bail, ensure};
use half::f16;
use npyz::{DType, Endianness, Field, NpyHeader, Order, TypeChar, TypeStr};

use super::Table;

const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
/// The elements begin at a multiple of this.
const ALIGNMENT: usize = 64;
/// The longest header that is read: NumPy's own limit.
const HEADER_BYTES_MAX: usize = 10_000;
/// The deepest nesting of brackets in a header. The parser is recursive, so deeper nesting could overflow its stack.
const NESTING_MAX: usize = 16;

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
        "[('index', '<u4'), ('label', '<i4'), ('mean', '<f4', ({dim},)), \
         ('log_variance', '<f4', ({dim},))]"
    )
}

/// The file of a plain array.
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
        bytes.extend(label.to_le_bytes());
        bytes.extend(mean.iter().chain(log_variance).flat_map(|value| value.to_le_bytes()));
    }
    bytes
}

pub(super) fn read(bytes: &[u8], dim: usize) -> Result<Vec<f32>> {
    check_header(bytes)?;
    let mut cursor = Cursor::new(bytes);
    let header = NpyHeader::from_reader(&mut cursor).context("it is not a NumPy file")?;
    let body = &bytes[usize::try_from(cursor.position())?..];
    let dtype = header.dtype();
    if dtype.uses_pickled_array() {
        bail!("it holds Python objects: save numbers, as with array.astype('float32')");
    }
    let shape = header.shape();
    let (rows, elements) = match (&dtype, shape) {
        (DType::Record(fields), [rows]) => (*rows, fields_of_means(fields, dim)?),
        (DType::Plain(kind), [rows, columns]) if *columns == dim as u64 => {
            (*rows, plain(kind, dim)?)
        }
        // A single row, or a column of models with one latent.
        (DType::Plain(kind), [len]) if *len == dim as u64 => (1, plain(kind, dim)?),
        (DType::Plain(kind), [rows]) if dim == 1 => (*rows, plain(kind, 1)?),
        _ => bail!("its shape is {shape:?}"),
    };
    let stride = dtype.num_bytes().filter(|bytes| *bytes > 0).context("its rows have no size")?;
    let stride = if matches!(dtype, DType::Plain(_)) { stride * dim } else { stride };
    let size = usize::try_from(rows).ok().and_then(|rows| rows.checked_mul(stride));
    ensure!(
        size == Some(body.len()),
        "its size does not fit its shape {shape:?}: it has {} bytes of numbers",
        body.len()
    );
    let rows = rows as usize;
    let is_transposed = header.order() == Order::Fortran && shape.len() == 2;
    let mut means = Vec::with_capacity(rows * dim);
    for row in 0..rows {
        for (dimension, Element { offset, kind }) in elements.iter().enumerate() {
            let width = kind.num_bytes().unwrap_or(0);
            let place = if is_transposed {
                (dimension * rows + row) * width
            } else {
                row * stride + offset
            };
            means.push(number(kind, &body[place..place + width])?);
        }
    }
    Ok(means)
}

/// Refuses a header that is too long or too deeply nested for the parser.
fn check_header(bytes: &[u8]) -> Result<()> {
    let (len, begin) = match bytes {
        [_, _, _, _, _, _, 1, _, low, high, ..] => (u16::from_le_bytes([*low, *high]).into(), 10),
        [_, _, _, _, _, _, _, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]), 12),
        _ => bail!("it is truncated"),
    };
    let len = len as usize;
    ensure!(bytes.starts_with(&MAGIC[..6]), "it is not a NumPy file");
    ensure!(len <= HEADER_BYTES_MAX, "its header is too long");
    let text = bytes.get(begin..begin + len).context("it is truncated")?;
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = depth.max(deepest);
    }
    ensure!(deepest <= NESTING_MAX, "its header is nested too deeply");
    Ok(())
}

/// The position of a number in a row, and its type.
#[derive(Clone, Debug)]
struct Element {
    offset: usize,
    kind: TypeStr,
}

/// The elements of a row of a plain array.
fn plain(kind: &TypeStr, dim: usize) -> Result<Vec<Element>> {
    let width = width(kind)?;
    Ok((0..dim).map(|index| Element { offset: index * width, kind: kind.clone() }).collect())
}

/// The means in a record: in one field, or in one field each.
fn fields_of_means(fields: &[Field], dim: usize) -> Result<Vec<Element>> {
    let mut offset = 0;
    let mut names = Vec::new();
    let mut elements = Vec::new();
    for Field { name, dtype } in fields {
        match dtype {
            DType::Array(len, inner) if name == "mean" => {
                let DType::Plain(kind) = &**inner else { bail!("its means are tables themselves") };
                ensure!(*len == dim as u64, "its means have {len} dimensions");
                let part = plain(kind, dim)?;
                let moved =
                    |element: Element| Element { offset: offset + element.offset, ..element };
                return Ok(part.into_iter().map(moved).collect());
            }
            DType::Plain(kind) if width(kind).is_ok() => {
                names.push(name);
                elements.push(Element { offset, kind: kind.clone() });
            }
            _ => {}
        }
        let size = dtype.num_bytes().context("its rows have no size")?;
        offset = offset.checked_add(size).context("its rows have no size")?;
    }
    if dim == 1
        && let Some(place) = names.iter().position(|name| *name == "mean")
    {
        return Ok(vec![elements[place].clone()]);
    }
    let places = super::columns(&names, dim)?;
    Ok(places.into_iter().map(|place| elements[place].clone()).collect())
}

/// The bytes of a number; an error if the type cannot hold a latent.
fn width(kind: &TypeStr) -> Result<usize> {
    let size = kind.num_bytes().unwrap_or(0);
    let known = match kind.type_char() {
        TypeChar::Float => [2, 4, 8].contains(&size),
        TypeChar::Int | TypeChar::Uint => [1, 2, 4, 8].contains(&size),
        _ => false,
    };
    ensure!(
        known,
        "it holds {kind}: save numbers of 64 bits or fewer, as with array.astype('float32')"
    );
    Ok(size)
}

/// Decodes a number from its bytes.
fn number(kind: &TypeStr, bytes: &[u8]) -> Result<f32> {
    // Converted to little-endian, and extended to eight bytes with the sign.
    let mut ordered = bytes.to_vec();
    if kind.endianness() == Endianness::Big {
        ordered.reverse();
    }
    let negative = ordered.last().is_some_and(|high| *high >= 0x80);
    let fill = if kind.type_char() == TypeChar::Int && negative { u8::MAX } else { 0 };
    let mut wide = [fill; 8];
    wide[..ordered.len()].copy_from_slice(&ordered);
    let [a, b, c, d, ..] = wide;
    Ok(match (kind.type_char(), ordered.len()) {
        (TypeChar::Float, 2) => f16::from_le_bytes([a, b]).to_f32(),
        (TypeChar::Float, 4) => f32::from_le_bytes([a, b, c, d]),
        (TypeChar::Float, 8) => f64::from_le_bytes(wide) as f32,
        (TypeChar::Int, _) => i64::from_le_bytes(wide) as f32,
        (TypeChar::Uint, _) => u64::from_le_bytes(wide) as f32,
        _ => bail!("it holds {kind}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEANS: [f32; 6] = [0.0, 1.0, 2.0, -3.0, 4.0, 5.0];

    /// A file as NumPy writes it, without padding of the header.
    fn file(version: u8, descr: &str, fortran: &str, shape: &str, body: &[u8]) -> Vec<u8> {
        let text =
            format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
        let len = text.len() as u32;
        let len =
            if version == 1 { len.to_le_bytes()[..2].to_vec() } else { len.to_le_bytes().to_vec() };
        [&b"\x93NUMPY"[..], &[version, 0], &len, text.as_bytes(), body].concat()
    }

    fn bytes<const N: usize>(encode: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
        MEANS.into_iter().flat_map(encode).collect()
    }

    #[test]
    fn every_number_type_and_byte_order() {
        for (descr, body) in [
            ("'<f8'", bytes(|x| f64::from(x).to_le_bytes())),
            ("'>f8'", bytes(|x| f64::from(x).to_be_bytes())),
            ("'<f4'", bytes(f32::to_le_bytes)),
            ("'>f4'", bytes(f32::to_be_bytes)),
            ("'<f2'", bytes(|x| f16::from_f32(x).to_le_bytes())),
            ("'>f2'", bytes(|x| f16::from_f32(x).to_be_bytes())),
            ("'|i1'", bytes(|x| (x as i8).to_le_bytes())),
            ("'<i2'", bytes(|x| (x as i16).to_le_bytes())),
            ("'>i4'", bytes(|x| (x as i32).to_be_bytes())),
            ("'<i8'", bytes(|x| (x as i64).to_le_bytes())),
        ] {
            for version in [1, 2, 3] {
                let file = file(version, descr, "False", "(3, 2)", &body);
                assert_eq!(read(&file, 2).unwrap(), MEANS, "{descr}");
                assert!(read(&file, 3).unwrap_err().to_string().contains("[3, 2]"));
            }
        }
        let unsigned = file(1, "'<u2'", "False", "(1, 1)", &60_000_u16.to_le_bytes());
        assert_eq!(read(&unsigned, 1).unwrap(), [60_000.0]);
    }

    #[test]
    fn the_order_of_axes() {
        let columns = [0.0_f32, 2.0, 4.0, 1.0, -3.0, 5.0];
        let body: Vec<u8> = columns.into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(read(&file(1, "'<f4'", "True", "(3, 2)", &body), 2).unwrap(), MEANS);
        // An array with one axis is the same in both orders.
        let body = bytes(f32::to_le_bytes);
        assert_eq!(read(&file(1, "'<f4'", "True", "(6,)", &body), 6).unwrap(), MEANS);
        assert_eq!(read(&file(1, "'<f4'", "False", "(6,)", &body), 1).unwrap(), MEANS);
    }

    #[test]
    fn records_of_other_widths_and_names() {
        let mut body = Vec::new();
        for (index, row) in MEANS.chunks(2).enumerate() {
            body.extend((index as i64).to_le_bytes());
            row.iter().for_each(|mean| body.extend(f64::from(*mean).to_be_bytes()));
        }
        let whole = file(1, "[('index', '<i8'), ('mean', '>f8', (2,))]", "False", "(3,)", &body);
        assert_eq!(read(&whole, 2).unwrap(), MEANS);
        // DataFrame.to_records, with an index, and with the padding of align=True.
        let columns = "[('index', '<i8'), ('mean_0', '>f8'), ('mean_1', '>f8')]";
        assert_eq!(read(&file(1, columns, "False", "(3,)", &body), 2).unwrap(), MEANS);
        let padded = "[('', '|V8'), ('mean_0', '>f8'), ('mean_1', '>f8')]";
        assert_eq!(read(&file(1, padded, "False", "(3,)", &body), 2).unwrap(), MEANS);
        assert!(read(&whole, 3).unwrap_err().to_string().contains("have 2 dimensions"));
    }

    #[test]
    fn what_cannot_be_a_latent_is_named() {
        let nested = format!("{}{}", "(".repeat(5_000), ")".repeat(5_000));
        for (descr, expected) in [
            ("'|O'", "Python objects"),
            ("'<c8'", "it holds <c8"),
            ("'|b1'", "it holds |b1"),
            ("'<U4'", "it holds <U4"),
            ("[('x', '<f4')]", "its shape"),
            (&nested, "its header is"),
        ] {
            let error = read(&file(2, descr, "False", "(3, 2)", &[0; 24]), 2).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{descr}: {error:#}");
        }
        let error = read(&file(1, "'<f4'", "False", "(3, 2)", &[0; 23]), 2).unwrap_err();
        assert!(error.to_string().contains("does not fit its shape"), "{error}");
        let error = read(&file(1, "'<f4'", "False", "(9223372036854775807, 2)", &[]), 2);
        assert!(error.unwrap_err().to_string().contains("does not fit its shape"));
    }
}
