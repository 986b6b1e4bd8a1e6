//! Latents as Apache Parquet: plain, uncompressed columns, which every reader understands.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use parquet::{
    basic::{Compression, Repetition, Type as Physical},
    column::reader::ColumnReader,
    data_type::{FloatType, Int32Type},
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
    let labels: Vec<i32> = table.labels.iter().map(|label| i32::from(*label)).collect();
    write_column::<Int32Type>(&mut rows, &indices)?;
    write_column::<Int32Type>(&mut rows, &labels)?;
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
    let file = SerializedFileReader::new(Bytes::from(bytes))?;
    let schema = file.metadata().file_metadata().schema_descr();
    let place = |dimension: usize| {
        let name = format!("mean_{dimension}");
        let found = schema.columns().iter().position(|column| column.name() == name);
        found.with_context(|| format!("it has no column {name}"))
    };
    let places = (0..dim).map(place).collect::<Result<Vec<_>>>()?;
    ensure!(place(dim).is_err(), "it has a column mean_{dim}");
    let mut means = Vec::new();
    for group in 0..file.num_row_groups() {
        let group = file.get_row_group(group)?;
        let rows = usize::try_from(group.metadata().num_rows())?;
        let columns = places.iter().map(|place| {
            let ColumnReader::FloatColumnReader(mut column) = group.get_column_reader(*place)?
            else {
                anyhow::bail!("its means are not 32-bit floats");
            };
            let mut values = Vec::new();
            column.read_records(rows, None, None, &mut values)?;
            ensure!(values.len() == rows, "it is cut off");
            Ok(values)
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        for row in 0..rows {
            means.extend(columns.iter().map(|column| column[row]));
        }
    }
    Ok(means)
}
