//! [`Trust`]: who may speak to the server: the bearer key, and the `Host` and `Origin` of every request.
//!
//! A page in a browser can send requests to a server on its user's machine, by any name that resolves there. So a server
//! on loopback answers only to loopback's own names (a rebound DNS name is refused), and no server answers a page of
//! another origin. There are no CORS headers and no cookies: a browser adds nothing that would be trusted.

use std::net::{IpAddr, SocketAddr};

use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use sha2::{Digest, Sha256};

use crate::openai::ApiError;

/// The rules of one server.
#[derive(Debug)]
pub(crate) struct Trust {
    bound: SocketAddr,
    /// Hashes, so that a dump of memory or a log shows no key.
    keys: Vec<[u8; 32]>,
}

impl Trust {
    pub(crate) fn new(bound: SocketAddr, keys: &[String]) -> Self {
        Self { bound, keys: keys.iter().map(|key| Sha256::digest(key).into()).collect() }
    }

    /// Whether the request came to the right name from the right page.
    pub(crate) fn check_names(&self, headers: &HeaderMap, target: Option<&str>) -> Result<(), ApiError> {
        check_names(self.bound, headers, target).map_err(|Misnamed { status, code, message }| {
            let error = ApiError::new(status, message);
            match code {
                Some(code) => error.code(code),
                None => error,
            }
        })
    }

    /// Whether the request has a key, if there are any.
    pub(crate) fn check_key(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let refused = |message| Err(ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key"));
        let Some(authorization) = headers.get(AUTHORIZATION) else {
            return refused("no API key; expected the header Authorization: Bearer KEY");
        };
        let Some(key) = bearer(authorization.as_bytes()) else {
            return refused("the Authorization header is not Bearer KEY");
        };
        // The time this takes depends on the key's length only: both sides are hashes, all of them are compared to
        // their ends, and what differs is only ORed.
        let hash: [u8; 32] = Sha256::digest(key).into();
        let is_known = self.keys.iter().fold(false, |known, other| {
            let difference = hash.iter().zip(other).fold(0, |all, (ours, theirs)| all | (ours ^ theirs));
            known | (std::hint::black_box(difference) == 0)
        });
        if is_known { Ok(()) } else { refused("the API key is not one of this server's") }
    }
}

/// A request that came by another name than this server's, or from a page of another origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misnamed {
    /// What to answer: 400, 403 or 421.
    pub status: StatusCode,
    /// What a program switches on, where there is something to switch on.
    pub code: Option<&'static str>,
    /// What would be right.
    pub message: String,
}

/// Whether a request to the server at `bound` came to the right name from the right page. `target`: the authority that
/// the request line names, if it does.
///
/// # Errors
///
/// [`Misnamed`].
pub fn check_names(bound: SocketAddr, headers: &HeaderMap, target: Option<&str>) -> Result<(), Misnamed> {
    let host = only(headers, HOST)?.ok_or_else(|| bad("the Host header is missing; expected one"))?;
    let name =
        host_name(host).ok_or_else(|| bad(format!("Host is {host:.80?}; expected a name or address, and a port")))?;
    if target.is_some_and(|target| !target.eq_ignore_ascii_case(host)) {
        return Err(bad("the request's target names another host than its Host header"));
    }
    if is_loopback_only(bound.ip()) && !is_loopback(name) {
        let message = format!("Host is {host:.80?}; this server listens on {bound}: call it by localhost");
        return Err(Misnamed { status: StatusCode::MISDIRECTED_REQUEST, code: Some("wrong_host"), message });
    }
    match only(headers, ORIGIN)? {
        Some(origin) if !is_same(origin, host) => {
            let message = format!("Origin is {origin:.80?}; only pages of {host:.80?} may call this server");
            Err(Misnamed { status: StatusCode::FORBIDDEN, code: Some("wrong_origin"), message })
        }
        _ => Ok(()),
    }
}

/// Whether `ip` can be reached from this machine alone.
pub(crate) fn is_loopback_only(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn bad(message: impl Into<String>) -> Misnamed {
    Misnamed { status: StatusCode::BAD_REQUEST, code: None, message: message.into() }
}

/// The value of a header that may be there once.
fn only(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, Misnamed> {
    let mut values = headers.get_all(&name);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(bad(format!("the header {name} is there more than once")));
    }
    value.to_str().map(Some).map_err(|_| bad(format!("the header {name} is not plain ASCII")))
}

fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = authorization.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(key.trim_ascii())
}

/// The name of `name`, `name:port`, `1.2.3.4:port` or `[::1]:port`.
fn host_name(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (name, rest) = rest.split_once(']')?;
            (name, rest.strip_prefix(':').or(rest.is_empty().then_some("")))
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("")),
        },
    };
    let is_port = port?.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    (is_port && !name.is_empty() && name.bytes().all(is_name)).then_some(name)
}

fn is_loopback(name: &str) -> bool {
    // Browsers resolve `*.localhost` to loopback without asking DNS (RFC 6761, section 6.3).
    let is_name = name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
    is_name || name.parse().is_ok_and(is_loopback_only)
}

/// Whether a page of `origin` is a page of `host`. A browser leaves out the scheme's own port in both.
fn is_same(origin: &str, host: &str) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn status(result: Result<(), ApiError>) -> u16 {
        result.map_or_else(|error| error.status.as_u16(), |()| 200)
    }

    #[test]
    fn a_server_on_loopback_answers_to_loopbacks_names_only() {
        let trust = Trust::new("127.0.0.1:8000".parse().unwrap(), &[]);
        let table = [
            ("127.0.0.1:8000", 200),
            ("127.0.0.1", 200),
            ("localhost:9000", 200),
            ("LOCALHOST", 200),
            ("app.localhost:8000", 200),
            ("[::1]:8000", 200),
            ("evil.example:8000", 421),
            ("localhost.evil.example", 421),
            ("10.0.0.1:8000", 421),
            ("0.0.0.0:8000", 421),
            ("user@localhost", 400),
            ("localhost:80x", 400),
            ("[::1", 400),
            ("", 400),
        ];
        for (host, expected) in table {
            assert_eq!(status(trust.check_names(&headers(&[(HOST, host)]), None)), expected, "{host:?}");
        }
        assert_eq!(status(trust.check_names(&HeaderMap::new(), None)), 400, "no Host");
        let two = headers(&[(HOST, "localhost"), (HOST, "localhost")]);
        assert_eq!(status(trust.check_names(&two, None)), 400, "two of them");
        let host = headers(&[(HOST, "localhost")]);
        assert_eq!(status(trust.check_names(&host, Some("evil.example"))), 400, "another in the target");
    }

    #[test]
    fn a_page_of_another_origin_is_refused_wherever_the_server_listens() {
        for bound in ["127.0.0.1:8000", "0.0.0.0:8000"] {
            let trust = Trust::new(bound.parse().unwrap(), &[]);
            let table = [
                ("http://localhost:8000", 200),
                ("https://LOCALHOST:8000", 200),
                ("http://localhost:8001", 403),
                ("http://evil.example", 403),
                ("null", 403),
                ("file://", 403),
            ];
            for (origin, expected) in table {
                let headers = headers(&[(HOST, "localhost:8000"), (ORIGIN, origin)]);
                assert_eq!(status(trust.check_names(&headers, None)), expected, "{bound} {origin}");
            }
        }
        let open = Trust::new("0.0.0.0:8000".parse().unwrap(), &[]);
        assert_eq!(status(open.check_names(&headers(&[(HOST, "models.example")]), None)), 200);
    }

    #[test]
    fn a_key_is_needed_where_there_are_keys() {
        let trust = Trust::new("127.0.0.1:8000".parse().unwrap(), &["first".into(), "second".into()]);
        let table = [
            (None, 401),
            (Some("Bearer first"), 200),
            (Some("bearer second"), 200),
            (Some("Bearer  second "), 200),
            (Some("Bearer firs"), 401),
            (Some("Bearer first2"), 401),
            (Some("Bearer "), 401),
            (Some("Basic first"), 401),
            (Some("first"), 401),
        ];
        for (authorization, expected) in table {
            let headers = headers(&authorization.map(|value| (AUTHORIZATION, value)).into_iter().collect::<Vec<_>>());
            assert_eq!(status(trust.check_key(&headers)), expected, "{authorization:?}");
        }
        assert_eq!(status(Trust::new("127.0.0.1:1".parse().unwrap(), &[]).check_key(&HeaderMap::new())), 200);
        assert!(!format!("{trust:?}").contains("first"));
    }
}
