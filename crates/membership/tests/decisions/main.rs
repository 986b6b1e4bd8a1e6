//! What the engine decides, event by event.

mod returning;
mod run;
