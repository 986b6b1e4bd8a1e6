//! All-reduce through a segment of shared memory, for members on one host. With several hosts, the
//! members of each host share a segment too: see [`two_level`](crate::two_level).
//!
//! The flat gradient is in the segment. [`partial_mut`](collective::AllReduce::partial_mut) gives
//! this member's partials. Every member adds up its part of all partials directly in the segment,
//! into one sum, which [`sum`](collective::AllReduce::sum) gives. Nothing is copied, and only
//! cache lines move.
//!
//! Start reading at [`Segment`]. The leader creates it, and the caller passes its [`Rendezvous`] to
//! the other members, which open it. [`Shm`] is the training thread's side. This module does not
//! know gRPC, tokio or the coordinator.
//!
//! # A file without a name
//!
//! The segment is a memfd of the leader. The others open it through the leader's `/proc` entry,
//! which the kernel permits only to the same user in the same pid namespace. The file never has a
//! name, so nothing has to be removed: when the last process that maps it has ended, in whatever
//! way, the memory is freed. `/dev/shm`, and the limit that containers set on it, are not used. A
//! segment serves one generation.
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
//! A member arrives at a barrier by a store to its own count, and leaves the barrier once it has
//! loaded counts at that value or above from every member. Both operations are sequentially
//! consistent, so the store releases and the load acquires: *everything that a member did before it
//! arrived happens before everything that any member does after it leaves*. From this it follows:
//!
//! - **Partials.** The partials of round `t` are written before `A(t)` and read between `A(t)` and
//!   `B(t)`. Their owner writes the next ones after it has left `B(t)`, at which all readers have
//!   arrived. So one slot is enough.
//! - **Sum.** The sum of round `t` is written between `A(t)` and `B(t)`, each float by one member.
//!   It is read after `B(t)` until the reader arrives at the next round's `A`, because the borrow of
//!   `sum` ends before `all_reduce` is called again. The next write comes after leaving this `A`. So
//!   one slot is enough, with one copy of the sum.
//! - **Headers.** The headers of round `t` are read after `A(t)` and before the reader arrives at
//!   any other barrier. A round without a gradient has no `B`. So a fast member may write its header
//!   of round `t + 1` while a slow member still reads the headers of `t`. Therefore there are two
//!   slots, used in turn. To write the header of round `t + 2` a member must have left `A(t + 1)`,
//!   at which all readers of `t` have arrived.
//!
//! No member sleeps through the last arrival. A sleeper adds itself to the count of sleepers and
//! then reads the arrivals once more. The last member to arrive stores its arrival and then reads
//! the count of sleepers. Sequentially consistent operations have one order, so either the sleeper
//! sees the arrival, or the arriving member sees the sleeper and changes the gate, whose value the
//! sleeper has read before. For the same reason, of several members that arrive at once, at least
//! one sees the arrivals of all others.
//!
//! # A shared state
//!
//! If the members share their state, the state is in the segment once, in two buffers, and there is
//! no sum. Each member adds up its segment of the partials, one block at a time, and at once writes
//! the next state's segment. A generation is then, on every member (`F` is a barrier):
//!
//! ```text
//! write own segment of buffer 0 | F | rounds; in the one from step t to t + 1:
//! read buffer t; write partials, header | A | read headers, partials, and buffer t; write the own
//!                                       |   | segment of buffer t + 1 | B | read buffer t + 1
//! ```
//!
//! Buffers are counted modulo 2. One rule makes this safe: *a member writes to the buffer of step
//! `t + 1` only after all members have arrived at `A(t)`*. A member that has stopped arrives at no
//! further barrier.
//!
//! - A member whose state is that of step `t` has arrived at no `A` after `A(t)`. The buffer of `t`
//!   is also the buffer of `t + 2`, which is written only after all members have arrived at
//!   `A(t + 1)`. So *the state that a member has is never written to*, however its round ends, and
//!   whatever the others do. A member that is killed or frozen in an update leaves a torn segment in
//!   a buffer that no other member reads.
//! - A member that wakes after its eviction finishes its segment in the buffer of `t + 1`. At `B(t)`
//!   it may find that all members have arrived. Then the state of `t + 1` is complete and correct. At
//!   `A(t + 1)` it waits for members that have left, until it gives up.
//! - The next generation has its own segment, into which each member copies its part of the state.
//!   A member of an old generation writes only to the old segment.
//! - A process of this host that is not a member may copy the state of `t` from its buffer, and then
//!   check that not all members have arrived at `A(t + 1)`. So nothing is sent to a worker that joins
//!   on this host, and no member waits for the copy. See `takeover.rs`.
//!
//! So recovery is the same as without shared memory: members have the state of `t` or of `t + 1`, and
//! a member that is behind copies the state of a member that is ahead. The model in `protocol.rs`
//! tries all orders in which two and three members can go on, stop and wake.
//!
//! # When a member goes
//!
//! The first to notice the end writes the cause and wakes all members. This is an [`Abort`] handle, a
//! member that drops its [`Shm`] or [`Segment`], a member that finds another process gone (checked at
//! every timeout of a sleep), or a member that finds wrong words of another. A member that has
//! arrived at a barrier counts there even if it goes afterwards, so a round that can be completed is
//! completed.

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
pub use takeover::{ParseStatePlaceError, StatePlace, Takeover, TakeoverError};
