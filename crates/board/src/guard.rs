//! Decides which requests are answered. A request must only read, must name this machine, and must not
//! come from a page of another site. Beyond loopback it must carry the view token or its cookie.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE,
            HOST, REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use secure::Viewers;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

/// The content security policy: the page may load and request only from this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// The route to which a page sends the view token, to get the cookie.
const ENTER: &str = "/api/enter";

/// The files that are sent without the token, for the page that asks for it. They show nothing of a run.
const OPEN: [&str; 3] = ["/board.css", "/enter.js", "/icon.svg"];

/// The page that asks for the token.
const ENTER_PAGE: &str = include_str!("../assets/enter.html");

/// Decides which requests are answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Door {
    /// The check of viewers; none if everybody on this machine may look.
    viewers: Option<Viewers>,
    /// The name of the cookie. It contains the port, because browsers share cookies among all ports of
    /// a host.
    cookie: String,
}

impl Door {
    pub(crate) fn new(viewers: Option<Viewers>, port: u16) -> Self {
        Self { viewers, cookie: format!("__Host-lockstep-{port}") }
    }

    /// The answer to a request without token and cookie, or to a request for the cookie; none if the
    /// request may pass.
    fn check(&self, path: &str, headers: &HeaderMap) -> Option<Response> {
        let Some(viewers) = &self.viewers else {
            // Without viewers, no token is needed.
            return (path == ENTER).then(|| StatusCode::NO_CONTENT.into_response());
        };
        let values = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        let has_token = values(AUTHORIZATION)
            .filter_map(|value| value.strip_prefix("Bearer "))
            .any(|token| viewers.is_token(token));
        if path == ENTER && has_token {
            let (name, value) = (&self.cookie, viewers.cookie());
            let cookie = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Strict");
            return Some((StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response());
        }
        let mut cookies = values(COOKIE).flat_map(|value| value.split(';'));
        let is_cookie = |pair: &str| {
            pair.trim()
                .split_once('=')
                .is_some_and(|(name, value)| name == self.cookie && viewers.is_cookie(value))
        };
        if has_token || cookies.any(is_cookie) {
            return (path == ENTER).then(|| StatusCode::NO_CONTENT.into_response());
        }
        if OPEN.contains(&path) {
            return None;
        }
        if path == "/" {
            let kind = [(CONTENT_TYPE, "text/html; charset=utf-8")];
            return Some((StatusCode::UNAUTHORIZED, kind, ENTER_PAGE).into_response());
        }
        let advice = "send the view token, as Authorization: Bearer TOKEN, or enter it at /\n";
        Some((StatusCode::UNAUTHORIZED, advice).into_response())
    }
}

/// Passes on permitted requests, and adds the security headers to each answer.
pub(crate) async fn guard(State(door): State<Door>, request: Request, next: Next) -> Response {
    let refused = refusal(&door, request.method(), request.headers());
    let refused = refused.or_else(|| door.check(request.uri().path(), request.headers()));
    let mut response = match refused {
        Some(refused) => refused,
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn refusal(door: &Door, method: &Method, headers: &HeaderMap) -> Option<Response> {
    if ![Method::GET, Method::HEAD].contains(method) {
        let refused = (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")], "read only\n");
        return Some(refused.into_response());
    }
    let mut hosts = headers.get_all(HOST).iter();
    let is_here = |host: &str| match &door.viewers {
        Some(viewers) => viewers.is_host(host),
        None => is_this_machine(host),
    };
    let is_known = hosts.next().and_then(|host| host.to_str().ok()).is_some_and(is_here);
    if !is_known || hosts.next().is_some() {
        let advice = match door.viewers {
            Some(_) => "use a name for which this machine's certificate is valid\n",
            None => "ask for localhost or a loopback address: no other Host is answered\n",
        };
        return Some((StatusCode::MISDIRECTED_REQUEST, advice).into_response());
    }
    let is_foreign =
        |site: &HeaderValue| !["same-origin", "none"].iter().any(|known| site == known);
    if headers.get_all(SEC_FETCH_SITE).iter().any(is_foreign) {
        return Some((StatusCode::FORBIDDEN, "not for pages of other sites\n").into_response());
    }
    None
}

/// Whether a Host header names loopback. Any port is allowed, because a tunnel may have another port.
/// A foreign site's name is refused, even if it resolves to loopback.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    match bare {
        Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok_and(|ip| ip.is_loopback()),
        None => {
            name.eq_ignore_ascii_case("localhost")
                || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() && ip.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for (host, expected) in [
            ("localhost", true),
            ("LocalHost:50052", true),
            ("127.0.0.1:50052", true),
            ("127.8.9.1", true),
            ("[::1]:9", true),
            ("[::1]", true),
            ("", false),
            (":80", false),
            ("::1", false),
            ("127.0.0.1.example.org", false),
            ("localhost.example.org:50052", false),
            ("localhost:50052:1", false),
            ("10.0.0.1:50052", false),
            ("0.0.0.0", false),
            ("[127.0.0.1]", false),
            ("user@localhost", false),
        ] {
            assert_eq!(is_this_machine(host), expected, "{host}");
        }
    }
}
