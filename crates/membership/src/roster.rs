//! The workers that are connected: their ranks, their last signs of life, where they stand.

use std::{collections::BTreeMap, time::Duration};

use collective::{Rank, ShardRange};

use crate::{Join, Member, Refusal, Standing, WorkerId};

/// A connected worker that holds a rank.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) worker: WorkerId,
    pub(crate) last_seen: Duration,
    pub(crate) standing: Option<Standing>,
    join: Join,
}

/// The seats by rank.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster {
    seats: BTreeMap<Rank, Seat>,
}

impl Roster {
    /// Finds a rank for the worker, below `workers`.
    pub(crate) fn admit(
        &mut self,
        worker: WorkerId,
        join: Join,
        workers: u32,
        mixed: bool,
        now: Duration,
    ) -> Result<Rank, Refusal> {
        let rank = self.choose_rank(join.rank, workers)?;
        if let (false, Some(first)) = (mixed, self.seats.values().next())
            && first.join.fingerprint != join.fingerprint
        {
            return Err(Refusal::MixedFingerprints {
                ours: Box::new(first.join.fingerprint.clone()),
                theirs: Box::new(join.fingerprint),
            });
        }
        self.seats.insert(rank, Seat { worker, last_seen: now, standing: None, join });
        Ok(rank)
    }

    fn choose_rank(&self, wanted: Option<Rank>, workers: u32) -> Result<Rank, Refusal> {
        match wanted {
            Some(rank) if rank.0 >= workers => Err(Refusal::NoSuchRank { rank, workers }),
            Some(rank) if self.seats.contains_key(&rank) => Err(Refusal::RankTaken(rank)),
            Some(rank) => Ok(rank),
            None => (0..workers)
                .map(Rank)
                .find(|rank| !self.seats.contains_key(rank))
                .ok_or(Refusal::Full { workers }),
        }
    }

    pub(crate) fn remove(&mut self, worker: WorkerId) -> Option<Rank> {
        let rank = self.rank(worker)?;
        self.seats.remove(&rank);
        Some(rank)
    }

    pub(crate) fn rank(&self, worker: WorkerId) -> Option<Rank> {
        self.seats.iter().find(|(_, seat)| seat.worker == worker).map(|(rank, _)| *rank)
    }

    pub(crate) fn seat_mut(&mut self, worker: WorkerId) -> Option<&mut Seat> {
        self.seats_mut().find(|seat| seat.worker == worker)
    }

    pub(crate) fn seats(&self) -> impl Iterator<Item = (Rank, &Seat)> {
        self.seats.iter().map(|(rank, seat)| (*rank, seat))
    }

    pub(crate) fn seats_mut(&mut self) -> impl Iterator<Item = &mut Seat> {
        self.seats.values_mut()
    }

    /// Where each worker stands, in rank order, of those that said so.
    pub(crate) fn standings(&self) -> impl Iterator<Item = (Rank, WorkerId, Standing)> {
        self.seats().filter_map(|(rank, seat)| Some((rank, seat.worker, seat.standing?)))
    }

    pub(crate) fn all_ready(&self) -> bool {
        self.seats.values().all(|seat| seat.standing.is_some())
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.seats.len()).unwrap_or(u32::MAX)
    }

    /// All workers as members of a new generation, the shards dealt in rank order.
    pub(crate) fn deal(&mut self, shards: u32) -> Vec<Member> {
        let ranges = ShardRange::deal(shards, self.len());
        let member = |((rank, seat), shards): ((&Rank, &mut Seat), ShardRange)| {
            seat.standing = None;
            Member { worker: seat.worker, rank: *rank, shards }
        };
        self.seats.iter_mut().zip(ranges).map(member).collect()
    }
}
