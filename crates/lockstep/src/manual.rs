//! The manual. Each module is a chapter; its examples are compiled with the tests.

#[doc = include_str!("manual/write_a_task.md")]
pub mod write_a_task {}

#[doc = include_str!("manual/bring_a_data_set.md")]
pub mod bring_a_data_set {}

#[doc = include_str!("manual/run_on_many_hosts.md")]
pub mod run_on_many_hosts {}

#[doc = include_str!("manual/recover.md")]
pub mod recover {}

#[doc = include_str!("manual/debug.md")]
pub mod debug {}
