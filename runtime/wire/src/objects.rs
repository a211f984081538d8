//! What is said of objects: by a process to its node, which owns what it makes, and by one node to another.

use bytes::Bytes;
use mobula_types::{CallError, Digest, ErrorChain, Loss, NodeId, ObjectId, ProcessId, TaskId};
use serde::{Deserialize, Serialize};

use crate::segments::Extent;

/// Places where objects are made that a process tells its node of: code has not many.
pub const SITES_MAX: usize = 1_024;

/// From a process to its node. A process that holds an object says so once, however many references it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ObjectWord {
    /// A place in the sender's code where objects are made.
    Site {
        /// Its number there; they count from 1.
        number: u32,
        /// `src/main.rs:7:13`, as the compiler has it.
        place: String,
    },
    /// The reference to an object of the sender's leaves it; the sender holds it, and says what it is as soon as it knows.
    New {
        /// Which.
        object: ObjectId,
        /// The number of the [`Site`](Self::Site) where it was made; 0 is not known.
        site: u32,
    },
    /// An object of the sender's has its value, or has none.
    Sealed {
        /// Which.
        object: ObjectId,
        /// Its bytes.
        kept: Kept,
        /// The objects that they name.
        inner: Vec<ObjectId>,
    },
    /// A task of the sender's has made an object on another node, in its first run.
    MadeAt {
        /// Which.
        object: ObjectId,
        /// Where it is.
        at: NodeId,
        /// How many bytes it has.
        bytes: u64,
        /// Which.
        digest: Digest,
        /// The objects that they name.
        inner: Vec<ObjectId>,
        /// How it can be made again, if it can.
        recipe: Option<Recipe>,
    },
    /// It is made again, on another node.
    MadeAgainAt {
        /// Which.
        object: ObjectId,
        /// In which run.
        run: u32,
        /// Where it is.
        at: NodeId,
        /// How many bytes it has.
        bytes: u64,
        /// Which.
        digest: Digest,
        /// The objects that they name.
        inner: Vec<ObjectId>,
    },
    /// It is made again, here.
    MadeAgain {
        /// Which.
        object: ObjectId,
        /// In which run.
        run: u32,
        /// Its bytes.
        kept: Kept,
        /// Which.
        digest: Digest,
        /// The objects that they name.
        inner: Vec<ObjectId>,
    },
    /// That run has come to nothing.
    NotMade {
        /// Which object.
        object: ObjectId,
        /// In which run.
        run: u32,
    },
    /// The sender has made an object for a process of another node, which is told so.
    Stored {
        /// Which.
        object: ObjectId,
        /// Its bytes.
        kept: Kept,
        /// Which.
        digest: Digest,
        /// The objects that they name.
        inner: Vec<ObjectId>,
    },
    /// The sender holds it.
    Hold {
        /// What.
        object: ObjectId,
    },
    /// The sender does not hold it any more, nor reads its bytes.
    Release {
        /// What.
        object: ObjectId,
    },
    /// The sender wants to read what it holds; one [`ObjectAnswer`] answers.
    Wanted {
        /// What.
        object: ObjectId,
    },
    /// The sender has read what [`ObjectAnswer::Ready`] said is in the memory of the host, or could not; it may still hold
    /// the object.
    Unread {
        /// What.
        object: ObjectId,
        /// The number of that answer.
        number: u64,
    },
    /// A message that names objects leaves the sender: they are held for its receiver until that says
    /// [`Taken`](Self::Taken).
    Sends {
        /// The message's number, of the sender's.
        number: u64,
        /// Whom it is for.
        to: ProcessId,
        /// What it names.
        objects: Vec<ObjectId>,
    },
    /// It did not leave after all.
    Dropped {
        /// Its number.
        number: u64,
    },
    /// A message has come, and the sender of this holds what it wants of what that names.
    Taken {
        /// Who sent it; number 0 is the node itself.
        from: ProcessId,
        /// Its number there.
        number: u64,
    },
    /// There is room for what [`ObjectAnswer::Room`] named. It is the node's until [`ObjectAnswer::Filled`].
    Room {
        /// For which object.
        object: ObjectId,
        /// Where, in a segment that is leased to the sender.
        at: Extent,
    },
    /// There is none.
    NoRoom {
        /// For which object.
        object: ObjectId,
        /// The store is full, and was so for as long as anybody waits for room in it.
        is_full: bool,
    },
    /// What was asked for by [`ObjectAnswer::Pull`], or what the node has [filled](ObjectAnswer::Filled) in, is here.
    Copied {
        /// Which object.
        object: ObjectId,
        /// Its bytes.
        kept: Kept,
        /// Which bytes.
        digest: Digest,
        /// The objects that they name.
        inner: Vec<ObjectId>,
    },
    /// It cannot be had there, or is not what it should be.
    NotPulled {
        /// Which object.
        object: ObjectId,
    },
}

/// How an object is made again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// The task that made it.
    pub task: TaskId,
    /// What the task was given.
    pub arguments: Vec<ObjectId>,
    /// What it takes to remember all of this.
    pub bytes: u64,
    /// So often it may run in all.
    pub runs_max: u32,
}

/// Where the bytes of an object are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Kept {
    /// Here.
    Inline(Bytes),
    /// There is no value, for this reason: that is what it is.
    Failed(Box<CallError<ErrorChain>>),
    /// In the memory of the node's host.
    Lent {
        /// Where.
        at: Extent,
        /// How many.
        bytes: u64,
        /// The segment is the sender's own: they can stay when it has ended.
        is_own: bool,
    },
    /// In the memory of the process that says so: the host's had no room, or the process is on another host.
    Apart {
        /// How many.
        bytes: u64,
    },
    /// In a file of the node, which reads it back when somebody wants it.
    Spilled {
        /// How many.
        bytes: u64,
    },
}

impl Kept {
    /// How many bytes there are.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Failed(_) => 0,
            Self::Lent { bytes, .. } | Self::Apart { bytes } | Self::Spilled { bytes } => *bytes,
        }
    }

    /// Whether the bytes are with what the node knows of the object.
    pub fn is_inline(&self) -> bool {
        matches!(self, Self::Inline(_) | Self::Failed(_))
    }
}

/// What a node says of a copy of its own to another one that wants to read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// How many bytes.
    pub bytes: u64,
    /// Which; zero when nobody knows.
    pub digest: Digest,
    /// The objects that they name.
    pub inner: Vec<ObjectId>,
}

/// From a node to one of its processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ObjectAnswer {
    /// What was wanted can be read. It is a message of the node's, which names the object and what its bytes name.
    Ready {
        /// Which.
        object: ObjectId,
        /// The message's number.
        number: u64,
        /// Where the bytes are.
        kept: Kept,
        /// The process that keeps them, if it lives: it can be asked for them by [`Fetch`](crate::Talk::Fetch).
        keeper: ProcessId,
        /// The objects that they name.
        inner: Vec<ObjectId>,
    },
    /// What was wanted is gone.
    Lost {
        /// Which.
        object: ObjectId,
        /// Why.
        loss: Loss,
    },
    /// The receiver wants an object of which another node has a copy: it is to fetch it.
    Pull {
        /// Which.
        object: ObjectId,
        /// From where: a node, which says who has it.
        source: ProcessId,
    },
    /// The receiver wants an object whose bytes the node gets: it is to make room for them, in the memory of their host.
    /// [`ObjectWord::Room`] or [`ObjectWord::NoRoom`] answers.
    Room {
        /// Which.
        object: ObjectId,
        /// How many bytes.
        bytes: u64,
    },
    /// The node writes no more in the room that the receiver made. What is whole the receiver keeps, and says
    /// [`ObjectWord::Copied`]; else the room is its own again.
    Filled {
        /// For which object.
        object: ObjectId,
        /// Whether all of it is there.
        is_whole: bool,
        /// Which bytes; zero when nobody knows.
        digest: Digest,
        /// The objects that they name.
        inner: Vec<ObjectId>,
    },
    /// The task that made an object is to run again.
    Run {
        /// Which object: one of the receiver's.
        object: ObjectId,
        /// Which run it is.
        run: u32,
    },
    /// How an object of the receiver's was made need not be remembered.
    Forgotten {
        /// Which.
        object: ObjectId,
    },
    /// The node does not count any more on bytes that the receiver keeps.
    Freed {
        /// Of which object.
        object: ObjectId,
        /// Where they lie, if that is in a segment: the receiver may keep others of the same object.
        at: Option<Extent>,
    },
    /// Memory is short: who only has the bytes of an object by him and does not look at them lets go of them. They can be
    /// asked for again.
    LetGo {
        /// Of which object.
        object: ObjectId,
    },
}

/// Words of one node to another, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// The number of the first word; they count from 1.
    pub first: u64,
    /// The words.
    pub words: Vec<Word>,
    /// All words of the other node up to this one have been heard.
    pub heard: u64,
}

/// What one node says to another about an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// To the owner: how its object is held here from now on.
    Claim {
        /// Which object.
        object: ObjectId,
        /// Whether somebody here holds it.
        holds: bool,
        /// Whether there is a copy here, and of which bytes.
        copy: Option<Digest>,
    },
    /// To the owner: where are the bytes?
    Ask {
        /// Of which object.
        object: ObjectId,
    },
    /// From the owner: here they are; with small ones they come.
    At {
        /// Of which object.
        object: ObjectId,
        /// How many.
        bytes: u64,
        /// Which: a copy with others is of another run.
        digest: Digest,
        /// They are kept with what the owner knows, and come with this word.
        is_inline: bool,
        /// Of whom to get it: who has a copy, or gets one just now.
        copies: Vec<NodeId>,
        /// Of whom, when all of these fail.
        spare: Vec<NodeId>,
    },
    /// From the owner: there are no bytes, and will not be.
    Lost {
        /// Of which object.
        object: ObjectId,
        /// Why.
        loss: Loss,
    },
    /// From the owner: yours is the copy that must not be given up.
    Primary {
        /// Of which object.
        object: ObjectId,
    },
    /// From the owner: drop your copy.
    Drop {
        /// Of which object.
        object: ObjectId,
    },
    /// From the owner: there is no such object any more.
    Gone {
        /// Which.
        object: ObjectId,
    },
    /// To the sender of a message: what it names is counted for this node.
    Counted {
        /// Its number there.
        number: u64,
    },
}
