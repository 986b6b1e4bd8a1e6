//! Shows runs in a browser and to Prometheus: a page with the progress of a run, and `/metrics`.
//!
//! The listener only reads: it answers GET and HEAD, and refuses requests from pages of other sites.
//! Beyond loopback it uses TLS and needs the view token (crate `secure`). The past of a run is read from
//! its directory, which `history` writes. The present state comes from a [`Source`]. The crate knows
//! nothing of coordinators and training. Start reading at [`serve`] and at the table in `routes`.

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

use std::sync::Arc;

use tokio::net::TcpListener;

use secure::{Viewers, connection::BoxFuture};

pub use crate::{
    explore::{Exploration, Explorer, PageFile},
    reading::{Metric, Reading, Source, Worker},
    runs::Places,
};

/// The data that a board shows.
#[derive(Debug)]
pub struct Show {
    /// The source of the current run's state; none for runs that are shown without their coordinators.
    pub source: Option<Arc<dyn Source>>,
    /// The folders of the runs.
    pub places: Places,
    /// The program's page for its models, if it has one.
    pub explorer: Option<Arc<dyn Explorer>>,
}

/// Shows runs until the future is dropped: to `viewers` over TLS; without `viewers`, to everybody on this
/// machine.
pub fn serve(
    listener: TcpListener,
    viewers: Option<Viewers>,
    show: Show,
) -> BoxFuture<'static, ()> {
    let Show { source, places, explorer } = show;
    let explorations = explorer.clone().map(explore::Explorations::new);
    let board = routes::Board::new(source, runs::Runs::new(places), explorations);
    let port = listener.local_addr().map_or(0, |address| address.port());
    let door = guard::Door::new(viewers.clone(), port);
    let routes = routes::routes(board, explorer.as_deref(), door);
    Box::pin(server::serve(listener, viewers, routes))
}
