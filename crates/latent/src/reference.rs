//! Facts for the program's help and man pages that its flags do not tell.

use manual::{Entry, Reference};

/// The variables, in the order of the help.
const VARIABLES: [Entry; 2] = [
    Entry {
        name: "LOCKSTEP_DATA_DIR",
        meaning: "Folder with the files of the data set, without --data-dir. Without \
                  either: lockstep in XDG_CACHE_HOME or in .cache of HOME, a folder for each set",
    },
    Entry {
        name: "MKL_CBWR",
        meaning: "The instruction set that MKL computes with, in place of the best that gives the \
                  same bits for any number of threads",
    },
];

const EXAMPLES: [Entry; 17] = [
    Entry { name: "sample", meaning: "Draw 64 images from the model of the newest run" },
    Entry {
        name: "sample --checkpoint runs/mine --sampler gmm --output digits.png",
        meaning: "Draw from a mixture that is fitted to the latents of another run",
    },
    Entry { name: "reconstruct", meaning: "Show 20 test images above their reconstructions" },
    Entry {
        name: "reconstruct --input my-digit.jpg",
        meaning: "Reconstruct a picture of your own",
    },
    Entry {
        name: "interpolate --from 3 --to 8 --gif way.gif",
        meaning: "Interpolate from a three to an eight",
    },
    Entry {
        name: "traverse --from test:17",
        meaning: "Change one latent of a test image at a time",
    },
    Entry { name: "map --grid", meaning: "Draw the latent space, and a grid decoded from it" },
    Entry {
        name: "map --projection tsne --output neighbours.png",
        meaning: "Draw similar images as neighbours",
    },
    Entry { name: "explore", meaning: "Write latent.html, to be opened in a browser" },
    Entry {
        name: "encode --output latents.parquet",
        meaning: "Write the latents of the test images",
    },
    Entry { name: "decode --input latents.parquet", meaning: "Decode such a table to digits.png" },
    Entry { name: "evaluate", meaning: "Measure everything; this takes minutes" },
    Entry {
        name: "evaluate --importance-samples 0 --no-features --json",
        meaning: "Compute the test loss alone, as JSON",
    },
    Entry { name: "fit-gmm --components 50", meaning: "Fit a mixture, for sample --sampler gmm" },
    Entry { name: "export", meaning: "Write encoder.onnx and decoder.onnx into the folder export" },
    Entry {
        name: "dataset inspect mnist",
        meaning: "Say how many images MNIST has, and draw some",
    },
    Entry {
        name: "dataset inspect pictures --image-size 32",
        meaning: "Do the same with the pictures in a folder, scaled to 32 x 32",
    },
];

const EXIT_STATUS: [Entry; 0] = [];

const FILES: [Entry; 3] = [
    Entry { name: "runs/latest", meaning: "The run that is used without --checkpoint" },
    Entry {
        name: "checkpoints/step-*.safetensors",
        meaning: "In a run directory: the checkpoints, of which the newest is taken",
    },
    Entry {
        name: "gmm.safetensors",
        meaning: "In a run directory: the mixture that fit-gmm wrote",
    },
];

pub(crate) const REFERENCE: Reference = Reference {
    examples: &EXAMPLES,
    exit_status: &EXIT_STATUS,
    variables: &VARIABLES,
    files: &FILES,
};

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_reference_is_right() {
        let command = manual::complete(crate::args::Args::command(), &REFERENCE);
        assert_eq!(manual::faults(&command, &REFERENCE), [""; 0]);
    }
}
