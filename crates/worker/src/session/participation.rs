//! Whether a worker is in a generation, and how it enters one or fetches a state.

use std::{thread, time::Instant};

use anyhow::{Context as _, Result, bail};
use collective::{Control, Generation, Rank, Share};
use membership::{Phase, ReadyCause};
use protocol::wire::{
    Fetch, Member, Start, Transfer, Transport, coordinator_message::Body as CoordinatorMsg,
};
use tokio::{sync::oneshot, task::JoinHandle};
use tracing::Instrument as _;
use transport::{
    Abort, Connected, Group, Peer,
    state::{self, FetchError, Fetched},
};

use super::{Session, link::Link};
use crate::{
    bridge::{Assignment, Order},
    control::secret,
    generation::{self, Rendezvous},
};

/// Whether the worker is in a generation.
pub(super) enum Participation {
    /// In no generation.
    Idle,
    /// In no generation, and fetching a state.
    Fetching(JoinHandle<Result<(Fetched, Transfer), FetchError>>),
    /// Connecting to the other members.
    Connecting(Connecting),
    /// Training.
    Training(Generation, Abort),
}

/// A generation that is being connected.
pub(super) struct Connecting {
    generation: Generation,
    rank: Rank,
    ranks: Vec<Rank>,
    threads: u32,
    arithmetic: Vec<String>,
    pub(super) task: JoinHandle<Result<Connected>>,
    /// Gives the place of this host's segment to the member's task, if it waits for the place.
    place: Option<oneshot::Sender<String>>,
}

impl Session {
    /// Handles a message of the coordinator.
    pub(super) fn handle(&mut self, message: CoordinatorMsg) -> Result<()> {
        match message {
            CoordinatorMsg::Start(start) => return self.start(&start),
            CoordinatorMsg::Fetch(fetch) => return self.fetch(&fetch),
            CoordinatorMsg::Pause(pause) if self.is_in(pause.generation) => {
                self.bridge.shared.request(Control::PAUSE);
            }
            CoordinatorMsg::Abort(abort) if self.is_in(abort.generation) => {
                match &self.participation {
                    Participation::Training(_, abort) => abort.abort(),
                    _ => self.stop_connecting("the generation was ended"),
                }
            }
            CoordinatorMsg::Segment(segment) if self.is_in(segment.generation) => {
                if let Participation::Connecting(connecting) = &mut self.participation
                    && let Some(waiting) = connecting.place.take()
                {
                    let _gave_up = waiting.send(segment.rendezvous);
                }
            }
            CoordinatorMsg::Persist(_) => self.bridge.order(Order::Persist),
            // A message about a generation that has ended for this worker.
            CoordinatorMsg::Pause(_) | CoordinatorMsg::Abort(_) | CoordinatorMsg::Segment(_) => {}
            CoordinatorMsg::Welcome(_) | CoordinatorMsg::Finish(_) => {
                bail!("the coordinator broke the protocol")
            }
        }
        Ok(())
    }

    fn is_in(&self, generation: u64) -> bool {
        match &self.participation {
            Participation::Idle | Participation::Fetching(_) => false,
            Participation::Connecting(Connecting { generation: current, .. })
            | Participation::Training(current, _) => current.0 == generation,
        }
    }

    fn start(&mut self, start: &Start) -> Result<()> {
        let (Participation::Idle, Link::Up(joined)) = (&self.participation, &self.link) else {
            bail!("the coordinator started a generation within another");
        };
        if start.transport() == Transport::Unspecified {
            bail!("the coordinator asked for an unknown transport");
        }
        let peers: Vec<Peer> = start.members.iter().map(peer).collect::<Result<_>>()?;
        let (generation, rank) = (Generation(start.generation), Rank(start.rank));
        let ranks: Vec<Rank> = peers.iter().map(|peer| peer.share.rank).collect();
        let threads = self.threads.unwrap_or_else(|| fair_share(start));
        let group = Group {
            run_id: self.run_id.clone(),
            // With gradient clipping every member needs the whole gradient. A state on GPUs is not shared.
            shares_state: matches!(start.transport(), Transport::Shm | Transport::TwoLevel)
                && !start.stays_on_gpus
                && self.config.training.grad_clip.is_none(),
            generation,
            shards: self.config.training.shards,
            length: self.length,
            rank,
            peers,
        };
        let proof = secret(&start.proof)?;
        let (place, announced) = oneshot::channel();
        let rendezvous = Rendezvous { outbound: joined.outbound(), announced };
        let endpoint = self.endpoint.clone();
        let span = tracing::info_span!("connection", generation = generation.0);
        let connected =
            generation::connect(start.transport(), self.device, endpoint, group, rendezvous);
        let task = tokio::spawn(connected.instrument(span));
        self.identity.rank = Some(rank);
        self.is_spare = false;
        self.identity.proof = Some(proof);
        self.pending.ready = None;
        self.bridge.shared.begin_generation(start.generation);
        let arithmetic = start.arithmetic.clone();
        let connecting =
            Connecting { generation, rank, ranks, threads, arithmetic, task, place: Some(place) };
        self.participation = Participation::Connecting(connecting);
        Ok(())
    }

    /// Orders the training thread to train in the generation, or to report why the generation failed.
    pub(super) fn connected(&mut self, result: Result<Connected, String>) {
        let ended = std::mem::replace(&mut self.participation, Participation::Idle);
        let Participation::Connecting(connecting) = ended else { return };
        let Connecting { generation, rank, ranks, threads, arithmetic, .. } = connecting;
        match result {
            Ok(Connected { collective, abort }) => {
                self.participation = Participation::Training(generation, abort);
                let assignment =
                    Assignment { generation, collective, rank, ranks, threads, arithmetic };
                self.bridge.order(Order::Train(Box::new(assignment)));
            }
            Err(reason) => self.bridge.order(Order::Report(ReadyCause::Interrupted(reason))),
        }
    }

    pub(super) fn stop_connecting(&mut self, reason: &str) {
        if let Participation::Connecting(connecting) = &self.participation {
            connecting.task.abort();
            self.participation = Participation::Idle;
            self.bridge.shared.enter(Phase::Idle);
            self.bridge.order(Order::Report(ReadyCause::Interrupted(reason.to_owned())));
        }
    }

    fn fetch(&mut self, fetch: &Fetch) -> Result<()> {
        if !matches!(self.participation, Participation::Idle) {
            bail!("the coordinator told a busy worker to fetch a state");
        }
        let address = fetch.address.parse();
        let address =
            address.with_context(|| format!("rank {} has no usable address", fetch.donor))?;
        let (run_id, length) = (self.run_id.clone(), self.length);
        let (secret, security) = (secret(&fetch.secret)?, self.security.clone());
        let memory_domain = generation::memory_domain();
        let source = state::Source { address, secret, security, memory_domain };
        tracing::info!(donor = fetch.donor, "fetching the run's state");
        let span = tracing::info_span!("state transfer", donor = fetch.donor);
        let fetched = async move {
            let begun = Instant::now();
            let fetched = state::fetch(&source, &run_id, length).await?;
            let seconds = begun.elapsed().as_secs_f64();
            let (step, bytes) = (fetched.step, fetched.bytes_sent);
            match bytes {
                0 => tracing::info!(step, "copied the state from this host's memory"),
                _ => tracing::info!(step, bytes, "received the state"),
            }
            let transfer = Transfer { bytes, seconds };
            Ok((fetched, transfer))
        };
        self.participation = Participation::Fetching(tokio::spawn(fetched.instrument(span)));
        Ok(())
    }

    /// Gives the state to the training thread, or orders it to report why there is no state.
    pub(super) fn fetched(&mut self, result: Result<(Fetched, Transfer), String>) {
        self.participation = Participation::Idle;
        self.bridge.order(match result {
            Ok((fetched, transfer)) => Order::Restore(Box::new(fetched), transfer),
            Err(reason) => Order::Report(ReadyCause::NotFetched(reason)),
        });
    }

    /// Stops the training thread in the middle of a step.
    pub(super) fn end_generation(&self) {
        if let Participation::Training(_, abort) = &self.participation {
            abort.abort();
        }
    }
}

/// A member, in the form that the transports use.
fn peer(member: &Member) -> Result<Peer> {
    let address = member
        .all_reduce_address
        .parse()
        .with_context(|| format!("rank {} has no usable address", member.rank))?;
    let memory_domain = (member.memory_domain != 0).then_some(member.memory_domain);
    let (share, secret) = (Share::from(member), secret(&member.secret)?);
    Ok(Peer { share, address, secret, memory_domain })
}

/// The cores of this host divided among the members on it, at least one.
fn fair_share(start: &Start) -> u32 {
    let mine = start.members.iter().find(|member| member.rank == start.rank);
    let neighbours =
        start.members.iter().filter(|member| mine.is_some_and(|me| me.host == member.host));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let share = cores / neighbours.count().max(1);
    u32::try_from(share.max(1)).unwrap_or(1)
}
