//! The manual. Each module is a chapter; its examples are compiled and run with the tests.

#[doc = include_str!("manual/use_it.md")]
pub mod use_it {}

#[doc = include_str!("manual/write_a_task.md")]
pub mod write_a_task {}

#[doc = include_str!("manual/bring_a_data_set.md")]
pub mod bring_a_data_set {}

#[doc = include_str!("manual/many_hosts.md")]
pub mod many_hosts {}

#[doc = include_str!("manual/when_something_dies.md")]
pub mod when_something_dies {}

#[doc = include_str!("manual/reproduce_a_digest.md")]
pub mod reproduce_a_digest {}

#[doc = include_str!("manual/troubleshooting.md")]
pub mod troubleshooting {}

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod readme {}
