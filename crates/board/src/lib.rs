//! Runs in a browser, and for Prometheus: a page that shows how a run goes, and `/metrics`.
//!
//! The listener only reads: it answers GET and HEAD, on loopback alone, and refuses what a page of
//! a foreign site has a browser ask. What a run has done is read from its directory, as `history`
//! writes it; how it stands at this moment is told by a [`Source`]. The crate knows nothing of
//! coordinators and training. Start at [`serve`] and at the table in `routes`.

mod assets;
mod download;
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

use std::future::Future;

use tokio::net::TcpListener;

pub use crate::{
    reading::{Metric, NoSource, Reading, Source, Worker},
    runs::Places,
};

/// Shows the runs in `places` to those who connect, until `stopped` ends. `source` tells how the
/// current run stands.
pub async fn serve(
    listener: TcpListener,
    source: impl Source,
    places: Places,
    stopped: impl Future,
) {
    let board = routes::Board::new(source, runs::Runs::new(places));
    server::serve(listener, routes::routes(board), stopped).await;
}
