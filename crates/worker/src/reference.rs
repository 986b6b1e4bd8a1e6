//! The program's reference beside its flags, for its help and its man pages.

use manual::{Entry, Reference};

/// The environment variables, in the order of the help.
const VARIABLES: [Entry; 12] = [
    Entry {
        name: "LOCKSTEP_DATA_DIR",
        meaning: "Folder for the files of the data set, without --data-dir. \
                  Without either: lockstep in XDG_CACHE_HOME or in .cache of HOME, a folder \
                  for each set",
    },
    Entry {
        name: "RUST_LOG",
        meaning: "Lowest level to log on standard error, in place of --log-level: off, error, warn, \
                  info, debug or trace, for the whole program or for parts of it, as in \
                  warn,worker=debug",
    },
    Entry {
        name: "RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR",
        meaning: "Set by torchrun: the rank, without --rank; the number of workers, to check the \
                  rank; the index on the host, to choose a GPU; and the host of the coordinator, \
                  without --coordinator",
    },
    Entry {
        name: "PET_NODE_RANK, PET_NNODES, PET_NPROC_PER_NODE, PET_MASTER_ADDR",
        meaning: "Set by Kubeflow: the rank; the number of nodes, to check the rank; the number of \
                  processes of a node, which must be 1; and the host of the coordinator",
    },
    Entry {
        name: "KUBEFLOW_TRAINER_SERVER_URL, KUBEFLOW_TRAINER_SERVER_TOKEN, \
               KUBEFLOW_TRAINER_SERVER_CA_CERT",
        meaning: "Where the leader posts the status of a TrainJob, with the token and the authority in \
                  these files; set by Kubeflow Trainer",
    },
    Entry {
        name: "SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, SLURM_LAUNCH_NODE_IPADDR",
        meaning: "Set by Slurm: the rank; the number of workers, to check the rank; the index on \
                  the host, to choose a GPU; and the host of the coordinator",
    },
    Entry { name: "JOB_COMPLETION_INDEX", meaning: "The rank, set by an indexed Kubernetes Job" },
    Entry { name: "CUDA_VISIBLE_DEVICES", meaning: "The GPUs that --device counts; read by CUDA" },
    Entry {
        name: "MKL_CBWR",
        meaning: "The instruction set that MKL computes with, in place of the best one that gives the \
                  same bits for any number of threads; all workers of a run need the same one",
    },
    Entry {
        name: "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT, AWS_...",
        meaning: "Credentials and place of the store, if the run keeps checkpoints at s3://...",
    },
    Entry {
        name: "GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_...",
        meaning: "Credentials of the store, if the run keeps checkpoints at gs://...",
    },
    Entry {
        name: "OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_SERVICE_NAME",
        meaning: "Address and service name for traces, in a program that was built with the feature \
                  opentelemetry",
    },
];

const EXAMPLES: [Entry; 5] = [
    Entry { name: "", meaning: "Join the coordinator on this machine with any free rank" },
    Entry {
        name: "--coordinator https://10.0.0.1:50051 --tls-dir ca/10.0.0.2",
        meaning: "Join a coordinator on another machine",
    },
    Entry {
        name: "--rank 0 --device cuda:1",
        meaning: "Take rank 0, and compute on the second GPU",
    },
    Entry {
        name: "--threads 2 --join-timeout-seconds 600",
        meaning: "Compute with two threads, and wait ten minutes for the coordinator",
    },
    Entry {
        name: "config print --threads 2",
        meaning: "Print a file for --config with this flag, and the others as they are by default",
    },
];

const EXIT_STATUS: [Entry; 1] = [Entry {
    name: "129, 130, 143",
    meaning: "SIGHUP, SIGINT or SIGTERM asked the worker to leave before the run had ended",
}];

const FILES: [Entry; 2] = [
    Entry {
        name: "checkpoints/step-*.safetensors",
        meaning: "In the run directory: written by the worker with the lowest rank",
    },
    Entry {
        name: "ca.crt, tls.crt, tls.key, token",
        meaning: "In --tls-dir: certificates and the join token, made by vae-coordinator certs",
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

    #[test]
    fn the_reference_is_right() {
        let program =
            crate::Program { name: "worker", version: "0", library: None, other_program: None };
        let command = manual::complete(program.command(), &REFERENCE);
        assert_eq!(manual::faults(&command, &REFERENCE), [""; 0]);
    }
}
