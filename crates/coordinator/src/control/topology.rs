//! Finds which members of a generation share memory, and chooses their transport.

use anyhow::{Result, bail};
use config::Collective;
use protocol::wire::Transport;

/// The members of a generation by memory domain, in rank order.
#[derive(Debug)]
pub(super) struct Topology {
    /// Equal for members that share memory; 0 for a member that shares none.
    memory_domains: Vec<u32>,
    hosts: usize,
}

impl Topology {
    /// Numbers the memory domains that the members have named.
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

    /// The memory domain of each member.
    pub(super) fn memory_domains(&self) -> &[u32] {
        &self.memory_domains
    }

    /// The number of memory domains; a member that shares no memory counts as one.
    pub(super) fn hosts(&self) -> usize {
        self.hosts
    }

    /// The members' transport: shared memory among members that can share it, unless a flag says
    /// otherwise. `gpus` has the host and bus id of each member's GPU, if it has one.
    pub(super) fn transport(
        &self,
        asked: Collective,
        gpus: Vec<Option<(&str, &str)>>,
    ) -> Result<Transport> {
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
            Collective::Nccl => match shared_gpu(gpus) {
                None => Transport::Nccl,
                Some(reason) => bail!(
                    "--collective nccl needs a GPU for each worker, and {reason}: \
                     use --collective auto"
                ),
            },
        })
    }
}

/// Why not every member has its own GPU; none if every member has one.
fn shared_gpu(gpus: Vec<Option<(&str, &str)>>) -> Option<String> {
    let Some(mut gpus) = gpus.into_iter().collect::<Option<Vec<_>>>() else {
        return Some("not all compute on one".to_owned());
    };
    gpus.sort_unstable();
    let (host, gpu) = gpus.windows(2).find(|pair| pair[0] == pair[1])?[0];
    Some(format!("several compute on {gpu} of {host}"))
}

/// The name of a transport, for people.
pub(super) fn name(transport: Transport) -> &'static str {
    match transport {
        Transport::Unspecified => "unspecified",
        Transport::Grpc => "grpc",
        Transport::Shm => "shm",
        Transport::TwoLevel => "two-level",
        Transport::Nccl => "nccl",
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
            let topology = Topology::of(named.iter().copied());
            assert_eq!(topology.memory_domains(), numbers);
            assert_eq!(
                topology.transport(Collective::Auto, Vec::new()).unwrap(),
                transport,
                "{named:?}"
            );
            assert_eq!(topology.transport(Collective::Grpc, Vec::new()).unwrap(), Transport::Grpc);
            assert_eq!(
                topology.transport(Collective::TwoLevel, Vec::new()).unwrap(),
                Transport::TwoLevel
            );
            let shm = topology.transport(Collective::Shm, Vec::new()).is_ok();
            assert_eq!(shm, transport == Transport::Shm, "{named:?}");
        }
    }

    #[test]
    fn nccl_is_for_members_with_a_gpu_each() {
        let topology = Topology::of([Some("a"), Some("a")].into_iter());
        let transport = |gpus: [Option<(&str, &str)>; 2]| {
            topology.transport(Collective::Nccl, gpus.to_vec()).map_err(|error| error.to_string())
        };
        let (first, second) = (Some(("a", "0000:01:00.0")), Some(("a", "0000:02:00.0")));
        assert_eq!(transport([first, second]), Ok(Transport::Nccl));
        assert_eq!(transport([first, Some(("b", "0000:01:00.0"))]), Ok(Transport::Nccl));
        assert!(transport([first, first]).unwrap_err().contains("0000:01:00.0 of a"));
        assert!(transport([first, None]).unwrap_err().contains("not all compute on one"));
    }
}
