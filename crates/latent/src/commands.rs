//! One file per command: its flags and its work.

pub(crate) mod dataset;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod evaluate;
pub(crate) mod explore;
pub(crate) mod export;
pub(crate) mod fit_gmm;
pub(crate) mod interpolate;
pub(crate) mod map;
pub(crate) mod reconstruct;
pub(crate) mod sample;
pub(crate) mod traverse;
