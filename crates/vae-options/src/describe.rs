//! The description of a variational autoencoder: what a run keeps of it.

use config::{Manifest, Metric, Size, Task, task};

use crate::{Architecture, Precision, VaeOptions, conv, pixels};

/// The task's name.
pub const NAME: &str = "vae";

/// The task's revision.
pub const REVISION: u32 = 1;

/// What it calls an example.
pub const EXAMPLE: &str = "image";

/// The sums that it reports, with their units; kl is without beta.
pub const METRICS: [(&str, &str); 3] =
    [("loss", "nats"), ("reconstruction", "nats"), ("kl", "nats")];

/// What any worker takes, with the smallest of models, in bytes: libtorch, MNIST, buffers.
/// Measured; about half of it is libtorch's.
const WORKER_BYTES: u64 = 130_000_000;

impl VaeOptions {
    /// The task of these options on a data set.
    ///
    /// # Errors
    /// The options cannot be written.
    pub fn describe(&self, dataset: Manifest) -> Result<Task, serde_json::Error> {
        let metric = |(name, unit): (&str, &str)| Metric { name: name.into(), unit: unit.into() };
        Ok(Task {
            name: NAME.into(),
            revision: REVISION,
            options: serde_json::to_value(self)?,
            dataset,
            example: EXAMPLE.into(),
            metrics: METRICS.map(metric).into(),
            precision: match self.precision {
                Precision::F32 => task::Precision::F32,
                Precision::Bf16 => task::Precision::Bf16,
            },
            summary: self.summary(),
            size: self.size(),
        })
    }

    /// The network in a few words.
    #[must_use]
    pub fn summary(&self) -> String {
        let Self { image, hidden_dim, latent_dim, .. } = self;
        if self.architecture == Architecture::Conv {
            let [height, width, channels] = image;
            return format!("VAE conv {height}x{width}x{channels}-{latent_dim}");
        }
        let pixels = pixels(*image);
        format!("VAE {pixels}-{hidden_dim}-{hidden_dim}-{latent_dim}")
    }

    /// What it takes of a machine, as lower bounds: what any worker takes, parameters, gradient, sum
    /// and both Adam moments, and what a batch's activations and gradients take.
    #[must_use]
    pub fn size(&self) -> Size {
        // What goes into matrix products has the precision's size; results have that of f32.
        let (factor, weights) = match self.precision {
            Precision::F32 => (4, 0),
            Precision::Bf16 => (2, 2),
        };
        let (parameters, pixels) = (self.parameters(), pixels(self.image));
        let image = match self.architecture {
            Architecture::Dense => {
                factor * (5 * u64::from(self.hidden_dim) + 2 * pixels) + 4 * pixels
            }
            Architecture::Conv => conv::example_bytes(self.image),
        };
        Size {
            parameters,
            worker_bytes: WORKER_BYTES + (5 * 4 + weights) * parameters,
            example_bytes: u64::from(self.importance_samples) * image,
        }
    }
}
