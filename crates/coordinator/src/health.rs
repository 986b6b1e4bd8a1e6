//! The standard gRPC services beside the coordinator's own: health, which follows the state of the
//! run, and reflection, which describes the services.

use anyhow::{Context as _, Result};
use protocol::{DESCRIPTORS, TRAINING_HEALTH, wire::coordinator_server::SERVICE_NAME};
use tokio::sync::watch;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health as Service, HealthServer},
    server::{HealthReporter, health_reporter},
};
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

/// The state of the run, as the health service distinguishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// The coordinator does not admit workers yet.
    Preparing,
    /// The coordinator admits workers, and no generation computes.
    Waiting,
    /// A generation computes.
    Training,
    /// The run has ended.
    Ended,
}

/// The health service, and the sender that updates it.
pub(crate) fn service() -> (watch::Sender<Health>, HealthServer<impl Service>) {
    let (reporter, service) = health_reporter();
    let (sender, health) = watch::channel(Health::Preparing);
    tokio::spawn(report(health, reporter));
    (sender, service)
}

async fn report(mut health: watch::Receiver<Health>, reporter: HealthReporter) {
    let serving = |yes| if yes { ServingStatus::Serving } else { ServingStatus::NotServing };
    loop {
        let now = *health.borrow_and_update();
        let takes_in = matches!(now, Health::Waiting | Health::Training);
        reporter.set_service_status(SERVICE_NAME, serving(takes_in)).await;
        reporter.set_service_status(TRAINING_HEALTH, serving(now == Health::Training)).await;
        if health.changed().await.is_err() {
            return;
        }
    }
}

/// The service that describes all services.
pub(crate) fn reflection() -> Result<ServerReflectionServer<impl ServerReflection>> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("the descriptions of the services are damaged")
}
