//! Connects a generation over the transport that the coordinator chose.

use std::fs;

use anyhow::{Context as _, Result, bail};
use protocol::wire::{Segment as SegmentNews, WorkerMessage, worker_message::Body};
use tokio::sync::{mpsc, oneshot};
use transport::{Connected, Endpoint, Group, shm::Segment};

/// Connects by a stream for each pair of members.
pub(crate) async fn over_grpc(endpoint: Endpoint, group: Group) -> Result<Connected> {
    Ok(endpoint.connect(&group).await?.into())
}

/// Creates the segment that the members share, as the leader, and has the others told of it.
pub(crate) async fn share_segment(
    group: Group,
    outbound: mpsc::Sender<WorkerMessage>,
) -> Result<Connected> {
    let generation = group.generation.0;
    let create = move || Segment::create(&(&group).into());
    let (segment, rendezvous) = tokio::task::spawn_blocking(create).await??;
    let news = SegmentNews { generation, rendezvous: rendezvous.to_string() };
    if outbound.send(WorkerMessage { body: Some(Body::Segment(news)) }).await.is_err() {
        bail!("lost the coordinator");
    }
    Ok(segment.into_all_reduce().into())
}

/// Opens the segment that the leader has created, once its rendezvous is known.
pub(crate) async fn open_segment(
    group: Group,
    rendezvous: oneshot::Receiver<String>,
) -> Result<Connected> {
    let rendezvous = rendezvous.await.context("the leader's segment was never announced")?;
    let rendezvous = rendezvous.parse()?;
    let open = move || Segment::open(&(&group).into(), &rendezvous);
    Ok(tokio::task::spawn_blocking(open).await??.into_all_reduce().into())
}

/// Names the processes that this one can share memory with: those of one user in one pid
/// namespace of one running kernel. Where the system does not tell, there is none.
pub(crate) fn memory_domain() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let namespace = fs::read_link("/proc/self/ns/pid");
    let user = rustix::process::geteuid().as_raw();
    match (boot, namespace) {
        (Ok(boot), Ok(namespace)) => format!("{} {} {user}", boot.trim(), namespace.display()),
        _ => String::new(),
    }
}
