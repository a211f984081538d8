//! What the head and the nodes tell one another of the cluster: who is in it, how loaded, who has died.
//!
//! Names that are easily confused: a [`Registration`] is what a node says of itself when it comes; a [`Member`] is what
//! the others are told of it; a [`ViewChange`] is what has changed for somebody who had seen an earlier version.

use serde::{Deserialize, Serialize};

use crate::names::Held;
use crate::{Death, Epoch, Incarnation, MemberId, NodeId, NodeLoad, ProcessId};

/// Which head speaks: in every frame of a head, so that two never act (G13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HeadId {
    /// Counts the starts of the cluster's head.
    pub epoch: Epoch,
    /// Random at each start: of two heads with one epoch, which a copied store makes, nodes keep to the one they know.
    pub nonce: u64,
}

/// What a node says of itself when it comes, and again after a lost connection or a restart of the head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Whose certificate it has.
    pub member: MemberId,
    /// Random at each start of the process: a request that is sent twice is not taken for a node that started twice.
    pub start: u64,
    /// The id it was given; none when it has just started, or has stopped all that ran under a fenced id.
    pub node: Option<NodeId>,
    /// Where the others reach it, as `host:port`.
    pub addr: String,
    /// What it has, and what of it is free.
    pub load: NodeLoad,
    /// Its process on its host.
    pub pid: u32,
    /// The named actors that act there now.
    pub held: Vec<Held>,
    /// The workers and drivers that are attached to it.
    pub processes: Vec<ProcessId>,
}

/// What a node says five times a second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Counts its beats; the answer repeats it, which is how the node knows until when its lease runs.
    pub number: u64,
    /// The version of the view that it has.
    pub view: u64,
    /// What of it is free, when that has changed since its last beat that was answered.
    pub load: Option<NodeLoad>,
    /// Its own resident memory.
    pub rss_bytes: u64,
    /// The memory that its processes share.
    pub store: StoreUse,
}

/// How much of the memory that a node's processes may share is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreUse {
    /// Bytes that processes have.
    pub used_bytes: u64,
    /// Bytes that there are for them.
    pub total_bytes: u64,
    /// Objects of which the node knows: its own, and others' that are held there.
    pub objects: u64,
    /// Bytes of values that are in its files alone.
    pub spilled_bytes: u64,
    /// There is no room for more in its files.
    pub is_disk_full: bool,
}

/// What the head answers to a [`Beat`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatAnswer {
    /// Which beat.
    pub number: u64,
    /// Which lease this renews: a new term means that the one before has run out, with all names under it.
    pub term: u64,
    /// What has changed.
    pub change: ViewChange,
}

/// A node as the others are told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id, for as long as it runs.
    pub node: NodeId,
    /// Whose certificate it has.
    pub member: MemberId,
    /// Which start of this member it is.
    pub incarnation: Incarnation,
    /// Where it is reached, as `host:port`.
    pub addr: String,
    /// What it has, and what of it is free.
    pub load: NodeLoad,
}

/// What has changed in the head's view of the nodes between two versions of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewChange {
    /// The version that it continues; what it says holds only on top of that.
    pub from: u64,
    /// The version that it leads to.
    pub to: u64,
    /// Nothing is known of before: who is not in it, or in those that continue it until `has_more` is false, is gone.
    pub is_full: bool,
    /// The rest comes when this one's `to` is said to be known.
    pub has_more: bool,
    /// Nodes that came or changed.
    pub alive: Vec<Member>,
    /// Nodes that have died.
    pub dead: Vec<Death>,
    /// Said with what is full: nodes that an earlier head knew and of which this one cannot say yet whether they live. Whoever
    /// knows them goes on with what it knows.
    #[serde(default)]
    pub unheard: Vec<NodeId>,
}
