//! Scenarios over real processes: coordinators and workers as a user starts them, some of them
//! killed, frozen, badly configured or lied to.
//!
//! One file is one story; [`harness`] starts and ends the processes. To read one first, take
//! [`train`], then [`kill_worker`].

mod advice;
mod arithmetic;
mod bad_data;
mod bad_flags;
mod bad_run_dir;
mod board;
mod board_relay;
mod board_viewers;
mod broken_worker;
mod cannot_lead;
mod chaos;
mod completions;
mod config_file;
mod crash_points;
mod crowd;
mod damaged_checkpoint;
mod dataset;
mod deploy;
mod divergence;
mod earlier_version;
mod early_stop;
mod evaluation;
mod explore;
mod failed_start;
mod fetching;
mod file_systems;
mod foreign_libtorch;
mod full_disk;
mod golden;
mod harness;
mod health;
mod hostile_peers;
mod hosts;
mod joining;
mod kill_coordinator;
mod kill_worker;
mod kubeflow;
mod launchers;
mod logging;
mod object_store;
mod own_data;
mod paths;
mod prometheus;
mod reports;
mod resume;
mod runs;
mod same_bits;
mod secured;
mod signals;
mod slow_disk;
mod slow_reader;
mod slurm;
mod stall;
mod standard_output;
mod stop;
mod strangers;
mod system_limits;
mod tasks;
mod terminal;
mod traces;
mod train;
mod training_options;
