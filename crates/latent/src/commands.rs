//! One file a command: its flags, and what it does.

pub(crate) mod interpolate;
pub(crate) mod reconstruct;
pub(crate) mod sample;
pub(crate) mod traverse;
