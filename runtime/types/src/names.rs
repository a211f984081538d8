//! Names of actors that a whole job or cluster can look up (G7), and the jobs they belong to.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ActorId, Epoch, JobId};

/// A name and where it is unique.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NameKey {
    /// Where it is unique.
    pub space: Namespace,
    /// The name.
    pub name: String,
}

/// Where a name is unique.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Namespace {
    /// In one job, which is what a name gets unless it says otherwise.
    Job(JobId),
    /// In a namespace that jobs share.
    Shared(String),
}

/// A name as a program says it: without a namespace it is one of the program's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ActorName {
    /// Where it is unique; none for the job's own namespace.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

impl ActorName {
    /// A name in the job's own namespace.
    pub fn own(name: impl Into<String>) -> Self {
        Self { namespace: None, name: name.into() }
    }
}

impl fmt::Display for ActorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            None => f.write_str(&self.name),
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// What an actor can be asked, so that another program notices that it means another actor before it asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Interface {
    /// The registered name of the actor's type; empty when it has none.
    pub type_name: String,
    /// Each message that may come from outside: the hash of its name, and that of its types. Empty where only programs
    /// of one build can ask.
    pub handlers: Vec<(u64, u64)>,
}

impl Interface {
    /// What it takes where it is kept.
    pub fn bytes(&self) -> usize {
        self.type_name.len() + self.handlers.len() * size_of::<(u64, u64)>()
    }
}

/// Who has a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameOwner {
    /// The actor.
    pub actor: ActorId,
    /// What it can be asked.
    pub interface: Interface,
}

impl NameKey {
    /// A name of one job.
    pub fn of_job(job: JobId, name: impl Into<String>) -> Self {
        Self { space: Namespace::Job(job), name: name.into() }
    }

    /// A name in a namespace that jobs share.
    pub fn shared(space: impl Into<String>, name: impl Into<String>) -> Self {
        Self { space: Namespace::Shared(space.into()), name: name.into() }
    }
}

impl fmt::Display for NameKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.space {
            Namespace::Job(job) => write!(f, "{job}/{}", self.name),
            Namespace::Shared(space) => write!(f, "{space}/{}", self.name),
        }
    }
}

/// Grows with every grant of any name, over restarts of the head: whoever keeps the greatest it has seen of a name can
/// turn away what an earlier holder still does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fencing(pub u64);

impl Fencing {
    /// Grants of one head: at a thousand a second they last 34 years. The head's epoch takes the other 24 bits.
    const COUNT_BITS: u32 = 40;

    /// Grant `count` of the head of `epoch`.
    pub const fn new(epoch: Epoch, count: u64) -> Self {
        Self(epoch.0 << Self::COUNT_BITS | count)
    }

    /// Which head made the grant.
    pub const fn epoch(self) -> Epoch {
        Epoch(self.0 >> Self::COUNT_BITS)
    }
}

impl fmt::Display for Fencing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fencing-{}.{}", self.epoch().0, self.0 & ((1 << Self::COUNT_BITS) - 1))
    }
}

/// A name that a node holds: the actor acts there under the node's lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Held {
    /// The name.
    pub key: NameKey,
    /// Whose it is.
    pub actor: ActorId,
    /// Under which grant.
    pub fencing: Fencing,
}
