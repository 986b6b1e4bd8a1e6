//! What a program was given to keep strangers out, and the two ways through it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
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
        self, Channel, Endpoint,
        server::{Connected, TcpConnectInfo},
    },
};
use tower::service_fn;

use crate::{
    Address, Authorized, Bearer, Doorkeeper, TlsError, TokenError, accept,
    refusal::{self, Refusal},
    stream::{Side, Stream},
    tls::Tls,
    token::Token,
};

/// How long a peer may take for its part of a handshake.
pub(crate) const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// The token's name in a `--tls-dir`.
pub(crate) const TOKEN_FILE: &str = "token";

/// Why the flags cannot be used.
#[derive(Debug, Error)]
pub enum SetUpError {
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The address goes beyond this machine.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// No URL, or one that does not go with the other flags.
    #[error("--coordinator {url:?} {reason}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong, and what to do.
        reason: &'static str,
    },
}

/// An address beyond this machine, without what that takes.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{what} {address} goes beyond this machine, which takes TLS and a join token, and there is \
     {missing}: give --tls-dir and --token-file (`vae-coordinator certs` makes both), use a \
     loopback address such as 127.0.0.1, or say --insecure"
)]
pub struct Exposed {
    what: String,
    address: String,
    missing: Missing,
}

/// What there is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Both,
    Tls,
    Token,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "neither",
            Self::Tls => "no TLS",
            Self::Token => "no token",
        })
    }
}

/// What a program was given to keep strangers out. Nothing is what suffices on loopback.
#[derive(Clone, Debug, Default)]
pub struct Security {
    tls: Option<Tls>,
    token: Option<Token>,
    insecure: bool,
}

impl Security {
    /// Loads what the flags `--tls-dir`, `--token-file` and `--insecure` name. Without the
    /// second, a file `token` in the folder of the first is the token.
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
        let token = token_file.map(|path| Token::read(&path)).transpose()?;
        Ok(Self { tls, token, insecure })
    }

    /// Whether connections go over TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// How URLs of this program's services begin.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.has_tls() { "https" } else { "http" }
    }

    /// What to warn of, if strangers are not kept out.
    #[must_use]
    pub fn warning(&self) -> Option<&'static str> {
        (self.insecure && self.missing().is_some()).then_some(
            "--insecure: listen and connect beyond loopback without TLS and token: whoever \
             reaches this machine can join the run, and read and change what is sent",
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

    /// Whether to listen at or connect to an address; `what` is the flag it comes from.
    ///
    /// # Errors
    /// [`Exposed`] if it is beyond loopback, unless there are TLS and token or `--insecure`.
    pub fn permit(&self, what: &str, address: &Address) -> Result<(), Exposed> {
        match self.missing() {
            Some(missing) if !self.insecure && !address.is_loopback() => {
                Err(Exposed { what: what.to_owned(), address: address.to_string(), missing })
            }
            _ => Ok(()),
        }
    }

    /// Checks that the certificate here is for the host that others are told to find this
    /// program at.
    ///
    /// # Errors
    /// [`TlsError`] if they would not take it.
    pub fn check_name(&self, address: &Address) -> Result<(), TlsError> {
        self.tls.as_ref().map_or(Ok(()), |tls| tls.check_name(address))
    }

    /// The coordinator that a URL names, and the settings for its connections.
    ///
    /// # Errors
    /// [`SetUpError`] if it is none, or does not go with the other flags.
    pub fn coordinator(&self, url: &str) -> Result<(Endpoint, Address), SetUpError> {
        let wrong = |reason| SetUpError::Url { url: url.to_owned(), reason };
        let form = || wrong("is no URL such as http://127.0.0.1:50051");
        let given = Endpoint::from_shared(url.to_owned()).map_err(|_| form())?;
        let address = Address::of(given.uri()).ok_or_else(form)?;
        match given.uri().scheme_str() {
            Some("http") if self.has_tls() => {
                return Err(wrong("is without TLS, which --tls-dir asks for: write https://..."));
            }
            Some("https") if !self.has_tls() => {
                return Err(wrong(
                    "asks for TLS, which takes --tls-dir; without TLS write a URL such as \
                     http://127.0.0.1:50051",
                ));
            }
            Some("http" | "https") => {}
            _ => return Err(form()),
        }
        self.permit("--coordinator", &address)?;
        Ok((endpoint(&address).origin(given.uri().clone()), address))
    }

    /// Opens a connection to the coordinator.
    ///
    /// # Errors
    /// When it cannot be reached or is refused; see [`refused`](Self::refused).
    pub async fn channel(
        &self,
        endpoint: &Endpoint,
        address: &Address,
    ) -> Result<Channel, transport::Error> {
        let (security, address) = (self.clone(), address.clone());
        let connector = service_fn(move |_| {
            let (security, address) = (security.clone(), address.clone());
            async move {
                let open = async {
                    let socket = TcpStream::connect((address.host(), address.port())).await?;
                    socket.set_nodelay(true)?;
                    Ok(socket)
                };
                security.connect(&address, open).await.map(TokioIo::new)
            }
        });
        endpoint.connect_with_connector(connector).await
    }

    /// Has all calls over a channel bring the token along.
    #[must_use]
    pub fn authorize(&self, channel: Channel) -> Authorized {
        InterceptedService::new(channel, Bearer::new(self.token.as_ref()))
    }

    /// What keeps calls without the token out of a service.
    #[must_use]
    pub fn doorkeeper(&self) -> Doorkeeper {
        Doorkeeper::new(self.token.as_ref())
    }

    /// Whether an error means that somebody has to change something, and not just to wait.
    /// Gives its reason.
    #[must_use]
    pub fn refused(error: &(dyn std::error::Error + 'static)) -> Option<String> {
        refusal::refusal(error).map(ToString::to_string)
    }

    /// The way out: connects to `to`, by `open`, and verifies who is there. It is known to
    /// take this side's certificate, too, when this returns.
    ///
    /// # Errors
    /// What `open` says, or why there is no secure connection.
    pub async fn connect<S>(
        &self,
        to: &Address,
        open: impl Future<Output = io::Result<S>>,
    ) -> io::Result<Stream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.permit("the address", to).map_err(Refusal::because)?;
        let socket = open.await?;
        let Some(tls) = &self.tls else { return Ok(Stream::plain(socket, Side::Client)) };
        let handshake = async {
            let connector = TlsConnector::from(tls.client());
            let mut stream = connector.connect(to.name().clone(), socket).await?;
            // A server looks at the certificate of a client when that believes to be done.
            // One that takes it speaks first, as HTTP/2 has it.
            if stream.fill_buf().await?.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(stream)
        };
        match timeout(HANDSHAKE_PATIENCE, handshake).await {
            Ok(Ok(stream)) => Ok(Stream::tls(stream.into())),
            Ok(Err(error)) => Err(refusal::explain(error)),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time")),
        }
    }

    /// The way in: the connections among `sockets` that may be served.
    pub fn accept<S>(
        &self,
        sockets: impl tokio_stream::Stream<Item = io::Result<S>> + Send + 'static,
    ) -> impl tokio_stream::Stream<Item = io::Result<Stream<S>>> + Send + 'static
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

/// An endpoint for an address. Its URL has `http` in any case: TLS is below.
fn endpoint(address: &Address) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap_or_else(|_| Endpoint::from_static("http://127.0.0.1"))
}
