//! Tables as aligned text. Does not know the meaning of the cells.

/// Lines of cells; the first column is aligned left, the others right.
#[derive(Debug)]
pub(crate) struct Table {
    lines: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heads: &[&str]) -> Table {
        Table { lines: vec![heads.iter().map(ToString::to_string).collect()] }
    }

    /// Missing cells at the end of a line are empty.
    pub(crate) fn push(&mut self, cells: Vec<String>) {
        self.lines.push(cells);
    }

    /// The table as text; every line ends with a newline and has no spaces before it.
    pub(crate) fn render(&self) -> String {
        let columns = self.lines.iter().map(Vec::len).max().unwrap_or(0);
        let cell =
            |line: &Vec<String>, column: usize| line.get(column).cloned().unwrap_or_default();
        let width = |column| {
            self.lines.iter().map(|line| cell(line, column).chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for line in &self.lines {
            let cells = widths.iter().enumerate().map(|(column, &width)| match column {
                0 => format!("{:<width$}", cell(line, column)),
                _ => format!("{:>width$}", cell(line, column)),
            });
            text += cells.collect::<Vec<_>>().join("  ").trim_end();
            text.push('\n');
        }
        text
    }
}

/// A number with three significant digits, or all digits before the point, and commas between
/// thousands.
pub(crate) fn number(value: f64) -> String {
    let magnitude = value.abs();
    let decimals = match magnitude {
        _ if magnitude >= 100.0 || magnitude == 0.0 => 0,
        _ if magnitude >= 10.0 => 1,
        _ if magnitude >= 1.0 => 2,
        _ => 3,
    };
    let plain = format!("{value:.decimals$}");
    let (whole, fraction) =
        plain.split_once('.').map_or((plain.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let first = digits.len() % 3;
    let mut groups: Vec<&str> = Vec::new();
    if first > 0 {
        groups.push(&digits[..first]);
    }
    groups.extend((first..digits.len()).step_by(3).map(|start| &digits[start..start + 3]));
    let fraction = fraction.map(|digits| format!(".{digits}")).unwrap_or_default();
    format!("{sign}{}{fraction}", groups.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let mut table = Table::new(&["what", "ms", "note"]);
        let cells = |cells: &[&str]| cells.iter().map(ToString::to_string).collect();
        table.push(cells(&["a", "10.5"]));
        table.push(cells(&["longer", "1", "±"]));
        let expected = "what      ms  note\n\
                        a       10.5\n\
                        longer     1     ±\n";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        for (value, expected) in [
            (1_234_567.8, "1,234,568"),
            (52_345.6, "52,346"),
            (123.4, "123"),
            (12.34, "12.3"),
            (3.456, "3.46"),
            (0.0456, "0.046"),
            (0.0, "0"),
            (-4321.0, "-4,321"),
        ] {
            assert_eq!(number(value), expected);
        }
    }
}
