//! Connections between processes: Unix sockets inside a host, QUIC with mutual TLS between nodes.
//!
//! A connection carries frames of `mobula_wire::frame` in order; what they say is not this crate's business. It runs on
//! the tokio runtime of whoever opens it and has no thread of its own.
//!
//! | module | holds |
//! |---|---|
//! | [`connection`] | the two ends of a connection, whatever carries it: a bounded queue out, a bounded reader in |
//! | [`unix`] | connections inside a host, to processes of the same user only |
#![forbid(unsafe_code)]

pub mod authority;
pub mod certificate;
pub mod connection;
pub mod identity;
pub mod token;
pub mod unix;

pub use connection::{Closed, Connection, Frame, Incoming, SendError};
