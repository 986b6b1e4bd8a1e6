//! What the program reads from its environment.

use manual::Variable;

/// In the order of the help.
pub(crate) const VARIABLES: [Variable; 2] = [
    Variable {
        name: "LOCKSTEP_DATA_DIR",
        meaning: "Where the MNIST files are, if --data-dir does not say. Without either: \
                  lockstep/mnist in XDG_CACHE_HOME, else in .cache of HOME",
    },
    Variable {
        name: "MKL_CBWR",
        meaning: "The instruction set that MKL computes with, in place of the best that gives the \
                  same bits for any number of threads",
    },
];
