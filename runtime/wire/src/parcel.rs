//! What one process says to another, and the outside that the nodes between them read.
//!
//! ```text
//! 0    8      16
//! │ to │ from │ Talk, in the layout of `codec` │ payload, to the end │
//! ```
//!
//! A payload above [`INLINE_BYTES_MAX`] does not travel inside: [`Talk::Large`] says where it is.
//!
//! Between the first word of a process and the last, order holds per pair of processes. Nothing here is said twice by
//! the layers below: what a request needs to be idempotent stands in it.

use std::time::Duration;

use bytes::Bytes;
use mobula_types::{
    ActorId, ActorName, Attempt, CallError, Digest, ErrorChain, ExitReason, Incarnation, LeaseId, NotStarted, ObjectId,
    ProcessId, RestartPolicy, TaskId,
};
use serde::{Deserialize, Serialize};

use crate::bulk::{INLINE_BYTES_MAX, TransferId};
use crate::call::{CallHeader, TooLarge};
use crate::codec::{self, DecodeError};
use crate::segments::Extent;

/// Names one exchange of two processes: made by the one that asks, unique while it lives.
pub type ExchangeId = u64;

/// A message from one process to another.
#[derive(Clone, Debug, PartialEq)]
pub struct Parcel {
    /// Whom it is for.
    pub to: ProcessId,
    /// Who sent it.
    pub from: ProcessId,
    /// What it says.
    pub talk: Talk,
    /// The value that goes with it, encoded, at most [`INLINE_BYTES_MAX`] bytes; empty when there is none.
    pub payload: Bytes,
}

/// What a [`Parcel`] says. The payload is meant where a variant's text names one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Talk {
    /// A call of an actor; the payload is the message.
    Call {
        /// The exchange.
        exchange: ExchangeId,
        /// Whether an answer is awaited.
        wants_reply: bool,
        /// Whether the sender waits for [`Entered`](Self::Entered).
        wants_entered: bool,
        /// Whom it is for and what it claims.
        header: CallHeader,
        /// The references in the payload.
        refs: Vec<ObjectId>,
    },
    /// The call has its place in the mailbox, or has none.
    Entered {
        /// The exchange.
        exchange: ExchangeId,
        /// Why it has none.
        result: Result<(), NotStarted>,
    },
    /// So many calls to an actor have left its mailbox: their sender may send as many more.
    Credit {
        /// Which actor.
        actor: ActorId,
        /// Calls.
        calls: u32,
        /// The bytes of their payloads.
        bytes: u64,
    },
    /// A task; the payload is its arguments.
    Task {
        /// The exchange.
        exchange: ExchangeId,
        /// Which task, over all its attempts.
        task: TaskId,
        /// Which attempt.
        attempt: Attempt,
        /// The lease whose place it takes.
        lease: LeaseId,
        /// The function's name, as it travels.
        function: u64,
        /// The hash of its types.
        schema: u64,
        /// What it asked for.
        options: TaskSpecWire,
        /// The deadline as the time left.
        left: Option<Duration>,
        /// The deadline as it was given.
        given: Option<Duration>,
        /// The object that its value is to be; none where it streams.
        object: Option<ObjectId>,
        /// The arguments come one by one, and some of them as references.
        is_apart: bool,
        /// The references in the payload.
        refs: Vec<ObjectId>,
    },
    /// Start an actor; the payload is its arguments.
    Spawn {
        /// Its id, given by its home, which is the sender.
        actor: ActorId,
        /// Which life of it this is.
        incarnation: Incarnation,
        /// The lease whose place it takes.
        lease: LeaseId,
        /// The actor type's name, as it travels.
        type_name: u64,
        /// The hash of its argument types.
        schema: u64,
        /// What was chosen at the spawn.
        options: SpawnWire,
        /// The references in the payload.
        refs: Vec<ObjectId>,
    },
    /// How the start of an actor went; told to its home.
    Started {
        /// Which actor.
        actor: ActorId,
        /// Which life of it.
        incarnation: Incarnation,
        /// Why it does not live.
        result: Result<(), NotBegun>,
    },
    /// The answer to a call, task or fetch; the payload is the value where `result` is one, and the function's own error
    /// where it is that and the task [wants](TaskSpecWire::wants_error) to see it.
    Reply {
        /// The exchange.
        exchange: ExchangeId,
        /// What came of it; an actor's own errors are values, a function's travel as text.
        result: Result<ReplyHead, CallError<ErrorChain>>,
    },
    /// The next item of a stream; the payload is the item.
    Item {
        /// The exchange that opened the stream.
        exchange: ExchangeId,
        /// The references in the payload.
        refs: Vec<ObjectId>,
    },
    /// The stream is over.
    StreamEnd {
        /// The exchange that opened it.
        exchange: ExchangeId,
        /// Why it did not come to its end.
        error: Option<CallError<ErrorChain>>,
    },
    /// The reader has room for so many more items.
    StreamCredit {
        /// The exchange that opened the stream.
        exchange: ExchangeId,
        /// Items.
        items: u32,
    },
    /// Whoever asked does not want the answer any more, or the rest of the stream.
    Cancel {
        /// The exchange.
        exchange: ExchangeId,
    },
    /// Whoever sent these tasks has a better place for them: those that have not begun are answered with
    /// [`NotStarted::HandedBack`], of the others nothing is heard but their ends.
    AskBack {
        /// Their exchanges.
        exchanges: Vec<ExchangeId>,
    },
    /// A control message for an actor; the payload is the control message.
    Control {
        /// Whom it is for.
        to: ActorId,
    },
    /// Asks an actor's home where it lives.
    Locate {
        /// Which actor.
        actor: ActorId,
    },
    /// Where an actor lives; `None` in `at` when it has ended, for the given reason.
    Located {
        /// Which actor.
        actor: ActorId,
        /// Its process and which life it is in.
        at: Option<(ProcessId, Incarnation)>,
        /// Why it has ended.
        reason: Option<ExitReason>,
        /// What its mailbox holds.
        mailbox: MailboxWire,
    },
    /// An actor is about to move, told by its home to those that were told where it lives: they send nothing more there,
    /// [`Settle`](Self::Settle) what they have sent, and ask again where it is.
    Moving {
        /// Which actor.
        actor: ActorId,
    },
    /// Says when all that the sender has sent to an actor before this has its place in the mailbox.
    Settle {
        /// Which actor.
        actor: ActorId,
    },
    /// The answer to [`Settle`](Self::Settle).
    Settled {
        /// Which actor.
        actor: ActorId,
    },
    /// An actor has ended in the sender's process, for good or because it moves; told to its home.
    ActorEnded {
        /// Which actor.
        actor: ActorId,
        /// Which life of it.
        incarnation: Incarnation,
        /// Why.
        reason: ExitReason,
    },
    /// Asks a process that keeps them for the bytes of an object, or a node for who does.
    Fetch {
        /// The exchange.
        exchange: ExchangeId,
        /// Which object.
        object: ObjectId,
    },
    /// The answer of a node to [`Fetch`](Self::Fetch): which process has the bytes, and which they are; `None` when no
    /// process there has them.
    KeptBy {
        /// The exchange.
        exchange: ExchangeId,
        /// Who has them.
        keeper: Option<(ProcessId, Digest)>,
    },
    /// A message that names objects. The sender's node holds them until the receiver says that it holds what it wants of
    /// them ([`ObjectWord::Taken`](crate::objects::ObjectWord::Taken)).
    Counted {
        /// The message's number, of the sender's.
        number: u64,
        /// The message.
        talk: Box<Talk>,
    },
    /// A message whose payload does not fit into it and is asked for by [`Pull`](Self::Pull).
    Large {
        /// Which transfer brings it.
        transfer: TransferId,
        /// How long it is.
        bytes: u64,
        /// Where it lies in the memory of the sender's host. A receiver there reads it where it lies, and says
        /// [`Taken`](Self::Taken) when it does not any more; for one on another host the nodes may move it
        /// ([`ToNode::Haul`](crate::local::ToNode::Haul)).
        at: Option<Extent>,
        /// The message.
        talk: Box<Talk>,
    },
    /// Asks for a part of a transfer: so much, from there on.
    Pull {
        /// Which transfer, of the receiver's.
        transfer: TransferId,
        /// Where the part begins.
        offset: u64,
        /// How long it is to be.
        bytes: u32,
    },
    /// A transfer has come whole, is not wanted any more, or has been read where it lies: nothing more will be asked for.
    Taken {
        /// Which transfer, of the receiver's.
        transfer: TransferId,
    },
}

impl Talk {
    /// The references in the payload.
    pub fn refs(&self) -> &[ObjectId] {
        match self {
            Self::Call { refs, .. } | Self::Task { refs, .. } | Self::Spawn { refs, .. } | Self::Item { refs, .. } => {
                refs
            }
            Self::Reply { result: Ok(ReplyHead::Value { refs } | ReplyHead::Stored { refs, .. }), .. } => refs,
            Self::Large { talk, .. } | Self::Counted { talk, .. } => talk.refs(),
            _ => &[],
        }
    }
}

/// What an answer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyHead {
    /// The payload, with the references in it.
    Value {
        /// Those references.
        refs: Vec<ObjectId>,
    },
    /// The value of a task, which stays with the node where it was made.
    Stored {
        /// How many bytes it has.
        bytes: u64,
        /// Which.
        digest: Digest,
        /// The references in them.
        refs: Vec<ObjectId>,
    },
    /// Items that follow.
    Stream,
}

/// Why an actor does not live where it was to be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotBegun {
    /// Another actor has its name.
    NameTaken {
        /// Which.
        by: ActorId,
    },
    /// Its name was not granted.
    NameRefused {
        /// Why.
        why: String,
    },
    /// Its constructor returned an error or panicked.
    Failed(ExitReason),
    /// Nothing was tried.
    Refused(NotStarted),
}

/// What a task asked for, as far as the place where it runs must know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskSpecWire {
    /// What it takes while it runs.
    pub request: mobula_types::resources::Request,
    /// What its submitter calls it.
    pub name: Option<String>,
    /// It does not run again if it is lost now.
    pub is_last_run: bool,
    /// Its submitter wants to see an error of its own as it is, to decide whether it runs again.
    pub wants_error: bool,
    /// Of what waits there, those with a higher one go first.
    pub priority: i32,
}

/// How much mail may wait for an actor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailboxWire {
    /// Messages.
    pub items_max: u64,
    /// Their bytes.
    pub bytes_max: u64,
}

/// What was chosen at a spawn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpawnWire {
    /// Its name.
    pub name: Option<ActorName>,
    /// Who ends with it.
    pub parent: Option<ActorId>,
    /// Whether the parent decides over restarts.
    pub supervised_by_parent: bool,
    /// Its restart policy.
    pub policy: Option<RestartPolicy>,
    /// What may wait for it.
    pub mailbox: MailboxWire,
    /// Whether it has a thread of its own.
    pub dedicated: bool,
}

impl Parcel {
    /// Bytes before the words: whom it is for and who sent it.
    const ADDRESS_BYTES: usize = 16;

    /// The parcel's bytes.
    ///
    /// # Errors
    ///
    /// [`TooLarge`] when the payload is beyond what travels inside a message.
    pub fn encode(&self) -> Result<Vec<u8>, TooLarge> {
        TooLarge::check("payload bytes", self.payload.len(), INLINE_BYTES_MAX)?;
        let bytes = Vec::with_capacity(Self::ADDRESS_BYTES + 128 + self.payload.len());
        let head = (self.to, self.from, &self.talk);
        let mut bytes = codec::encode_onto(bytes, &head, usize::MAX).map_err(|_| TooLarge {
            what: "bytes of a head",
            count: usize::MAX,
            max: usize::MAX,
        })?;
        bytes.extend_from_slice(&self.payload);
        Ok(bytes)
    }

    /// Reads what [`encode`](Self::encode) wrote, from bytes that anyone may have sent.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when they are no parcel.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let ((to, from, talk), payload) = codec::decode_front::<(ProcessId, ProcessId, Talk)>(bytes)?;
        let payload = bytes.slice(bytes.len() - payload.len()..);
        if payload.len() > INLINE_BYTES_MAX {
            return Err(DecodeError::TooLarge { bytes: payload.len(), max: INLINE_BYTES_MAX });
        }
        Ok(Self { to, from, talk, payload })
    }

    /// Whom a parcel is for and who sent it, without reading more.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when the bytes are too few.
    pub fn address(bytes: &[u8]) -> Result<(ProcessId, ProcessId), DecodeError> {
        Ok(codec::decode_front(bytes)?.0)
    }
}
