//! Connections between processes: Unix sockets inside a host, QUIC with mutual TLS between nodes.
//!
//! A connection carries frames of `mobula_wire::frame` in order; what they say is not this crate's business. It runs on
//! the tokio runtime of whoever opens it and has no thread of its own.
//!
//! | module | holds |
//! |---|---|
//! | [`mesh`] | every process spoken with over the network: sessions that outlive connections |
//! | [`unix`] | connections inside a host, to processes of the same user only |
//! | [`connection`] | the two ends of a connection, whatever carries it: a bounded queue out, a bounded reader in |
//! | [`mod@line`] | what a process and its node speak over: a connection on one host, a session from another |
//! | `quic`, `reset`, [`socket`] | a UDP port that speaks QUIC with certificates on both sides |
//! | `bounced` | datagrams to ports that nobody has |
//! | `greeting`, [`refusal`] | the first words of either side, and what they are answered with when something is wrong |
//! | [`authority`], [`certificate`], [`identity`] | the cluster's CA, what its certificates say, a member's own |
//! | [`join()`], [`token`] | how a member gets its certificate |
//! | [`renewal`] | how one that is no node gets its next |
//! | [`error`] | why there is no connection |
#![forbid(unsafe_code)]

pub mod authority;
mod bounced;
pub mod certificate;
pub mod connection;
pub mod error;
mod greeting;
pub mod identity;
pub mod join;
pub mod line;
pub mod mesh;
mod quic;
pub mod refusal;
pub mod renewal;
mod reset;
pub mod socket;
pub mod token;
pub mod unix;

pub use authority::Authority;
pub use certificate::PeerIdentity;
pub use connection::{Closed, Connection, Frame, Incoming, Pace, SendError};
pub use error::NetError;
pub use identity::{Credentials, Identity};
pub use join::{Issued, Registrar, join, join_as_any};
pub use line::Line;
pub use mesh::{Admitted, Event, Gate, Lane, Mesh, MeshConfig, MeshEvents};
pub use refusal::{Cause, Refusal, Refusals};
pub use renewal::Renewal;
pub use socket::Sockets;
pub use token::Token;

/// Doors for bytes of strangers, for the fuzz targets only: each reads first words and writes them again.
#[doc(hidden)]
pub mod doors {
    use crate::refusal::Refusal;

    /// The first words of a member.
    ///
    /// # Errors
    ///
    /// They are none.
    pub fn greeting(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
        crate::greeting::encode_member(&crate::greeting::decode_member::<crate::greeting::Greeting>(bytes)?)
    }

    /// What a joiner asks.
    ///
    /// # Errors
    ///
    /// It is no such thing.
    pub fn join_request(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
        crate::join::reread_request(bytes)
    }

    /// What a joiner is answered.
    ///
    /// # Errors
    ///
    /// It is no such thing.
    pub fn join_response(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
        crate::join::reread_response(bytes)
    }
}
