//! What the ownership of a node is told, what it asks for, and the words between two nodes.

use mobula_types::{Digest, Loss, NodeId, ObjectId, ProcessId, TaskId};
use mobula_wire::objects::Letter;

use crate::haul::Sources;

pub use mobula_wire::objects::Recipe;

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A process of this node may hold objects from now on.
    Attached {
        /// Which.
        process: ProcessId,
    },
    /// What a process of this node says of what it holds. Its words are numbered from 1: one that comes again is not heard.
    Holds {
        /// Who says it.
        process: ProcessId,
        /// Which of its words this is.
        number: u64,
        /// What.
        word: HolderWord,
    },
    /// Somebody wants to read an object that it holds; [`Output::Ready`] or [`Output::Lost`] answers, once.
    Wanted {
        /// Who.
        process: ProcessId,
        /// What.
        object: ObjectId,
    },
    /// An object whose first run is under way can be made again so.
    Recipe {
        /// Which.
        object: ObjectId,
        /// How.
        recipe: Recipe,
    },
    /// The run of a task of this node's has made its object. An error that a task returns is a value too.
    Made {
        /// Which object.
        object: ObjectId,
        /// In which run: that of a superseded one is not taken.
        run: u32,
        /// What.
        seal: Seal,
    },
    /// A run came to nothing, and its task is not tried again.
    NotMade {
        /// Which object.
        object: ObjectId,
        /// In which run.
        run: u32,
    },
    /// This node has a whole copy from now on: it was pulled, or made here for another node.
    Copied {
        /// Of which object.
        object: ObjectId,
        /// Of which bytes.
        digest: Digest,
        /// It is the one that was made first: it is not given up for room.
        is_primary: bool,
    },
    /// A copy of this node's was given up for room, or moved.
    Moved {
        /// Of which object.
        object: ObjectId,
        /// Where it is now; `None` when it is gone.
        to: Option<Place>,
    },
    /// A copy of this node's is gone, with who kept it.
    Vanished {
        /// Of which object.
        object: ObjectId,
        /// Why.
        loss: Loss,
    },
    /// Some of what is being pulled has come: who waits for it is not told so soon that it does not (G10).
    Coming {
        /// Of which object.
        object: ObjectId,
    },
    /// What was to be pulled did not come.
    NotPulled {
        /// Which object.
        object: ObjectId,
    },
    /// What was to be pulled finds no room here: whoever waits for it hears that.
    NoRoom {
        /// Which object.
        object: ObjectId,
        /// How long it is.
        bytes: u64,
    },
    /// A message has come that names objects: they are held for its receiver until it has taken them over.
    Arrived {
        /// The node that sent it.
        from: NodeId,
        /// Its number there.
        number: u64,
        /// The process that it is for.
        process: ProcessId,
        /// What it names.
        objects: Vec<ObjectId>,
    },
    /// The receiver of a message has said of all it names that it holds it, or does not want it.
    Taken {
        /// The node that sent the message.
        from: NodeId,
        /// Its number there.
        number: u64,
    },
    /// A message of this node's did not reach anybody.
    Dropped {
        /// Its number.
        number: u64,
    },
    /// Another node says something.
    Said {
        /// Which.
        from: NodeId,
        /// What.
        letter: Letter,
    },
    /// A process of this node has ended, or with the number 0 another node.
    Died {
        /// Which.
        process: ProcessId,
    },
    /// Nothing but time has passed.
    Tick,
}

/// A word of a process about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HolderWord {
    /// There is a new object of this process's, which holds it.
    New {
        /// Its name: of this process.
        object: ObjectId,
        /// Where its bytes come from.
        birth: Birth,
    },
    /// The process holds it.
    Hold {
        /// What.
        object: ObjectId,
    },
    /// The process does not hold it any more.
    Release {
        /// What.
        object: ObjectId,
    },
}

/// Where the bytes of a new object come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Birth {
    /// They are there.
    Put(Seal),
    /// The process that made its reference will say, as the object's first run.
    Later {
        /// Where in its code that was, by the process's number; 0 is not known.
        site: u32,
    },
    /// A task makes them; its first run is on its way.
    Task(Recipe),
}

/// The bytes of an object, which never change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Where they are.
    pub at: NodeId,
    /// How.
    pub place: Place,
    /// How many.
    pub bytes: u64,
    /// Which.
    pub digest: Digest,
    /// The objects that they name: held as long as these bytes are.
    pub inner: Vec<ObjectId>,
}

/// In what form a copy is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// With what the owner knows of it: small values, never lost while the owner lives.
    Inline,
    /// In the shared memory of its node.
    Arena,
    /// In a file of its node.
    Spilled,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Tell another node.
    Say {
        /// Which.
        to: NodeId,
        /// What.
        letter: Letter,
    },
    /// A process that wants an object can read it: it is here, or it came with the owner's word.
    Ready {
        /// Who.
        process: ProcessId,
        /// What.
        object: ObjectId,
    },
    /// A process that wants an object cannot have it.
    Lost {
        /// Who.
        process: ProcessId,
        /// What.
        object: ObjectId,
        /// Why.
        loss: Loss,
    },
    /// There is no room for an object that a process wants. It may want it again.
    NoRoom {
        /// Who.
        process: ProcessId,
        /// What.
        object: ObjectId,
        /// How long it is.
        bytes: u64,
    },
    /// Fetch a copy; [`Input::Copied`], [`Input::NotPulled`] or [`Input::NoRoom`] answers.
    Pull {
        /// Of what.
        object: ObjectId,
        /// How large it is.
        bytes: u64,
        /// Of whom: who has it, or gets it just now.
        sources: Sources,
    },
    /// Run the task again that makes this object; [`Input::Made`] or [`Input::NotMade`] answers.
    Run {
        /// Which object.
        object: ObjectId,
        /// Its task.
        task: TaskId,
        /// Which run of it: the first was 1.
        run: u32,
    },
    /// Drop the copy that is here, or the small bytes that came with the object: nobody may read them any more.
    Free {
        /// Of what.
        object: ObjectId,
    },
    /// Nobody asks any more how this object is made.
    Forgotten {
        /// Which object.
        object: ObjectId,
    },
    /// How this object is made is [forgotten](Self::Forgotten), because the room for that is used up: said beside it, for
    /// those who look why.
    LineageEvicted {
        /// Which object.
        object: ObjectId,
    },
    /// A process cannot hold an object: the table is full, or it is this node's and was freed.
    Refused {
        /// Who.
        process: ProcessId,
        /// What it is about.
        object: ObjectId,
    },
    /// The references of a message are not held here for anybody, and its sender goes on holding them: that node has more
    /// messages on their way than it may.
    NotCounted {
        /// Who sent it.
        from: NodeId,
        /// Its number there.
        number: u64,
    },
}
