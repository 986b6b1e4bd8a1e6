//! What the program reads from its environment.

use manual::Variable;

/// In the order of the help.
pub(crate) const VARIABLES: [Variable; 6] = [
    Variable {
        name: "LOCKSTEP_DATA_DIR",
        meaning: "Where the files of the data set are, or are to be put, if --data-dir does not say. \
                  Without either: lockstep/NAME in XDG_CACHE_HOME, else in .cache of HOME",
    },
    Variable {
        name: "RUST_LOG",
        meaning: "What is logged to standard error, before --log-level: off, error, warn, info, \
                  debug or trace, for the whole program or for parts of it, as in \
                  warn,coordinator=debug",
    },
    Variable {
        name: "HTTPS_PROXY, ALL_PROXY, NO_PROXY",
        meaning: "The proxy for fetching the data set, and the hosts that need none",
    },
    Variable {
        name: "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT, AWS_...",
        meaning: "Credentials and place of the store, if --checkpoint-url begins with s3://",
    },
    Variable {
        name: "GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_...",
        meaning: "Credentials of the store, if --checkpoint-url begins with gs://",
    },
    Variable {
        name: "OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_SERVICE_NAME",
        meaning: "Where traces are sent and under which name, by a program that was built with \
                  the feature opentelemetry",
    },
];
