//! Ids are types: a task is never taken for an object, a stale incarnation never for the live one.
//!
//! Names that are easily confused: a [`NodeId`] names a host's node, a [`ProcessId`] one process of it; an [`ActorId`] names an actor for life, over all its restarts; an [`Incarnation`]
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

/// One process of a cluster: a node itself, or a worker or driver that is attached to it.
///
/// ```
/// use mobula_types::{NodeId, ProcessId};
/// let worker = ProcessId::new(NodeId(7), 2);
/// assert_eq!((worker.node(), worker.number()), (NodeId(7), 2));
/// assert_eq!((worker.to_string(), ProcessId::from(NodeId(7)).to_string()), ("7:2".into(), "7".into()));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId(u64);

impl ProcessId {
    /// Processes a node may ever have had, itself included: numbers are not used again while it runs.
    pub const NUMBERS: u32 = 1 << Self::NUMBER_BITS;
    const NUMBER_BITS: u32 = 24;

    /// Stands for the head where a home is named: the home of detached actors, which no process outlives. No process has
    /// this id, because nodes count from 1.
    pub const HEAD: Self = Self(1);

    /// Process `number` of `node`; 0 is the node itself.
    ///
    /// # Panics
    ///
    /// `number` is [`NUMBERS`](Self::NUMBERS) or more, or the node's own number takes more than 40 bits: heads and nodes
    /// count from 1.
    pub const fn new(node: NodeId, number: u32) -> Self {
        assert!(number < Self::NUMBERS && node.0 < 1 << (u64::BITS - Self::NUMBER_BITS), "a process id has 64 bits");
        Self(node.0 << Self::NUMBER_BITS | number as u64)
    }

    /// As one number, for places that hold only numbers.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The opposite of [`as_u64`](Self::as_u64).
    pub const fn from_u64(id: u64) -> Self {
        Self(id)
    }

    /// The node it belongs to.
    pub const fn node(self) -> NodeId {
        NodeId(self.0 >> Self::NUMBER_BITS)
    }

    /// Which process of its node it is; 0 is the node itself.
    pub const fn number(self) -> u32 {
        (self.0 & (Self::NUMBERS as u64 - 1)) as u32
    }
}

impl From<NodeId> for ProcessId {
    fn from(node: NodeId) -> Self {
        Self::new(node, 0)
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number() {
            0 => write!(f, "{}", self.node().0),
            number => write!(f, "{}:{number}", self.node().0),
        }
    }
}

impl JobId {
    /// Jobs of drivers are below: a thousand a second come so far in 31 years.
    const DETACHED: u64 = 1_000_000_000_000;

    /// The job whose workers host the detached actors of this one: it has the same program, and runs while there are
    /// such actors. It is its own.
    ///
    /// ```
    /// use mobula_types::JobId;
    /// let of_detached = JobId(3).of_detached();
    /// assert!(of_detached.hosts_detached() && !JobId(3).hosts_detached());
    /// assert_eq!((of_detached.to_string().as_str(), of_detached.of_detached()), ("job-1000000000003", of_detached));
    /// ```
    #[must_use]
    pub const fn of_detached(self) -> Self {
        if self.hosts_detached() { self } else { Self(self.0 + Self::DETACHED) }
    }

    /// Whether it is a job of detached actors.
    pub const fn hosts_detached(self) -> bool {
        self.0 >= Self::DETACHED
    }
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
/// use mobula_types::{ActorId, NodeId, ProcessId};
/// let id = ActorId { process: ProcessId::from(NodeId(7)), slot: 3, generation: 1 };
/// assert_eq!(id.to_string(), "actor-7.3.1");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ActorId {
    /// The process that spawned it, which knows where it lives: its home.
    pub process: ProcessId,
    /// Its slot in that process's table; reused after the actor has ended.
    pub slot: u32,
    /// How often the slot had been given out before, so that a reused slot is another id.
    pub generation: u32,
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "actor-{}.{}.{}", self.process, self.slot, self.generation)
    }
}

/// Names a submitted task over all its attempts; with the [`Attempt`] it is the idempotency key of G2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// The process that submitted the task.
    pub process: ProcessId,
    /// The count of that process's submissions.
    pub seq: u64,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task-{}.{}", self.process, self.seq)
    }
}

/// Names a message that is sent again until it is handled (G4, G8), over all its sendings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageId {
    /// The process that sends it.
    pub from: ProcessId,
    /// The sender in that process: it has one for each actor to which it sends so.
    pub sender: u64,
    /// The count of that sender's messages, from 1.
    pub seq: u64,
}

/// Names an object; its owner, the process that made the reference, is part of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectId {
    /// The process that counts the object's holders.
    pub owner: ProcessId,
    /// The count of that process's objects.
    pub seq: u64,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "object-{}.{}", self.owner, self.seq)
    }
}
