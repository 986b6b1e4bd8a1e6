//! Connects a generation over the transport that the coordinator chose.

use std::fs;

use anyhow::{Context as _, Result, bail};
use model::Device;
use protocol::wire::{Segment as News, Transport, WorkerMessage, worker_message::Body};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};
use transport::{
    Connected, Endpoint, Group,
    nccl::{Libraries, Nccl, UniqueId},
    shm::Segment,
    two_level::TwoLevel,
};

/// The exchange of the segment's place or of the id that the members share. The first member makes it,
/// and the coordinator forwards it to the others.
pub(crate) struct Rendezvous {
    /// The queue of messages to the coordinator.
    pub(crate) outbound: mpsc::Sender<WorkerMessage>,
    /// The place or id, from the coordinator.
    pub(crate) announced: oneshot::Receiver<String>,
}

impl Rendezvous {
    /// Sends the place or id to the others.
    async fn announce(self, group: &Group, place: &impl ToString) -> Result<()> {
        let news = News { generation: group.generation.0, rendezvous: place.to_string() };
        let sent = self.outbound.send(WorkerMessage { body: Some(Body::Segment(news)) }).await;
        sent.ok().context("lost the coordinator")
    }
}

/// Connects to the other members.
pub(crate) async fn connect(
    transport: Transport,
    device: Device,
    endpoint: Endpoint,
    group: Group,
    rendezvous: Rendezvous,
) -> Result<Connected> {
    match transport {
        Transport::Grpc => over_grpc(endpoint, group).await,
        Transport::Shm => over_shm(group, rendezvous).await,
        Transport::TwoLevel => over_both(endpoint, group, rendezvous).await,
        Transport::Nccl => over_nccl(device, endpoint, group, rendezvous).await,
        Transport::Unspecified => bail!("no transport was chosen"),
    }
}

/// Connects with a stream for each pair of members.
async fn over_grpc(endpoint: Endpoint, group: Group) -> Result<Connected> {
    Ok(endpoint.connect(&group).await?.into())
}

/// Connects through shared memory.
async fn over_shm(group: Group, rendezvous: Rendezvous) -> Result<Connected> {
    Ok(segment(&group, rendezvous).await?.into_all_reduce()?.into())
}

/// Connects through shared memory to members on this host, and with streams to members on other hosts.
async fn over_both(endpoint: Endpoint, group: Group, rendezvous: Rendezvous) -> Result<Connected> {
    let segment = segment(&group, rendezvous).await?;
    Ok(TwoLevel::connect(&endpoint, &group, segment).await?.into())
}

/// Connects the GPUs with NCCL. Streams carry the contributions beside the gradient.
async fn over_nccl(
    device: Device,
    endpoint: Endpoint,
    group: Group,
    rendezvous: Rendezvous,
) -> Result<Connected> {
    let Device::Cuda(gpu) = device else { bail!("NCCL is for workers that compute on GPUs") };
    let libraries = Libraries::open()?;
    let first = group.peers.first().context("a generation has members")?;
    let id = if first.share.rank == group.rank {
        let id = spawn_blocking(move || UniqueId::new(libraries)).await??;
        rendezvous.announce(&group, &id).await?;
        id
    } else {
        rendezvous.announced.await.context("NCCL's unique id was never announced")?.parse()?
    };
    let headers = endpoint.connect(&Group { length: 0, ..group.clone() }).await?;
    Ok(Nccl::new(libraries, gpu, &group, id, headers).into())
}

async fn segment(group: &Group, rendezvous: Rendezvous) -> Result<Segment> {
    let own = group.clone();
    if group.is_first_of_its_host() {
        let (segment, place) = spawn_blocking(move || Segment::create(&own)).await??;
        rendezvous.announce(group, &place).await?;
        return Ok(segment);
    }
    let place = rendezvous.announced.await.context("this host's segment was never announced")?;
    let place = place.parse()?;
    Ok(spawn_blocking(move || Segment::open(&own, &place)).await??)
}

/// The name of this process's memory domain. Processes of one user, in one pid namespace of one running
/// kernel, can share memory. A process with its own network namespace counts as its own host. Empty if
/// the system does not give the names.
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
