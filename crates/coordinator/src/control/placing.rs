//! Which members of a generation share memory, and so how they exchange gradients.

use anyhow::{Result, bail};
use config::Collective;
use protocol::wire::Transport;

/// The members of a generation by memory domain, in rank order.
#[derive(Debug)]
pub(super) struct Placing {
    /// Equal for those that share memory; 0 for one that cannot.
    memory_domains: Vec<u32>,
    hosts: usize,
}

impl Placing {
    /// Numbers the domains that the members have named.
    pub(super) fn of<'a>(named: impl Iterator<Item = Option<&'a str>>) -> Self {
        let mut known: Vec<&str> = Vec::new();
        let mut alone = 0;
        let mut number = |name: Option<&'a str>| {
            let Some(name) = name else {
                alone += 1;
                return 0;
            };
            let place = known.iter().position(|other| *other == name).unwrap_or(known.len());
            if place == known.len() {
                known.push(name);
            }
            u32::try_from(place + 1).unwrap_or_default()
        };
        let memory_domains = named.map(&mut number).collect();
        Self { memory_domains, hosts: known.len() + alone }
    }

    /// The domain of each member.
    pub(super) fn memory_domains(&self) -> &[u32] {
        &self.memory_domains
    }

    /// Hosts, as far as memory goes.
    pub(super) fn hosts(&self) -> usize {
        self.hosts
    }

    /// How the members exchange gradients: through memory where they can share it, unless the
    /// user says otherwise.
    pub(super) fn transport(&self, asked: Collective) -> Result<Transport> {
        let together = self.hosts == 1 && !self.memory_domains.contains(&0);
        let apart = self.hosts == self.memory_domains.len();
        Ok(match asked {
            Collective::Auto | Collective::Shm if together => Transport::Shm,
            Collective::Auto if apart => Transport::Grpc,
            Collective::Auto | Collective::TwoLevel => Transport::TwoLevel,
            Collective::Grpc => Transport::Grpc,
            Collective::Shm => bail!(
                "--collective shm needs all workers on one host, as one user and in one \
                 container: use --collective auto, two-level or grpc"
            ),
        })
    }
}

/// A transport as people call it.
pub(super) fn name(transport: Transport) -> &'static str {
    match transport {
        Transport::Unspecified => "unspecified",
        Transport::Grpc => "grpc",
        Transport::Shm => "shm",
        Transport::TwoLevel => "two-level",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_memory_where_it_is_shared_and_streams_where_it_is_not() {
        let (a, b) = (Some("a"), Some("b"));
        let cases = [
            (vec![a, a], vec![1, 1], Transport::Shm),
            (vec![a, b], vec![1, 2], Transport::Grpc),
            (vec![a, b, a], vec![1, 2, 1], Transport::TwoLevel),
            (vec![a, a, None], vec![1, 1, 0], Transport::TwoLevel),
            (vec![None, None], vec![0, 0], Transport::Grpc),
            (vec![None], vec![0], Transport::Grpc),
        ];
        for (named, numbers, transport) in cases {
            let placing = Placing::of(named.iter().copied());
            assert_eq!(placing.memory_domains(), numbers);
            assert_eq!(placing.transport(Collective::Auto).unwrap(), transport, "{named:?}");
            assert_eq!(placing.transport(Collective::Grpc).unwrap(), Transport::Grpc);
            assert_eq!(placing.transport(Collective::TwoLevel).unwrap(), Transport::TwoLevel);
            let shm = placing.transport(Collective::Shm).is_ok();
            assert_eq!(shm, transport == Transport::Shm, "{named:?}");
        }
    }
}
