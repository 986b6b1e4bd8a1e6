//! The values of `--listen` and `--advertise`, as a person types them.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    str::FromStr,
};

use anyhow::{Context as _, Result};
use secure::{Address, ParseAddressError};

/// The port of a coordinator unless a flag names another.
pub(crate) const PORT: u16 = 50051;

/// A name or IP address of this host, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenAddress {
    host: String,
    port: u16,
}

impl FromStr for ListenAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = secure::host_and_port(text)?;
        Ok(Self { host, port: port.unwrap_or(PORT) })
    }
}

impl ListenAddress {
    /// The address to listen on.
    pub(crate) fn resolve(&self) -> Result<SocketAddr> {
        let Self { host, port } = self;
        let unknown = || format!("--listen {host}:{port}: no host of this name is known here");
        let found: Vec<_> = (&host[..], *port).to_socket_addrs().with_context(unknown)?.collect();
        // If a name has addresses of both kinds, IPv4 is preferred, as most programs do.
        let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
        first.copied().with_context(unknown)
    }
}

/// Where a coordinator listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenTarget {
    pub(crate) address: SocketAddr,
    /// The address with any free port, if the port of `address` need not be free.
    pub(crate) otherwise: Option<SocketAddr>,
}

impl ListenTarget {
    /// The target for `asked`, the address of `--listen`, if a person gave that flag. Workers of the
    /// previous coordinator, if there may be any, look for it at `known`.
    pub(crate) fn new(
        asked: Option<&ListenAddress>,
        default: &ListenAddress,
        known: Option<SocketAddr>,
    ) -> Result<Self> {
        let address = match (asked, known) {
            (None, Some(known)) => known,
            (asked, _) => asked.unwrap_or(default).resolve()?,
        };
        Ok(match known {
            // Port 0 is any port, also the known one.
            Some(known) if address.port() == 0 => Self {
                address: SocketAddr::new(address.ip(), known.port()),
                otherwise: Some(address),
            },
            _ => Self { address, otherwise: None },
        })
    }
}

/// The name or IP address of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostName(String);

impl FromStr for HostName {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Address::on(text, PORT).map(|address| Self(address.host()))
    }
}

impl HostName {
    /// The address of a port on this host.
    pub(crate) fn port(&self, port: u16) -> Option<Address> {
        Address::on(&self.0, port).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_named_or_numbered() {
        let resolved = |text: &str| match text.parse::<ListenAddress>() {
            Ok(address) => match address.resolve() {
                Ok(address) => address.to_string(),
                Err(error) => format!("{error:#}"),
            },
            Err(error) => error.to_string(),
        };
        for (text, expected) in [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("localhost:7", "127.0.0.1:7"),
            ("localhost", "127.0.0.1:50051"),
            ("[::1]:7", "[::1]:7"),
            ("0.0.0.0:7", "0.0.0.0:7"),
            ("localhost:70000", "names port 70000"),
            ("::1", "in brackets"),
            (":7", "is no host and port"),
            ("http://localhost:7", "is no host and port"),
            ("nobody.invalid:7", "--listen nobody.invalid:7: no host of this name is known here"),
        ] {
            assert!(resolved(text).contains(expected), "{text}: {}", resolved(text));
        }
        let host = "[::1]".parse::<HostName>().unwrap();
        assert_eq!(host.port(7).unwrap().to_string(), "[::1]:7");
        assert!("10.0.0.1:7".parse::<HostName>().is_err());
    }

    #[test]
    fn port_0_is_the_port_where_workers_look() {
        let default = "127.0.0.1:50051".parse().unwrap();
        let target = |asked: &str, known: &str| {
            let asked = Some(asked).filter(|asked| !asked.is_empty());
            let asked = asked.map(|asked| asked.parse().unwrap());
            let target = ListenTarget::new(asked.as_ref(), &default, known.parse().ok()).unwrap();
            (target.address.to_string(), target.otherwise.map(|any| any.to_string()))
        };
        let fixed = |address: &str| (address.to_owned(), None);
        assert_eq!(target("", ""), fixed("127.0.0.1:50051"));
        assert_eq!(target("127.0.0.1:0", ""), fixed("127.0.0.1:0"));
        assert_eq!(target("", "0.0.0.0:7"), fixed("0.0.0.0:7"));
        assert_eq!(target("127.0.0.1:8", "0.0.0.0:7"), fixed("127.0.0.1:8"));
        let any = Some("127.0.0.1:0".to_owned());
        assert_eq!(target("127.0.0.1:0", "0.0.0.0:7"), ("127.0.0.1:7".to_owned(), any));
    }
}
