//! Latents as text: a line of names, then a line a row. Numbers are written so that they read
//! back to the bit.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::Table;

pub(super) fn write(table: &Table<'_>) -> String {
    let mut text = String::from("index,label");
    for part in ["mean", "log_variance"] {
        for dimension in 0..table.latents.dim {
            let _infallible = write!(text, ",{part}_{dimension}");
        }
    }
    text.push('\n');
    for (index, (label, mean, log_variance)) in table.rows().enumerate() {
        let _infallible = write!(text, "{index},{label}");
        for value in mean.iter().chain(log_variance) {
            let _infallible = write!(text, ",{value}");
        }
        text.push('\n');
    }
    text
}

pub(super) fn read(bytes: &[u8], dim: usize) -> Result<Vec<f32>> {
    let text = std::str::from_utf8(bytes).context("it is no text")?;
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().context("it is empty")?.split(',').collect();
    let place = |dimension: usize| {
        let name = format!("mean_{dimension}");
        let found = names.iter().position(|other| other.trim() == name);
        found.with_context(|| format!("it has no column {name}"))
    };
    let places = (0..dim).map(place).collect::<Result<Vec<_>>>()?;
    anyhow::ensure!(place(dim).is_err(), "it has a column mean_{dim}");
    let mut means = Vec::new();
    for (number, line) in lines.enumerate() {
        let fields: Vec<&str> = line.split(',').collect();
        for place in &places {
            let value = fields.get(*place).and_then(|field| field.trim().parse::<f32>().ok());
            means.push(value.with_context(|| {
                format!("line {} has no number in column {}", number + 2, names[*place])
            })?);
        }
    }
    Ok(means)
}
