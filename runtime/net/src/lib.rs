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
//! | `quic`, [`socket`] | a UDP port that speaks QUIC with certificates on both sides |
//! | `greeting`, [`refusal`] | the first words of either side, and what they are answered with when something is wrong |
//! | [`authority`], [`certificate`], [`identity`] | the cluster's CA, what its certificates say, a member's own |
//! | [`join()`], [`token`] | how a member gets its certificate |
//! | [`error`] | why there is no connection |
#![forbid(unsafe_code)]

pub mod authority;
pub mod certificate;
pub mod connection;
pub mod error;
mod greeting;
pub mod identity;
pub mod join;
pub mod mesh;
mod quic;
pub mod refusal;
pub mod socket;
pub mod token;
pub mod unix;

pub use authority::Authority;
pub use certificate::PeerIdentity;
pub use connection::{Closed, Connection, Frame, Incoming, SendError};
pub use error::NetError;
pub use identity::{Credentials, Identity};
pub use join::{Issued, Registrar, join};
pub use mesh::{Admitted, Event, Gate, Lane, Mesh, MeshConfig, MeshEvents};
pub use refusal::{Cause, Refusal, Refusals};
pub use socket::Sockets;
pub use token::Token;
