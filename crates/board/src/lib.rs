//! How a run stands, over HTTP: `/metrics`, as Prometheus reads it.
//!
//! The listener only reads: it answers GET and HEAD, on loopback alone, and refuses what a page of
//! a foreign site has a browser ask. What it shows is handed to it by a [`Source`]; it knows
//! nothing of coordinators, files and training. Start at [`serve`].

mod guard;
mod metrics;
mod reading;
mod server;

pub use crate::{
    reading::{Metric, Reading, Worker},
    server::{Source, serve},
};
