//! [`Limits`]: every bound of the HTTP front that an owner of a server, or a test, may want to move, with its reason.
//!
//! Bounds that belong to the dialect (how many stop texts, how long) are beside the field they bound, in `openai`.

use std::time::Duration;

/// The bounds of one server; the defaults are Mobula's promises.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From the first byte of a request's head to its last (and from accepting a connection to its first head), then 408
    /// or a close. Default 10 s.
    pub head_timeout: Duration,
    /// Between two pieces of a body, then 408. Default 30 s.
    pub body_idle_timeout: Duration,
    /// How long a write may make no progress at all before the connection is closed and its sequences cancelled.
    /// Default 10 s.
    pub write_stall_timeout: Duration,
    /// How long a connection may stay open with nothing asked. Default 75 s, longer than the 60 s for which common
    /// proxies hold theirs, so that the proxy closes first.
    pub keep_alive_timeout: Duration,
    /// The largest body of a chat or completion request. Default 8 MiB.
    pub chat_body_bytes_max: usize,
    /// The largest body of any other request. Default 64 KiB.
    pub control_body_bytes_max: usize,
    /// What the bodies of all requests may take together while they are read and parsed, then 429. Default 256 MiB:
    /// 1,024 requests of 8 MiB each would be 8 GiB.
    pub body_bytes_in_flight_max: usize,
    /// Chat and completion requests being served or waiting in the engine, then 429. Default 1,024.
    pub requests_in_flight_max: usize,
    /// Open connections; more wait in the kernel's backlog. Default 2,048, twice the requests, so that a full queue
    /// still answers 429 and `/health`.
    pub connections_max: usize,
    /// Tokens that all choices of one request may hold: `n × (prompt + max_tokens)`, checked before anything is
    /// allocated. Default 1,048,576: 128 choices of 8,192 tokens.
    pub request_tokens_max: u64,
    /// What a 429 or 503 of the front itself says in Retry-After. Default 1 s.
    pub retry_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(10),
            body_idle_timeout: Duration::from_secs(30),
            write_stall_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            chat_body_bytes_max: 8 << 20,
            control_body_bytes_max: 64 << 10,
            body_bytes_in_flight_max: 256 << 20,
            requests_in_flight_max: 1_024,
            connections_max: 2_048,
            request_tokens_max: 1 << 20,
            retry_after: Duration::from_secs(1),
        }
    }
}
