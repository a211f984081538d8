//! What nodes and their head say of placement groups (design.md §7). Every word may be said twice: after a lost connection,
//! or to a head that was restarted.

use mobula_types::{GroupEnd, GroupId, GroupSpec, JobId, NodeId, NodeLoad};
use serde::{Deserialize, Serialize};

/// From a node to its head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum GroupAsk {
    /// A process of the sender's wants a group; [`GroupOrder::Ready`] or [`GroupOrder::Ended`] answers.
    Create {
        /// Which.
        group: GroupId,
        /// With which it ends.
        job: JobId,
        /// What it asks for.
        spec: GroupSpec,
    },
    /// A group is not wanted any more; [`GroupOrder::Ended`] answers.
    Remove {
        /// Which.
        group: GroupId,
    },
    /// What was asked for is kept apart.
    Prepared {
        /// For which group.
        group: GroupId,
        /// In which round.
        round: u64,
    },
    /// It is not.
    NotPrepared {
        /// For which group.
        group: GroupId,
        /// In which round.
        round: u64,
        /// What the sender has.
        load: NodeLoad,
    },
    /// Of which groups the sender keeps anything: said after each registration, before [`Held`](Self::Held) says what.
    HoldsOnly {
        /// The groups.
        groups: Vec<GroupId>,
        /// Groups of which it knows that they are no more.
        ended: Vec<GroupId>,
    },
    /// What the sender keeps of one group.
    Held {
        /// Which group.
        group: GroupId,
        /// Its job.
        job: JobId,
        /// What it asks for.
        spec: GroupSpec,
        /// Which of its bundles.
        bundles: Vec<u32>,
    },
    /// A process of the sender's has made a group that was ready: said after each registration, for a head that was
    /// restarted and whose nodes with its bundles may all be gone.
    Made {
        /// Which.
        group: GroupId,
        /// Its job.
        job: JobId,
        /// What it asks for.
        spec: GroupSpec,
    },
}

/// From the head to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum GroupOrder {
    /// Keep the amounts of some bundles apart; [`GroupAsk::Prepared`] or [`GroupAsk::NotPrepared`] answers.
    Prepare {
        /// Of which group.
        group: GroupId,
        /// In which round.
        round: u64,
        /// The group's job.
        job: JobId,
        /// What the group asks for.
        spec: GroupSpec,
        /// Which of its bundles.
        bundles: Vec<u32>,
    },
    /// Give what was prepared to those who ask for it; [`GroupAsk::NotPrepared`] answers when it is not there any more.
    Commit {
        /// Of which group.
        group: GroupId,
        /// In which round it was prepared.
        round: u64,
    },
    /// Give back what was prepared in a round.
    Abort {
        /// Of which group.
        group: GroupId,
        /// In which round.
        round: u64,
    },
    /// Give some bundles back, and end what runs in them: they are elsewhere.
    Return {
        /// Of which group.
        group: GroupId,
        /// Which.
        bundles: Vec<u32>,
    },
    /// Give all of a group back that is no more, and end what runs in it.
    End {
        /// Which group.
        group: GroupId,
    },
    /// Every bundle has its node; to the node of the process that made the group.
    Ready {
        /// Which group.
        group: GroupId,
        /// The nodes of its bundles, in their order.
        nodes: Vec<NodeId>,
    },
    /// A group is no more; to all nodes.
    Ended {
        /// Which group.
        group: GroupId,
        /// Why.
        why: GroupEnd,
    },
}
