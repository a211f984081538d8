//! Ids are types: a task is never taken for an object, a stale incarnation never for the live one.
//!
//! Names that are easily confused: an [`ActorId`] names an actor for life, over all its restarts; an [`Incarnation`]
//! counts those restarts; an [`Epoch`] counts the heads a cluster has had; an [`Attempt`] counts the runs of one task.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number_id! {
    /// One host's node for as long as it runs; a node that starts again has a new id.
    NodeId(u64), "node-"
}
number_id! {
    /// One driver program and all that it started.
    JobId(u64), "job-"
}
number_id! {
    /// Which start of an actor or node this is; the first is 1, and 0 means not started yet.
    Incarnation(u32), "incarnation-"
}
number_id! {
    /// Which head a cluster has: a restarted head takes the next one.
    Epoch(u64), "epoch-"
}
number_id! {
    /// A right granted by the head for a limited time.
    LeaseId(u64), "lease-"
}
number_id! {
    /// Which run of a task this is; the first is 1. The result of a superseded attempt is never accepted.
    Attempt(u32), "attempt-"
}

impl Incarnation {
    /// The incarnation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Attempt {
    /// The first run of a task.
    pub const FIRST: Self = Self(1);

    /// The attempt after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Names an actor for life, and says nothing of where it is now.
///
/// ```
/// use mobula_types::{ActorId, NodeId};
/// let id = ActorId { node: NodeId(7), slot: 3, generation: 1 };
/// assert_eq!(id.to_string(), "actor-7.3.1");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ActorId {
    /// The node the actor was born on.
    pub node: NodeId,
    /// Its slot in that node's table; reused after the actor has ended.
    pub slot: u32,
    /// How often the slot had been given out before, so that a reused slot is another id.
    pub generation: u32,
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "actor-{}.{}.{}", self.node.0, self.slot, self.generation)
    }
}

/// Names a submitted task over all its attempts; with the [`Attempt`] it is the idempotency key of G2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// The node the task was submitted on.
    pub node: NodeId,
    /// The count of that node's submissions.
    pub seq: u64,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task-{}.{}", self.node.0, self.seq)
    }
}

/// Names an object; its owner, the node that made the reference, is part of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectId {
    /// The node that counts the object's holders.
    pub owner: NodeId,
    /// The count of that node's objects.
    pub seq: u64,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "object-{}.{}", self.owner.0, self.seq)
    }
}
