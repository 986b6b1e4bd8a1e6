//! What a training thread needs to begin.

use std::{path::PathBuf, sync::Arc};

use config::RunConfig;
use data::Splits;
use images::Images;
use tch::Device;
use vae_options::VaeOptions;

/// A worker's part in a run, as it is known before the first generation.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) run_id: String,
    pub(crate) config: RunConfig,
    pub(crate) options: VaeOptions,
    pub(crate) device: Device,
    /// Cut to the run's first images.
    pub(crate) data: Arc<Splits<Images>>,
    pub(crate) run_dir: PathBuf,
    /// Whether this worker has the lowest rank, so that it leads as long as it is a member.
    pub(crate) is_first: bool,
    /// The checkpoint to begin from; from the seed if none.
    pub(crate) checkpoint: Option<PathBuf>,
}
