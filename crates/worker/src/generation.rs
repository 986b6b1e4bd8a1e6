//! Connects a generation over the transport that the coordinator chose.

use std::fs;

use anyhow::{Context as _, Result, bail};
use protocol::wire::{Segment as SegmentNews, Transport, WorkerMessage, worker_message::Body};
use tokio::sync::{mpsc, oneshot};
use transport::{Connected, Endpoint, Group, shm::Segment, two_level::TwoLevel};

/// How the members of a host find the segment that they share: the first of them makes it, and
/// the coordinator passes the news on.
pub(crate) struct Meeting {
    /// The way to the coordinator.
    pub(crate) outbound: mpsc::Sender<WorkerMessage>,
    /// Where the segment is, from the coordinator.
    pub(crate) announced: oneshot::Receiver<String>,
}

/// Connects to the other members.
pub(crate) async fn connect(
    transport: Transport,
    endpoint: Endpoint,
    group: Group,
    meeting: Meeting,
) -> Result<Connected> {
    match transport {
        Transport::Grpc => over_grpc(endpoint, group).await,
        Transport::Shm => over_shm(group, meeting).await,
        Transport::TwoLevel => over_both(endpoint, group, meeting).await,
        Transport::Unspecified => bail!("no transport was chosen"),
    }
}

/// By a stream for each pair of members.
async fn over_grpc(endpoint: Endpoint, group: Group) -> Result<Connected> {
    Ok(endpoint.connect(&group).await?.into())
}

/// Through memory, which all members share.
async fn over_shm(group: Group, meeting: Meeting) -> Result<Connected> {
    Ok(segment(&group, meeting).await?.into_all_reduce()?.into())
}

/// Through memory to the members on this host, and by streams to those on others.
async fn over_both(endpoint: Endpoint, group: Group, meeting: Meeting) -> Result<Connected> {
    let segment = segment(&group, meeting).await?;
    Ok(TwoLevel::connect(&endpoint, &group, segment).await?.into())
}

async fn segment(group: &Group, meeting: Meeting) -> Result<Segment> {
    let Meeting { outbound, announced } = meeting;
    let (generation, group) = (group.generation.0, group.clone());
    if group.is_first_of_its_host() {
        let create = move || Segment::create(&group);
        let (segment, rendezvous) = tokio::task::spawn_blocking(create).await??;
        let news = SegmentNews { generation, rendezvous: rendezvous.to_string() };
        if outbound.send(WorkerMessage { body: Some(Body::Segment(news)) }).await.is_err() {
            bail!("lost the coordinator");
        }
        return Ok(segment);
    }
    let rendezvous = announced.await.context("this host's segment was never announced")?;
    let rendezvous = rendezvous.parse()?;
    Ok(tokio::task::spawn_blocking(move || Segment::open(&group, &rendezvous)).await??)
}

/// Names the processes that this one can share memory with: those of one user in one pid
/// namespace of one running kernel. Whoever has a network of its own counts as a host of its own.
/// Where the system does not tell, there is none.
pub(crate) fn memory_domain() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let namespaces = ["pid", "net"].map(|kind| fs::read_link(format!("/proc/self/ns/{kind}")));
    let user = rustix::process::geteuid().as_raw();
    match (boot, namespaces) {
        (Ok(boot), [Ok(pid), Ok(net)]) => {
            format!("{} {} {} {user}", boot.trim(), pid.display(), net.display())
        }
        _ => String::new(),
    }
}
