//! The inputs of a training thread.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use config::RunConfig;
use data::Splits;
use model::Device;
use serde::Deserialize as _;
use trainer::{Task, task::GpuSupport};

/// A worker's settings in a run, as they are known before the first generation.
pub(crate) struct Setup<T: Task> {
    pub(crate) context: RunContext,
    pub(crate) options: T::Options,
    pub(crate) data: Arc<Splits<T::Data>>,
}

/// What a worker is to compute in a run, and where, whatever the task is.
pub(crate) struct RunContext {
    pub(crate) run_id: String,
    pub(crate) config: RunConfig,
    pub(crate) device: Device,
    pub(crate) run_dir: PathBuf,
    /// Whether this worker has rank zero, so that it leads as long as it is a member.
    pub(crate) is_first: bool,
    /// The checkpoint to begin from; none to begin from the seed.
    pub(crate) checkpoint: Option<PathBuf>,
}

/// The options of a run's task, if it is the task of this program.
///
/// # Errors
/// It is another task or revision, or this program does not know its options.
pub(crate) fn options<T: Task>(task: &config::Task) -> Result<T::Options> {
    let own = (T::NAME, T::REVISION);
    ensure!(
        (task.name.as_str(), task.revision) == own,
        "the run trains the task {} (revision {}), and this program trains {} (revision {}): start \
         the worker of the run's task, in the run's version",
        task.name,
        task.revision,
        own.0,
        own.1
    );
    let options = T::Options::deserialize(&task.options).with_context(|| {
        format!("this program does not know the run's options of the task {}", task.name)
    })?;
    T::validate(&options).map_err(anyhow::Error::from_boxed)?;
    Ok(options)
}

/// A run's task, from the run's configuration as JSON. None if this program cannot read the configuration; joining the
/// run then gives the error.
pub(crate) fn task(configuration: &str) -> Option<config::Task> {
    serde_json::from_str::<RunConfig>(configuration).ok().map(|config| config.training.task)
}

/// What the model of a run's task needs to compute on a GPU. If this program does not know the task, no GPU is used.
pub(crate) fn gpu_support<T: Task>(task: Option<&config::Task>) -> GpuSupport {
    let options = task.and_then(|task| options::<T>(task).ok());
    options.map_or(GpuSupport::None, |options| T::gpu_support(&options))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use vae::VaeTask;
    use vae_options::VaeOptions;

    use super::*;

    #[test]
    fn another_task_and_other_options_are_refused() {
        let dataset = <VaeTask>::manifest(&VaeOptions::default()).unwrap();
        let run = VaeOptions::default().describe(dataset).unwrap();
        assert_eq!(options::<VaeTask>(&run).unwrap(), VaeOptions::default());

        let error = |change: fn(&mut config::Task)| {
            let mut other = run.clone();
            change(&mut other);
            format!("{:#}", options::<VaeTask>(&other).unwrap_err())
        };
        let line = error(|task| task.name = "clothes".into());
        assert!(line.starts_with("the run trains the task clothes (revision 2)"), "{line}");
        let line = error(|task| task.revision += 1);
        assert!(line.contains("this program trains vae (revision 2)"), "{line}");
        let line = error(|task| task.options["dropout"] = json!(0.5));
        assert!(line.contains("dropout"), "{line}");
        let line = error(|task| task.options["latent_dim"] = json!(0));
        assert!(line.contains("--latent-dim"), "{line}");
    }
}
