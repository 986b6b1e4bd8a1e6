//! The rows of a run's metrics and events, read and written.
