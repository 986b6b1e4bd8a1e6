//! Connects the members of a generation: one stream for every pair, opened by the higher rank.

use bytes::{Bytes, BytesMut};
use collective::Hosts;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use protocol::wire::{Frame, PeerHello, frame};
use secure::{
    Address, Security,
    connection::{self, BoxFuture, Connection, Opener},
};
use tonic::{
    Status,
    body::Body,
    transport::{self, Channel},
};
use tower::ServiceExt as _;

use super::{
    ConnectError, Endpoint, Grpc, HTTP2_FRAME_BYTES, HTTP2_WINDOW_BYTES, KEEP_ALIVE_INTERVAL,
    KEEP_ALIVE_TIMEOUT, STREAM_TIMEOUT, frames,
    service::{CONTENT_TYPE, EXCHANGE_PATH},
    socket,
    stream::{self, Inbound, PeerStream, Side},
};
use crate::{Group, Peer};

impl Endpoint {
    /// Connects to all other members of `group`. Call it on the runtime that serves this endpoint;
    /// the result is for the training thread.
    ///
    /// # Errors
    /// [`ConnectError`] when a member cannot be reached or does not connect within seconds.
    pub fn connect<'a>(&'a self, group: &'a Group) -> BoxFuture<'a, Result<Grpc, ConnectError>> {
        Box::pin(async {
            let (plan, me) = group.plan()?;
            self.connect_hosts(group, Hosts::apart(plan), me).await
        })
    }

    /// Connects to the members on other hosts with which this member exchanges floats.
    pub(crate) async fn connect_lanes(&self, group: &Group) -> Result<Grpc, ConnectError> {
        let (hosts, me) = group.hosts()?;
        self.connect_hosts(group, hosts, me).await
    }

    async fn connect_hosts(
        &self,
        group: &Group,
        hosts: Hosts,
        me: usize,
    ) -> Result<Grpc, ConnectError> {
        self.enter(group);
        let mut streams = Vec::new();
        for member in hosts.linked(me) {
            let peer = &group.peers[member];
            let rank = peer.share.rank;
            let stream = if member < me {
                self.dial(group, peer).await?
            } else {
                let seconds = STREAM_TIMEOUT.as_secs();
                let absent = ConnectError::Absent { rank, seconds };
                self.take(group.generation, rank).await.ok_or(absent)?
            };
            streams.push((member, stream));
        }
        Ok(Grpc::new(hosts, me, streams))
    }

    async fn dial(&self, group: &Group, peer: &Peer) -> Result<PeerStream, ConnectError> {
        let attempt = self.open(group, peer);
        let reason = match tokio::time::timeout(STREAM_TIMEOUT, attempt).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(reason)) => reason,
            Err(_) => "no answer in time".to_owned(),
        };
        let Peer { share, address, .. } = peer.clone();
        Err(ConnectError::Unreachable { rank: share.rank, address, reason })
    }

    async fn open(&self, group: &Group, peer: &Peer) -> Result<PeerStream, String> {
        let Peer { address, secret, .. } = peer;
        let channel = self.reach(group, peer).await.map_err(|error| cause(&error))?;
        let hello = PeerHello {
            run_id: self.run_id().to_owned(),
            generation: group.generation.0,
            rank: group.rank.0,
            secret: Bytes::copy_from_slice(secret.bytes()),
        };
        let mut first = BytesMut::new();
        frames::put_message(&mut first, &Frame { body: Some(frame::Body::Hello(hello)) });
        let (outbound, body) = stream::outbound(Side::Client, self.queued_max());
        outbound.try_send(first.freeze()).map_err(|error| error.to_string())?;
        let response = channel
            .oneshot(call(address, EXCHANGE_PATH, body)?)
            .await
            .map_err(|error| cause(&error))?;
        Ok(PeerStream { outbound, inbound: Inbound::new(accepted(response)?) })
    }

    /// Connects to a member: over a local socket on the same host if possible, else over TCP.
    async fn reach(&self, group: &Group, peer: &Peer) -> Result<Channel, transport::Error> {
        if group.is_near(peer) {
            match near_channel(&peer.address).await {
                Ok(channel) => return Ok(channel),
                Err(error) => {
                    let (rank, reason) = (peer.share.rank, cause(&error));
                    tracing::debug!(%rank, reason, "no local socket, so it is TCP");
                }
            }
        }
        channel(&peer.address, self.security()).await
    }
}

/// Connects to a worker's address.
pub(crate) async fn channel(
    address: &Address,
    security: &Security,
) -> Result<Channel, transport::Error> {
    let (to, security) = (address.clone(), security.clone());
    let open: Opener = Box::new(move || {
        let (to, security) = (to.clone(), security.clone());
        Box::pin(
            async move { security.connect(&to, socket::connect(&to)).await.map(Connection::new) },
        )
    });
    connection::channel(settings(address)?, open).await
}

/// Connects to a worker on this host, over its local socket.
async fn near_channel(address: &Address) -> Result<Channel, transport::Error> {
    let to = address.clone();
    let open: Opener = Box::new(move || {
        let to = to.clone();
        Box::pin(async move { socket::connect_near(&to).await.map(Connection::new) })
    });
    connection::channel(settings(address)?, open).await
}

fn settings(address: &Address) -> Result<transport::Endpoint, transport::Error> {
    let endpoint = transport::Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint
        .max_frame_size(HTTP2_FRAME_BYTES)
        .initial_stream_window_size(HTTP2_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// The innermost cause of an error; the outer errors only wrap it.
pub(crate) fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), cause)
}

/// The request that opens a stream.
pub(crate) fn call(address: &Address, path: &str, body: Body) -> Result<Request<Body>, String> {
    Request::post(format!("http://{address}{path}"))
        .version(Version::HTTP_2)
        .header(header::TE, HeaderValue::from_static("trailers"))
        .header(header::CONTENT_TYPE, CONTENT_TYPE)
        .body(body)
        .map_err(|error| error.to_string())
}

/// The body of a response, unless it refuses the call.
pub(crate) fn accepted(response: Response<Body>) -> Result<Body, String> {
    if response.status() != StatusCode::OK {
        return Err(format!("it answered with {}", response.status()));
    }
    match Status::from_header_map(response.headers()) {
        Some(refusal) => Err(protocol::convert::printable(refusal.message())),
        None => Ok(response.into_body()),
    }
}
