//! What the program reads from its environment.

use manual::Variable;

/// In the order of the help.
pub(crate) const VARIABLES: [Variable; 6] = [
    Variable {
        name: "LOCKSTEP_DATA_DIR",
        meaning: "Folder for the files of the data set, without --data-dir. \
                  Without either: lockstep/NAME in XDG_CACHE_HOME, else in .cache of HOME",
    },
    Variable {
        name: "RUST_LOG",
        meaning: "Lowest level to log on standard error, in place of --log-level: off, error, warn, \
                  info, debug or trace, for the whole program or for parts of it, as in \
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
        meaning: "Address and service name for traces, in a program that was built with the feature \
                  opentelemetry",
    },
];
