//! Members in one process, each with a communication thread and a listening endpoint.

use std::net::SocketAddr;

use tokio::{net::TcpListener, runtime::Runtime};
use transport::Endpoint;

pub(crate) const RUN: &str = "test";

/// A member's communication thread: its runtime and its listening endpoint.
pub(crate) struct Host {
    pub(crate) runtime: Runtime,
    pub(crate) endpoint: Endpoint,
    pub(crate) address: SocketAddr,
}

impl Host {
    pub(crate) fn start(shards: u32, length: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let endpoint = Endpoint::new(RUN, shards, length);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(endpoint.clone().serve(listener, std::future::pending()));
        Self { runtime, endpoint, address }
    }
}
