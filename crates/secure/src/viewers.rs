//! People who see a board from other machines. Their browsers have no certificate: a browser sends the
//! view token once, and from then on a cookie that is derived from the token.

use std::{io, path::PathBuf};

use thiserror::Error;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsAcceptor;

use crate::{
    Address, Stream, TokenError,
    authority::certs,
    host_and_port,
    security::HANDSHAKE_TIMEOUT,
    tls::Tls,
    token::{self, Token},
};

/// The purpose with which the cookie's value is derived from the token.
const COOKIE_PURPOSE: &str = "lockstep board, cookie 1";

/// Why a board cannot be opened to viewers.
#[derive(Debug, Error)]
pub enum ViewersError {
    /// The address is beyond this machine, and TLS or the view token is missing.
    #[error(
        "{what} {address} goes beyond this machine, which needs TLS and a view token, and there is \
         {missing} (`{}` says how to make both); or choose a loopback address such as 127.0.0.1, and \
         look from elsewhere with `vae-coordinator board --coordinator URL`",
        certs(&["--help"])
    )]
    Exposed {
        /// The flag that the address comes from.
        what: String,
        /// The address.
        address: String,
        /// The missing setting, and its flag.
        missing: &'static str,
    },
    /// A token was named for a board on this machine, and TLS is missing.
    #[error(
        "--view-token-file needs TLS: give --tls-dir too; or leave it out, and every user of this machine sees the board \
         at {0}"
    )]
    TokenWithoutTls(String),
    /// The view token cannot be read.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The view token is the join token: a viewer could join the run.
    #[error(
        "{} holds the join token, which must not open a board: replace it by another line of random \
         characters",
        .0.display()
    )]
    JoinToken(PathBuf),
}

/// The check of the people who may see a board.
#[derive(Clone, Debug)]
pub struct Viewers {
    tls: Tls,
    token: Token,
}

impl Viewers {
    pub(crate) fn new(tls: Tls, token: Token) -> Self {
        Self { tls, token }
    }

    /// Accepts a browser's connection.
    ///
    /// # Errors
    /// The TLS handshake fails, or is not done in time.
    pub async fn accept(&self, socket: TcpStream) -> io::Result<Stream<TcpStream>> {
        let handshake = TlsAcceptor::from(self.tls.view()).accept(socket);
        let stream = timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(io::Error::other)??;
        Ok(Stream::tls(stream.into()))
    }

    /// Whether a Host header names this machine: by a name of its certificate, or by an IP address. A
    /// foreign site can point only a name at this machine, not an IP address.
    #[must_use]
    pub fn is_host(&self, host: &str) -> bool {
        let Ok((name, port)) = host_and_port(host) else { return false };
        let Ok(address) = Address::on(&name, port.unwrap_or(443)) else { return false };
        address.is_number() || self.tls.check_name(&address).is_ok()
    }

    /// Whether a text is the view token.
    #[must_use]
    pub fn is_token(&self, text: &str) -> bool {
        self.token.is(text)
    }

    /// The value of the cookie for browsers that have sent the token. It changes only with the token.
    #[must_use]
    pub fn cookie(&self) -> String {
        self.token.derive(COOKIE_PURPOSE)
    }

    /// Whether a text is the cookie's value.
    #[must_use]
    pub fn is_cookie(&self, text: &str) -> bool {
        token::equal(&self.cookie(), text)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        Security,
        authority::{self, Validity},
    };

    #[test]
    fn a_board_beyond_loopback_takes_tls_and_a_token_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        authority::init(folder.path(), Validity::days(1)).unwrap();
        let host =
            authority::issue(folder.path(), &["a.example".into()], Validity::days(1)).unwrap();
        let everywhere: Address = "0.0.0.0:50052".parse().unwrap();
        let loopback: Address = "127.0.0.1:50052".parse().unwrap();
        let said = |security: &Security| {
            security.viewers("--board", &everywhere, None).unwrap_err().to_string()
        };
        let open = Security::load(None, None, true).unwrap();
        assert!(open.viewers("--board", &loopback, None).unwrap().is_none());
        assert!(said(&open).contains("--board 0.0.0.0:50052") && said(&open).contains("--tls-dir"));
        let token = open.viewers("--board", &loopback, Some("token".as_ref())).unwrap_err();
        assert!(matches!(token, ViewersError::TokenWithoutTls(_)), "{token}");

        let secured = Security::load(Some(&host), None, false).unwrap();
        let viewers = secured.viewers("--board", &everywhere, None).unwrap().unwrap();
        let [join, view] = ["token", "view-token"]
            .map(|name| fs::read_to_string(host.join(name)).unwrap().trim().to_owned());
        assert!(viewers.is_token(&view) && !viewers.is_token(&join) && !viewers.is_token(""));
        let cookie = viewers.cookie();
        assert!(viewers.is_cookie(&cookie) && !viewers.is_cookie(&view) && !cookie.contains(&view));
        for (name, expected) in [
            ("a.example", true),
            ("A.example:50052", true),
            ("localhost:1", true),
            ("192.0.2.7:50052", true),
            ("[2001:db8::1]:50052", true),
            ("b.example", false),
            ("a.example.org", false),
            ("a.example:1:2", false),
            ("user@a.example", false),
            ("", false),
        ] {
            assert_eq!(viewers.is_host(name), expected, "{name}");
        }

        fs::write(host.join("view-token"), &join).unwrap();
        assert!(said(&secured).contains("holds the join token"), "{}", said(&secured));
        fs::write(host.join("view-token"), "short").unwrap();
        assert!(said(&secured).contains("holds no view token"), "{}", said(&secured));
        fs::remove_file(host.join("view-token")).unwrap();
        assert!(said(&secured).contains("--view-token-file"), "{}", said(&secured));
    }
}
