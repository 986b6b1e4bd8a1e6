//! Authentication of both sides of a connection: TLS with certificates, the join token, the secrets
//! that bind streams of the data plane to a generation, and the view token of a board.
//!
//! [`Security`] holds the settings of a program. All network connections pass it: outgoing ones
//! through [`Security::connect`], incoming ones through [`Security::accept`]. Without TLS and a token
//! it allows only loopback addresses, unless `--insecure` is given. [`connection`] has the servers and
//! channels over them. [`local`] has sockets within one machine, which need no TLS.
//! [`Viewers`] checks people's browsers, which have a token and no certificate. [`authority`] makes
//! certificates and tokens. A coordinator derives a [`Secret`] for each member from its [`Key`]. This
//! crate does not know what travels over a connection.

mod accept;
mod address;
pub mod authority;
pub mod connection;
pub mod local;
mod rejection;
mod secret;
mod security;
mod stream;
mod tls;
mod token;
mod viewers;

pub use address::{Address, ParseAddressError, host_and_port};
pub use rejection::turned_away;
pub use secret::{Key, SECRET_BYTES, Secret};
pub use security::{Exposed, Security, SetUpError};
pub use stream::Stream;
pub use tls::{TlsError, prefer_ring};
pub use token::{Bearer, Doorkeeper, TokenError, TokenKind};
pub use viewers::{Viewers, ViewersError};

/// The hint for a person whose connection without TLS broke before there was an answer.
pub const NO_ANSWER_HINT: &str = "; check that this is the coordinator's port, not the board's, and if it speaks TLS, give \
                                  --tls-dir";

/// A channel whose calls carry the join token.
pub type Authorized =
    tonic::service::interceptor::InterceptedService<tonic::transport::Channel, Bearer>;

/// Bytes as lowercase hexadecimal text.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
