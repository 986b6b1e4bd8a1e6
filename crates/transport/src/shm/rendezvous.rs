//! The text with which the other members find the leader's segment.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// Most bytes of a rendezvous as text.
pub const RENDEZVOUS_BYTES_MAX: usize = 96;

const PREFIX: &str = "lockstep-shm/1";

/// The place of a leader's segment: a file without a name, found through the leader's process.
///
/// The caller sends it to the other members as text, of at most [`RENDEZVOUS_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendezvous {
    /// The leader's process.
    pub(super) pid: u32,
    /// The leader's descriptor of the segment.
    pub(super) descriptor: u32,
    /// Random bits, which are also in the segment.
    pub(super) nonce: u128,
}

impl fmt::Display for Rendezvous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, descriptor, nonce } = self;
        write!(f, "{PREFIX} {pid} {descriptor} {nonce:032x}")
    }
}

/// A text that is not a rendezvous.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not the rendezvous of a shared-memory segment")]
pub struct ParseRendezvousError;

impl FromStr for Rendezvous {
    type Err = ParseRendezvousError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut words = (text.len() <= RENDEZVOUS_BYTES_MAX).then(|| text.split(' '))?;
            let known = words.next() == Some(PREFIX);
            let pid = words.next()?.parse().ok()?;
            let descriptor = words.next()?.parse().ok()?;
            let nonce = words.next().filter(|digits| digits.len() == 32)?;
            let nonce = u128::from_str_radix(nonce, 16).ok()?;
            (known && words.next().is_none()).then_some(Self { pid, descriptor, nonce })
        };
        parse().ok_or(ParseRendezvousError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let rendezvous = Rendezvous { pid: u32::MAX, descriptor: u32::MAX, nonce: 77 };
        let text = rendezvous.to_string();
        assert!(text.len() <= RENDEZVOUS_BYTES_MAX);
        assert_eq!(text.parse(), Ok(rendezvous));
        for wrong in ["", "lockstep-shm/1 1 2", "lockstep-shm/2 1 2 3", &format!("{text} 9")] {
            assert_eq!(wrong.parse::<Rendezvous>(), Err(ParseRendezvousError), "{wrong}");
        }
        assert!(
            "lockstep-shm/1 ../1 2 0123456789abcdef0123456789abcdef".parse::<Rendezvous>().is_err()
        );
    }
}
