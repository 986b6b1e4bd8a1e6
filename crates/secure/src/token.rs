//! Tokens: the join token and the view token. A worker needs the join token, beside a certificate, to
//! join a run; it sends the token with every call to the coordinator, as a bearer token. The view
//! token opens a board.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use ring::{digest, hmac};
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

use crate::{authority::certs, hex, rejection};

/// The header that the token travels in.
const HEADER: &str = "authorization";

/// The text before the token in the header.
const SCHEME: &str = "Bearer ";

/// The allowed length of a token in bytes. A shorter token could be guessed.
const LENGTH: std::ops::RangeInclusive<usize> = 16..=1024;

/// The purpose of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// It opens the coordinator's services.
    Join,
    /// It opens a board.
    View,
}

impl fmt::Display for TokenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Join => "join token",
            Self::View => "view token",
        })
    }
}

/// Why there is no token.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error(
        "cannot read the {kind} in {}: {error}; copy it from the coordinator's machine, or \
         make one (`{}` says how)",
        path.display(), certs(&["init", "--help"])
    )]
    Unreadable {
        /// The kind of the token.
        kind: TokenKind,
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file holds no token.
    #[error(
        "{} holds no {kind}: it must be one line of {} to {} printable characters",
        path.display(), LENGTH.start(), LENGTH.end()
    )]
    Malformed {
        /// The kind of the token.
        kind: TokenKind,
        /// The file.
        path: PathBuf,
    },
}

/// A token. No code prints it.
#[derive(Clone)]
pub(crate) struct Token(Arc<str>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    pub(crate) fn read(kind: TokenKind, path: &Path) -> Result<Self, TokenError> {
        let mut text = String::new();
        let limit = *LENGTH.end() as u64 + 2;
        File::open(path)
            .and_then(|file| file.take(limit).read_to_string(&mut text))
            .map_err(|error| TokenError::Unreadable { kind, path: path.to_owned(), error })?;
        let token = text.trim_end_matches(['\r', '\n']);
        let is_printable = token.bytes().all(|byte| byte.is_ascii_graphic());
        if LENGTH.contains(&token.len()) && is_printable {
            Ok(Self(token.into()))
        } else {
            Err(TokenError::Malformed { kind, path: path.to_owned() })
        }
    }

    /// Whether a text is the token. Compares digests of equal length, so the time of the comparison
    /// reveals nothing about the token.
    pub(crate) fn is(&self, brought: &str) -> bool {
        equal(&self.0, brought)
    }

    /// A text derived from the token and a purpose. It reveals nothing about the token.
    pub(crate) fn derive(&self, purpose: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes());
        hex(hmac::sign(&key, purpose.as_bytes()).as_ref())
    }

    /// Whether another token is the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

/// Whether two secrets are the same. The time of the comparison depends only on their lengths.
pub(crate) fn equal(one: &str, other: &str) -> bool {
    let digest = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
    digest(one).as_ref().ct_eq(digest(other).as_ref()).into()
}

/// Sends the token along with every call.
#[derive(Clone, Debug)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    pub(crate) fn new(token: Option<&Token>) -> Self {
        Self(token.and_then(|Token(token)| {
            let mut value = MetadataValue::try_from(format!("{SCHEME}{token}")).ok()?;
            value.set_sensitive(true);
            Some(value)
        }))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert(HEADER, value.clone());
        }
        Ok(request)
    }
}

/// Refuses calls without the token, if there is one.
#[derive(Clone, Debug)]
pub struct Doorkeeper(Option<Token>);

impl Doorkeeper {
    pub(crate) fn new(token: Option<&Token>) -> Self {
        Self(token.cloned())
    }
}

impl Interceptor for Doorkeeper {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(token) = &self.0 else { return Ok(request) };
        let brought = request.metadata().get(HEADER).and_then(|value| value.to_str().ok());
        let message = match brought.and_then(|value| value.strip_prefix(SCHEME)) {
            Some(brought) if token.is(brought) => return Ok(request),
            Some(_) => "wrong join token: give the coordinator's token with --token-file",
            None => "no join token: give the coordinator's token with --token-file",
        };
        rejection::turned_away(message);
        Err(Status::unauthenticated(message))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn token(text: &str) -> Result<Token, TokenError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, text).unwrap();
        Token::read(TokenKind::Join, &path)
    }

    #[test]
    fn the_right_token_opens_and_no_other() {
        let mut door = Doorkeeper::new(Some(&token("0123456789abcdef\n").unwrap()));
        let mut call = |bearer: &mut Bearer| door.call(bearer.call(Request::new(())).unwrap());
        assert!(call(&mut Bearer::new(Some(&token("0123456789abcdef").unwrap()))).is_ok());
        let wrong = call(&mut Bearer::new(Some(&token("0123456789abcdeF").unwrap()))).unwrap_err();
        assert!(wrong.message().starts_with("wrong join token"), "{wrong}");
        let none = call(&mut Bearer::new(None)).unwrap_err();
        assert!(none.message().starts_with("no join token"), "{none}");
        assert!(Doorkeeper::new(None).call(Request::new(())).is_ok());
    }

    #[test]
    fn what_could_be_guessed_or_not_be_sent_is_no_token() {
        for wrong in ["", "short", "0123456789abcde\n", "0123456789 abcdef", "ééééééééééééé"]
        {
            assert!(matches!(token(wrong), Err(TokenError::Malformed { .. })), "{wrong}");
        }
        assert!(token(&"x".repeat(2000)).is_err());
        let missing =
            Token::read(TokenKind::Join, Path::new("/nowhere/token")).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/token") && missing.contains("certs init"), "{missing}");
    }

    #[test]
    fn nothing_prints_it() {
        let token = token("0123456789abcdef").unwrap();
        let printed = format!("{token:?} {:?}", Bearer::new(Some(&token)));
        assert!(!printed.contains("0123"), "{printed}");
    }
}
