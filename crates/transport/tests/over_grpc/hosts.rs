//! Members in one process, each with a communication thread and a listening endpoint.

use secure::Address;
use tokio::{net::TcpListener, runtime::Runtime};
use transport::{Endpoint, Listener};

pub(crate) const RUN: &str = "test";

/// A member's communication thread: its runtime and its listening endpoint.
pub(crate) struct Host {
    pub(crate) runtime: Runtime,
    pub(crate) endpoint: Endpoint,
    pub(crate) address: Address,
}

/// How the members reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Tcp,
    /// Over local sockets. The members' addresses lead nowhere.
    Local,
}

impl Host {
    pub(crate) fn start(way: Way, shards: u32, length: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let endpoint = Endpoint::new(RUN, shards, length);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let bound = listener.local_addr().unwrap();
        let mut listener = Listener::from(listener);
        let mut address = Address::from(bound);
        if way == Way::Local {
            let _runtime = runtime.enter();
            address = Address::on("nowhere.invalid", bound.port()).unwrap();
            listener = listener.and_near(&address);
        }
        runtime.spawn(endpoint.clone().serve(listener));
        Self { runtime, endpoint, address }
    }
}
