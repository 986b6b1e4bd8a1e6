//! Invariants of every run, under all faults of its workers and its coordinator.

mod model;
mod simulation;
mod world;
