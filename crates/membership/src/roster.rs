//! The connected workers: their ranks, their last heartbeats, their work.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use collective::{Rank, ShardRange};

use crate::{Fingerprint, Join, Loss, Member, Phase, Position, Progress, Refusal, WorkerId};

/// The number of spares that may wait; a run with more ranks allows as many as it has ranks.
const SPARES_MIN: u32 = 8;

/// A worker is evicted after this many failed fetches.
const FETCHES: u32 = 3;

/// A connected worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    /// The rank; none for a spare.
    pub(crate) rank: Option<Rank>,
    /// The rank that the worker asked for.
    wanted: Option<Rank>,
    fingerprint: Fingerprint,
    memory_domain: Option<String>,
    pub(crate) last_seen: Duration,
    pub(crate) activity: Activity,
    /// The worker's last heartbeat, and when its step last changed.
    pub(crate) progress: Option<(Progress, Duration)>,
    /// Whether the worker has computed in a generation or fetched a state. The run waits for an
    /// unproven worker only if it has too few others.
    pub(crate) proven: bool,
    /// Whether the worker wants to leave.
    pub(crate) leaving: bool,
    /// Fetches that failed since the worker was last a member.
    pub(crate) failed_fetches: u32,
    /// Workers that could not fetch this worker's state since then.
    pub(crate) failed_recipients: BTreeSet<WorkerId>,
}

/// What a worker is doing for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Activity {
    /// Loading its data set and model; the worker reports when it is ready.
    Loading,
    /// In no generation, with this state.
    Ready(Position),
    /// Copying the state of another worker.
    Fetching {
        /// The worker whose state is copied.
        donor: WorkerId,
        /// When the copy was ordered.
        since: Duration,
    },
    /// Computing in the current generation.
    Member,
}

impl Slot {
    pub(crate) fn position(&self) -> Option<Position> {
        match self.activity {
            Activity::Ready(position) => Some(position),
            _ => None,
        }
    }

    /// Counts a failed fetch. Returns the loss with which the worker is evicted, if there were too many.
    pub(crate) fn fetch_failed(&mut self, reason: String) -> Option<Loss> {
        self.failed_fetches += 1;
        (self.failed_fetches >= FETCHES).then_some(Loss::Unreachable(reason))
    }
}

/// The slots by connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Roster {
    slots: BTreeMap<WorkerId, Slot>,
}

impl Roster {
    /// Admits a worker with a rank below `workers` that is neither held nor in `reserved`. If there is
    /// no such rank, the worker becomes a spare.
    pub(crate) fn admit(
        &mut self,
        worker: WorkerId,
        join: &Join,
        workers: u32,
        reserved: &BTreeSet<Rank>,
        now: Duration,
    ) -> Result<Option<Rank>, Refusal> {
        let ranks = self.ranks();
        let held = |rank: &Rank| ranks.contains(rank) || reserved.contains(rank);
        let rank = match join.rank {
            Some(rank) if rank.0 >= workers => return Err(Refusal::NoSuchRank { rank, workers }),
            Some(rank) if !held(&rank) => Some(rank),
            // A new worker that asks for a rank accepts no other rank.
            Some(rank) if join.returning.is_none() && !reserved.contains(&rank) => {
                return Err(Refusal::RankTaken(rank));
            }
            Some(_) | None => (0..workers).map(Rank).find(|rank| !held(rank)),
        };
        let spares = u32::try_from(self.slots.values().filter(|slot| slot.rank.is_none()).count());
        let spares = spares.unwrap_or(u32::MAX);
        if rank.is_none() && spares >= workers.max(SPARES_MIN) {
            return Err(Refusal::Full { workers, spares });
        }
        self.slots.insert(worker, Slot::new(join, rank, now));
        Ok(rank)
    }

    /// Admits a member of the current generation again.
    pub(crate) fn adopt(&mut self, worker: WorkerId, join: &Join, rank: Rank, now: Duration) {
        let slot = Slot::new(join, Some(rank), now);
        self.slots.insert(worker, Slot { activity: Activity::Member, proven: true, ..slot });
    }

    /// Gives free ranks that are not in `reserved` to ready spares. A spare gets the rank that it
    /// asked for, if that is free.
    pub(crate) fn promote_spares(&mut self, workers: u32, reserved: &BTreeSet<Rank>) {
        let taken = self.ranks();
        let is_free = |rank: &Rank| !taken.contains(rank) && !reserved.contains(rank);
        let mut free: BTreeSet<Rank> = (0..workers).map(Rank).filter(is_free).collect();
        let is_waiting =
            |slot: &&mut Slot| slot.rank.is_none() && !slot.leaving && slot.position().is_some();
        for slot in self.slots.values_mut().filter(is_waiting) {
            let wanted = slot.wanted.filter(|rank| free.contains(rank));
            slot.rank = wanted.or_else(|| free.first().copied());
            slot.rank.map(|rank| free.remove(&rank));
        }
    }

    pub(crate) fn remove(&mut self, worker: WorkerId) -> Option<Slot> {
        self.slots.remove(&worker)
    }

    pub(crate) fn get(&self, worker: WorkerId) -> Option<&Slot> {
        self.slots.get(&worker)
    }

    pub(crate) fn get_mut(&mut self, worker: WorkerId) -> Option<&mut Slot> {
        self.slots.get_mut(&worker)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Slot)> {
        self.slots.iter().map(|(worker, slot)| (*worker, slot))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (WorkerId, &mut Slot)> {
        self.slots.iter_mut().map(|(worker, slot)| (*worker, slot))
    }

    /// The fingerprint of the first connected worker.
    pub(crate) fn fingerprint(&self) -> Option<&Fingerprint> {
        self.slots.values().next().map(|slot| &slot.fingerprint)
    }

    /// The ranks that are held.
    fn ranks(&self) -> BTreeSet<Rank> {
        self.slots.values().filter_map(|slot| slot.rank).collect()
    }

    /// Workers that hold a rank.
    pub(crate) fn ranked(&self) -> u32 {
        let ranked = self.slots.values().filter(|slot| slot.rank.is_some()).count();
        u32::try_from(ranked).unwrap_or(u32::MAX)
    }

    /// Whether any worker computes in the current generation.
    pub(crate) fn has_members(&self) -> bool {
        self.slots.values().any(|slot| slot.activity == Activity::Member)
    }

    /// The workers that compute in the current generation, in rank order.
    pub(crate) fn members(&self) -> Vec<WorkerId> {
        self.in_rank_order(|slot| slot.activity == Activity::Member)
    }

    /// The workers that have a rank and fulfil a condition, in rank order.
    pub(crate) fn in_rank_order(&self, condition: impl Fn(&Slot) -> bool) -> Vec<WorkerId> {
        self.ranks_first(|slot| slot.rank.is_some() && condition(slot))
    }

    /// The workers that fulfil a condition: those with a rank in rank order, then the spares.
    pub(crate) fn ranks_first(&self, condition: impl Fn(&Slot) -> bool) -> Vec<WorkerId> {
        let mut found: Vec<_> = self.iter().filter(|(_, slot)| condition(slot)).collect();
        found.sort_by_key(|(worker, slot)| (slot.rank.is_none(), slot.rank, *worker));
        found.into_iter().map(|(worker, _)| worker).collect()
    }

    /// The position of each ready worker: those with a rank in rank order, then the spares.
    pub(crate) fn positions(&self) -> Vec<(WorkerId, &Slot, Position)> {
        let ready = self.iter().filter_map(|(w, slot)| Some((w, slot, slot.position()?)));
        let mut ready: Vec<_> = ready.collect();
        ready.sort_by_key(|(worker, slot, _)| (slot.rank.is_none(), slot.rank, *worker));
        ready
    }

    /// For each donor, how many workers are copying its state.
    pub(crate) fn fetches(&self) -> BTreeMap<WorkerId, usize> {
        let mut fetches = BTreeMap::new();
        for slot in self.slots.values() {
            if let Activity::Fetching { donor, .. } = slot.activity {
                *fetches.entry(donor).or_default() += 1;
            }
        }
        fetches
    }

    /// The ready worker that is furthest ahead; of several, the one with the lowest rank.
    pub(crate) fn furthest(&self) -> Option<(WorkerId, Position)> {
        let ready = self.iter().filter_map(|(w, slot)| Some((w, slot.rank, slot.position()?)));
        let furthest = ready.min_by_key(|(worker, rank, position)| {
            (Reverse(position.step), rank.is_none(), *rank, *worker)
        });
        furthest.map(|(worker, _, position)| (worker, position))
    }

    /// Makes these workers, in rank order, the members of a new generation. Members that share memory
    /// get neighbouring shards, so that they can add up their partials in memory.
    pub(crate) fn deal(&mut self, workers: &[WorkerId], shards: u32, now: Duration) -> Vec<Member> {
        let members = u32::try_from(workers.len()).unwrap_or(u32::MAX);
        let mut by_host: Vec<usize> = (0..workers.len()).collect();
        let first_beside = self.first_beside(workers);
        // A stable sort: hosts in the order of their first ranks, and ranks in order within a host.
        by_host.sort_by_key(|index| first_beside[*index]);
        let mut deal: Vec<(usize, ShardRange)> =
            by_host.into_iter().zip(ShardRange::deal(shards, members)).collect();
        deal.sort_unstable_by_key(|(index, _)| *index);
        deal.iter()
            .filter_map(|(index, shards)| {
                let worker = workers[*index];
                let slot = self.slots.get_mut(&worker)?;
                let progress =
                    slot.position().map(|s| Progress { step: s.step, phase: Phase::Connecting });
                slot.progress = progress.map(|progress| (progress, now));
                (slot.activity, slot.proven, slot.failed_fetches) = (Activity::Member, true, 0);
                slot.failed_recipients.clear();
                Some(Member { worker, rank: slot.rank?, shards: *shards })
            })
            .collect()
    }

    /// For each of these workers, the index of the first one that shares memory with it.
    fn first_beside(&self, workers: &[WorkerId]) -> Vec<usize> {
        let mut first: BTreeMap<&str, usize> = BTreeMap::new();
        let place = |(index, worker): (usize, &WorkerId)| {
            let domain = self.get(*worker).and_then(|slot| slot.memory_domain.as_deref());
            domain.map_or(index, |domain| *first.entry(domain).or_insert(index))
        };
        workers.iter().enumerate().map(place).collect()
    }
}

impl Slot {
    fn new(join: &Join, rank: Option<Rank>, now: Duration) -> Self {
        Self {
            rank,
            wanted: join.rank,
            fingerprint: join.fingerprint.clone(),
            memory_domain: join.memory_domain.clone(),
            last_seen: now,
            activity: Activity::Loading,
            progress: None,
            proven: false,
            leaving: false,
            failed_fetches: 0,
            failed_recipients: BTreeSet::new(),
        }
    }
}
