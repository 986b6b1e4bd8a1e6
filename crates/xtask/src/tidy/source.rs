//! The rules on single Rust files: name, size, module doc, functions, `unsafe`.

use super::Breach;
use super::architecture::{EMPTY_NAMES, FILE_LINES_MAX, FUNCTION_LINES_MAX, UNSAFE_FILES};
use super::lexer::{Token, tokens};
use std::path::Path;

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
    let tokens = tokens(source);
    for function in functions(&tokens).into_iter().filter(|one| one.lines > FUNCTION_LINES_MAX) {
        let rule = format!("a function has at most {FUNCTION_LINES_MAX} lines");
        report(function.line, format!("fn {} has {} lines", function.name, function.lines), rule);
    }
    let allowed = UNSAFE_FILES.iter().any(|(file, _)| *file == path);
    if let Some(token) = tokens.iter().find(|token| token.text == "unsafe")
        && !allowed
    {
        report(
            token.line,
            "unsafe".to_owned(),
            "only the files in UNSAFE_FILES say unsafe".to_owned(),
        );
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

#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    line: usize,
    lines: usize,
}

/// The functions that have a body, those inside others included.
fn functions(tokens: &[Token]) -> Vec<Function> {
    let starts = tokens.windows(2).enumerate();
    // `fn` before anything but a name is the type of a function.
    let named = starts.filter(|(_, pair)| pair[0].text == "fn" && pair[1].is_word());
    let measured = named.filter_map(|(index, pair)| {
        let line = pair[0].line;
        let end = body_end(&tokens[index + 2..])?;
        Some(Function { name: pair[1].text.clone(), line, lines: end - line + 1 })
    });
    measured.collect()
}

/// The line of the brace that closes the first body after a function's name; none for a
/// declaration.
fn body_end(tokens: &[Token]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut in_body = false;
    for token in tokens {
        match token.text.as_str() {
            ";" if depth == 0 => return None,
            "{" | "(" | "[" => {
                in_body |= depth == 0 && token.text == "{";
                depth += 1;
            }
            "}" | ")" | "]" => {
                depth = depth.checked_sub(1)?;
                if depth == 0 && in_body {
                    return Some(token.line);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in a file of the given path and text.
    fn found(path: &str, source: &str) -> Vec<String> {
        check(path, source).into_iter().map(|breach| breach.found).collect()
    }

    fn function_of(lines: usize) -> String {
        format!("//! A file.\nfn f() {{\n{}}}\n", "    call();\n".repeat(lines - 2))
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
    fn a_function_that_is_too_long_is_a_breach() {
        assert_eq!(found("a.rs", &function_of(FUNCTION_LINES_MAX)), [""; 0]);
        let breaches = check("a.rs", &function_of(FUNCTION_LINES_MAX + 1));
        assert_eq!(breaches.len(), 1);
        assert_eq!(breaches[0].place, "a.rs:2");
        assert_eq!(breaches[0].found, "fn f has 71 lines");
    }

    #[test]
    fn functions_are_measured_from_fn_to_the_closing_brace() {
        let source = "trait T { fn declared(a: [u8; 3]); }\n\
                      type F = fn(u8) -> u8;\n\
                      fn outer(a: [u8; { 1 + 1 }]) where u8: Copy {\n\
                      \u{20}   let brace = '{'; // }\n\
                      \u{20}   fn inner() { \"}\"; }\n\
                      \u{20}   if brace == '}' { return; }\n\
                      }\n";
        let function = |name: &str, line, lines| Function { name: name.to_owned(), line, lines };
        assert_eq!(functions(&tokens(source)), [function("outer", 3, 5), function("inner", 5, 1)]);
    }

    #[test]
    fn unsafe_outside_the_table_is_a_breach() {
        let source = "//! A file.\nfn f() {\n    unsafe { g() }\n}\n";
        assert_eq!(check("crates/data/src/idx.rs", source)[0].place, "crates/data/src/idx.rs:3");
        assert_eq!(found("a.rs", "//! A file.\n#[unsafe(no_mangle)]\nfn f() {}\n"), ["unsafe"]);
        assert_eq!(found("a.rs", "//! unsafe\n#![allow(unsafe_code)]\n// unsafe\n"), [""; 0]);
        let (allowed, _) = UNSAFE_FILES[0];
        assert_eq!(found(allowed, source), [""; 0]);
    }
}
