//! The files of a log of rows: the file that is being written, and the closed files, which are full
//! and have numbers.
//!
//! `metrics.jsonl` is being written. It is closed as `metrics.000007.jsonl`. When neighbouring closed
//! files are merged, the new file has all their numbers, as in `metrics.000003-000007.jsonl`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A closed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClosedFile {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) path: PathBuf,
}

impl ClosedFile {
    pub(crate) fn contains(&self, number: u64) -> bool {
        (self.first..=self.last).contains(&number)
    }
}

/// The name of a log, such as `metrics.jsonl`, without its ending.
fn stem(name: &str) -> &str {
    name.strip_suffix(".jsonl").unwrap_or(name)
}

/// The path of a closed file with these numbers.
pub(crate) fn closed_path(folder: &Path, name: &str, first: u64, last: u64) -> PathBuf {
    let stem = stem(name);
    folder.join(match first == last {
        true => format!("{stem}.{first:06}.jsonl"),
        false => format!("{stem}.{first:06}-{last:06}.jsonl"),
    })
}

/// The closed files in order, and the files whose numbers a merged file already covers. Such files are
/// left over if the writer died while it merged.
pub(crate) fn list(folder: &Path, name: &str) -> io::Result<(Vec<ClosedFile>, Vec<ClosedFile>)> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let file_name = entry.file_name();
        let Some((first, last)) = file_name.to_str().and_then(|file| numbers(file, stem(name)))
        else {
            continue;
        };
        if fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file()) {
            found.push(ClosedFile { first, last, path: entry.path() });
        }
    }
    // Of files that begin with the same number, the one that covers the most numbers comes first.
    found.sort_by_key(|file| (file.first, std::cmp::Reverse(file.last)));
    let (mut files, mut covered) = (Vec::<ClosedFile>::new(), Vec::new());
    for file in found {
        match files.last() {
            Some(before) if file.first <= before.last => covered.push(file),
            _ => files.push(file),
        }
    }
    Ok((files, covered))
}

/// The first and last number in the name of a closed file.
fn numbers(file: &str, stem: &str) -> Option<(u64, u64)> {
    let middle = file.strip_prefix(stem)?.strip_prefix('.')?.strip_suffix(".jsonl")?;
    let (first, last) = middle.split_once('-').unwrap_or((middle, middle));
    let number = |text: &str| {
        let is_number = text.len() >= 6 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<u64>().ok()).flatten()
    };
    let (first, last) = (number(first)?, number(last)?);
    (first >= 1 && first <= last && last < u64::MAX).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_files_are_found_in_order_and_each_once() {
        let folder = tempfile::tempdir().unwrap();
        let names = [
            "metrics.jsonl",
            "metrics.000003.jsonl",
            "metrics.000001-000002.jsonl",
            "metrics.000002.jsonl",
            "metrics.1000000.jsonl",
            "metrics.7.jsonl",
            "metrics.000005-000004.jsonl",
            "metrics.000009.jsonl.draft",
            "events.000001.jsonl",
        ];
        for name in names {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let (files, covered) = list(folder.path(), "metrics.jsonl").unwrap();
        let spans = |files: &[ClosedFile]| -> Vec<(u64, u64)> {
            files.iter().map(|file| (file.first, file.last)).collect()
        };
        assert_eq!(spans(&files), [(1, 2), (3, 3), (1_000_000, 1_000_000)]);
        assert_eq!(spans(&covered), [(2, 2)]);
        for file in &files {
            let path = closed_path(folder.path(), "metrics.jsonl", file.first, file.last);
            assert_eq!(path, file.path);
        }
        assert_eq!(list(&folder.path().join("none"), "metrics.jsonl").unwrap().0, []);
    }
}
