//! As much of Rust's lexical grammar as the structure check needs: comments and literals are told
//! from code.
//!
//! It does not know Rust's syntax beyond that. Source that compiles is read rightly; other source
//! may not be.

use std::iter::Peekable;
use std::str::Chars;

/// A word or a single other character, with its line from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) line: usize,
}

impl Token {
    /// Whether it is an identifier, a keyword or a number.
    pub(super) fn is_word(&self) -> bool {
        self.text.starts_with(is_word_char)
    }
}

fn is_word_char(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The tokens of `source` without comments, strings and characters; lifetimes lose their
/// apostrophe.
pub(super) fn tokens(source: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: source.chars().peekable(), line: 1, tokens: Vec::new() };
    while let Some(character) = lexer.next() {
        lexer.token(character);
    }
    lexer.tokens
}

struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<char> {
        let character = self.rest.next()?;
        self.line += usize::from(character == '\n');
        Some(character)
    }

    fn next_is(&mut self, expected: char) -> bool {
        self.rest.peek() == Some(&expected)
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.next();
        }
    }

    fn token(&mut self, first: char) {
        match first {
            '/' if self.next_is('/') => {
                while self.next().is_some_and(|character| character != '\n') {}
            }
            '/' if self.next_is('*') => self.block_comment(),
            '"' => self.string(),
            '\'' => self.character_or_lifetime(),
            _ if is_word_char(first) => self.word(first),
            _ if first.is_whitespace() => {}
            _ => self.tokens.push(Token { text: first.to_string(), line: self.line }),
        }
    }

    /// Block comments nest.
    fn block_comment(&mut self) {
        self.next();
        let mut depth = 1;
        while depth > 0 {
            match self.next() {
                Some('/') if self.next_is('*') => depth += 1,
                Some('*') if self.next_is('/') => depth -= 1,
                Some(_) => continue,
                None => return,
            }
            self.next();
        }
    }

    fn string(&mut self) {
        loop {
            match self.next() {
                Some('\\') => self.skip(1),
                Some('"') | None => return,
                Some(_) => {}
            }
        }
    }

    /// `'a'` and `'\n'` are characters, `'a` without the second apostrophe is a lifetime.
    fn character_or_lifetime(&mut self) {
        let escaped = self.next_is('\\');
        let closed = self.rest.clone().nth(1) == Some('\'');
        if escaped {
            self.skip(2);
            while self.next().is_some_and(|character| character != '\'') {}
        } else if closed {
            self.skip(2);
        }
    }

    /// A word, or the literal that its prefix begins: `b"..."`, `r#"..."#`.
    fn word(&mut self, first: char) {
        let (mut text, line) = (first.to_string(), self.line);
        while let Some(character) = self.rest.next_if(|character| is_word_char(*character)) {
            text.push(character);
        }
        let raw = matches!(text.as_str(), "r" | "br" | "cr");
        let hashes = self.rest.clone().take_while(|character| *character == '#').count();
        if raw && self.rest.clone().nth(hashes) == Some('"') {
            self.raw_string(hashes);
        } else if !(matches!(text.as_str(), "b" | "c") && self.next_is('"')) {
            self.tokens.push(Token { text, line });
        }
    }

    /// Up to a quote that as many hashes follow as come before the first.
    fn raw_string(&mut self, hashes: usize) {
        self.skip(hashes + 1);
        while let Some(character) = self.next() {
            let closing = self.rest.clone().take(hashes).filter(|next| *next == '#').count();
            if character == '"' && closing == hashes {
                return self.skip(hashes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        tokens(source).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_literals_hold_no_tokens() {
        for source in [
            "a // b { \" '\nc",
            "a /* b /* { */ \" */ c",
            r#"a "b { \" // " c"#,
            r##"a r"b \" c"##,
            "a r##\"b \"# { \"## c",
            "a br#\"b\"# c",
            "a b\"{\" c",
            r"a '{' '\'' '\u{7d}' b'{' c",
            "a \"line\nline\" c",
        ] {
            let found: Vec<String> = words(source).into_iter().filter(|word| word != "b").collect();
            assert_eq!(found, ["a", "c"], "{source}");
        }
    }

    #[test]
    fn lifetimes_and_raw_identifiers_are_not_literals() {
        assert_eq!(words("fn f<'a>(x: &'a r#type) {}").last().unwrap(), "}");
        assert!(words("&'a str, 'b'").contains(&"str".to_owned()));
        assert!(words("r#type {").contains(&"{".to_owned()));
    }

    #[test]
    fn tokens_know_their_lines() {
        let found = tokens("a\n/* \n */ b \"\n\" c\n'\n' d");
        let found: Vec<(&str, usize)> =
            found.iter().map(|one| (one.text.as_str(), one.line)).collect();
        assert_eq!(found, [("a", 1), ("b", 3), ("c", 4), ("d", 6)]);
    }

    #[test]
    fn unfinished_source_ends() {
        for source in ["\"", "'", "'\\", "/*", "r#\"", "r#", "b'"] {
            tokens(source);
        }
    }
}
