//! The engine's decisions, event by event.

mod ending;
mod gathering;
mod growing;
mod leaving;
mod recovery;
mod returning;
mod run;
mod timeouts;
mod waiting;
