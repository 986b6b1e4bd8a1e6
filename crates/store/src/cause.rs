//! The cause of an object_store error in one line. The error's own text is a chain of several causes, and may contain a
//! whole XML or JSON document.

use std::error::Error;

/// The most characters of a cause that are shown.
const CHARS_MAX: usize = 300;

/// The innermost cause; if it is a server's answer, the answer's message.
pub(crate) fn of(error: &object_store::Error) -> String {
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    match (between(&text, "<Code>", "</Code>"), between(&text, "<Message>", "</Message>")) {
        (Some(code), Some(message)) => line(&format!("{message} ({code})")),
        (Some(code), None) => line(code),
        _ => line(between(&text, "\"message\": \"", "\"").unwrap_or(&text)),
    }
}

/// Whether the error is an answer of the store; in this case credentials were found.
pub(crate) fn is_answer(error: &object_store::Error) -> bool {
    let text = error.to_string();
    text.contains("<Code>") || text.contains("\"message\":")
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    Some(rest.split_once(end)?.0)
}

/// The text in one line, cut off after [`CHARS_MAX`] characters.
fn line(text: &str) -> String {
    let folded = text.split_whitespace().collect::<Vec<_>>().join(" ");
    folded.trim_end_matches('.').chars().take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> object_store::Error {
        let source = object_store::Error::Generic { store: "inner", source: text.into() };
        object_store::Error::Generic { store: "S3", source: source.into() }
    }

    #[test]
    fn an_answer_is_told_by_its_code_and_message() {
        for (text, expected) in [
            (
                "404: <?xml?>\n<Error><Code>NoSuchBucket</Code><Message>It does not\nexist.</Message></Error>",
                "It does not exist. (NoSuchBucket)",
            ),
            ("<Error><Code>SlowDown</Code></Error>", "SlowDown"),
            ("{ \"error\": { \"code\": 403, \"message\": \"no access.\" } }", "no access"),
            ("Connection refused\n (os error 111)", "Connection refused (os error 111)"),
        ] {
            assert_eq!(of(&error(text)), expected);
            assert_eq!(is_answer(&error(text)), !text.contains("refused"), "{text}");
        }
        assert_eq!(of(&error(&"x".repeat(1000))).len(), CHARS_MAX);
    }
}
