//! Checks the bounds of a configuration. A program that receives a configuration validates it first.

use std::ops::RangeInclusive;

use thiserror::Error;

use crate::{RunConfig, Training, bounds, task::InvalidTask};

/// The errors for flags that need `--validation-examples`.
const WITHOUT_VALIDATION: [&str; 2] = [
    "--early-stop-epochs needs --validation-examples N: whether a model becomes better is measured on \
     training examples that are held out, never on the test set",
    "--keep-best needs --validation-examples N: which checkpoint is best is measured on training \
     examples that are held out, never on the test set",
];

/// A configuration outside its bounds.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum InvalidConfig {
    /// A whole number is out of range.
    #[error("{field} must be from {min} to {max}, not {value}")]
    Count {
        /// The flag.
        field: &'static str,
        /// The given value.
        value: u32,
        /// The least allowed value.
        min: u32,
        /// The greatest allowed value.
        max: u32,
    },
    /// A real number is out of range.
    #[error("{field} must be {bound}, not {value}")]
    Real {
        /// The flag.
        field: &'static str,
        /// The given value.
        value: f64,
        /// The allowed range, in words.
        bound: &'static str,
    },
    /// More examples than the data set has.
    #[error("{flag} {value} is more than the data set {dataset} has: {found}")]
    TooManyExamples {
        /// The flag.
        flag: &'static str,
        /// The given value.
        value: u32,
        /// The data set's name.
        dataset: String,
        /// The number of examples in the data set.
        found: u32,
    },
    /// All examples are held out.
    #[error(
        "--validation-examples {held_out} leaves nothing to learn from of the {train} training \
         examples: hold out fewer"
    )]
    NothingLearned {
        /// The examples held out.
        held_out: u32,
        /// All training examples in use.
        train: u32,
    },
    /// Two options exclude each other, or one needs the other.
    #[error("{0}")]
    Conflict(&'static str),
    /// An invalid task.
    #[error(transparent)]
    Task(#[from] InvalidTask),
    /// More workers than shards: some would have nothing to do.
    #[error(
        "--workers {workers} is more than --shards {shards}: a worker owns at least one shard; \
         raise --shards or lower --workers"
    )]
    IdleWorkers {
        /// Members wanted.
        workers: u32,
        /// Shards of the run.
        shards: u32,
    },
}

impl RunConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first field that is out of its bounds.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let operation = &self.operation;
        count("--workers", operation.workers, bounds::WORKERS)?;
        self.training.validate()?;
        count("--epochs", operation.epochs, bounds::EPOCHS)?;
        count("--checkpoint-every-epochs", operation.checkpoint_every_epochs, bounds::EPOCHS)?;
        count("--keep-checkpoints", operation.keep_checkpoints, bounds::EPOCHS)?;
        if self.training.validation_examples == 0 && operation.early_stop_epochs > 0 {
            return Err(InvalidConfig::Conflict(WITHOUT_VALIDATION[0]));
        }
        if self.training.validation_examples == 0 && operation.keep_best {
            return Err(InvalidConfig::Conflict(WITHOUT_VALIDATION[1]));
        }
        if operation.workers > self.training.shards {
            return Err(InvalidConfig::IdleWorkers {
                workers: operation.workers,
                shards: self.training.shards,
            });
        }
        Ok(())
    }
}

impl Training {
    fn validate(&self) -> Result<(), InvalidConfig> {
        count("--shards", self.shards, bounds::SHARDS)?;
        count("--batch-size", self.batch_size, bounds::BATCH_SIZE)?;
        count("--train-examples", self.train_examples, bounds::EXAMPLES)?;
        count("--test-examples", self.test_examples, bounds::EXAMPLES)?;
        count("--model-threads", self.model_threads, bounds::THREADS)?;
        self.task.validate()?;
        let dataset = &self.task.dataset;
        for (flag, value, found) in [
            ("--train-examples", self.train_examples, dataset.train),
            ("--test-examples", self.test_examples, dataset.test),
        ] {
            if value > found {
                let dataset = dataset.name.clone();
                return Err(InvalidConfig::TooManyExamples { flag, value, dataset, found });
            }
        }
        let (held_out, train) = (self.validation_examples, self.train_examples);
        if held_out >= train {
            return Err(InvalidConfig::NothingLearned { held_out, train });
        }
        positive("--learning-rate", self.learning_rate)?;
        if let Some(norm) = self.grad_clip {
            positive("--grad-clip", norm)?;
        }
        Ok(())
    }
}

/// Checks a whole number.
///
/// # Errors
/// [`InvalidConfig::Count`] if the number is out of bounds.
pub fn count(
    field: &'static str,
    value: u32,
    bounds: RangeInclusive<u32>,
) -> Result<(), InvalidConfig> {
    let (min, max) = (*bounds.start(), *bounds.end());
    if bounds.contains(&value) {
        Ok(())
    } else {
        Err(InvalidConfig::Count { field, value, min, max })
    }
}

/// Checks a number that must be positive.
///
/// # Errors
/// [`InvalidConfig::Real`] if the number is not positive.
pub fn positive(field: &'static str, value: f64) -> Result<(), InvalidConfig> {
    if bounds::is_positive(value) {
        Ok(())
    } else {
        Err(InvalidConfig::Real { field, value, bound: bounds::POSITIVE })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{
        Collective, FileEntry, LearningRateSchedule, Manifest, Metric, Operation, RunConfig, Size,
        Task, Training, task::Precision,
    };

    fn task() -> Task {
        let metric = |name: &str| Metric { name: name.into(), unit: "nats".into() };
        let (name, bytes) = ("images".into(), 5);
        let (sha256, sources) = ("0a".repeat(32), Vec::new());
        Task {
            name: "vae".into(),
            revision: 1,
            options: json!({ "hidden_dim": 400, "beta": 1.0 }),
            dataset: Manifest {
                name: "mnist".into(),
                files: vec![FileEntry { name, bytes, sha256, sources }],
                train: 60_000,
                test: 10_000,
            },
            example: "image".into(),
            metrics: vec![metric("loss"), metric("kl")],
            precision: Precision::F32,
            portable: false,
            summary: "VAE".into(),
            size: Size { parameters: 5, worker_bytes: 1000, example_bytes: 10 },
        }
    }

    fn config() -> RunConfig {
        RunConfig {
            training: Training {
                seed: 0,
                shards: 4,
                batch_size: 64,
                learning_rate: 1e-3,
                learning_rate_schedule: LearningRateSchedule::Constant,
                grad_clip: None,
                train_examples: 60_000,
                validation_examples: 0,
                test_examples: 10_000,
                model_threads: 1,
                task: task(),
            },
            operation: Operation {
                workers: 4,
                epochs: 5,
                collective: Collective::Auto,
                verify_every: 100,
                checkpoint_every_epochs: 1,
                keep_checkpoints: 3,
                keep_best: false,
                early_stop_epochs: 0,
                checkpoint_url: None,
            },
        }
    }

    #[test]
    fn the_defaults_are_valid_and_survive_json() {
        let config = config();
        config.validate().unwrap();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<RunConfig>(&json).unwrap(), config);
        assert_eq!(config.training.memory_bytes(), 1640);
    }

    #[test]
    fn each_bound_is_checked() {
        type Breakage = (fn(&mut RunConfig), &'static str);
        let broken: [Breakage; 17] = [
            (|c| c.operation.workers = 0, "--workers"),
            (|c| c.operation.workers = 5, "--shards 4"),
            (|c| c.training.shards = 0, "--shards"),
            (|c| c.training.batch_size = 0, "--batch-size"),
            (|c| c.training.learning_rate = f64::NAN, "--learning-rate"),
            (|c| c.training.grad_clip = Some(0.0), "--grad-clip"),
            (|c| c.training.train_examples = 60_001, "--train-examples 60001"),
            (|c| c.training.test_examples = 0, "--test-examples"),
            (|c| c.training.validation_examples = 60_000, "leaves nothing to learn from"),
            (|c| c.operation.early_stop_epochs = 2, "--early-stop-epochs needs"),
            (|c| c.operation.keep_best = true, "--keep-best needs"),
            (|c| c.training.model_threads = 0, "--model-threads"),
            (|c| c.training.task.metrics.clear(), "vae has 0"),
            (|c| c.training.task.metrics[1].name = "loss".into(), "two metrics called \"loss\""),
            (|c| c.training.task.name = "My task".into(), "My task"),
            (|c| c.training.task.options = json!([1]), "not an object"),
            (|c| c.training.task.dataset.files.clear(), "not 0"),
        ];
        for (break_it, named) in broken {
            let mut config = config();
            break_it(&mut config);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
    }

    #[test]
    fn differences_name_the_fields() {
        let (ours, mut theirs) = (config().training, config().training);
        assert!(ours.differences(&theirs).is_empty());
        theirs.seed = 1;
        theirs.task.options = json!({ "hidden_dim": 200, "beta": 1.0, "extra": 1 });
        let fields = |theirs: &Training| -> Vec<String> {
            ours.differences(theirs).into_iter().map(|difference| difference.field).collect()
        };
        assert_eq!(fields(&theirs), ["seed", "extra", "hidden_dim"]);
        theirs.task.revision = 2;
        assert_eq!(fields(&theirs)[1], "task");
        let mut theirs = ours.clone();
        theirs.task.dataset.name = "the same elsewhere".into();
        assert!(fields(&theirs).is_empty());
        theirs.task.dataset.files[0].sha256 = "0b".repeat(32);
        assert_eq!(fields(&theirs), ["dataset"]);
    }
}
