//! The security settings of a program, with which connections are opened and accepted.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::{
    service::interceptor::InterceptedService,
    transport::{
        self, Channel, Endpoint, Uri,
        server::{Connected, TcpConnectInfo},
    },
};

use crate::{
    Address, Authorized, Bearer, Doorkeeper, ParseAddressError, TlsError, TokenError, accept,
    authority::certs,
    connection::{self, BoxFuture, Connection, Connections, Opener},
    rejection::{self, Rejection},
    stream::{Side, Stream},
    tls::Tls,
    token::{Token, TokenKind},
    viewers::{Viewers, ViewersError},
};

/// How long a peer may take for its part of a handshake.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The name of the join token's file in a `--tls-dir`.
pub(crate) const TOKEN_FILE: &str = "token";

/// The name of the view token's file in a `--tls-dir`.
pub(crate) const VIEW_TOKEN_FILE: &str = "view-token";

/// Why the flags cannot be used.
#[derive(Debug, Error)]
pub enum SetUpError {
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The address is beyond this machine, without TLS and a token.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// The text is not a URL, or the URL contradicts the other flags.
    #[error("--coordinator {url:?} {reason}")]
    Url {
        /// The text as it was given.
        url: String,
        /// What is wrong, and what to do.
        reason: String,
    },
}

/// An address beyond this machine, without TLS and token.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{what} {address} goes beyond this machine, which needs TLS and a join token, and there is \
     {missing} (`{}` says how to make both), use a loopback address such as 127.0.0.1, or say \
     --insecure",
    certs(&["--help"])
)]
pub struct Exposed {
    what: String,
    address: String,
    missing: Missing,
}

/// The settings that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Both,
    Tls,
    Token,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "neither: give --tls-dir and --token-file",
            Self::Tls => "no TLS: give --tls-dir",
            Self::Token => "no token: give --token-file",
        })
    }
}

/// The security settings of a program. On loopback it needs none.
#[derive(Clone, Debug, Default)]
pub struct Security {
    tls: Option<Tls>,
    token: Option<Token>,
    insecure: bool,
}

impl Security {
    /// Loads the settings of the flags `--tls-dir`, `--token-file` and `--insecure`. Without
    /// `--token-file`, the file `token` in the `--tls-dir` is the join token, if it exists.
    ///
    /// # Errors
    /// [`SetUpError`] that names the file and says what to do.
    pub fn load(
        tls_dir: Option<&Path>,
        token_file: Option<&Path>,
        insecure: bool,
    ) -> Result<Self, SetUpError> {
        let tls = tls_dir.map(Tls::load).transpose()?;
        let beside = || tls_dir.map(|folder| folder.join(TOKEN_FILE)).filter(|path| path.exists());
        let token_file = token_file.map(PathBuf::from).or_else(beside);
        let token = token_file.map(|path| Token::read(TokenKind::Join, &path)).transpose()?;
        Ok(Self { tls, token, insecure })
    }

    /// Whether connections go over TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The scheme of the URLs of this program's services.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.has_tls() { "https" } else { "http" }
    }

    /// The warning, if the settings let anybody connect from other machines.
    #[must_use]
    pub fn warning(&self) -> Option<&'static str> {
        (self.insecure && self.missing().is_some()).then_some(
            "--insecure: listen and connect beyond loopback without TLS and token: anybody who \
             reaches this machine can join the run, and read and change the data sent",
        )
    }

    fn missing(&self) -> Option<Missing> {
        match (&self.tls, &self.token) {
            (Some(_), Some(_)) => None,
            (Some(_), None) => Some(Missing::Token),
            (None, Some(_)) => Some(Missing::Tls),
            (None, None) => Some(Missing::Both),
        }
    }

    /// Checks that this program may listen at or connect to an address; `what` is the flag of the
    /// address.
    ///
    /// # Errors
    /// [`Exposed`] if the address is beyond loopback, unless there are TLS and a token, or
    /// `--insecure`.
    pub fn permit(&self, what: &str, address: &Address) -> Result<(), Exposed> {
        match self.missing() {
            Some(missing) if !self.insecure && !address.is_loopback() => {
                Err(Exposed { what: what.to_owned(), address: address.to_string(), missing })
            }
            _ => Ok(()),
        }
    }

    /// The people who may see a board at an address; `what` is the flag of the address. `token_file`
    /// is the file of the view token; its default is `view-token` in the `--tls-dir`. The result is
    /// none for a board on loopback without `token_file`: the board is then open to this machine.
    ///
    /// # Errors
    /// [`ViewersError`] if the address is beyond loopback and TLS or the view token is missing, also
    /// with `--insecure`.
    pub fn viewers(
        &self,
        what: &str,
        address: &Address,
        token_file: Option<&Path>,
    ) -> Result<Option<Viewers>, ViewersError> {
        if address.is_loopback() && token_file.is_none() {
            return Ok(None);
        }
        let missing = |missing| {
            let address = address.to_string();
            ViewersError::Exposed { what: what.to_owned(), address, missing }
        };
        let tls = self.tls.as_ref().ok_or_else(|| match address.is_loopback() {
            true => ViewersError::TokenWithoutTls(address.to_string()),
            false => missing("no TLS: give --tls-dir"),
        })?;
        let beside = tls.folder().join(VIEW_TOKEN_FILE);
        let token_file = match token_file {
            Some(file) => file.to_owned(),
            None if beside.exists() => beside,
            None => return Err(missing("no view token: give --view-token-file")),
        };
        let token = Token::read(TokenKind::View, &token_file)?;
        if self.token.as_ref().is_some_and(|join| join.is_same(&token)) {
            return Err(ViewersError::JoinToken(token_file));
        }
        Ok(Some(Viewers::new(tls.clone(), token)))
    }

    /// Checks that this program's certificate is for the host of the address at which others
    /// connect to it.
    ///
    /// # Errors
    /// [`TlsError`] if others would not accept the certificate.
    pub fn check_name(&self, address: &Address) -> Result<(), TlsError> {
        self.tls.as_ref().map_or(Ok(()), |tls| tls.check_name(address))
    }

    /// The endpoint and the address of the coordinator that a person names by a URL or by host and
    /// port. Without a scheme the coordinator is expected to use TLS if this side does.
    ///
    /// # Errors
    /// [`SetUpError`] if the text is not a URL, or contradicts the other flags.
    pub fn coordinator(&self, given: &str) -> Result<(Endpoint, Address), SetUpError> {
        let wrong = |reason: &str| SetUpError::Url { url: given.into(), reason: reason.into() };
        let form = || wrong("is no URL such as http://127.0.0.1:50051");
        let (scheme, place) = match given.split_once("://") {
            Some((scheme, rest)) => {
                let place = rest.split('/').next().unwrap_or_default();
                (scheme.to_ascii_lowercase(), place)
            }
            None => (self.scheme().to_owned(), given),
        };
        match &scheme[..] {
            "http" if self.has_tls() => {
                return Err(wrong("is without TLS, which --tls-dir asks for: write https://..."));
            }
            "https" if !self.has_tls() => {
                return Err(wrong(
                    "asks for TLS, which takes --tls-dir; without TLS write a URL such as \
                     http://127.0.0.1:50051",
                ));
            }
            "http" | "https" => {}
            _ => return Err(form()),
        }
        let address = Address::typed(place).map_err(|error| match error {
            ParseAddressError::Form(_) => form(),
            // `wrong` already names the URL.
            error => wrong(&error.reason()),
        })?;
        self.permit("--coordinator", &address)?;
        let uri = Uri::try_from(format!("{scheme}://{address}")).map_err(|_| form())?;
        Ok((endpoint(&address).origin(uri), address))
    }

    /// Opens a connection to the coordinator.
    ///
    /// # Errors
    /// The future fails if the coordinator cannot be reached, or if one side refuses the connection;
    /// see [`refused`](Self::refused).
    pub fn channel(
        &self,
        endpoint: &Endpoint,
        address: &Address,
    ) -> BoxFuture<'static, Result<Channel, transport::Error>> {
        let (security, address) = (self.clone(), address.clone());
        let open: Opener = Box::new(move || {
            let (security, address) = (security.clone(), address.clone());
            Box::pin(async move {
                let open = async {
                    let socket = TcpStream::connect((address.host(), address.port())).await?;
                    socket.set_nodelay(true)?;
                    Ok(socket)
                };
                security.connect(&address, open).await.map(Connection::new)
            })
        });
        connection::channel(endpoint.clone(), open)
    }

    /// Adds the token to all calls over a channel.
    #[must_use]
    pub fn authorize(&self, channel: Channel) -> Authorized {
        InterceptedService::new(channel, Bearer::new(self.token.as_ref()))
    }

    /// The check that refuses calls without the token.
    #[must_use]
    pub fn doorkeeper(&self) -> Doorkeeper {
        Doorkeeper::new(self.token.as_ref())
    }

    /// The reason of a rejection, for which a person has to change something; none for errors that may
    /// pass with time.
    #[must_use]
    pub fn refused(error: &(dyn std::error::Error + 'static)) -> Option<String> {
        rejection::rejection(error).map(ToString::to_string)
    }

    /// Opens an outgoing connection to `to` with `open`, and verifies the peer. When this returns, the
    /// peer has accepted this side's certificate too.
    ///
    /// # Errors
    /// The error of `open`, or why there is no secure connection.
    pub async fn connect<S>(
        &self,
        to: &Address,
        open: impl Future<Output = io::Result<S>>,
    ) -> io::Result<Stream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.permit("the address", to).map_err(Rejection::because)?;
        let socket = open.await?;
        let Some(tls) = &self.tls else { return Ok(Stream::plain(socket, Side::Client)) };
        let handshake = async {
            let connector = TlsConnector::from(tls.client());
            let mut stream = connector.connect(to.name().clone(), socket).await?;
            // In TLS 1.3 the client finishes its handshake before the server has verified the client's
            // certificate. A server that accepts the certificate sends first, as HTTP/2 requires.
            if stream.fill_buf().await?.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(stream)
        };
        match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => Ok(Stream::tls(stream.into())),
            Ok(Err(error)) => Err(rejection::explain(error)),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time")),
        }
    }

    /// The incoming connections among `sockets` that may be served. With TLS, a new task does the
    /// handshakes: call this on a runtime.
    pub fn accept<S>(
        &self,
        sockets: impl tokio_stream::Stream<Item = io::Result<S>> + Send + 'static,
    ) -> Connections
    where
        S: AsyncRead
            + AsyncWrite
            + Unpin
            + Send
            + Connected<ConnectInfo = TcpConnectInfo>
            + 'static,
    {
        match &self.tls {
            Some(tls) => accept::tls(Box::pin(sockets), tls.clone()),
            None => accept::plain(Box::pin(sockets)),
        }
    }
}

/// An endpoint for an address. Its URL always has `http`, because TLS is a layer below.
fn endpoint(address: &Address) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap_or_else(|_| Endpoint::from_static("http://127.0.0.1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_is_named_as_people_do() {
        let security = Security { insecure: true, ..Security::default() };
        let named = |given: &str| match security.coordinator(given) {
            Ok((endpoint, address)) => format!("{address} at {}", endpoint.uri()),
            Err(error) => error.to_string(),
        };
        for (given, expected) in [
            ("127.0.0.1:7", "127.0.0.1:7 at http://127.0.0.1:7/"),
            ("localhost", "localhost:50051 at "),
            ("[::1]:7", "[::1]:7 at http://[::1]:7/"),
            ("http://[fe80::1]:7", "[fe80::1]:7 at "),
            ("HTTP://node:7/", "node:7 at "),
            ("http://node", "node:50051 at "),
            ("https://node:7", "asks for TLS, which takes --tls-dir"),
            ("ftp://node:7", "is no URL such as http://127.0.0.1:50051"),
            ("http://", "is no URL such as"),
            ("", "--coordinator \"\" is no URL such as"),
            ("two words", "is no URL such as"),
            ("http://node:70000", "--coordinator \"http://node:70000\" names port 70000"),
            ("::1", "write an IPv6 address in brackets"),
        ] {
            assert!(named(given).contains(expected), "{given}: {}", named(given));
        }
    }
}
