//! What a process and its node say to one another of shared memory, in packets over a socket of its own: only there can
//! descriptors travel.
//!
//! The process speaks first ([`ToStore::Hello`]), and every word of it is answered by one, in order.

use mobula_types::ProcessId;
use serde::{Deserialize, Serialize};

/// The file name, in [`Welcome::folder`](crate::local::Welcome::folder), of the socket for segments.
pub const STORE_SOCKET: &str = "store.sock";

/// A packet is at most this long.
pub const PACKET_BYTES_MAX: usize = 4 << 10;

/// Names a segment of a node, for ever.
pub type SegmentId = u64;

/// Where sealed bytes lie in the memory of their host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// In which segment of the node.
    pub segment: SegmentId,
    /// Where they begin there.
    pub offset: u64,
}

/// From a process to its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToStore {
    /// The first word.
    Hello {
        /// The version of the language it speaks.
        protocol: u32,
        /// Who it is.
        process: ProcessId,
        /// [`Welcome::peer_secret`](crate::local::Welcome::peer_secret).
        secret: String,
    },
    /// Wants a segment to write.
    Lease {
        /// How long it is to be.
        bytes: u64,
        /// How long at least, where there is no room for more.
        least: u64,
    },
    /// Wants to read a segment of its job.
    Open {
        /// Which.
        segment: SegmentId,
    },
    /// Gives back what was leased to it; nobody reads it any more.
    Return {
        /// Which.
        segment: SegmentId,
    },
}

/// From a node to a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromStore {
    /// It is known, or what it gave back is taken.
    Done,
    /// A segment to write; its descriptor is with this packet.
    Leased {
        /// Which.
        segment: SegmentId,
    },
    /// A segment to read; its descriptor is with this packet.
    Opened,
    /// No.
    Refused(NoSegment),
}

/// Why a process has no segment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum NoSegment {
    /// The node does not know the process, or not as one of this job.
    #[error("the node does not know this process")]
    Unknown,
    /// Another version of the language.
    #[error("the node speaks protocol {ours}: build both with one version of mobula")]
    Protocol {
        /// The node's.
        ours: u32,
    },
    /// The budget is used up.
    #[error(
        "the object store is full: {leased} of its {budget} bytes are in use and {bytes} more are wanted: let go of \
         values, or start the node with a larger --object-store-memory"
    )]
    Full {
        /// What was wanted.
        bytes: u64,
        /// What is in use.
        leased: u64,
        /// What there is.
        budget: u64,
    },
    /// The system gave no memory or descriptor.
    #[error("the system gives no shared memory: {why}")]
    System {
        /// What it said.
        why: String,
    },
    /// No process of this job has such a segment.
    #[error("segment {segment} is none of this job's")]
    NoSuch {
        /// Which.
        segment: SegmentId,
    },
}
