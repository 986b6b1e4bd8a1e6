//! The bounds of a configuration. Whoever receives one checks it here first.

use std::ops::RangeInclusive;

use thiserror::Error;

use crate::{RunConfig, Training, bounds};

/// A configuration outside its bounds.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum InvalidConfig {
    /// A whole number is out of range.
    #[error("{field} must be from {min} to {max}, not {value}")]
    Count {
        /// The flag.
        field: &'static str,
        /// What was given.
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
        /// What was given.
        value: f64,
        /// The allowed range, in words.
        bound: &'static str,
    },
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
    /// The first field found out of its bounds.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let operation = &self.operation;
        count("--workers", operation.workers, bounds::WORKERS)?;
        self.training.validate()?;
        count("--epochs", operation.epochs, bounds::EPOCHS)?;
        count("--checkpoint-every-epochs", operation.checkpoint_every_epochs, bounds::EPOCHS)?;
        count("--keep-checkpoints", operation.keep_checkpoints, bounds::EPOCHS)?;
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
        count("--hidden-dim", self.model.hidden_dim, bounds::DIM)?;
        count("--latent-dim", self.model.latent_dim, bounds::DIM)?;
        count("--train-images", self.train_images, bounds::TRAIN_IMAGES)?;
        count("--test-images", self.test_images, bounds::TEST_IMAGES)?;
        positive("--learning-rate", self.learning_rate)?;
        count("--warmup-epochs", self.warmup_epochs, bounds::WARMUP_EPOCHS)?;
        count("--importance-samples", self.importance_samples, bounds::IMPORTANCE_SAMPLES)?;
        if let Some(norm) = self.grad_clip {
            positive("--grad-clip", norm)?;
        }
        let beta = self.model.beta;
        if !bounds::is_not_negative(beta) {
            let bound = bounds::NOT_NEGATIVE;
            return Err(InvalidConfig::Real { field: "--beta", value: beta, bound });
        }
        Ok(())
    }
}

fn count(
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

fn positive(field: &'static str, value: f64) -> Result<(), InvalidConfig> {
    if bounds::is_positive(value) {
        Ok(())
    } else {
        Err(InvalidConfig::Real { field, value, bound: bounds::POSITIVE })
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Binarize, Collective, LearningRateSchedule, Likelihood, ModelConfig, Operation, Precision,
        RunConfig, Training,
    };

    fn config() -> RunConfig {
        RunConfig {
            training: Training {
                seed: 0,
                shards: 4,
                batch_size: 64,
                learning_rate: 1e-3,
                learning_rate_schedule: LearningRateSchedule::Constant,
                warmup_epochs: 0,
                grad_clip: None,
                binarize: Binarize::None,
                importance_samples: 1,
                precision: Precision::F32,
                model: ModelConfig {
                    hidden_dim: 400,
                    latent_dim: 20,
                    likelihood: Likelihood::Bernoulli,
                    beta: 1.0,
                },
                train_images: 60_000,
                test_images: 10_000,
            },
            operation: Operation {
                workers: 4,
                epochs: 5,
                collective: Collective::Auto,
                verify_every: 100,
                checkpoint_every_epochs: 1,
                keep_checkpoints: 3,
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
        assert_eq!(config.training.model.parameters(), 973_624);
    }

    /// Written before there were schedules, warm-up, clipping, binary pixels and importance
    /// sampling: what it did then is what the defaults do.
    #[test]
    fn an_older_configuration_is_read_with_defaults() {
        let mut json = serde_json::to_value(config()).unwrap();
        let training = json["training"].as_object_mut().unwrap();
        for field in [
            "learning_rate_schedule",
            "warmup_epochs",
            "grad_clip",
            "binarize",
            "importance_samples",
        ] {
            training.remove(field).unwrap();
        }
        assert_eq!(serde_json::from_value::<RunConfig>(json).unwrap(), config());
    }

    #[test]
    fn precisions_have_the_names_of_their_flag() {
        for (precision, name) in [(Precision::F32, "f32"), (Precision::Bf16, "bf16")] {
            assert_eq!(serde_json::to_value(precision).unwrap(), name);
            assert_eq!(serde_json::from_value::<Precision>(name.into()).unwrap(), precision);
        }
        assert_eq!(Precision::default(), Precision::F32);
    }

    #[test]
    fn each_bound_is_checked() {
        type Breakage = (fn(&mut RunConfig), &'static str);
        let broken: [Breakage; 11] = [
            (|c| c.operation.workers = 0, "--workers"),
            (|c| c.operation.workers = 5, "--shards 4"),
            (|c| c.training.shards = 0, "--shards"),
            (|c| c.training.batch_size = 0, "--batch-size"),
            (|c| c.training.model.hidden_dim = 1 << 20, "--hidden-dim"),
            (|c| c.training.learning_rate = f64::NAN, "--learning-rate"),
            (|c| c.training.model.beta = -1.0, "--beta"),
            (|c| c.training.grad_clip = Some(0.0), "--grad-clip"),
            (|c| c.training.importance_samples = 0, "--importance-samples"),
            (|c| c.training.warmup_epochs = u32::MAX, "--warmup-epochs"),
            (|c| c.training.train_images = 60_001, "--train-images"),
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
        theirs.seed = 1;
        theirs.model.hidden_dim = 200;
        theirs.precision = Precision::Bf16;
        let fields: Vec<String> =
            ours.differences(&theirs).into_iter().map(|difference| difference.field).collect();
        assert_eq!(fields, ["model.hidden_dim", "precision", "seed"]);
        assert!(ours.differences(&ours.clone()).is_empty());
    }
}
