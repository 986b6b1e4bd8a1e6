//! Who may connect, and to whom: TLS with certificates on both sides, the join token, the secrets that
//! bind streams of the data plane to a generation, and the view token of a board.
//!
//! [`Security`] is what a program was given of it, and the one place where connections pass:
//! [`Security::connect`] on the way out, [`Security::accept`] on the way in. Without TLS and
//! a token neither leaves this machine. [`local`] is for connections that never do: they need no
//! TLS. [`Viewers`] are people at a browser, who show a token and no certificate. [`authority`] makes
//! certificates and tokens; [`Key`] and [`Secret`] are what a coordinator hands out. Nothing here
//! knows what is said over a connection.

mod accept;
mod address;
pub mod authority;
pub mod local;
mod refusal;
mod secret;
mod security;
mod stream;
mod tls;
mod token;
mod viewers;

pub use address::{Address, ParseAddressError, host_and_port};
pub use refusal::turned_away;
pub use secret::{Key, SECRET_BYTES, Secret};
pub use security::{Exposed, Security, SetUpError};
pub use stream::Stream;
pub use tls::{TlsError, prefer_ring};
pub use token::{Bearer, Doorkeeper, TokenError, TokenKind};
pub use viewers::{Viewers, ViewersError};

/// What to tell a person whose connection without TLS came to nothing.
pub const TLS_HINT: &str = "; if it speaks TLS, give --tls-dir";

/// A channel whose calls bring the join token along.
pub type Authorized =
    tonic::service::interceptor::InterceptedService<tonic::transport::Channel, Bearer>;
