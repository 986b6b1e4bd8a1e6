//! The address where a peer listens: a host, by name or by IP address, and a port.

use std::{
    error::Error,
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use tokio_rustls::rustls::pki_types::{DnsName, ServerName};

/// The port of a URL without a port.
const PORT: u16 = 50051;

/// The name that always means this machine; no resolver is asked.
const LOCALHOST: &str = "localhost";

/// The most characters of a text that an error quotes.
const SHOWN: usize = 80;

/// The address where a peer listens. Certificates are checked against the host as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: ServerName<'static>,
    port: u16,
}

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseAddressError {
    /// The text is not a host and a port.
    Form(String),
    /// The host is neither a name nor an IP address.
    Host(String),
    /// The port is not a number from 1 to 65535.
    Port {
        /// The whole text.
        text: String,
        /// The text of the port.
        port: String,
    },
    /// It is not clear where an IPv6 address ends.
    Brackets(String),
}

impl ParseAddressError {
    /// What is wrong with the text, without the text.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Form(_) => "is no host and port such as 10.0.0.7:50051".into(),
            Self::Host(_) => "is neither a host's name nor its IP address".into(),
            Self::Port { port, .. } => {
                format!("names port {port}, and ports are numbers from 1 to 65535")
            }
            Self::Brackets(_) => {
                "is not clear: write an IPv6 address in brackets, such as [::1]:50051".into()
            }
        }
    }
}

impl fmt::Display for ParseAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Form(text) | Self::Host(text) | Self::Brackets(text) | Self::Port { text, .. }) =
            self;
        write!(f, "{text:?} {}", self.reason())
    }
}

impl Error for ParseAddressError {}

/// A host and a port as people type them; the port may be left out, and may be 0.
///
/// # Errors
/// [`ParseAddressError`] that says what is wrong with the text.
pub fn host_and_port(text: &str) -> Result<(String, Option<u16>), ParseAddressError> {
    let shown = |text: &str| text.chars().take(SHOWN).collect::<String>();
    let form = || ParseAddressError::Form(shown(text));
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(form)?;
        let port = rest.strip_prefix(':');
        if host.parse::<Ipv6Addr>().is_err() || (port.is_none() && !rest.is_empty()) {
            return Err(form());
        }
        (host, port)
    } else {
        let (host, port) =
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
        if port.is_some_and(|port| port.contains(':')) {
            let is_number = text.chars().all(|c| c.is_ascii_hexdigit() || ":.".contains(c));
            return Err(if is_number { ParseAddressError::Brackets(shown(text)) } else { form() });
        }
        (host, port)
    };
    if ServerName::try_from(host).is_err() || port == Some("") {
        return Err(form());
    }
    let number = |port: &str| {
        let number = port.parse().ok().filter(|_| port.bytes().all(|byte| byte.is_ascii_digit()));
        number.ok_or_else(|| ParseAddressError::Port { text: shown(text), port: shown(port) })
    };
    Ok((host.to_owned(), port.map(number).transpose()?))
}

impl Address {
    /// A port on a host, which is given by name or by IP address.
    ///
    /// # Errors
    /// [`ParseAddressError`] if the host is neither.
    pub fn on(host: &str, port: u16) -> Result<Self, ParseAddressError> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let parsed = ServerName::try_from(bare.unwrap_or(host).to_owned());
        parsed.map(|host| Self { host, port }).map_err(|_| ParseAddressError::Host(host.to_owned()))
    }

    /// An address as people type it. The default port is 50051, where coordinators listen.
    ///
    /// # Errors
    /// [`ParseAddressError`] that says what is wrong with the text.
    pub fn typed(text: &str) -> Result<Self, ParseAddressError> {
        let (host, port) = host_and_port(text)?;
        match port {
            Some(0) => Err(ParseAddressError::Port { text: text.into(), port: "0".into() }),
            port => Self::on(&host, port.unwrap_or(PORT)),
        }
    }

    /// The host as text for a resolver.
    #[must_use]
    pub fn host(&self) -> String {
        self.host.to_str().into_owned()
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the address is certainly on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            ServerName::DnsName(name) => name.as_ref().eq_ignore_ascii_case(LOCALHOST),
            ServerName::IpAddress(ip) => IpAddr::from(*ip).is_loopback(),
            _ => false,
        }
    }

    /// Whether the host is given by its IP address.
    #[must_use]
    pub fn is_number(&self) -> bool {
        matches!(self.host, ServerName::IpAddress(_))
    }

    /// The name for which the peer's certificate must be valid.
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
        parse().ok_or_else(|| ParseAddressError::Form(text.chars().take(SHOWN).collect()))
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
    }

    #[test]
    fn what_people_type() {
        let typed = |text: &str| match Address::typed(text) {
            Ok(address) => address.to_string(),
            Err(error) => error.to_string(),
        };
        for (text, expected) in [
            ("10.0.0.7:1", "10.0.0.7:1"),
            ("localhost", "localhost:50051"),
            ("[::1]:7", "[::1]:7"),
            ("[::1]", "[::1]:50051"),
            ("node-3.cluster:7000", "node-3.cluster:7000"),
            ("host:70000", "names port 70000, and ports are numbers from 1 to 65535"),
            ("host:0", "names port 0"),
            ("host:-1", "names port -1"),
            ("host:+1", "names port +1"),
            ("host:http", "names port http"),
            ("host:", "is no host and port such as"),
            ("[::1]:65536", "names port 65536"),
            ("::1", "is not clear: write an IPv6 address in brackets, such as [::1]:50051"),
            ("fe80::1:50051", "write an IPv6 address in brackets"),
            ("node:b:c", "is no host and port such as"),
            ("[::1", "is no host and port such as"),
            ("[host]:1", "is no host and port such as"),
            ("[::1]x", "is no host and port such as"),
            ("", "is no host and port such as"),
            (":50051", "is no host and port such as"),
            ("two words:1", "is no host and port such as"),
        ] {
            assert!(typed(text).contains(expected), "{text}: {}", typed(text));
        }
        assert_eq!(host_and_port("localhost:0"), Ok(("localhost".into(), Some(0))));
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
