//! Latents as text: a line of names, then one line per row. Numbers are written so that they read
//! back bit for bit.
//!
//! The reader accepts tables with commas, semicolons or tabs, quoted or not, with a byte order mark or a
//! comment sign before the names, and tables without names, as `numpy.savetxt` writes them.

use anyhow::{Context as _, Result, ensure};
use csv::{ReaderBuilder, StringRecord, Trim, WriterBuilder};

use super::Table;

const DELIMITERS: [u8; 4] = *b",;\t ";
const BYTE_ORDER_MARK: &str = "\u{feff}";

pub(super) fn write(table: &Table<'_>) -> Result<Vec<u8>> {
    let mut file = WriterBuilder::new().from_writer(Vec::new());
    let names = ["mean", "log_variance"].into_iter();
    let dimensions = 0..table.latents.dim;
    let names = names.flat_map(|part| dimensions.clone().map(move |d| format!("{part}_{d}")));
    file.write_record(["index", "label"].into_iter().map(str::to_owned).chain(names))?;
    for (index, (label, mean, log_variance)) in table.rows().enumerate() {
        let numbers = mean.iter().chain(log_variance).map(f32::to_string);
        file.write_record([index.to_string(), label.to_string()].into_iter().chain(numbers))?;
    }
    Ok(file.into_inner()?)
}

pub(super) fn read(bytes: &[u8], dim: usize) -> Result<Vec<f32>> {
    let text = std::str::from_utf8(bytes).context("it is not UTF-8 text")?;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let text = uncommented(text);
    let delimiter = delimiter(text.lines().next().context("it is empty")?, dim);
    let mut reader = ReaderBuilder::new();
    let reader = reader.delimiter(delimiter).has_headers(false).flexible(true).trim(Trim::All);
    let mut records = reader.from_reader(text.as_bytes()).into_records();
    let first = records.next().context("it is empty")??;
    let names: Vec<&str> = first.iter().collect();
    let mut means = Vec::new();
    // pandas gives the columns of an array numbers as names, which count from 0.
    let counted = (0..dim).all(|d| names.iter().any(|name| *name == d.to_string()));
    let places = if !counted && names.iter().all(|name| name.parse::<f32>().is_ok()) {
        ensure!(names.len() == dim, "it has {} numbers in a line and no names", names.len());
        let places: Vec<usize> = (0..dim).collect();
        row(&first, &names, &places, &mut means)?;
        places
    } else {
        super::columns(&names, dim)?
    };
    for record in records {
        row(&record?, &names, &places, &mut means)?;
    }
    Ok(means)
}

/// The table below a header of numpy.savetxt, where each line begins with a comment sign. The last of these lines may
/// hold the names of the columns.
fn uncommented(text: &str) -> &str {
    let (mut last, mut rest) = (None, text);
    while let Some(line) = rest.strip_prefix('#') {
        last = Some(line.trim_start());
        rest = line.split_once('\n').map_or("", |(_, rest)| rest);
    }
    let is_name = |field: &str| field.trim_matches('"').starts_with("mean_");
    let delimiters = DELIMITERS.map(char::from);
    let has_names =
        |from: &&str| from.lines().next().is_some_and(|line| line.split(delimiters).any(is_name));
    last.filter(has_names).unwrap_or(rest)
}

/// The delimiter of a line's fields: the first one that gives enough fields.
fn delimiter(line: &str, dim: usize) -> u8 {
    let fields = |delimiter: &u8| line.bytes().filter(|byte| byte == delimiter).count() + 1;
    DELIMITERS.into_iter().find(|delimiter| dim > 1 && fields(delimiter) >= dim).unwrap_or_else(
        // With a single latent, a line may have one field.
        || DELIMITERS.into_iter().find(|delimiter| fields(delimiter) > 1).unwrap_or(b','),
    )
}

fn row(
    record: &StringRecord,
    names: &[&str],
    places: &[usize],
    means: &mut Vec<f32>,
) -> Result<()> {
    for place in places {
        let value = record.get(*place).and_then(|field| field.parse::<f32>().ok());
        means.push(value.with_context(|| {
            let line = record.position().map_or(0, csv::Position::line);
            format!("line {line} has no number in column {}", names[*place])
        })?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEANS: [f32; 4] = [0.5, -1.25, 1e-3, 2.0];

    #[test]
    fn what_pandas_writes() {
        for text in [
            // to_csv of an encoded table, with its index; then with every field quoted.
            ",index,label,mean_0,mean_1\n0,0,4,0.5,-1.25\n1,1,9,0.001,2.0\n",
            "\"\",\"mean_0\",\"mean_1\"\n\"0\",\"0.5\",\"-1.25\"\n\"1\",\"0.001\",\"2.0\"\n",
            // As pandas writes an array, with and without its index.
            ",0,1\n0,0.5,-1.25\n1,0.001,2.0\n",
            "0,1\n0.5,-1.25\n0.001,2.0\n",
            // Line ends of Windows, a spreadsheet's byte order mark, other delimiters, no end of the last line.
            "mean_0,mean_1\r\n0.5,-1.25\r\n1e-3,2\r\n",
            "\u{feff}mean_0;mean_1\n0.5;-1.25\n0.001;2.0",
            "\u{feff}\"mean_1\"\t\"mean_0\"\n-1.25\t0.5\n2.0\t0.001\n",
            "index, mean_0, mean_1\n0, 0.5, -1.25\n1, 0.001, 2.0\n",
            // A quoted field may hold anything.
            "note,mean_0,mean_1\n\"a, \"\"b\"\"\n\",0.5,-1.25\n,0.001,2.0\n",
            // savetxt: plain, with commas, with a header.
            "5.000000000000000000e-01 -1.250000000000000000e+00\n1e-03 2.0e+00\n",
            "0.5,-1.25\n0.001,2.0\n",
            "# mean_0,mean_1\n0.5,-1.25\n0.001,2.0\n",
            "# drawn by hand\n0.5 -1.25\n0.001 2.0\n",
            "# drawn by hand, twice\n# mean_1 mean_0\n-1.25 0.5\n2.0 0.001\n",
            "# mean_0 and so on\n# drawn by hand\n0.5 -1.25\n0.001 2.0\n",
        ] {
            assert_eq!(read(text.as_bytes(), 2).unwrap(), MEANS, "{text:?}");
        }
        for text in ["mean_0\n0.5\n2\n", "0.5\n2\n", ",mean_0\n0,0.5\n1,2\n", ",0\n0,0.5\n1,2\n"] {
            assert_eq!(read(text.as_bytes(), 1).unwrap(), [0.5, 2.0], "{text:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (text, expected) in [
            ("", "empty"),
            ("mean_0,mean_1\n0.5,1\n0.5\n", "line 3 has no number in column mean_1"),
            ("mean_0,mean_1\n0.5,\n", "line 2 has no number in column mean_1"),
            ("mean_0,mean_1\n0.5,many\n", "line 2 has no number in column mean_1"),
            ("mean_0,mean_1,mean_2\n1,2,3\n", "it has a column mean_2"),
            ("mean_0,label\n1,2\n", "no column mean_1"),
            ("0.5,1.5,2.5\n", "it has 3 numbers in a line and no names"),
        ] {
            let error = format!("{:#}", read(text.as_bytes(), 2).unwrap_err());
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        assert!(read(b"m\0e\0a\0n\0_\0\xff", 2).is_err());
    }
}
