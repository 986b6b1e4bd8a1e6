//! The listener: few connections, one request each, each within a time.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    middleware,
    response::{IntoResponse as _, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{guard::guard, metrics, reading::Reading};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 32;

/// How long a connection may take from its first byte to its last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a source may take to say how the run stands.
const READING_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a request's head at the most.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How long to wait where the system accepts no connection, as without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Who knows how the run stands.
pub trait Source: Clone + Send + Sync + 'static {
    /// How the run stands now; none if that is not known, as before it begins.
    fn read(&self) -> impl Future<Output = Option<Reading>> + Send;
}

/// Answers those who connect, until `stopped` ends.
pub async fn serve(listener: TcpListener, source: impl Source, stopped: impl Future) {
    let routes = routes(source);
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accepting = async {
        loop {
            // Never closed.
            let Ok(turn) = Arc::clone(&connections).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!("the board accepts no connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let routes = routes.clone();
            tokio::spawn(async move {
                answer(stream, routes).await;
                drop(turn);
            });
        }
    };
    let (accepting, stopped) = (pin!(accepting), pin!(stopped));
    tokio::select! {
        () = accepting => {}
        _ = stopped => {}
    }
}

async fn answer(stream: TcpStream, routes: Router) {
    let mut builder = http1::Builder::new();
    builder.keep_alive(false).max_buf_size(HEAD_BYTES_MAX);
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    match timeout(CONNECTION_TIMEOUT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a connection to the board has failed: {error}"),
        Err(_) => tracing::debug!("a connection to the board took too long"),
    }
}

fn routes<S: Source>(source: S) -> Router {
    Router::new()
        .route("/metrics", get(metrics_of::<S>))
        .fallback(async || (StatusCode::NOT_FOUND, "there is /metrics\n"))
        .layer(middleware::from_fn(guard))
        .with_state(source)
}

async fn metrics_of<S: Source>(State(source): State<S>) -> Response {
    match timeout(READING_TIMEOUT, source.read()).await {
        Ok(Some(reading)) => {
            let headers = [(CONTENT_TYPE, metrics::CONTENT_TYPE)];
            (headers, metrics::text(&reading)).into_response()
        }
        Ok(None) | Err(_) => {
            let why = "the run cannot say how it stands: it is being prepared, or it has ended\n";
            (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
        }
    }
}
