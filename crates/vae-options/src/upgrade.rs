//! Reads configurations of earlier versions. Before tasks existed, all runs trained the VAE, on MNIST.

use config::{Manifest, Task};
use serde_json::{Map, Value};

use crate::VaeOptions;

/// The options that earlier versions kept beside the general ones.
const OPTIONS: [&str; 4] = ["warmup_epochs", "binarize", "importance_samples", "precision"];

/// The revision of the task that earlier versions trained.
const REVISION: u32 = 1;

/// The name of the object with the options of the network.
const MODEL: &str = "model";

/// Fields that have been renamed.
const RENAMED: [(&str, &str); 2] =
    [("train_images", "train_examples"), ("test_images", "test_examples")];

/// Options of this task that have been renamed.
const OPTIONS_RENAMED: [(&str, &str); 1] = [("warmup_epochs", "kl_warmup_epochs")];

/// Converts a configuration of an earlier version to the current form. `dataset` is the data set of all runs from
/// before tasks existed.
pub fn upgrade(configuration: &mut Value, dataset: impl FnOnce() -> Manifest) {
    let Some(training) = configuration.get_mut("training").and_then(Value::as_object_mut) else {
        return;
    };
    if let Some(task) = training.get_mut("task") {
        let options = task.get_mut("options").and_then(Value::as_object_mut);
        return options.map_or((), |options| rename(options, &OPTIONS_RENAMED));
    }
    let Some(Value::Object(mut options)) = training.remove(MODEL) else { return };
    take(training, &mut options);
    rename(&mut options, &OPTIONS_RENAMED);
    rename(training, &RENAMED);
    let Ok(options) = serde_json::from_value::<VaeOptions>(options.into()) else { return };
    let task = options.describe(dataset()).map(|task| Task { revision: REVISION, ..task });
    let task = task.and_then(serde_json::to_value);
    if let Ok(task) = task {
        training.insert("task".into(), task);
    }
}

fn rename(object: &mut Map<String, Value>, names: &[(&str, &str)]) {
    for (before, now) in names {
        if let Some(value) = object.remove(*before) {
            object.insert((*now).into(), value);
        }
    }
}

fn take(training: &mut Map<String, Value>, options: &mut Map<String, Value>) {
    for name in OPTIONS {
        if let Some(value) = training.remove(name) {
            options.insert(name.into(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use config::{FileEntry, RunConfig};

    use super::*;

    fn mnist() -> Manifest {
        let (name, sha256) = ("images".into(), "0a".repeat(32));
        let file = FileEntry { name, bytes: 5, sha256, sources: Vec::new() };
        Manifest { name: "mnist".into(), files: vec![file], train: 60_000, test: 10_000 }
    }

    /// A configuration from before schedules, warm-up, clipping, binary pixels and importance sampling existed,
    /// and one of the last form before tasks existed.
    #[test]
    fn configurations_of_every_age_are_read() {
        let oldest = include_str!("../tests/oldest.json");
        let newest = include_str!("../tests/before_tasks.json");
        let read = |text: &str| {
            let mut json: Value = serde_json::from_str(text).unwrap();
            json.as_object_mut().unwrap().remove("run_id");
            upgrade(&mut json, mnist);
            let config: RunConfig = serde_json::from_value(json.clone()).unwrap();
            config.validate().unwrap();
            let again = json.clone();
            upgrade(&mut json, mnist);
            assert_eq!(json, again, "what is of today stays as it is");
            let options = json["training"]["task"]["options"].as_object_mut().unwrap();
            rename(options, &OPTIONS_RENAMED.map(|(before, now)| (now, before)));
            assert_ne!(json, again);
            upgrade(&mut json, mnist);
            assert_eq!(json, again, "an option with its earlier name");
            config.training
        };
        let (oldest, newest) = (read(oldest), read(newest));
        assert_eq!(VaeOptions::read(&oldest.task.options).unwrap(), VaeOptions::default());
        assert_eq!((oldest.train_examples, oldest.test_examples), (60_000, 10_000));
        let options = VaeOptions::read(&newest.task.options).unwrap();
        assert_eq!((options.hidden_dim, options.kl_warmup_epochs), (64, 2));
        assert_eq!((newest.train_examples, newest.learning_rate), (3000, 0.001));
    }
}
