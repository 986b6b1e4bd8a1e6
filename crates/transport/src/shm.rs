//! All-reduce through a shared segment of memory: members on one host. Those of a host among
//! several share one too: see [`two_level`](crate::two_level).
//!
//! The flat gradient is in the segment: [`partial_mut`](collective::AllReduce::partial_mut)
//! hands out this member's part of it, every member adds up its share of all partials straight
//! from there into one sum, and [`sum`](collective::AllReduce::sum) is that one. Nothing is
//! copied, and nothing moves but cache lines.
//!
//! Start reading at [`Segment`], which the leader creates and the others open, told by its
//! [`Rendezvous`], which the caller passes on; [`Shm`] is the training thread's side of it.
//! gRPC, tokio and the coordinator are not known here.
//!
//! # The file that has no name
//!
//! The segment is a memfd of the leader; the others open it through the leader's `/proc`
//! entry, which the kernel permits to the same user in the same pid namespace alone. It never
//! has a name, so nothing has to be removed: when the last process that maps it is gone,
//! however that came, so is the memory. `/dev/shm`, and the limit that containers set on it,
//! play no part. A segment serves one generation.
//!
//! # Two barriers, and what they order
//!
//! A round of kind `Train` is, on every member (`A` and `B` are barriers):
//!
//! ```text
//! write own partials and header | A | read all headers; read all partials, and write the sum,
//!                               |   | within the own segment | B | read the sum
//! ```
//!
//! A member arrives at a barrier by a store to its own count, and leaves it once it has loaded
//! every member's count at that value or above. Both are sequentially consistent, so in
//! particular the store releases and the load acquires: *whatever a member did before it
//! arrives happens before whatever any member does after it leaves*. From that alone:
//!
//! - **Partials.** Those of round `t` are written before `A(t)` and read between `A(t)` and
//!   `B(t)`. Their owner writes the next ones after it has left `B(t)`, at which all readers
//!   had arrived. One slot is enough.
//! - **Sum.** That of `t` is written between `A(t)` and `B(t)`, each float by one member, and
//!   read after `B(t)` until the reader arrives at the next round's `A`: the borrow of `sum`
//!   ends before `all_reduce` is called again. The next write comes after leaving that `A`.
//!   One slot is enough, and one copy.
//! - **Headers.** Read after `A(t)` and before the reader arrives anywhere else. A round of
//!   kind `Evaluate` carries no gradient and has no `B`, so a fast member may write its header
//!   of round `t + 1` while a slow one still reads those of `t`: there are two slots, taken in
//!   turn. To write round `t + 2` a member must have left `A(t + 1)`, at which all readers of
//!   `t` had arrived.
//!
//! No member sleeps through the last arrival: a sleeper adds itself to the count of sleepers and
//! then looks at the arrivals once more; the last to arrive stores its arrival and then looks
//! at the sleepers. In the one order of sequentially consistent operations, one of the two
//! comes first: either the sleeper sees the arrival, or the arrival sees the sleeper, and
//! changes the gate that the sleeper's ticket was read from before. Of several members
//! that arrive at once, for the same reason, at least one finds all others there.
//!
//! # A state that the members hold together
//!
//! Where all members share the memory, their state is in it, once, in two buffers, and there is no
//! sum: each member adds up its segment of the partials, a block at a time, and at once writes the
//! next state's segment from that. A generation is then, on every member (`F` is a barrier):
//!
//! ```text
//! write own segment of buffer 0 | F | rounds; in the one from step t to t + 1:
//! read buffer t; write partials, header | A | read headers, partials, and buffer t; write the own
//!                                       |   | segment of buffer t + 1 | B | read buffer t + 1
//! ```
//!
//! Buffers are counted modulo 2. What makes this safe is one rule: *a member writes to the buffer of
//! step `t + 1` only after all have arrived at `A(t)`*, and one fact: a member that does not go on
//! arrives nowhere any more.
//!
//! - A member whose state is that of step `t` has arrived at no `A` after `A(t)`. The buffer of `t`
//!   is also that of `t + 2`, which is written after all have arrived at `A(t + 1)`: not while
//!   somebody has step `t`. So *the state that a member has is never written to*, however its round
//!   ends, and whatever the others do: whoever is killed or frozen in an update leaves behind a part
//!   of a buffer that nobody else reads.
//! - A member that wakes after it was given up finishes its segment in the buffer of `t + 1`, and may
//!   find, at `B(t)`, that all have arrived. The state of `t + 1` is then whole, and the right one.
//!   At `A(t + 1)` it waits for those who have left, in vain.
//! - The next generation has a segment of its own, into which each member brings a part of what it
//!   holds of the last one. What a member of an old generation writes, at any time, is in memory that
//!   the new one does not have.
//!
//! - A process of this host that is no member may copy the state of `t` out of its buffer, and then
//!   see whether all have arrived at `A(t + 1)`: a worker that joins is sent nothing, and nobody waits
//!   for it. See `takeover.rs`.
//!
//! So recovery is what it is without shared memory: members have the state of `t` or that of
//! `t + 1`, and whoever is behind takes it over from one that is ahead. `protocol.rs` beside this
//! module tries all orders in which two and three members can go on, stop and wake.
//!
//! # When a member goes
//!
//! The first to notice writes the cause, and wakes all: an [`Abort`] handle, a member that
//! drops its [`Shm`] or [`Segment`], one that finds another's process gone (at every timeout of
//! a sleep), or one that finds another's words wrong. A member that has arrived counts as there
//! even if it goes afterwards, so a round that can be completed is.

mod barrier;
mod exchange;
mod header;
mod layout;
mod memory;
mod process;
#[cfg(test)]
mod protocol;
mod rendezvous;
mod segment;
mod state;
mod takeover;

pub(crate) use barrier::Contributed;
pub use exchange::{Abort, Shm};
pub use rendezvous::{ParseRendezvousError, RENDEZVOUS_BYTES_MAX, Rendezvous};
pub use segment::{Segment, SegmentError};
pub use takeover::{ParsePlaceError, Place, Takeover, TakeoverError};
