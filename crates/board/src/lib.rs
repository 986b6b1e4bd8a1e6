//! Runs in a browser, and for Prometheus: a page that shows how a run goes, and `/metrics`.
//!
//! The listener only reads: it answers GET and HEAD, and refuses what a page of a foreign site has a
//! browser ask. Beyond loopback it speaks TLS and answers those who bring the view token (`secure`).
//! What a run has done is read from its directory, as `history` writes it; how it stands at this moment
//! is told by a [`Source`]. The crate knows nothing of coordinators and training. Start at [`serve`] and at the table in `routes`.

mod assets;
mod download;
mod explore;
mod guard;
mod metrics;
#[cfg(test)]
mod palette;
mod process;
mod query;
mod reading;
mod routes;
mod run;
mod runs;
mod series;
mod server;
mod story;
mod stream;

use std::{future::Future, sync::Arc};

use tokio::net::TcpListener;

use secure::Viewers;

pub use crate::{
    explore::{Exploration, Explorer, PageFile},
    reading::{Metric, NoSource, Reading, Source, Worker},
    runs::Places,
};

/// What a board shows.
#[derive(Debug)]
pub struct Show<S> {
    /// Tells how the current run stands.
    pub source: S,
    /// Where the runs are.
    pub places: Places,
    /// What the program knows to show of its models, if it does.
    pub explorer: Option<Arc<dyn Explorer>>,
}

/// Shows runs to those who connect, until `stopped` ends: to `viewers` over TLS, or without these to all
/// on this machine.
pub async fn serve(
    listener: TcpListener,
    viewers: Option<Viewers>,
    show: Show<impl Source>,
    stopped: impl Future,
) {
    let Show { source, places, explorer } = show;
    let explorations = explorer.clone().map(explore::Explorations::new);
    let board = routes::Board::new(source, runs::Runs::new(places), explorations);
    let port = listener.local_addr().map_or(0, |address| address.port());
    let door = guard::Door::new(viewers.clone(), port);
    server::serve(listener, viewers, routes::routes(board, explorer.as_deref(), door), stopped)
        .await;
}
