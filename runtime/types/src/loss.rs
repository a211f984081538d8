//! Why a value is gone, and how the bytes of one are told from others'.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Death, NodeId, ObjectId};

/// What the bytes of an object are, in short: a replay that gives others is found by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Why an object cannot be read any more: the first cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Loss {
    /// The last copy is gone, and nobody knows how to make it.
    #[error("its last copy was on {node}, which is dead, and it was put: only what a task made can be made again")]
    NodeDied {
        /// Where it was.
        node: NodeId,
    },
    /// The last copy was given up.
    #[error("its last copy, on {node}, was given up for room")]
    GivenUp {
        /// Where it was.
        node: NodeId,
    },
    /// Its last copy was in a file of a node, which cannot be read.
    #[error("its last copy, in a file of {node}, cannot be read: {why}")]
    FileLost {
        /// Which.
        node: NodeId,
        /// What is wrong with it.
        why: String,
    },
    /// The process that made it had its only bytes, or was still making them.
    #[error("{death}, and nobody else had its bytes")]
    MakerDied {
        /// How that ended.
        death: Box<Death>,
    },
    /// The node that owned it is dead, and there is no copy where it is read.
    #[error("{node}, which owned it, is dead, and there is no copy here")]
    OwnerNodeDied {
        /// Which.
        node: NodeId,
    },
    /// Nobody held it.
    #[error("nobody held it any more")]
    NotHeld,
    /// How it was made had to be forgotten.
    #[error("its last copy is gone, and how it is made was forgotten for others: raise the bound of the lineage")]
    LineageEvicted,
    /// Its task has run as often as it may.
    #[error("its last copy is gone, and its task has run {runs} times, as often as it may: raise `max_retries`")]
    RunsSpent {
        /// How often.
        runs: u32,
    },
    /// What its task needs is lost itself.
    #[error("its last copy is gone, and {argument}, of which it is made, is lost too")]
    ArgumentLost {
        /// Which.
        argument: ObjectId,
    },
    /// Its task gave other bytes when it ran again.
    #[error(
        "its task gave other bytes when it ran again ({again}, before {first}): only a task that gives the same for the same \
         arguments can be run again"
    )]
    NonDeterministicReplay {
        /// What it gave first.
        first: Digest,
        /// What it gave then.
        again: Digest,
    },
    /// Its task came to nothing.
    #[error("run {run} of its task came to nothing")]
    NotMade {
        /// In which run.
        run: u32,
    },
    /// There are copies, and none could be reached.
    #[error("no copy could be reached for {seconds} s")]
    Unreachable {
        /// For how long.
        seconds: u64,
    },
}
