//! What every run keeps to, whatever happens to its workers and its coordinator.

mod model;
mod simulation;
mod world;
