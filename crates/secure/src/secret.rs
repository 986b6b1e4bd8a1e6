//! The secrets that a coordinator sends over control streams, and the key from which it derives them.
//!
//! All secrets of a generation are derived from the run's key. A restarted coordinator reads the
//! key from its journal and derives the same secrets. Generation numbers are never used twice, so
//! no secret is used in two generations.

use std::fmt;

use collective::{Generation, Rank};
use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use subtle::ConstantTimeEq as _;

use crate::hex;

/// Bytes of a secret.
pub const SECRET_BYTES: usize = 32;

/// Bytes that a peer has to know. A comparison takes the same time wherever the bytes differ, and
/// no code prints the bytes.
#[derive(Clone, Copy)]
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    /// A new secret, from the system's random numbers.
    ///
    /// # Panics
    /// If the system has no random numbers, because no secret is possible then.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; SECRET_BYTES];
        let filled = SystemRandom::new().fill(&mut bytes);
        assert!(filled.is_ok(), "the system has no random numbers");
        Self(bytes)
    }

    /// The bytes, for the wire.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the bytes that a peer sent are this secret.
    #[must_use]
    pub fn is(&self, brought: &[u8]) -> bool {
        self.0.as_slice().ct_eq(brought).into()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl Eq for Secret {}

impl From<[u8; SECRET_BYTES]> for Secret {
    fn from(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }
}

impl TryFrom<&[u8]> for Secret {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The key from which the secrets of a run's generations are derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(Secret);

/// The purpose of a derived secret.
#[derive(Clone, Copy)]
enum Purpose {
    Member = 1,
    Stream = 2,
}

impl Key {
    /// A new random key.
    #[must_use]
    pub fn random() -> Self {
        Self(Secret::random())
    }

    /// The proof of a member that it holds this rank in this generation.
    #[must_use]
    pub fn member(&self, generation: Generation, rank: Rank) -> Secret {
        self.derive(Purpose::Member, generation, rank, rank)
    }

    /// The secret of the stream between two members of a generation. No other member knows it.
    #[must_use]
    pub fn stream(&self, generation: Generation, one: Rank, other: Rank) -> Secret {
        self.derive(Purpose::Stream, generation, one.min(other), one.max(other))
    }

    fn derive(&self, purpose: Purpose, generation: Generation, low: Rank, high: Rank) -> Secret {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.bytes());
        let mut context = hmac::Context::with_key(&key);
        context.update(&[purpose as u8]);
        context.update(&generation.0.to_le_bytes());
        context.update(&low.0.to_le_bytes());
        context.update(&high.0.to_le_bytes());
        let mut secret = [0; SECRET_BYTES];
        secret.copy_from_slice(context.sign().as_ref());
        Secret(secret)
    }

    /// The key as text, for the journal.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex(self.0.bytes())
    }

    /// Reads the text of [`to_hex`](Self::to_hex); none if the text is not a key.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let (digits, rest) = text.as_bytes().as_chunks::<2>();
        let mut bytes = [0; SECRET_BYTES];
        if digits.len() != SECRET_BYTES || !rest.is_empty() {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(digits) {
            let digits = std::str::from_utf8(digits).ok()?;
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(Self(Secret(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_use_has_its_own_secret() {
        let key = Key::random();
        let (a, b) = (Generation(3), Rank(1));
        let all = [
            key.member(a, b),
            key.member(Generation(4), b),
            key.member(a, Rank(2)),
            key.stream(a, b, Rank(2)),
            key.stream(a, b, b),
            key.stream(a, Rank(0), b),
            key.stream(Generation(4), b, Rank(2)),
            Key::random().member(a, b),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(all[..index].iter().all(|other| other != one), "{index}");
        }
        assert_eq!(key.stream(a, Rank(2), b), key.stream(a, b, Rank(2)));
    }

    #[test]
    fn a_key_survives_the_journal_and_is_never_printed() {
        let key = Key::random();
        let text = key.to_hex();
        assert_eq!(Key::from_hex(&text), Some(key));
        assert!(!format!("{key:?}").contains(&text[..8]));
        for wrong in ["", "00", &text[1..], &format!("{text}00"), &"x".repeat(64)] {
            assert_eq!(Key::from_hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_secret_of_another_length_is_another_one() {
        let secret = Secret::random();
        assert!(secret.is(secret.bytes()));
        assert!(!secret.is(&secret.bytes()[1..]) && !secret.is(&[]));
        assert!(Secret::try_from(&secret.bytes()[1..]).is_err());
    }
}
