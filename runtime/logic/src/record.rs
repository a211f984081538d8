//! What the head must not forget: the records of its machines, durable before anything that rests on them is said.
//!
//! A machine asks for a [`Change`]; the driver writes it, with all others that wait, and says so. Moments are in
//! milliseconds since the Unix epoch (see [`Calendar`](crate::Calendar)). How a record becomes bytes is the store's.

use std::fmt;

use mobula_types::{
    ActorId, Death, DeathCause, Fencing, Incarnation, Interface, JobId, MemberId, NameKey, NodeId, ProcessId,
    RestartPolicy, Role,
};
use serde::{Deserialize, Serialize};

/// Names a join token; not secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(pub [u8; 8]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// One record that is new, different or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub key: RecordKey,
    /// What it says from now on; `None` when it is gone.
    pub record: Option<Record>,
}

/// Names a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RecordKey {
    /// The numbers to be given next.
    Counters,
    /// A node.
    Node(NodeId),
    /// A job.
    Job(JobId),
    /// A name.
    Name(NameKey),
    /// How a detached actor is started.
    Detached(NameKey),
    /// A token.
    Token(TokenId),
    /// A value of a job.
    Value(JobId, String),
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// See [`RecordKey::Counters`].
    Counters(Counters),
    /// See [`RecordKey::Node`].
    Node(NodeRecord),
    /// See [`RecordKey::Job`].
    Job(JobRecord),
    /// See [`RecordKey::Name`].
    Name(NameRecord),
    /// See [`RecordKey::Detached`].
    Detached(Detached),
    /// See [`RecordKey::Token`].
    Token(TokenRecord),
    /// See [`RecordKey::Value`].
    Value(Vec<u8>),
}

/// The numbers to be given next: those of records that are gone are not given again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// The greatest node id given.
    pub node: NodeId,
    /// The greatest job id given.
    pub job: JobId,
}

/// A node that was admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its id.
    pub node: NodeId,
    /// Whose certificate it has.
    pub member: MemberId,
    /// Random at each start of its process.
    pub start: u64,
    /// Which start of its member it is.
    pub incarnation: Incarnation,
    /// Where it was reached.
    pub addr: String,
    /// How it ended, if it has.
    pub death: Option<Death>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its id.
    pub job: JobId,
    /// What it was asked to be.
    pub spec: JobSpec,
    /// When it started.
    pub started_unix_ms: u64,
    /// When and why it ended, if it has.
    pub ended: Option<(u64, DeathCause)>,
}

/// What a driver says of its job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// How its program was called.
    pub name: String,
    /// The BLAKE3 hash of its program.
    pub program: [u8; 32],
    /// The process that runs it: a job ends with it.
    pub driver: ProcessId,
    /// What nodes must know to run its workers; opaque here.
    pub setup: Vec<u8>,
}

/// A name that is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRecord {
    /// The name.
    pub key: NameKey,
    /// Whose it is.
    pub actor: ActorId,
    /// Which life of it the newest grant is for.
    pub incarnation: Incarnation,
    /// The newest grant of it.
    pub fencing: Fencing,
    /// The node that it was granted to.
    pub node: NodeId,
    /// The job with which it ends; none when its actor is detached.
    pub job: Option<JobId>,
    /// The process in which the actor acts.
    pub process: ProcessId,
    /// What it can be asked.
    pub interface: Interface,
    /// Nobody may act under it any more; it is free as soon as that is certain.
    pub is_ending: bool,
}

/// How an actor that outlives its job is started again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detached {
    /// The job whose workers host it: it runs while there is such an actor.
    pub job: JobId,
    /// What a node needs to start it; opaque here.
    pub frame: Vec<u8>,
    /// When and how often.
    pub policy: RestartPolicy,
}

/// A token with which somebody may join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its id.
    pub id: TokenId,
    /// The hash of its secret.
    pub hash: [u8; 32],
    /// What its user may be.
    pub role: Role,
    /// When it ends.
    pub expires_unix_ms: u64,
    /// The key for which it was used: one use, which the same key may repeat when the answer was lost.
    pub used_by: Option<[u8; 32]>,
    /// Wrong secrets shown with its id.
    pub failures: u32,
}

impl Record {
    /// Which record it is; values do not say it themselves.
    pub fn into_change(self, key: RecordKey) -> Change {
        Change { key, record: Some(self) }
    }
}

impl Change {
    /// A node's record.
    pub fn node(record: NodeRecord) -> Self {
        Self { key: RecordKey::Node(record.node), record: Some(Record::Node(record)) }
    }

    /// A job's record.
    pub fn job(record: JobRecord) -> Self {
        Self { key: RecordKey::Job(record.job), record: Some(Record::Job(record)) }
    }

    /// A name's record.
    pub fn name(record: NameRecord) -> Self {
        Self { key: RecordKey::Name(record.key.clone()), record: Some(Record::Name(record)) }
    }

    /// A token's record.
    pub fn token(record: TokenRecord) -> Self {
        Self { key: RecordKey::Token(record.id), record: Some(Record::Token(record)) }
    }

    /// That a record is gone.
    pub fn gone(key: RecordKey) -> Self {
        Self { key, record: None }
    }
}
