//! Finds the rank that a worker asks for, and the address of its coordinator: from the flags, or from
//! the environment variables of the launcher.
//!
//! The first of these that gives a value wins: the flags, torchrun, Kubeflow (`PET_*`), Slurm, an
//! indexed Kubernetes Job. The result is a pure function of flags and environment; nothing here
//! connects.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// The default port of a coordinator.
pub(crate) const PORT: u16 = 50051;

/// The rank that the flags ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RankChoice {
    /// Any free rank, whatever the environment says.
    Any,
    /// This rank.
    Number(u32),
}

impl FromStr for RankChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(Self::Any),
            _ => match text.parse() {
                Ok(rank) => Ok(Self::Number(rank)),
                Err(_) => Err("must be a rank, a whole number from 0, or any".into()),
            },
        }
    }
}

/// The source of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The worker's own flags.
    Flag,
    /// The variable of a launcher.
    Variable(&'static str),
    /// The default: no flag and no launcher gave it.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "the flags",
            Self::Variable(name) => name,
            Self::Default => "the default",
        })
    }
}

/// The rank and the coordinator that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The rank to ask for; none for any free rank.
    pub(crate) rank: Option<u32>,
    pub(crate) rank_from: Source,
    /// The index among the processes on this host; it chooses the GPU.
    pub(crate) local_rank: Option<u32>,
    pub(crate) coordinator: String,
    pub(crate) coordinator_from: Source,
}

impl Found {
    /// The coordinator's URL. It begins with `scheme`, unless a flag gave the URL.
    pub(crate) fn url(&self, scheme: &str) -> String {
        match (self.coordinator_from, self.coordinator.split_once("://")) {
            (Source::Flag, _) | (_, None) => self.coordinator.clone(),
            (_, Some((_, place))) => format!("{scheme}://{place}"),
        }
    }
}

/// An impossible value of a launcher's variable.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum DiscoveryError {
    #[error("{name} is {value:?}, not a number: correct it, unset it, or give --rank")]
    NoNumber { name: &'static str, value: String },
    #[error(
        "{name} is {rank}, but {of} says that there are {count}: correct them, unset them, or \
         give --rank"
    )]
    BeyondTheEnd { name: &'static str, rank: u32, of: &'static str, count: u32 },
    #[error("{local} is {value}, more than {name}, which is {rank}: they contradict each other")]
    LocalBeyondGlobal { local: &'static str, value: u32, name: &'static str, rank: u32 },
    #[error(
        "PET_NPROC_PER_NODE is {0}, and PET_NODE_RANK is the same for all processes of a node: \
         start them with torchrun, or give each its --rank"
    )]
    SharedRank(u32),
    #[error(
        "{name} is {value:?}, not the name or address of a host: correct it, or give --coordinator"
    )]
    NoHost { name: &'static str, value: String },
}

/// The names of a launcher's variables; empty for a variable that it does not set.
struct Launcher {
    rank: &'static str,
    /// The number of ranks.
    count: &'static str,
    local_rank: &'static str,
    /// The host of rank zero, which is assumed to be the coordinator's.
    coordinator: &'static str,
}

/// The launchers, in the order of precedence.
const LAUNCHERS: [Launcher; 4] = [
    Launcher {
        rank: "RANK",
        count: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        coordinator: "MASTER_ADDR",
    },
    Launcher {
        rank: "PET_NODE_RANK",
        count: "PET_NNODES",
        local_rank: "",
        coordinator: "PET_MASTER_ADDR",
    },
    Launcher {
        rank: "SLURM_PROCID",
        count: "SLURM_NTASKS",
        local_rank: "SLURM_LOCALID",
        coordinator: "SLURM_LAUNCH_NODE_IPADDR",
    },
    Launcher { rank: "JOB_COMPLETION_INDEX", count: "", local_rank: "", coordinator: "" },
];

/// Finds a worker's rank and coordinator. A launcher's port is for its own rendezvous, so the default
/// port of Lockstep is used instead.
///
/// # Errors
/// An impossible value of the launcher that wins. Variables of other launchers are not checked.
pub(crate) fn find(
    rank: Option<RankChoice>,
    coordinator: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Found, DiscoveryError> {
    let set = |name: &'static str| variable(name).filter(|value| !value.trim().is_empty());
    let launcher = LAUNCHERS.iter().find(|launcher| set(launcher.rank).is_some());
    let mut found = Found {
        rank: match rank {
            Some(RankChoice::Number(rank)) => Some(rank),
            Some(RankChoice::Any) | None => None,
        },
        rank_from: if rank.is_some() { Source::Flag } else { Source::Default },
        local_rank: None,
        coordinator: coordinator.unwrap_or_default().to_owned(),
        coordinator_from: Source::Flag,
    };
    if let (None, Some(launcher)) = (rank, launcher) {
        let (rank, local_rank) = place(launcher, &set)?;
        (found.rank, found.rank_from) = (Some(rank), Source::Variable(launcher.rank));
        found.local_rank = local_rank;
    }
    if coordinator.is_none() {
        let host =
            launcher.map(|launcher| launcher.coordinator).and_then(|name| Some((name, set(name)?)));
        (found.coordinator, found.coordinator_from) = match host {
            Some((name, host)) => (url(name, &host)?, Source::Variable(name)),
            None => (format!("http://127.0.0.1:{PORT}"), Source::Default),
        };
    }
    Ok(found)
}

/// The rank and the local rank that a launcher gives.
fn place(
    launcher: &Launcher,
    set: &impl Fn(&'static str) -> Option<String>,
) -> Result<(u32, Option<u32>), DiscoveryError> {
    let number = |name: &'static str| match set(name) {
        None => Ok(None),
        Some(value) => match value.trim().parse() {
            Ok(number) => Ok(Some(number)),
            // Kubeflow may give a range of nodes, or a word such as `auto` for the number of processes.
            Err(_) if name == "PET_NNODES" || name == "PET_NPROC_PER_NODE" => Ok(None),
            Err(_) => Err(DiscoveryError::NoNumber { name, value }),
        },
    };
    let name = launcher.rank;
    let rank = number(name)?.unwrap_or_default();
    if let Some(count) = number(launcher.count)?.filter(|count| rank >= *count) {
        return Err(DiscoveryError::BeyondTheEnd { name, rank, of: launcher.count, count });
    }
    if let Some(processes) = number("PET_NPROC_PER_NODE")?.filter(|processes| *processes > 1)
        && name == "PET_NODE_RANK"
    {
        return Err(DiscoveryError::SharedRank(processes));
    }
    let local_rank = number(launcher.local_rank)?;
    if let Some(value) = local_rank.filter(|local| *local > rank) {
        return Err(DiscoveryError::LocalBeyondGlobal {
            local: launcher.local_rank,
            value,
            name,
            rank,
        });
    }
    Ok((rank, local_rank))
}

/// The URL of a coordinator on `host`, with the default port.
fn url(name: &'static str, host: &str) -> Result<String, DiscoveryError> {
    let host = host.trim();
    let is_name = |text: &str| {
        text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
    };
    if host.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(format!("http://[{host}]:{PORT}"));
    }
    if is_name(host) {
        return Ok(format!("http://{host}:{PORT}"));
    }
    Err(DiscoveryError::NoHost { name, value: host.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &str) -> impl Fn(&str) -> Option<String> {
        let pairs: Vec<(String, String)> = variables
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        move |name| pairs.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
    }

    fn found(rank: Option<RankChoice>, coordinator: Option<&str>, variables: &str) -> String {
        match find(rank, coordinator, with(variables)) {
            Ok(f) => {
                let rank = f.rank.map_or("any".to_owned(), |rank| rank.to_string());
                let local = f.local_rank.map_or(String::new(), |local| format!(" local {local}"));
                let (from, at) = (f.rank_from, f.coordinator);
                format!("{rank}{local} by {from}, {at} by {}", f.coordinator_from)
            }
            Err(misled) => misled.to_string(),
        }
    }

    #[test]
    fn the_first_that_gives_a_value_wins() {
        let here = "http://127.0.0.1:50051 by the default";
        let torchrun = "RANK=3 LOCAL_RANK=1 WORLD_SIZE=4 MASTER_ADDR=node-0 MASTER_PORT=29500";
        let kubeflow = "PET_NODE_RANK=2 PET_NNODES=4 PET_NPROC_PER_NODE=1 PET_MASTER_ADDR=10.0.0.7";
        let slurm = "SLURM_PROCID=5 SLURM_NTASKS=8 SLURM_LOCALID=1 SLURM_LAUNCH_NODE_IPADDR=::1";
        let index = "JOB_COMPLETION_INDEX=6";
        let one = Some(RankChoice::Number(1));
        let all = format!("{torchrun} {kubeflow} {slurm} {index}");
        for (rank, coordinator, variables, expected) in [
            (None, None, "", format!("any by the default, {here}")),
            (one, None, "", format!("1 by the flags, {here}")),
            (Some(RankChoice::Any), None, index, format!("any by the flags, {here}")),
            (one, Some("http://a:1"), &all, "1 by the flags, http://a:1 by the flags".into()),
            (one, None, &all, "1 by the flags, http://node-0:50051 by MASTER_ADDR".into()),
            (None, Some("http://a:1"), &all, "3 local 1 by RANK, http://a:1 by the flags".into()),
            (None, None, &all, "3 local 1 by RANK, http://node-0:50051 by MASTER_ADDR".into()),
            (
                None,
                None,
                &format!("{kubeflow} {slurm}"),
                "2 by PET_NODE_RANK, http://10.0.0.7:50051 by PET_MASTER_ADDR".into(),
            ),
            (
                None,
                None,
                &format!("{slurm} {index}"),
                "5 local 1 by SLURM_PROCID, http://[::1]:50051 by SLURM_LAUNCH_NODE_IPADDR".into(),
            ),
            (None, None, index, format!("6 by JOB_COMPLETION_INDEX, {here}")),
            (None, None, "RANK= SLURM_PROCID=0", format!("0 by SLURM_PROCID, {here}")),
            (None, None, "PET_NODE_RANK=0 PET_NNODES=1:4", format!("0 by PET_NODE_RANK, {here}")),
        ] {
            assert_eq!(found(rank, coordinator, variables), expected, "{variables}");
        }
    }

    #[test]
    fn what_cannot_be_is_an_error_that_names_the_variable() {
        for (variables, expected) in [
            ("RANK=first", "RANK is \"first\", not a number"),
            ("RANK=-1", "RANK is \"-1\", not a number"),
            ("RANK=4 WORLD_SIZE=4", "RANK is 4, but WORLD_SIZE says that there are 4"),
            ("RANK=1 WORLD_SIZE=many", "WORLD_SIZE is \"many\""),
            ("RANK=1 LOCAL_RANK=2", "LOCAL_RANK is 2, more than RANK, which is 1"),
            ("PET_NODE_RANK=0 PET_NPROC_PER_NODE=2", "give each its --rank"),
            ("SLURM_PROCID=9 SLURM_NTASKS=8", "SLURM_NTASKS says that there are 8"),
            ("JOB_COMPLETION_INDEX=4294967296", "not a number"),
            ("RANK=0 MASTER_ADDR=http://a:1", "not the name or address of a host"),
        ] {
            let error = found(None, None, variables);
            assert!(error.contains(expected), "{variables}: {error}");
        }
    }

    #[test]
    fn one_that_does_not_win_is_not_looked_at() {
        assert!(find(Some(RankChoice::Any), Some("http://a:1"), with("RANK=first")).is_ok());
        assert!(find(None, None, with("RANK=0 SLURM_PROCID=first")).is_ok());
    }
}
