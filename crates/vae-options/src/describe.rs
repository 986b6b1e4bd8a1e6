//! The description of a variational autoencoder that a run keeps.

use config::{Manifest, Metric, Size, Task, task::Precision};

use crate::{Architecture, VaeOptions, conv::Levels, pixels};

/// The task's name.
pub const NAME: &str = "vae";

/// The task's revision. Revision 1 multiplied matrices with MKL; revision 2 multiplies as ARITHMETIC.md defines it.
pub const REVISION: u32 = 2;

/// The task's word for an example.
pub const EXAMPLE: &str = "image";

/// The sums that the task reports, with their units; kl is without beta.
pub const METRICS: [(&str, &str); 3] =
    [("loss", "nats"), ("reconstruction", "nats"), ("kl", "nats")];

/// The bytes that every worker needs, even with the smallest model: the program, MNIST, buffers. Measured.
const WORKER_BYTES: u64 = 60_000_000;

/// The bytes that libtorch needs in a worker of `--architecture conv`. Measured.
const LIBTORCH_BYTES: u64 = 70_000_000;

impl VaeOptions {
    /// The task of these options on a data set.
    ///
    /// # Errors
    /// The options cannot be serialised.
    pub fn describe(&self, dataset: Manifest) -> Result<Task, serde_json::Error> {
        let metric = |(name, unit): (&str, &str)| Metric { name: name.into(), unit: unit.into() };
        Ok(Task {
            name: NAME.into(),
            revision: REVISION,
            options: serde_json::to_value(self)?,
            dataset,
            example: EXAMPLE.into(),
            metrics: METRICS.map(metric).into(),
            precision: self.precision,
            portable: self.is_portable(),
            summary: self.summary(),
            size: self.size(),
        })
    }

    /// Whether every CPU computes the same bits, and every GPU too unless the products are in bf16. This holds for
    /// dense layers, which this project computes itself; libtorch computes convolutions.
    #[must_use]
    pub fn is_portable(&self) -> bool {
        self.architecture == Architecture::Dense
    }

    /// The network in a few words, as in `VAE 784-400-400-20` and `VAE conv 28x28-32-64-400-20`. The convolutional
    /// network shows the sides of an image, the channels of each level, and the dense layers.
    #[must_use]
    pub fn summary(&self) -> String {
        let Self { image, hidden_dim, latent_dim, .. } = self;
        match self.architecture {
            Architecture::Dense => {
                let pixels = pixels(*image);
                format!("VAE {pixels}-{hidden_dim}-{hidden_dim}-{latent_dim}")
            }
            Architecture::Conv => {
                let [height, width, channels] = image;
                let colours = if *channels == 1 { String::new() } else { format!("x{channels}") };
                let levels = Levels::of(*image);
                let levels = levels.below().iter().map(|level| format!("{}-", level.channels));
                let levels: String = levels.collect();
                format!("VAE conv {height}x{width}{colours}-{levels}{hidden_dim}-{latent_dim}")
            }
        }
    }

    /// Lower bounds of the memory: the bytes of any worker with parameters, gradient, sum and both Adam
    /// moments, and the bytes of a batch's activations and gradients.
    #[must_use]
    pub fn size(&self) -> Size {
        let parameters = self.model().parameters();
        let (own_bytes, (parameter_bytes, example_bytes)) = match self.architecture {
            Architecture::Dense => (WORKER_BYTES, self.dense_bytes()),
            Architecture::Conv => (WORKER_BYTES + LIBTORCH_BYTES, self.conv_bytes()),
        };
        Size {
            parameters,
            worker_bytes: own_bytes + (5 * 4 + parameter_bytes) * parameters,
            example_bytes,
        }
    }

    /// Bytes of a parameter beside the five vectors, and bytes of an image.
    fn dense_bytes(&self) -> (u64, u64) {
        // Factors of matrix products have the size of the precision; results have that of f32.
        let (factor, weights) = match self.precision {
            Precision::F32 => (4, 0),
            Precision::Bf16 => (2, 2),
        };
        let pixels = pixels(self.image);
        let image = factor * (5 * u64::from(self.hidden_dim) + 2 * pixels) + 4 * pixels;
        (weights, u64::from(self.importance_samples) * image)
    }

    /// The same for convolutions, by autograd: libtorch has its own copies of parameters and gradient.
    fn conv_bytes(&self) -> (u64, u64) {
        let (image, latent) = Levels::of(self.image).kept(self.hidden_dim);
        (2 * 4, 4 * (image + u64::from(self.importance_samples) * latent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_told_in_a_few_words() {
        let dense = VaeOptions::default();
        assert_eq!(dense.summary(), "VAE 784-400-400-20");
        let conv = VaeOptions { architecture: Architecture::Conv, ..dense };
        assert_eq!(conv.summary(), "VAE conv 28x28-32-64-400-20");
        let colour = VaeOptions { image: [64, 48, 3], ..conv };
        assert_eq!(colour.summary(), "VAE conv 64x48x3-32-64-128-400-20");
    }
}
