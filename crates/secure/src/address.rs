//! Where a peer listens: a host, by name or by number, and a port.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use thiserror::Error;
use tokio_rustls::rustls::pki_types::{DnsName, ServerName};
use tonic::transport::Uri;

/// The port of an URL that names none.
const PORT: u16 = 50051;

/// The name that means this machine, whatever a resolver says of others.
const LOCALHOST: &str = "localhost";

/// Characters of a text that an error repeats.
const SHOWN: usize = 80;

/// Where a peer listens. What certificates are checked for is the host as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: ServerName<'static>,
    port: u16,
}

/// A text that is no address.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no host and port such as 10.0.0.7:50051")]
pub struct ParseAddressError(String);

impl Address {
    /// The address that an URL speaks of.
    #[must_use]
    pub fn of(uri: &Uri) -> Option<Self> {
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        let host = ServerName::try_from(host.to_owned()).ok()?;
        Some(Self { host, port: uri.port_u16().unwrap_or(PORT) })
    }

    /// A port on a host that is given by name or number.
    ///
    /// # Errors
    /// [`ParseAddressError`] if it is neither.
    pub fn on(host: &str, port: u16) -> Result<Self, ParseAddressError> {
        let parsed = ServerName::try_from(host.to_owned());
        parsed.map(|host| Self { host, port }).map_err(|_| ParseAddressError(host.to_owned()))
    }

    /// The host, as a resolver takes it.
    #[must_use]
    pub fn host(&self) -> String {
        self.host.to_str().into_owned()
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is on this machine for certain.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            ServerName::DnsName(name) => name.as_ref().eq_ignore_ascii_case(LOCALHOST),
            ServerName::IpAddress(ip) => IpAddr::from(*ip).is_loopback(),
            _ => false,
        }
    }

    /// What the peer's certificate has to be for.
    pub(crate) fn name(&self) -> &ServerName<'static> {
        &self.host
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self { host: ServerName::from(address.ip()), port: address.port() }
    }
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (host, port) = text.rsplit_once(':')?;
            let port = port.parse().ok().filter(|port| *port != 0)?;
            let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
                Some(number) => IpAddr::from(number.parse::<Ipv6Addr>().ok()?).into(),
                None if host.contains(':') => return None,
                None => match host.parse::<IpAddr>() {
                    Ok(number) => number.into(),
                    Err(_) => ServerName::DnsName(DnsName::try_from(host.to_owned()).ok()?),
                },
            };
            Some(Self { host, port })
        };
        parse().ok_or_else(|| ParseAddressError(text.chars().take(SHOWN).collect()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (self.host.to_str(), self.port);
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["10.0.0.7:1", "[::1]:50051", "worker-3.workers:7000", "localhost:9"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for wrong in ["", "host", "host:", ":1", "::1:5", "a b:1", "host:0", "host:99999"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
        let of = |uri: &'static str| Address::of(&Uri::from_static(uri)).unwrap().to_string();
        assert_eq!(of("https://[fe80::1]:7"), "[fe80::1]:7");
        assert_eq!(of("http://coordinator"), "coordinator:50051");
    }

    #[test]
    fn loopback_is_known_without_asking_anybody() {
        let is_loopback = |text: &str| text.parse::<Address>().unwrap().is_loopback();
        for text in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1", "LocalHost:1"] {
            assert!(is_loopback(text), "{text}");
        }
        for text in ["10.0.0.1:1", "0.0.0.0:1", "[::]:1", "localhost.evil.example:1", "here:1"] {
            assert!(!is_loopback(text), "{text}");
        }
    }
}
