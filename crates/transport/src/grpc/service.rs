//! The `AllReduce` service as HTTP. It does the work of the generated server without the codec,
//! because the codec copies every float once in each direction.

use std::{
    convert::Infallible,
    future::poll_fn,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response, header};
use protocol::wire::{Frame, all_reduce_server, frame};
use secure::connection::BoxFuture;
use tonic::{Status, body::Body, server::NamedService};

use super::{
    Endpoint, STREAM_TIMEOUT,
    parser::Event,
    stream::{self, Arrival, Inbound, PeerStream, Side},
};

/// The path of the service's only call.
pub(super) const EXCHANGE_PATH: &str = "/lockstep.v1.AllReduce/Exchange";

pub(crate) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// Accepts the streams of an endpoint.
#[derive(Clone)]
pub(super) struct Service(Endpoint);

impl Service {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self(endpoint)
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        if request.uri().path() != EXCHANGE_PATH {
            return Status::unimplemented("no such call").into_http();
        }
        let body = self.exchange(request.into_body()).await;
        body.map_or_else(Status::into_http, |body| {
            let mut response = Response::new(body);
            response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
            response
        })
    }

    /// Waits for the hello, checks it, and gives the stream to its generation.
    async fn exchange(&self, request: Body) -> Result<Body, Status> {
        let mut inbound = Inbound::<Frame>::new(request);
        let arrival = tokio::time::timeout(STREAM_TIMEOUT, poll_fn(|cx| inbound.poll_next(cx)))
            .await
            .map_err(|_| Status::deadline_exceeded("the stream sent no hello"))?;
        let hello = match arrival {
            Arrival::Event(Event::Frame(frame)) => match frame.body {
                Some(frame::Body::Hello(hello)) => Some(hello),
                _ => None,
            },
            Arrival::Malformed(malformed) => return Err(protocol::status::malformed(&malformed)),
            Arrival::Event(_) | Arrival::Closed(_) => None,
        };
        let hello = hello
            .ok_or_else(|| Status::invalid_argument("the first frame of a stream is its hello"))?;
        self.0.vouch(&hello).await?;
        let (outbound, body) = stream::outbound(Side::Server, self.0.queued_max());
        self.0.admit(&hello, PeerStream { outbound, inbound })?;
        Ok(body)
    }
}

impl NamedService for Service {
    const NAME: &'static str = all_reduce_server::SERVICE_NAME;
}

impl tower::Service<Request<Body>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.answer(request).await) })
    }
}
