//! What the control lane carries: plain data, so that it travels between nodes as it is.

use mobula_types::{ActorId, ExitReason, Incarnation};
use serde::{Deserialize, Serialize};

use crate::Message;

/// A message of supervision, ahead of all mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Control {
    /// End after the message that is handled now; a parked child ends at once.
    Stop {
        /// What the actor will have ended of.
        reason: ExitReason,
        /// Whether it is to wait, parked, for a verdict of its supervisor instead of ending for good.
        park: bool,
    },
    /// End after all mail that is there, to be started again elsewhere: not for good, and no failure.
    Leave,
    /// End now: a handler that waits is dropped where it waits.
    Kill,
    /// End now and for good, whatever the restart policy says: another may act in its place.
    End {
        /// What the actor will have ended of.
        reason: ExitReason,
    },
    /// A supervisor's verdict over a parked child: start again.
    Start,
    /// Tell `by` of every death of the receiver.
    Watch {
        /// The watching actor.
        by: ActorId,
    },
    /// The opposite of `Watch`.
    Unwatch {
        /// The actor that no longer watches.
        by: ActorId,
    },
    /// End together with `peer` when it ends abnormally.
    Link {
        /// The other end.
        peer: ActorId,
    },
    /// A watched actor has died.
    Down(Down),
    /// A linked actor has died.
    LinkDown(Down),
    /// A new child: it ends before the receiver does.
    Adopt {
        /// The child.
        child: ActorId,
    },
    /// A child began to run, died, or is gone.
    Child(ChildEvent),
}

/// A watched actor died: sent to watchers as a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    /// Who died.
    pub actor: ActorId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Why.
    pub reason: ExitReason,
    /// Whether it is gone for good; else it is being restarted, and the watch goes on.
    pub ended: bool,
}

impl Message for Down {
    type Reply = ();
}

/// What a parent is told of a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildEvent {
    /// Which child.
    pub child: ActorId,
    /// What happened.
    pub what: ChildState,
}

impl Message for ChildEvent {
    type Reply = ();
}

/// What happened to a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ChildState {
    /// Its constructor returned.
    Started,
    /// It died and waits, parked, for a verdict.
    Parked(ExitReason),
    /// It is gone for good.
    Ended(ExitReason),
    /// It is gone for good because it died more often than its restart policy allows.
    GaveUp(ExitReason),
}
