//! The decisions of a run: which worker takes part in which generation.
//!
//! [`Engine::handle`] takes an [`Event`] and the time, and returns the [`Command`]s that
//! follow. There is no I/O here, no clock and no async task: the coordinator reports the events and
//! carries out the commands, and a test can do the same at any speed.
//!
//! Start reading at [`event`], the vocabulary; then [`engine`], the states of a run:
//! gathering, running, settling (a generation ended, its members report their positions),
//! persisting, ended.

pub mod engine;
pub mod event;
mod roster;

pub use engine::{Engine, Newcomers, Past, Settings, Waiting};
pub use event::{
    Command, Event, Failure, Fingerprint, Join, Loss, Member, Outcome, Phase, Position, Progress,
    ReadyCause, Refusal, Returning, WorkerId,
};
