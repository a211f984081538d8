//! What a process and its node speak over: a Unix socket on one host, a session of the mesh from another.
//!
//! Both carry the same frames in the same order. What differs is how they end: a socket's other end is gone when it is
//! closed, a session outlives its connections until one side ends it.

use std::time::Duration;

use bytes::Bytes;
use mobula_types::ProcessId;
use mobula_wire::FrameKind;

use crate::connection::{Closed, Connection, Pace, SendError};
use crate::mesh::{self, Lane, Mesh};

/// The sending end; clones share it.
#[derive(Clone, Debug)]
pub enum Line {
    /// Both are on one host.
    Socket(Connection),
    /// They are on two.
    Session {
        /// This side's mesh.
        mesh: Mesh,
        /// The other side.
        peer: ProcessId,
    },
}

/// The last words of a session have so long to arrive.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

impl Line {
    /// Queues a frame, after all that were queued before.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the frame is lost then.
    pub fn send(&self, kind: FrameKind, body: Bytes) -> Result<(), SendError> {
        match self {
            Self::Socket(connection) => connection.send(kind, body),
            Self::Session { mesh, peer } => mesh.send(*peer, lane(kind), kind, body).map_err(of_mesh),
        }
    }

    /// Queues a frame that comes at a pace ([`Connection::send_at`]); a session has no use for it.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the frame is lost then.
    pub fn send_at(&self, pace: Pace, kind: FrameKind, body: Bytes) -> Result<(), SendError> {
        match self {
            Self::Socket(connection) => connection.send_at(pace, kind, body),
            Self::Session { .. } => self.send(kind, body),
        }
    }

    /// Like [`send`](Self::send), and waits for room instead of saying `Full`.
    ///
    /// # Errors
    ///
    /// [`SendError`], but not `Full`.
    pub async fn send_when_room(&self, kind: FrameKind, body: Bytes) -> Result<(), SendError> {
        match self {
            Self::Socket(connection) => connection.send_when_room(kind, body).await,
            Self::Session { mesh, peer } => mesh.send_when_room(*peer, lane(kind), kind, body).await.map_err(of_mesh),
        }
    }

    /// Queues first words: a session has had its own, so there they are words as others.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the frame is lost then.
    pub fn send_greeting(&self, body: Bytes) -> Result<(), SendError> {
        let kind = match self {
            Self::Socket(_) => FrameKind::Greeting,
            Self::Session { .. } => FrameKind::Local,
        };
        self.send(kind, body)
    }

    /// Ends it after what is queued has been written; over a session, has arrived, for a second at most.
    pub fn close(&self, reason: impl Into<String>) {
        match self {
            Self::Socket(connection) => connection.close(reason),
            Self::Session { mesh, peer } => mesh.end_when_said(*peer, LAST_WORDS_MAX),
        }
    }
}

impl From<Connection> for Line {
    fn from(connection: Connection) -> Self {
        Self::Socket(connection)
    }
}

/// Words and parcels on one lane: a socket keeps their order, and so must this. Parts of large payloads are behind nobody.
fn lane(kind: FrameKind) -> Lane {
    if kind == FrameKind::Part { Lane::Bulk } else { Lane::Calls }
}

fn of_mesh(error: mesh::SendError) -> SendError {
    match error {
        mesh::SendError::Full { frames, bytes, .. } => SendError::Full { frames, bytes },
        mesh::SendError::TooLarge { bytes, max } => SendError::TooLarge { bytes, max },
        over => Closed::Here { reason: over.to_string() }.into(),
    }
}
