//! Connects the members of a generation: every pair by one stream, opened by the higher rank.

use collective::{Plan, Rank};
use protocol::{
    FRAME_BYTES_MAX,
    wire::{Frame, PeerHello, all_reduce_client::AllReduceClient, frame},
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::transport;

use super::{
    ConnectError, Endpoint, Group, Grpc, HTTP2_FRAME_BYTES, HTTP2_WINDOW_BYTES, Peer,
    endpoint::{PeerStream, STREAM_PATIENCE},
    inbox,
};

impl Endpoint {
    /// Connects to all other members of `group`. To be called on the runtime that also
    /// serves this endpoint; the result is for the training thread.
    ///
    /// # Errors
    /// [`ConnectError`] when a member cannot be reached or does not come within seconds.
    pub async fn connect(&self, group: &Group) -> Result<Grpc, ConnectError> {
        let shares: Vec<_> = group.peers.iter().map(|peer| peer.share).collect();
        let plan = Plan::new(group.shards, group.length, &shares)?;
        let me = plan.member(group.rank).ok_or(ConnectError::NotAMember(group.rank))?;
        self.enter(group.generation);

        let (inbox, deliveries) = inbox::channel(self.outbound_frames() * group.peers.len());
        let mut outbound = Vec::new();
        for (member, peer) in group.peers.iter().enumerate() {
            if member == me {
                outbound.push(None);
                continue;
            }
            let stream = if member < me {
                self.dial(group, peer).await?
            } else {
                let rank = peer.share.rank;
                let seconds = STREAM_PATIENCE.as_secs();
                let absent = ConnectError::Absent { rank, seconds };
                self.take(group.generation, rank).await.ok_or(absent)?
            };
            outbound.push(Some(stream.outbound));
            tokio::spawn(inbox.clone().receive(member, stream.inbound));
        }
        Ok(Grpc::new(plan, me, outbound, inbox, deliveries, self.outbound_frames()))
    }

    async fn dial(&self, group: &Group, peer: &Peer) -> Result<PeerStream, ConnectError> {
        let attempt = self.open(group.rank, group, peer);
        let reason = match tokio::time::timeout(STREAM_PATIENCE, attempt).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(reason)) => reason,
            Err(_) => "no answer in time".to_owned(),
        };
        let Peer { share, address } = *peer;
        Err(ConnectError::Unreachable { rank: share.rank, address, reason })
    }

    async fn open(&self, rank: Rank, group: &Group, peer: &Peer) -> Result<PeerStream, String> {
        let channel = transport::Endpoint::from_shared(format!("http://{}", peer.address))
            .map_err(|error| error.to_string())?
            .max_frame_size(HTTP2_FRAME_BYTES)
            .initial_stream_window_size(HTTP2_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_WINDOW_BYTES)
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|error| error.to_string())?;
        let (outbound, frames) = mpsc::channel(self.outbound_frames());
        let run_id = self.run_id().to_owned();
        let hello = PeerHello { run_id, generation: group.generation.0, rank: rank.0 };
        let hello = Frame { body: Some(frame::Body::Hello(hello)) };
        outbound.try_send(Ok(hello)).map_err(|error| error.to_string())?;
        // Only a server refuses with a status; a dialling side just sends frames.
        let frames = ReceiverStream::new(frames).filter_map(Result::ok);
        let inbound = AllReduceClient::new(channel)
            .max_decoding_message_size(FRAME_BYTES_MAX)
            .exchange(frames)
            .await
            .map_err(|status| status.message().to_owned())?
            .into_inner();
        Ok(PeerStream { outbound, inbound })
    }
}
