//! What the program reads from its environment.

use manual::Variable;

/// In the order of the help.
pub(crate) const VARIABLES: [Variable; 2] = [
    Variable {
        name: "LOCKSTEP_DATA_DIR",
        meaning: "Folder with the files of the data set, without --data-dir. Without \
                  either: lockstep in XDG_CACHE_HOME or in .cache of HOME, a folder for each set",
    },
    Variable {
        name: "MKL_CBWR",
        meaning: "The instruction set that MKL computes with, in place of the best that gives the \
                  same bits for any number of threads",
    },
];
