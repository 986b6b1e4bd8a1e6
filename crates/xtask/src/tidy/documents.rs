//! The rules on Markdown files: links and paths must lead to existing files, and the README must be
//! short.
//!
//! This file does not know the contents of the documents.

use super::Breach;

/// People do not read a longer README to its end.
const README_BYTES_MAX: usize = 10 * 1024;

/// A code span that begins with one of these folders is a path from the root of the tree.
const ROOTS: [&str; 5] = ["crates/", "tests/", "deploy/", "proto/", ".github/"];

/// All breaches in the file at `path` with the text `source`; `is_there` tells whether a path from
/// the root of the tree exists.
pub(super) fn check(path: &str, source: &str, is_there: &dyn Fn(&str) -> bool) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut report = |line: usize, found: String, rule: &str| {
        let place = format!("{path}:{line}");
        breaches.push(Breach { place, found, rule: rule.to_owned() });
    };
    if path == "README.md" && source.len() > README_BYTES_MAX {
        let found = format!("{} bytes", source.len());
        report(
            1,
            found,
            "the README has at most 10,240 bytes; details belong beside their subject",
        );
    }
    let mut is_code = false;
    for (index, line) in source.lines().enumerate() {
        is_code ^= line.starts_with("```");
        if is_code {
            continue;
        }
        for link in links(line).filter(|link| !is_there(&resolved(path, link))) {
            let found = format!("a link to {link}, which is not there");
            report(index + 1, found, "links lead to files of the tree");
        }
        for named in spans(line).filter(|span| is_path(span) && !is_there(span)) {
            let found = format!("{named}, which is not there");
            report(index + 1, found, "a path in a code span exists, seen from the root");
        }
    }
    breaches
}

/// The targets of the links on a line that lead into the tree, without their anchors.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let targets = targets.map(|target| target.split('#').next().unwrap_or_default());
    // Other links lead to another site, to this page, or to an item of rustdoc.
    targets.filter(|target| !target.is_empty() && !target.contains(':'))
}

/// The code spans of a line.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Whether a code span names one file or folder of the tree.
fn is_path(span: &str) -> bool {
    let has_room = span.contains(['*', ' ', '<', '{']);
    !has_room && ROOTS.iter().any(|root| span.starts_with(root))
}

/// The target of a link in the file at `path`, seen from the root.
fn resolved(path: &str, link: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, source: &str) -> Vec<String> {
        let there = ["crates/data/README.md", "crates/data", "deploy"];
        let breaches = check(path, source, &|path| there.contains(&path.trim_end_matches('/')));
        breaches.into_iter().map(|breach| format!("{}: {}", breach.place, breach.found)).collect()
    }

    #[test]
    fn links_lead_to_files() {
        for link in ["../../deploy", "README.md#top", "./README.md", "https://x.org/a", "crate::X"]
        {
            assert_eq!(found("crates/data/NOTES.md", &format!("a [b]({link})")), [""; 0], "{link}");
        }
        let source = "[a](README.md), and\n[b](../../../deploy/x)";
        assert_eq!(
            found("crates/data/NOTES.md", source),
            ["crates/data/NOTES.md:2: a link to ../../../deploy/x, which is not there"]
        );
    }

    #[test]
    fn paths_in_code_spans_are_there() {
        let source =
            "`crates/data/`, `crates/x.rs`, `crates/*/x` and `deploy`\n```\n`crates/y`\n```";
        assert_eq!(found("a.md", source), ["a.md:1: crates/x.rs, which is not there"]);
    }

    #[test]
    fn the_readme_is_short() {
        let long = "a\n".repeat(README_BYTES_MAX);
        assert_eq!(found("README.md", &long), ["README.md:1: 20480 bytes"]);
        assert_eq!(found("crates/data/README.md", &long), [""; 0]);
    }
}
