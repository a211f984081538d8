//! Why two processes are not connected.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use quinn::ConnectionError;

use crate::identity::IdentityError;
use crate::quic::{self, Side};
use crate::refusal::Refusal;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// One side did not let the other in.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nobody answers.
    #[error("nobody answered at {addr} within {within:?}: is a node running there, and does UDP pass?")]
    TimedOut {
        /// The address.
        addr: SocketAddr,
        /// The time it had.
        within: Duration,
    },
    /// There is no way to the address, or the connection broke.
    #[error("cannot connect to {addr}: {message}")]
    Unreachable {
        /// The address.
        addr: SocketAddr,
        /// What was seen.
        message: String,
    },
    /// The port cannot be had.
    #[error("cannot use the UDP port: {0}")]
    Socket(io::Error),
    /// This member's certificate cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// The mesh was closed.
    #[error("this process has closed its network port")]
    Closed,
}

impl NetError {
    /// What a connection's end means to the side that dialed it.
    pub(crate) fn of(error: &ConnectionError, addr: SocketAddr) -> Self {
        match quic::refusal_of(error, Side::Client) {
            Some(refusal) => Self::Refused(refusal),
            None => Self::Unreachable { addr, message: error.to_string() },
        }
    }
}
