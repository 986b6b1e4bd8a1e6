//! The rules on single Rust files: name, size, module doc, `unsafe`. Functions are measured by clippy
//! (`too_many_lines`).

use super::Breach;
use super::architecture::{EMPTY_NAMES, FILE_LINES_MAX, UNSAFE_FILES};
use std::path::Path;

/// The lint that denies `unsafe`.
const UNSAFE: &str = "unsafe_code";

/// All breaches in the file at `path` (relative to the root of the workspace) with the text
/// `source`.
pub(super) fn check(path: &str, source: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut report = |line: usize, found: String, rule: String| {
        let place = if line == 0 { path.to_owned() } else { format!("{path}:{line}") };
        breaches.push(Breach { place, found, rule });
    };
    for name in empty_names(path) {
        let rule =
            "a name says what is inside; a module is foo.rs, with its parts in foo/".to_owned();
        report(0, format!("named {name}"), rule);
    }
    let lines = source.lines().count();
    if lines > FILE_LINES_MAX {
        report(0, format!("{lines} lines"), format!("a file has at most {FILE_LINES_MAX} lines"));
    }
    if !begins_with_doc(source) {
        let rule =
            "a file begins with //!: what it is, and what it deliberately does not know".to_owned();
        report(0, "no //! at the top".to_owned(), rule);
    }
    let may_be_unsafe = UNSAFE_FILES.iter().any(|(file, _)| *file == path);
    // Cargo.toml denies `unsafe` in the workspace, so a file must permit it explicitly.
    let permits = |line: &str| {
        ["allow", "expect"].iter().any(|word| line.contains(&format!("{word}({UNSAFE}")))
    };
    if let Some(line) = source.lines().position(permits).filter(|_| !may_be_unsafe) {
        let rule = "only the files in UNSAFE_FILES may be unsafe".to_owned();
        report(line + 1, format!("permits {UNSAFE}"), rule);
    }
    breaches
}

fn empty_names(path: &str) -> Vec<&str> {
    let parts = Path::new(path).components();
    let stems = parts.filter_map(|part| Path::new(part.as_os_str()).file_stem()?.to_str());
    stems
        .filter(|stem| EMPTY_NAMES.contains(stem))
        .filter_map(|stem| path.find(stem).map(|start| &path[start..start + stem.len()]))
        .collect()
}

fn begins_with_doc(source: &str) -> bool {
    let first = source.lines().map(str::trim).find(|line| !line.is_empty());
    first.and_then(|line| line.strip_prefix("//!")).is_some_and(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The breaches in a file of the given path and text.
    fn found(path: &str, source: &str) -> Vec<String> {
        check(path, source).into_iter().map(|breach| breach.found).collect()
    }

    #[test]
    fn a_good_file_has_no_breach() {
        let source = "//! A file.\n\n/// Adds.\nfn add(a: u8, b: u8) -> u8 {\n    a + b\n}\n";
        assert_eq!(found("crates/data/src/batch.rs", source), [""; 0]);
    }

    #[test]
    fn a_file_that_is_too_long_is_a_breach() {
        let fitting = "//! A file.\n".repeat(FILE_LINES_MAX);
        assert_eq!(found("a.rs", &fitting), [""; 0]);
        assert_eq!(found("a.rs", &format!("{fitting}//! One more.\n")), ["501 lines"]);
    }

    #[test]
    fn a_file_without_a_doc_at_its_top_is_a_breach() {
        for source in
            ["", "fn f() {}\n//! Late.\n", "// A comment.\n", "//!\n", "/// Of an item.\n"]
        {
            assert_eq!(found("a.rs", source), ["no //! at the top"], "{source:?}");
        }
    }

    #[test]
    fn a_name_that_says_nothing_is_a_breach() {
        let doc = "//! A file.\n";
        assert_eq!(found("crates/data/src/utils.rs", doc), ["named utils"]);
        assert_eq!(found("crates/data/src/store/mod.rs", doc), ["named mod"]);
        assert_eq!(found("tests/common/start.rs", doc), ["named common"]);
        assert_eq!(found("crates/model/src/modes.rs", doc), [""; 0]);
    }

    #[test]
    fn unsafe_outside_the_table_is_a_breach() {
        // The text is in two parts, because this file is not in the table either.
        let allow = ["#![allow(", "unsafe_code, reason = \"speed\")]"].concat();
        let source = format!("//! A file, unsafe.\n\n{allow}\nfn f() {{ unsafe {{ g() }} }}\n");
        assert_eq!(check("crates/data/src/idx.rs", &source)[0].place, "crates/data/src/idx.rs:3");
        let expected = source.replace("allow", "expect");
        assert_eq!(found("a.rs", &expected).len(), 1);
        assert_eq!(found("a.rs", "//! What is denied needs no rule: unsafe_code.\n"), [""; 0]);
        let (allowed, _) = UNSAFE_FILES[0];
        assert_eq!(found(allowed, &source), [""; 0]);
    }
}
