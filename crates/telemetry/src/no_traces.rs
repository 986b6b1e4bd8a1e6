//! In place of traces, where they were not built in.

/// Sends no traces.
#[derive(Debug)]
pub struct Traces;

impl Traces {
    pub(crate) fn start(_program: &str) -> (Self, Option<String>) {
        let asked = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
            .into_iter()
            .find(|name| std::env::var_os(name).is_some());
        let problem = asked.map(|name| {
            format!("{name} is set, but this program was built without the feature opentelemetry")
        });
        (Self, problem)
    }
}

/// Says which run this process takes part in.
pub fn note_run(_run_id: &str) {}
