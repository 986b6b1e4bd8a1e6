//! Programs with traces send the spans of a run to a collector, in one trace with the run's id. A
//! missing collector does no harm.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpListener as Port},
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use crate::harness::{Place, SMALL, coordinator_in, traced_coordinator};

const RUN: &str = "--spawn --workers 2 --epochs 1";

/// A received span: its program, its trace and its name.
type Seen = (String, String, String);

#[derive(Clone, Debug, Default)]
struct Collector(Arc<Mutex<BTreeSet<Seen>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut seen = self.0.lock().unwrap();
        for of_program in request.into_inner().resource_spans {
            let attributes = of_program.resource.unwrap_or_default().attributes;
            let name = attributes.iter().find(|attribute| attribute.key == "service.name");
            let program = format!("{:?}", name.and_then(|name| name.value.clone()));
            for span in of_program.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let trace = span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
                seen.insert((program.clone(), trace, span.name));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[test]
fn the_spans_of_a_run_are_one_trace() {
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let collector = Collector::default();
    let service = TraceServiceServer::new(collector.clone());
    let served = Server::builder().add_service(service);
    runtime.spawn(served.serve_with_incoming(TcpIncoming::from(listener)));

    let place = Place::new();
    let flags = format!("{SMALL} {RUN}");
    let run = traced_coordinator(&place, &flags, &format!("http://{address}"));
    run.wait().succeeded();
    let run_id = place.json("config.json")["run_id"].as_str().unwrap().to_owned();
    let seen = collector.0.lock().unwrap();
    assert!(seen.iter().all(|(_, trace, _)| *trace == run_id), "{run_id}: {seen:?}");
    for name in ["connection", "generation", "checkpoint"] {
        let is_there =
            |(program, _, span): &Seen| program.contains("vae-worker") && span.as_str() == name;
        assert!(seen.iter().any(is_there), "{name} is not in {seen:?}");
    }
}

#[test]
fn a_collector_that_is_away_harms_nobody() {
    // No process listens on a port that was just closed.
    let port = Port::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let place = Place::new();
    let run = traced_coordinator(&place, &format!("{SMALL} {RUN}"), &format!("http://{port}"));
    run.wait().succeeded();
}

#[test]
fn without_traces_built_in_a_collector_is_not_ignored_in_silence() {
    let place = Place::new();
    let environment = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317";
    let flags = format!("--listen 127.0.0.1:0 --run-dir {} {SMALL} {RUN}", place.run_dir.display());
    let run = coordinator_in(environment, &place, &flags);
    let text = run.wait().succeeded().text();
    assert!(text.contains("built without the feature opentelemetry"), "{text}");
}
