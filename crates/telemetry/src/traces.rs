//! Sends spans to a collector over OTLP.
//!
//! The trace of a run has the run's id. So the spans of all processes of a run are in the same trace,
//! although the processes exchange no trace ids.

use std::{env, fmt, sync::OnceLock, time::Duration};

use opentelemetry::trace::{SpanId, TraceId, TracerProvider as _};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    Resource,
    trace::{IdGenerator, RandomIdGenerator, SdkTracerProvider},
};
use tokio::runtime::{Builder, Runtime};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, registry::LookupSpan};

/// The variables that name the collector, by OpenTelemetry's conventions. If neither is set, no traces
/// are sent.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// The variable with the service name for the collector, by the same conventions.
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";

/// How long the last spans may take at the end of the program.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The id of the run, once it is known.
static RUN: OnceLock<TraceId> = OnceLock::new();

/// Sets the run of this process. Spans that begin from now on belong to the run's trace.
pub fn note_run(run_id: &str) {
    if let Ok(id) = TraceId::from_hex(run_id) {
        let _first = RUN.set(id);
    }
}

/// Sends spans until the value is dropped.
pub struct Traces {
    program: &'static str,
    /// None if no collector is named.
    sending: Option<Sending>,
}

struct Sending {
    provider: SdkTracerProvider,
    /// Drives the connection.
    runtime: Runtime,
}

impl Traces {
    /// Starts to send spans, if a collector is named. Also returns the problem, if there is one.
    pub(crate) fn start(program: &'static str) -> (Self, Option<String>) {
        let wanted = ENDPOINTS.iter().any(|name| env::var_os(name).is_some());
        let sending = wanted.then(|| Sending::start(program)).transpose();
        let problem = sending.as_ref().err().map(ToString::to_string);
        (Self { program, sending: sending.ok().flatten() }, problem)
    }

    pub(crate) fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let tracer = self.sending.as_ref()?.provider.tracer(self.program);
        let layer = tracing_opentelemetry::layer().with_tracer(tracer);
        Some(layer.with_filter(LevelFilter::INFO))
    }
}

impl Sending {
    fn start(program: &'static str) -> Result<Self, Box<dyn std::error::Error>> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let exporter = {
            let _inside = runtime.enter();
            SpanExporter::builder().with_tonic().build()?
        };
        let mut resource = Resource::builder();
        if env::var_os(SERVICE_NAME).is_none() {
            resource = resource.with_service_name(program);
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_id_generator(Ids::default())
            .with_resource(resource.build())
            .build();
        Ok(Self { provider, runtime })
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        let Some(Sending { provider, runtime }) = self.sending.take() else { return };
        if let Err(error) = provider.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::warn!("the last traces were not sent: {error}");
        }
        runtime.shutdown_background();
    }
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").field("program", &self.program).finish_non_exhaustive()
    }
}

/// Generates ids; all traces of this process get the id of its run.
#[derive(Debug, Default)]
struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        RUN.get().copied().unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}
