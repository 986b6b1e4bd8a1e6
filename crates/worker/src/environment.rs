//! What the program reads from its environment.

use manual::Variable;

/// In the order of the help.
pub(crate) const VARIABLES: [Variable; 12] = [
    Variable {
        name: "LOCKSTEP_DATA_DIR",
        meaning: "Folder for the files of the data set, without --data-dir. \
                  Without either: lockstep in XDG_CACHE_HOME or in .cache of HOME, a folder \
                  for each set",
    },
    Variable {
        name: "RUST_LOG",
        meaning: "Lowest level to log on standard error, in place of --log-level: off, error, warn, \
                  info, debug or trace, for the whole program or for parts of it, as in \
                  warn,worker=debug",
    },
    Variable {
        name: "RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR",
        meaning: "Set by torchrun: the rank, without --rank, and the host of the coordinator, without \
                  --coordinator",
    },
    Variable {
        name: "PET_NODE_RANK, PET_NNODES, PET_NPROC_PER_NODE, PET_MASTER_ADDR",
        meaning: "The same, set by Kubeflow",
    },
    Variable {
        name: "KUBEFLOW_TRAINER_SERVER_URL, KUBEFLOW_TRAINER_SERVER_TOKEN, \
               KUBEFLOW_TRAINER_SERVER_CA_CERT",
        meaning: "Where the leader posts the status of a TrainJob, with the token and the authority in \
                  these files; set by Kubeflow Trainer",
    },
    Variable {
        name: "SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, SLURM_LAUNCH_NODE_IPADDR",
        meaning: "The same, set by Slurm",
    },
    Variable {
        name: "JOB_COMPLETION_INDEX",
        meaning: "The rank, set by an indexed Kubernetes Job",
    },
    Variable {
        name: "CUDA_VISIBLE_DEVICES",
        meaning: "The GPUs that --device counts; read by CUDA",
    },
    Variable {
        name: "MKL_CBWR",
        meaning: "The instruction set that MKL computes with, in place of the best that gives the \
                  same bits for any number of threads; all workers of a run need the same",
    },
    Variable {
        name: "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT, AWS_...",
        meaning: "Credentials and place of the store, if the run keeps checkpoints at s3://...",
    },
    Variable {
        name: "GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_...",
        meaning: "Credentials of the store, if the run keeps checkpoints at gs://...",
    },
    Variable {
        name: "OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_SERVICE_NAME",
        meaning: "Address and service name for traces, in a program that was built with the feature \
                  opentelemetry",
    },
];
