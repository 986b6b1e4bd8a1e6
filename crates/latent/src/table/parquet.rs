//! Latents as Apache Parquet: plain, uncompressed columns, which every reader understands.
//!
//! The reader also accepts the files of pandas, pyarrow and polars: compressed columns (snappy, zstd), other
//! number types, and optional columns, provided that no value is missing.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::Bytes;
use half::f16;
use parquet::{
    basic::{Compression, Repetition, Type as Physical},
    column::reader::{ColumnReader, ColumnReaderImpl},
    data_type::{DataType, FloatType, Int32Type},
    file::{
        properties::WriterProperties,
        reader::{FileReader as _, SerializedFileReader},
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::types::Type,
};

use super::Table;

pub(super) fn write(table: &Table<'_>) -> Result<Vec<u8>> {
    let dim = table.latents.dim;
    let numbers = ["mean", "log_variance"].into_iter();
    let numbers =
        numbers.flat_map(|part| (0..dim).map(move |d| (format!("{part}_{d}"), Physical::FLOAT)));
    let whole = ["index", "label"].map(|name| (name.to_owned(), Physical::INT32));
    let fields = whole
        .into_iter()
        .chain(numbers)
        .map(|(name, physical)| {
            let column = Type::primitive_type_builder(&name, physical);
            Ok(Arc::new(column.with_repetition(Repetition::REQUIRED).build()?))
        })
        .collect::<Result<Vec<_>>>()?;
    let schema = Type::group_type_builder("latents").with_fields(fields).build()?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .build();
    let mut bytes = Vec::new();
    let mut file = SerializedFileWriter::new(&mut bytes, Arc::new(schema), Arc::new(properties))?;
    let mut rows = file.next_row_group()?;
    let indices: Vec<i32> = (0..).take(table.labels.len()).collect();
    write_column::<Int32Type>(&mut rows, &indices)?;
    write_column::<Int32Type>(&mut rows, &table.labels)?;
    for values in [&table.latents.mean, &table.latents.log_variance] {
        for dimension in 0..dim {
            let column: Vec<f32> = values.iter().skip(dimension).step_by(dim).copied().collect();
            write_column::<FloatType>(&mut rows, &column)?;
        }
    }
    rows.close()?;
    file.close()?;
    Ok(bytes)
}

fn write_column<T: parquet::data_type::DataType>(
    rows: &mut SerializedRowGroupWriter<'_, &mut Vec<u8>>,
    values: &[T::T],
) -> Result<()> {
    let mut column = rows.next_column()?.context("the schema has fewer columns")?;
    column.typed::<T>().write_batch(values, None, None)?;
    Ok(column.close()?)
}

pub(super) fn read(bytes: Vec<u8>, dim: usize) -> Result<Vec<f32>> {
    let size = bytes.len() as i64;
    let file = SerializedFileReader::new(Bytes::from(bytes))?;
    let schema = file.metadata().file_metadata().schema_descr();
    // A column inside a list or a struct does not have one number per row.
    let name = |column: &Arc<parquet::schema::types::ColumnDescriptor>| match column.path().parts()
    {
        [name] => name.clone(),
        _ => String::new(),
    };
    let names: Vec<String> = schema.columns().iter().map(name).collect();
    let places = super::columns(&names, dim)?;
    let mut means = Vec::new();
    for group in 0..file.num_row_groups() {
        let group = file.get_row_group(group)?;
        let rows = usize::try_from(group.metadata().num_rows())?;
        let columns = places.iter().map(|place| {
            // The reader does not check these numbers.
            let chunk = group.metadata().column(*place);
            let pages = [Some(chunk.data_page_offset()), chunk.dictionary_page_offset()];
            let fits = |place: i64| (0..=size).contains(&place);
            let known = pages.into_iter().flatten().chain([chunk.compressed_size()]).all(fits);
            ensure!(known, "column {} lies outside the file", names[*place]);
            let numbers = group.get_column_reader(*place).map_err(Into::into);
            let numbers = numbers.and_then(|column| numbers_of(column, rows));
            numbers
                .map_err(explained)
                .with_context(|| format!("column {} cannot be read", names[*place]))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        for row in 0..rows {
            means.extend(columns.iter().map(|column| column[row]));
        }
    }
    Ok(means)
}

/// Explains an error about a compression that this program does not support.
fn explained(error: anyhow::Error) -> anyhow::Error {
    match error.to_string() {
        said if said.contains("Disabled feature") => {
            anyhow!("its compression is neither snappy nor zstd: write it again with one of these")
        }
        _ => error,
    }
}

/// The numbers of a column, one per row.
fn numbers_of(column: ColumnReader, rows: usize) -> Result<Vec<f32>> {
    match column {
        ColumnReader::FloatColumnReader(column) => values(column, rows, |value| Ok(*value)),
        ColumnReader::DoubleColumnReader(column) => values(column, rows, |value| Ok(*value as f32)),
        ColumnReader::Int32ColumnReader(column) => values(column, rows, |value| Ok(*value as f32)),
        ColumnReader::Int64ColumnReader(column) => values(column, rows, |value| Ok(*value as f32)),
        ColumnReader::FixedLenByteArrayColumnReader(column) => values(column, rows, |value| {
            let bytes: [u8; 2] = value.data().try_into().context("it holds no numbers")?;
            Ok(f16::from_le_bytes(bytes).to_f32())
        }),
        _ => bail!("it holds no numbers"),
    }
}

fn values<T: DataType>(
    mut column: ColumnReaderImpl<T>,
    rows: usize,
    number: impl Fn(&T::T) -> Result<f32>,
) -> Result<Vec<f32>> {
    let (mut found, mut levels) = (Vec::new(), Vec::new());
    column.read_records(rows, Some(&mut levels), None, &mut found)?;
    ensure!(found.len() == rows, "it has numbers in {} of {rows} rows", found.len());
    found.iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use parquet::data_type::{DoubleType, Int64Type};

    use super::*;

    /// A file with one optional column, as pandas writes it.
    fn file<T: DataType>(
        kind: Physical,
        values: &[T::T],
        levels: &[i16],
        packed: Compression,
    ) -> Vec<u8> {
        let column = Type::primitive_type_builder("mean_0", kind);
        let column = column.with_repetition(Repetition::OPTIONAL).build().unwrap();
        let schema = Type::group_type_builder("schema").with_fields(vec![Arc::new(column)]);
        let properties = WriterProperties::builder().set_compression(packed).build();
        let (mut bytes, schema) = (Vec::new(), Arc::new(schema.build().unwrap()));
        let mut file = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
        let mut rows = file.next_row_group().unwrap();
        let mut column = rows.next_column().unwrap().unwrap();
        column.typed::<T>().write_batch(values, Some(levels), None).unwrap();
        column.close().unwrap();
        rows.close().unwrap();
        file.close().unwrap();
        bytes
    }

    #[test]
    fn what_pandas_writes() {
        let zstd = Compression::ZSTD(parquet::basic::ZstdLevel::default());
        for packed in [Compression::SNAPPY, zstd, Compression::UNCOMPRESSED] {
            let doubles = file::<DoubleType>(Physical::DOUBLE, &[0.5, -2.25], &[1, 1], packed);
            assert_eq!(read(doubles, 1).unwrap(), [0.5, -2.25]);
        }
        let integers = file::<Int64Type>(Physical::INT64, &[7, -1], &[1, 1], Compression::SNAPPY);
        assert_eq!(read(integers, 1).unwrap(), [7.0, -1.0]);
        let gaps = file::<DoubleType>(Physical::DOUBLE, &[0.5], &[1, 0], Compression::SNAPPY);
        let error = format!("{:#}", read(gaps, 1).unwrap_err());
        assert!(
            error.contains("column mean_0 cannot be read: it has numbers in 1 of 2"),
            "{error}"
        );
    }
}
