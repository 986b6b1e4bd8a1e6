//! The rule on .proto files: every field has a comment, right above it or at the end of its line.

use super::Breach;

/// All breaches in the file at `path` with the text `source`.
pub(super) fn check(path: &str, source: &str) -> Vec<Breach> {
    let mut blocks: Vec<String> = Vec::new();
    let mut statement = String::new();
    let (mut commented, mut in_comment) = (false, false);
    let mut breaches = Vec::new();
    for (line, text) in source.lines().map(str::trim).enumerate() {
        let (code, comment) = split(text, &mut in_comment);
        if code.is_empty() {
            // A comment belongs to the line right below it; an empty line separates them.
            commented = comment;
            continue;
        }
        commented |= comment;
        for character in code.chars() {
            match character {
                '{' => blocks.push(std::mem::take(&mut statement)),
                '}' => drop(blocks.pop()),
                ';' => {
                    let field = field_name(&std::mem::take(&mut statement), blocks.last());
                    if let Some(field) = field.filter(|_| !commented) {
                        breaches.push(Breach {
                            place: format!("{path}:{}", line + 1),
                            found: format!("the field {field} has no comment"),
                            rule: "every field of a message says what it holds, with its unit"
                                .to_owned(),
                        });
                    }
                }
                _ => statement.push(character),
            }
        }
        if statement.is_empty() {
            commented = false;
        } else {
            statement.push(' ');
        }
    }
    breaches
}

/// The code on a line, and whether the line has a comment that is not empty.
///
/// `in_comment` says whether a block comment is open, from line to line. Code after a block comment
/// on the same line is ignored.
fn split<'a>(text: &'a str, in_comment: &mut bool) -> (&'a str, bool) {
    if *in_comment {
        *in_comment = !text.ends_with("*/");
        return ("", true);
    }
    let start = text.find("//").into_iter().chain(text.find("/*")).min();
    let Some(start) = start else { return (text, false) };
    let (code, comment) = text.split_at(start);
    *in_comment = comment.starts_with("/*") && !comment.contains("*/");
    (code.trim_end(), comment.contains(char::is_alphanumeric))
}

/// The name of the field that a statement inside `block` declares, if it declares one.
fn field_name(statement: &str, block: Option<&String>) -> Option<String> {
    let kind = block?.split_whitespace().next()?;
    let (declaration, _) = statement.split_once('=')?;
    let words: Vec<&str> = declaration.split_whitespace().collect();
    // `option name = value;` looks like a field; values of enums have no type.
    let is_field = matches!(kind, "message" | "oneof") && words.len() >= 2 && words[0] != "option";
    is_field.then(|| words.last().copied().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Vec<String> {
        check("proto/a.proto", source).into_iter().map(|breach| breach.found).collect()
    }

    #[test]
    fn fields_with_comments_are_no_breach() {
        let source = "syntax = \"proto3\";\n\
            package lockstep; // no comment needed\n\
            service S { rpc Join(stream A) returns (stream B); }\n\
            enum E { ZERO = 0; ONE = 1; }\n\
            message A {\n\
              option deprecated = true;\n\
              reserved 4, 5;\n\
              // Completed steps.\n\
              uint64 step = 1;\n\
              repeated float loss = 2; // nats\n\
              /* In two\n\
                 lines. */\n\
              map<string, bytes> parts = 3;\n\
              oneof what {\n\
                // Milliseconds.\n\
                uint32\n\
                  timeout_ms = 6;\n\
              }\n\
            }\n";
        assert_eq!(found(source), [""; 0]);
    }

    #[test]
    fn a_field_without_a_comment_is_a_breach() {
        let source =
            "message A {\n  // Of the first alone.\n  uint64 step = 1;\n  uint64 rank = 2;\n}\n";
        let breaches = check("proto/a.proto", source);
        assert_eq!(breaches.len(), 1);
        assert_eq!(breaches[0].place, "proto/a.proto:4");
        assert_eq!(breaches[0].found, "the field rank has no comment");
    }

    #[test]
    fn a_comment_that_is_empty_or_stands_apart_does_not_count() {
        assert_eq!(found("message A {\n  //\n  bytes a = 1;\n}"), ["the field a has no comment"]);
        assert_eq!(
            found("message A {\n  // Apart.\n\n  bytes a = 1;\n}"),
            ["the field a has no comment"]
        );
        assert_eq!(found("message A { oneof w { bytes a = 1; } }"), ["the field a has no comment"]);
    }
}
