//! Errors between the two ends of a connection, in words that say what to do.

use std::{
    error::Error,
    fmt, io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as TlsError};

use crate::authority::certs;

/// One side refuses the connection. Another attempt fails too, until a person changes something.
#[derive(Clone, Debug)]
pub(crate) struct Rejection(String);

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Rejection {}

impl Rejection {
    pub(crate) fn because(reason: impl fmt::Display) -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, Self(reason.to_string()))
    }
}

/// The rejection in the chain of an error's sources, if there is one.
pub(crate) fn rejection<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Rejection> {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let found = inner.and_then(|inner| inner.downcast_ref::<Rejection>());
    found.or_else(|| rejection(error.source()?))
}

/// The messages for the case that only one side uses TLS.
pub(crate) const NO_TLS: &str =
    "it does not speak TLS, as this side does: give --tls-dir to both, or to none";
pub(crate) const TLS: &str =
    "it speaks TLS, and this side does not: give --tls-dir to both, or to none";

/// Replaces an error of the TLS layer by a rejection in plain words; other errors stay as they are.
pub(crate) fn explain(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    match inner {
        Some(inner) => Rejection::because(of_peer(inner)),
        None => error,
    }
}

fn of_peer(error: &TlsError) -> String {
    use AlertDescription as Alert;
    match error {
        TlsError::InvalidCertificate(reason) => format!("its certificate {}", certificate(reason)),
        TlsError::NoCertificatesPresented => "it shows no certificate".into(),
        TlsError::InvalidMessage(_) => NO_TLS.into(),
        TlsError::AlertReceived(alert) => match alert {
            Alert::UnknownCA => "it does not take this side's certificate: the two are of \
                                 different CAs"
                .into(),
            Alert::CertificateExpired => {
                "it does not take this side's certificate, which has expired".into()
            }
            Alert::CertificateRequired => "it requires a certificate".into(),
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateUnknown
            | Alert::DecryptError => {
                format!("it does not take this side's certificate ({alert:?})")
            }
            other => format!("it has ended the TLS handshake ({other:?})"),
        },
        other => format!("TLS: {other}"),
    }
}

/// What is wrong with this side's own certificate or key.
pub(crate) fn own(error: &TlsError) -> String {
    match error {
        TlsError::InvalidCertificate(reason) => format!("the certificate {}", certificate(reason)),
        TlsError::InconsistentKeys(_) => {
            "the certificate and the private key beside it do not belong together".into()
        }
        other => other.to_string(),
    }
}

fn certificate(reason: &CertificateError) -> String {
    let how = || format!("(`{}` says how)", certs(&["issue", "--help"]));
    let again = || format!("issue another one for the same hosts {}", how());
    match reason {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "is not of the CA in ca.crt: all certificates of a run are issued by the same one"
                .into()
        }
        CertificateError::Expired => format!("has expired: {}", again()),
        CertificateError::ExpiredContext { time, not_after } => {
            let hours = time.as_secs().saturating_sub(not_after.as_secs()) / 3600;
            format!("has expired {} ago: {}", ago(hours), again())
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet: is the clock right?".into()
        }
        CertificateError::NotValidForName => {
            format!("is for another host: issue one for this host {}", how())
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            let list: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            // A peer sent these names, so control characters are removed.
            let list: String = list.join(", ").chars().filter(|c| !c.is_control()).collect();
            format!(
                "is not for {expected}, only for {list}: issue one with --host {expected} too {}",
                how()
            )
        }
        CertificateError::BadEncoding => "is damaged".into(),
        other => format!("cannot be used ({other})"),
    }
}

/// The name in a text such as `DnsName("a.example")`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

fn ago(hours: u64) -> String {
    if hours < 48 { format!("{hours} hours") } else { format!("{} days", hours / 24) }
}

/// Logs that a connection was refused. A connection that only broke is logged at a lower level.
pub(crate) fn log(peer: Option<SocketAddr>, reason: &io::Error) {
    let peer = peer.map_or("an unknown address".to_owned(), |peer| peer.to_string());
    if rejection(reason).is_some() {
        turned_away(&format!("a connection from {peer}: {reason}"));
    } else {
        tracing::debug!("a connection from {peer} failed: {reason}");
    }
}

/// Logs that a peer was refused; warns at most once a second, so that a peer that tries all day
/// does not fill the disk.
pub fn turned_away(who: &str) {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    if LAST.swap(now, Ordering::Relaxed) == now {
        tracing::debug!("turned away: {who}");
    } else {
        tracing::warn!("turned away: {who}");
    }
}
