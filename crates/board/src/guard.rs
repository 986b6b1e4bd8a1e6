//! Which requests are answered: those that only read, that name this machine, and that no foreign
//! site has a browser send.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

/// What the page may do: use its own files, and ask where it came from.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// Passes on what may be answered, and marks the answer as nobody else's.
pub(crate) async fn guard(request: Request, next: Next) -> Response {
    let mut response = match refusal(request.method(), request.headers()) {
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

fn refusal(method: &Method, headers: &HeaderMap) -> Option<Response> {
    if ![Method::GET, Method::HEAD].contains(method) {
        let refused = (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")], "read only\n");
        return Some(refused.into_response());
    }
    let mut hosts = headers.get_all(HOST).iter();
    let is_local = hosts.next().and_then(|host| host.to_str().ok()).is_some_and(is_this_machine);
    if !is_local || hosts.next().is_some() {
        let advice = "ask for localhost or a loopback address: no other Host is answered\n";
        return Some((StatusCode::MISDIRECTED_REQUEST, advice).into_response());
    }
    let is_foreign =
        |site: &HeaderValue| !["same-origin", "none"].iter().any(|known| site == known);
    if headers.get_all(SEC_FETCH_SITE).iter().any(is_foreign) {
        return Some((StatusCode::FORBIDDEN, "not for pages of other sites\n").into_response());
    }
    None
}

/// Whether a Host header names loopback. The port is free: a tunnel may have its own. A name that
/// a foreign site has pointed at loopback is not one of these.
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
