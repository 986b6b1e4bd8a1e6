//! Examples, environment variables, exit statuses and files of the program, for its help and its man
//! pages.

use manual::{Entry, Reference};

/// In the order of the help.
const VARIABLES: [Entry; 6] = [
    Entry {
        name: "LOCKSTEP_DATA_DIR",
        meaning: "Folder for the files of the data set, without --data-dir. \
                  Without either: lockstep/NAME in XDG_CACHE_HOME, else in .cache of HOME",
    },
    Entry {
        name: "RUST_LOG",
        meaning: "Lowest level to log on standard error, in place of --log-level: off, error, warn, \
                  info, debug or trace, for the whole program or for parts of it, as in \
                  warn,coordinator=debug",
    },
    Entry {
        name: "HTTPS_PROXY, ALL_PROXY, NO_PROXY",
        meaning: "The proxy for fetching the data set, and the hosts that need none",
    },
    Entry {
        name: "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT, AWS_...",
        meaning: "Credentials and place of the store, if --checkpoint-url begins with s3://",
    },
    Entry {
        name: "GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_...",
        meaning: "Credentials of the store, if --checkpoint-url begins with gs://",
    },
    Entry {
        name: "OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_SERVICE_NAME",
        meaning: "Address and service name for traces, in a program that was built with the feature \
                  opentelemetry",
    },
];

const EXAMPLES: [Entry; 16] = [
    Entry { name: "--workers 4 --spawn", meaning: "Train with four workers on this machine" },
    Entry {
        name: "--workers 2 --shards 4 --spawn --epochs 20",
        meaning: "The bits of four workers for 20 epochs, computed by two",
    },
    Entry {
        name: "--resume --spawn --epochs 40",
        meaning: "Continue the newest run, up to 40 epochs",
    },
    Entry {
        name: "--workers 2 --listen 10.0.0.1:50051 --tls-dir ca/10.0.0.1",
        meaning: "Wait for workers from other machines, with certificates made by certs",
    },
    Entry {
        name: "--workers 4 --checkpoint-url s3://BUCKET/FOLDER --resume-or-begin --run-dir run \
               --leave-on-sigterm",
        meaning: "For a service manager that starts the coordinator again, here or elsewhere",
    },
    Entry { name: "status", meaning: "Show the state of the run on this machine" },
    Entry {
        name: "status --health=training",
        meaning: "Exit with 0 if members compute: for probes of containers",
    },
    Entry { name: "runs", meaning: "List the runs in the folder runs" },
    Entry {
        name: "runs compare RUN ANOTHER",
        meaning: "Show in which flags two runs differ, and their losses",
    },
    Entry {
        name: "runs plot RUN ANOTHER --output curves.svg",
        meaning: "Draw the learning curves of two runs",
    },
    Entry {
        name: "runs export RUN --csv metrics.csv",
        meaning: "Write the metrics of a run as a table",
    },
    Entry { name: "board", meaning: "Show the runs in the folder runs in a browser" },
    Entry {
        name: "board --coordinator https://10.0.0.1:50051 --tls-dir ca/10.0.0.2",
        meaning: "Show the run of a coordinator on another machine",
    },
    Entry {
        name: "config print --epochs 20",
        meaning: "Print a file for --config with this flag, and the others as they are by default",
    },
    Entry { name: "certs init --dir ca", meaning: "Make an authority and tokens in the folder ca" },
    Entry {
        name: "certs issue --dir ca --host 10.0.0.1 --host node1.example",
        meaning: "Make the certificate of a host with two names, in ca/10.0.0.1",
    },
];

const EXIT_STATUS: [Entry; 1] = [Entry {
    name: "129, 130, 143",
    meaning: "The run was interrupted by SIGHUP, SIGINT or SIGTERM and can be continued with --resume",
}];

const FILES: [Entry; 10] = [
    Entry { name: "runs/latest", meaning: "A link to the run directory of the newest run" },
    Entry {
        name: "config.json",
        meaning: "In a run directory: the configuration of the run, for --resume",
    },
    Entry {
        name: "metrics.jsonl, metrics.000001.jsonl",
        meaning: "In a run directory: losses, rates and times, a JSON object a line; older rows are in the \
                  numbered files",
    },
    Entry {
        name: "events.jsonl",
        meaning: "In a run directory: generations, and workers that joined, were lost or copied a \
                  state",
    },
    Entry {
        name: "journal.jsonl",
        meaning: "In a run directory: what a restarted coordinator must know",
    },
    Entry {
        name: "checkpoints/step-*.safetensors",
        meaning: "In a run directory: parameters, optimizer moments, and what is needed to continue",
    },
    Entry {
        name: "checkpoints/best.safetensors",
        meaning: "In a run directory, with --keep-best: a link to the checkpoint with the lowest \
                  validation loss",
    },
    Entry {
        name: "summary.json",
        meaning: "In a run directory, at the end: losses, digest of the state, examples counted",
    },
    Entry { name: "samples/epoch-*.png", meaning: "In a run directory: what the model draws" },
    Entry {
        name: "ca.crt, tls.crt, tls.key, token, view-token",
        meaning: "In --tls-dir: certificates and tokens, made by certs",
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
    use super::*;
    use crate::program::tests::Plain;

    #[test]
    fn the_reference_is_right() {
        assert_eq!(manual::faults(&crate::command(&Plain), &REFERENCE), [""; 0]);
    }
}
