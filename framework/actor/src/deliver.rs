//! How mail leaves the process: the one fork of the road of a call.
//!
//! What an [`Address`](crate::Address) cannot give to a mailbox here is encoded, by the registry's entry for its type,
//! into a [`CallFrame`] and handed to a [`Deliver`]. At the other end the same registry decodes it and puts it into the
//! mailbox; the answer comes back through the [`EncodedReply`].

use std::panic::Location;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mobula_types::{
    ActorId, ActorName, CallError, Digest, ExitReason, Incarnation, Interface, MessageId, NameOwner, NodeId,
    NotStarted, ObjectId,
};
use mobula_wire::CallFrame;
use tokio::sync::mpsc;

use crate::control::Control;
use crate::object::{GetError, Pins};
use crate::slot::CallState;
use crate::spawn::{SpawnError, SpawnFrame, SpawnOptions};

/// Carries calls, control messages and spawns to other processes.
pub trait Deliver: Send + Sync {
    /// Whether mail for actors of this very process passes through it too.
    fn carries_local(&self) -> bool;

    /// Whether an actor of a registered type that is spawned so starts elsewhere.
    fn spawns_away(&self, options: &SpawnOptions) -> bool;

    /// An actor that lived here for another process, its home, has ended for good.
    fn guest_ended(&self, actor: ActorId, incarnation: Incarnation, reason: &ExitReason);

    /// Hands a call over if there is credit for it now.
    ///
    /// # Errors
    ///
    /// Why it was not taken, [`NotStarted::MailboxFull`] without credit; whoever waits for the answer is told the same.
    fn try_call(&self, call: Outgoing, reply: Option<EncodedReply>) -> Result<(), NotStarted>;

    /// Hands a call over as soon as there is credit for it, in the order of these calls.
    fn call(&self, call: Outgoing, reply: Option<EncodedReply>) -> BoxFuture<'static, Result<(), NotStarted>>;

    /// Hands a call over as [`call`](Self::call) does, for senders that do not wait until it is accepted; whoever waits
    /// for the answer is told when it is not.
    ///
    /// # Errors
    ///
    /// Why it was not taken at all.
    fn post(&self, call: Outgoing, reply: Option<EncodedReply>) -> Result<(), NotStarted>;

    /// Hands a call over that is sent again until it is acknowledged (G4), also when its receiver's process ends over it.
    /// `message` names its type, for the dead letter that it may become. Where no process ends alone it is as
    /// [`post`](Self::post).
    ///
    /// # Errors
    ///
    /// Why it was not taken at all.
    fn post_until_acknowledged(&self, call: Outgoing, message: &'static str) -> Result<(), NotStarted> {
        let _ = message;
        self.post(call, None)
    }

    /// Hands a control message over; it always fits.
    fn control(&self, to: ActorId, control: Control);

    /// Starts an actor elsewhere: its id at once, and whether its constructor succeeded later.
    ///
    /// # Errors
    ///
    /// Why nothing was started.
    fn spawn(&self, frame: SpawnFrame) -> Result<Spawned, SpawnError>;

    /// Who has this name elsewhere.
    fn named(&self, name: &ActorName) -> BoxFuture<'static, Option<NameOwner>>;

    /// Takes a name for an actor that is about to begin its life here; the answer says who has it. `None` when nobody
    /// elsewhere keeps names.
    fn claim_name(&self, claim: NameClaim) -> Option<BoxFuture<'static, Result<NameOwner, String>>>;

    /// An actor that lived here has ended, and with it its claim on a name.
    fn release_name(&self, name: &ActorName, actor: ActorId);

    /// An actor that lived here goes on elsewhere, and its name with it: nobody acts under it here any more.
    fn leave_name(&self, name: &ActorName, actor: ActorId) {
        let _ = (name, actor);
    }

    /// Whether an actor elsewhere lives, as far as is known.
    fn is_alive(&self, actor: ActorId) -> bool;

    /// The encoded value of an object elsewhere, as soon as it has one.
    fn fetch(&self, object: ObjectId) -> BoxFuture<'static, Result<Fetched, GetError>>;

    /// Room for an encoded value in memory that the processes of this host share; there they read it without a copy.
    /// Blocks for as long as it takes to make some.
    ///
    /// # Errors
    ///
    /// [`NoRoom`].
    fn room(&self, bytes: usize) -> Result<Box<dyn Room>, NoRoom> {
        let _ = bytes;
        Err(NoRoom::NoStore)
    }

    /// Whether these bytes lie in memory that the processes of this host share.
    fn is_shared(&self, bytes: &[u8]) -> bool {
        let _ = bytes;
        false
    }

    /// The reference to an object of this process, which was made at `site`, leaves it for the first time; it counts as held
    /// here until it is [released](Self::release). Says whether its value is to be [sealed](Self::seal) now: others may want
    /// it when this process is gone.
    fn export(&self, object: ObjectId, site: &'static Location<'static>) -> bool {
        let _ = (object, site);
        false
    }

    /// An object of this process, whose reference has left it, has its value, encoded, or the reason why it has none.
    fn seal(&self, object: ObjectId, value: Result<Fetched, GetError>) {
        let _ = (object, value);
    }

    /// This process holds one more reference to an object whose bytes are elsewhere.
    fn hold(&self, object: ObjectId);

    /// It holds one less.
    fn release(&self, object: ObjectId);
}

/// Memory that others will read, while it is being written.
pub trait Room: Send {
    /// The bytes to write.
    fn bytes(&mut self) -> &mut [u8];

    /// What has been written.
    fn written(&self) -> &[u8];

    /// They are written, and stay as they are while anybody has what this gives.
    fn seal(self: Box<Self>) -> Bytes;
}

/// Why there is no room in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// No memory is shared here.
    NoStore,
    /// The node's budget is used up.
    Full {
        /// What was wanted.
        bytes: u64,
        /// What is in use.
        in_use: u64,
        /// What there is.
        budget: u64,
    },
}

/// What is claimed with a name.
#[derive(Clone, Debug)]
pub struct NameClaim {
    /// The name.
    pub name: ActorName,
    /// Who is to have it.
    pub actor: ActorId,
    /// Which life of it begins.
    pub incarnation: Incarnation,
    /// What it can be asked.
    pub interface: Interface,
}

/// A call on its way out, with the references it names held until it has arrived or is dropped.
pub struct Outgoing {
    /// What travels.
    pub frame: CallFrame,
    /// What is held meanwhile.
    pub pins: Pins,
}

/// The encoded value of an object, and the references that it names, held until it has been decoded.
pub struct Fetched {
    /// The value.
    pub bytes: Bytes,
    /// What is held meanwhile.
    pub pins: Pins,
}

impl Fetched {
    /// The same, held once more.
    pub fn again(&self) -> Self {
        Self { bytes: self.bytes.clone(), pins: self.pins.clone() }
    }
}

/// An actor that starts elsewhere.
pub struct Spawned {
    /// Its id.
    pub id: ActorId,
    /// How its constructor ended.
    pub started: BoxFuture<'static, Result<(), SpawnError>>,
}

/// Tells whoever counts it that a call from outside has left its mailbox: it is handled now, or never will be.
pub struct Left {
    tell: Option<Box<dyn FnOnce() + Send>>,
    message: Option<MessageId>,
}

impl Left {
    /// Calls `tell` when it is dropped; `message` names one that is sent again until it is handled.
    pub fn new(message: Option<MessageId>, tell: impl FnOnce() + Send + 'static) -> Self {
        Self { tell: Some(Box::new(tell)), message }
    }

    pub(crate) fn message(&self) -> Option<MessageId> {
        self.message
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            tell();
        }
    }
}

/// Where an encoded answer goes.
pub struct EncodedReply {
    /// Takes the answer, once.
    pub answer: Box<dyn FnOnce(Result<Payload, CallError>) + Send>,
    /// Lets the handler see that its caller has gone.
    pub call: Option<Arc<dyn CallState>>,
}

/// Tells whoever waits for an answer that the call never ran, and why.
pub fn refuse(reply: Option<EncodedReply>, cause: NotStarted) -> NotStarted {
    if let Some(reply) = reply {
        (reply.answer)(Err(CallError::NotStarted(cause.clone())));
    }
    cause
}

/// An encoded answer.
pub enum Payload {
    /// One value, with the references it names.
    Value(Bytes, Pins),
    /// The value stays where it was made.
    Stored(Stored),
    /// A stream of values; dropping the receiver ends the stream at its source.
    Stream(mpsc::Receiver<EncodedItem>),
}

/// A value that stays on the node where it was made.
#[derive(Clone)]
pub struct Stored {
    /// Which node.
    pub at: NodeId,
    /// How many bytes it has.
    pub bytes: u64,
    /// Which.
    pub digest: Digest,
    /// The references that they name.
    pub pins: Pins,
}

/// An encoded item of a stream, the failure that ended it, or its end.
pub enum EncodedItem {
    /// The next item, with the references it names.
    Item(Bytes, Pins),
    /// The stream failed.
    Failed(CallError),
    /// The stream ended.
    End,
}
