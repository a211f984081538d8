//! What a program holds of an actor: it leads to a mailbox here or to another process, and looks the same.
//!
//! | name | what it is |
//! |---|---|
//! | [`Address`] | sends any message the actor handles |
//! | [`ActorRef`] | an address that derefs to the proxy a macro writes: a method per message |
//! | [`Recipient`] | sends one type of message to an actor of any type |
//!
//! All three are cheap to clone, compare by id, and travel in messages. They keep nobody alive.

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use mobula_types::{ActorId, Attempt, CallError, Deadline, NotStarted};
use mobula_wire::{CallFrame, CallHeader, CodecId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::call::{Call, Room, SendError};
use crate::counters::Count;
use crate::deliver::{EncodedReply, Outgoing, refuse};
use crate::envelope::{Letter, ReplyTo};
use crate::lanes::{Mail, Refused};
use crate::mailbox::Mailbox;
use crate::object::pinning;
use crate::registry::{self, HandlerEntry};
use crate::system::System;
use crate::{Actor, Handler, Message, Proxy, clock, current};

/// Where an actor of type `A` can be reached.
pub struct Address<A: Actor> {
    route: Route<A>,
}

enum Route<A: Actor> {
    Here(Arc<Mailbox<A>>),
    Away(Arc<Away>),
}

/// An actor that is reached through [`Deliver`](crate::Deliver), or not at all.
struct Away {
    id: ActorId,
    system: Arc<System>,
}

impl<A: Actor> Address<A> {
    pub(crate) fn local(mailbox: Arc<Mailbox<A>>) -> Self {
        Self { route: Route::Here(mailbox) }
    }

    /// The address of an actor of this process, which goes through the codec where everything does.
    pub(crate) fn of(mailbox: &Arc<Mailbox<A>>) -> Self {
        let carries = mailbox.system.deliver().is_some_and(|deliver| deliver.carries_local());
        if carries && registry::actor::<A>().is_some() {
            return Self::away(mailbox.id, &mailbox.system);
        }
        Self::local(mailbox.clone())
    }

    pub(crate) fn away(id: ActorId, system: &Arc<System>) -> Self {
        Self { route: Route::Away(Arc::new(Away { id, system: system.clone() })) }
    }

    /// The address of the actor with this id, as seen from `system`. An id whose actor has ended gives an address too:
    /// its calls say so.
    ///
    /// # Errors
    ///
    /// The actor lives here and is of another type.
    pub fn resolve(id: ActorId, system: &Arc<System>) -> Result<Self, NotStarted> {
        match system.local(id) {
            Some(mailbox) => match mailbox.into_any().downcast::<Mailbox<A>>() {
                Ok(mailbox) => Ok(Self::of(&mailbox)),
                Err(_) => Err(NotStarted::Unknown { name: format!("{id} as {}", std::any::type_name::<A>()) }),
            },
            None => Ok(Self::away(id, system)),
        }
    }

    /// The actor's id.
    pub fn id(&self) -> ActorId {
        match &self.route {
            Route::Here(mailbox) => mailbox.id,
            Route::Away(away) => away.id,
        }
    }

    /// Prepares a call: await it for the reply, or [`tell`](Call::tell), [`send`](Call::send), [`submit`](Call::submit)
    /// it.
    pub fn ask<M: Message>(&self, message: M) -> Call<'_, A, M>
    where
        A: Handler<M>,
    {
        Call::new(self, message)
    }

    /// Sends `message` without waiting for room or answer.
    ///
    /// # Errors
    ///
    /// Gives the message back with the reason: the mailbox is full, the actor has ended, or the message cannot travel.
    pub fn try_send<M: Message>(&self, message: M) -> Result<(), SendError<M>>
    where
        A: Handler<M>,
    {
        self.ask(message).tell()
    }

    /// Sends `message` as soon as the mailbox has room for it.
    ///
    /// # Errors
    ///
    /// Gives the message back with the reason: the actor has ended, or the message cannot travel.
    pub async fn send<M: Message>(&self, message: M) -> Result<(), SendError<M>>
    where
        A: Handler<M>,
    {
        self.ask(message).send().await
    }

    /// The same actor for one type of message only.
    pub fn recipient<M: Message>(&self) -> Recipient<M>
    where
        A: Handler<M>,
    {
        Recipient { inner: Arc::new(self.clone()) }
    }

    /// Asks the actor to end after the message it handles now; mail behind it is refused.
    pub fn stop(&self) {
        let reason = mobula_types::ExitReason::Shutdown;
        self.system().control(self.id(), crate::control::Control::Stop { reason, park: false });
    }

    /// Ends the actor now: a handler that waits is dropped where it waits. Its restart policy applies.
    pub fn kill(&self) {
        self.system().control(self.id(), crate::control::Control::Kill);
    }

    /// Whether the actor has not ended for good, as far as is known here.
    pub fn is_alive(&self) -> bool {
        match &self.route {
            Route::Here(mailbox) => match mailbox.lanes.ended() {
                Some(mobula_types::ExitReason::Moved) => mailbox.system.is_alive(mailbox.id),
                ended => ended.is_none(),
            },
            Route::Away(away) => away.system.is_alive(away.id),
        }
    }

    pub(crate) fn system(&self) -> &Arc<System> {
        match &self.route {
            Route::Here(mailbox) => &mailbox.system,
            Route::Away(away) => &away.system,
        }
    }

    /// Sends now or gives the letter back.
    #[inline]
    pub(crate) fn try_send_letter<M: Message>(&self, letter: Letter<M>) -> Result<(), (Letter<M>, NotStarted)>
    where
        A: Handler<M>,
    {
        let result = match &self.route {
            Route::Here(mailbox) => match mailbox.lanes.try_push(Box::new(letter)) {
                Ok(()) => Ok(()),
                Err((mail, refused)) if refused.has_moved() => {
                    Away::of(mailbox).try_send::<A, M>(letter_of::<A, M>(mail))
                }
                Err((mail, refused)) => Err((letter_of::<A, M>(mail), refusal(mailbox.id, refused))),
            },
            Route::Away(away) => away.try_send::<A, M>(letter),
        };
        if result.is_err() {
            self.system().counters().add(Count::Refused);
        }
        result
    }

    /// Sends, or lets the letter wait for room; whoever waits for its reply is told when it is refused.
    pub(crate) fn send_or_wait<M: Message>(&self, letter: Letter<M>) -> Result<(), NotStarted>
    where
        A: Handler<M>,
    {
        if let Route::Away(away) = &self.route {
            return away.post::<A, M>(letter).inspect_err(|_| self.system().counters().add(Count::Refused));
        }
        match self.enqueue(letter) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.cause),
        }
    }

    /// Sends until the receiver has handled it.
    pub(crate) fn send_until_handled<M: Message>(&self, letter: Letter<M>) -> Result<(), SendError<M>>
    where
        A: Handler<M>,
    {
        let result = match &self.route {
            // Here a letter is lost with its sender only.
            Route::Here(mailbox) => match mailbox.lanes.push_or_wait(Box::new(letter)) {
                Ok(_) => Ok(()),
                Err((mail, refused)) if refused.has_moved() => {
                    Away::of(mailbox).send_until_handled::<A, M>(letter_of::<A, M>(mail))
                }
                Err((mail, refused)) => Err(letter_of::<A, M>(mail).refused(refusal(mailbox.id, refused))),
            },
            Route::Away(away) => away.send_until_handled::<A, M>(letter),
        };
        if result.is_err() {
            self.system().counters().add(Count::Refused);
        }
        result
    }

    /// Sends as soon as there is room, and waits for that; the letter's place is taken at once.
    pub(crate) fn send_letter<M: Message>(&self, letter: Letter<M>) -> BoxFuture<'static, Result<(), SendError<M>>>
    where
        A: Handler<M>,
    {
        let enqueued = self.enqueue(letter);
        Box::pin(async move {
            match enqueued? {
                Enqueued::Here => {}
                // A letter that is refused while it waits has become a dead letter, counted and told where it ended.
                Enqueued::Waits(mailbox, ticket) => Room::new(mailbox, ticket).wait().await,
                Enqueued::Away(message, accepted) => {
                    return accepted.await.map_err(|cause| SendError { message, cause });
                }
            }
            Ok(())
        })
    }

    #[inline]
    fn enqueue<M: Message>(&self, letter: Letter<M>) -> Result<Enqueued<A, M>, SendError<M>>
    where
        A: Handler<M>,
    {
        let result = match &self.route {
            Route::Here(mailbox) => match mailbox.lanes.push_or_wait(Box::new(letter)) {
                Ok(None) => Ok(Enqueued::Here),
                Ok(Some(ticket)) => Ok(Enqueued::Waits(mailbox.clone(), ticket)),
                Err((mail, refused)) if refused.has_moved() => Away::of(mailbox).enqueue(letter_of::<A, M>(mail)),
                Err((mail, refused)) => Err(letter_of::<A, M>(mail).refused(refusal(mailbox.id, refused))),
            },
            Route::Away(away) => away.enqueue(letter),
        };
        if result.is_err() {
            self.system().counters().add(Count::Refused);
        }
        result
    }
}

/// A letter that is on its way, or waits for room with its place taken.
enum Enqueued<A: Actor, M> {
    Here,
    Waits(Arc<Mailbox<A>>, u64),
    Away(M, BoxFuture<'static, Result<(), NotStarted>>),
}

/// The letter that a mailbox gave back.
fn letter_of<A: Handler<M>, M: Message>(mail: Mail<A>) -> Letter<M> {
    let mail: Box<dyn Any> = mail;
    *mail.downcast::<Letter<M>>().expect("the mailbox gives back the letter it was given")
}

pub(crate) fn refusal(actor: ActorId, refused: Refused) -> NotStarted {
    match refused {
        Refused::Full { waiting } => NotStarted::MailboxFull { waiting },
        Refused::Ended(reason) => NotStarted::ActorEnded { actor, reason },
    }
}

/// A letter taken apart for its way out; the message is kept for giving it back.
type Encoded<M> = (M, Outgoing, Option<EncodedReply>);

impl Away {
    /// The way to an actor that lived here and has moved.
    fn of<A: Actor>(mailbox: &Mailbox<A>) -> Self {
        Self { id: mailbox.id, system: mailbox.system.clone() }
    }

    fn enqueue<A: Handler<M>, M: Message>(&self, letter: Letter<M>) -> Result<Enqueued<A, M>, SendError<M>> {
        match self.encode::<A, M>(letter) {
            Err((letter, cause)) => Err(letter.refused(cause)),
            Ok((message, frame, reply)) => match self.system.deliver() {
                Some(deliver) => Ok(Enqueued::Away(message, deliver.call(frame, reply))),
                None => {
                    let cause = refuse(reply, NotStarted::NoSuchActor { actor: self.id });
                    Err(SendError { message, cause })
                }
            },
        }
    }

    fn send_until_handled<A: Handler<M>, M: Message>(&self, letter: Letter<M>) -> Result<(), SendError<M>> {
        let (message, call, _) = self.encode::<A, M>(letter).map_err(|(letter, cause)| letter.refused(cause))?;
        let sent = match self.system.deliver() {
            Some(deliver) => deliver.post_until_acknowledged(call, std::any::type_name::<M>()),
            None => Err(NotStarted::NoSuchActor { actor: self.id }),
        };
        sent.map_err(|cause| SendError { message, cause })
    }

    fn try_send<A: Handler<M>, M: Message>(&self, letter: Letter<M>) -> Result<(), (Letter<M>, NotStarted)> {
        let (message, frame, reply) = self.encode::<A, M>(letter)?;
        let sent = match self.system.deliver() {
            Some(deliver) => deliver.try_call(frame, reply),
            None => Err(refuse(reply, NotStarted::NoSuchActor { actor: self.id })),
        };
        sent.map_err(|cause| (plain_letter(message), cause))
    }

    fn post<A: Handler<M>, M: Message>(&self, letter: Letter<M>) -> Result<(), NotStarted> {
        match self.encode::<A, M>(letter) {
            Err((letter, cause)) => Err(letter.refused(cause).cause),
            Ok((_, frame, reply)) => match self.system.deliver() {
                Some(deliver) => deliver.post(frame, reply),
                None => Err(refuse(reply, NotStarted::NoSuchActor { actor: self.id })),
            },
        }
    }

    /// Encodes a letter by the registry's entry for it; keeps the message for giving it back.
    fn encode<A: Handler<M>, M: Message>(&self, letter: Letter<M>) -> Result<Encoded<M>, (Letter<M>, NotStarted)> {
        let Some(entry) = registry::handler::<A, M>() else {
            let type_name = std::any::type_name::<M>().to_owned();
            return Err((letter, NotStarted::LocalOnly { type_name }));
        };
        let (payload, pins) = pinning(|| entry.encode_message(&letter.message, self.system.value_bytes_max()));
        let payload = match payload {
            Ok(payload) => payload,
            Err(cause) => return Err((letter, cause)),
        };
        let Letter { message, reply, deadline, .. } = letter;
        let header = CallHeader {
            target: self.id,
            incarnation: None,
            message: entry.key(),
            schema: entry.schema(),
            left: deadline.left(clock::now()),
            attempt: Attempt::FIRST,
            crash_count: 0,
            sender: current::with(|frame| frame.sender.0),
            seq: 0,
            after: 0,
        };
        let frame = CallFrame { header, codec: CodecId::BINCODE_LEGACY, refs: pins.ids(), payload: payload.into() };
        Ok((message, Outgoing { frame, pins }, encoded_reply(entry, reply, &self.system)))
    }
}

/// Wraps where the answer goes, so that it can come back encoded.
fn encoded_reply<R: Send + 'static>(
    entry: &'static HandlerEntry,
    reply: ReplyTo<R>,
    system: &Arc<System>,
) -> Option<EncodedReply> {
    if matches!(reply, ReplyTo::Nobody) {
        return None;
    }
    let call = reply.call();
    let system = system.clone();
    let answer = move |answer: Result<crate::deliver::Payload, CallError>| {
        // Decoding may meet references and actors: they belong to the system that asked.
        let decoded = answer.and_then(|payload| current::within(&system, || entry.decode_reply(payload)));
        reply.send(decoded.map(|reply| *reply.downcast::<R>().expect("the entry is of this message, so of its reply")));
    };
    Some(EncodedReply { answer: Box::new(answer), call })
}

pub(crate) fn plain_letter<M: Message>(message: M) -> Letter<M> {
    Letter { message, reply: ReplyTo::Nobody, deadline: Deadline::NEVER, deadline_explicit: false }
}

impl<A: Actor> Clone for Address<A> {
    fn clone(&self) -> Self {
        let route = match &self.route {
            Route::Here(mailbox) => Route::Here(mailbox.clone()),
            Route::Away(away) => Route::Away(away.clone()),
        };
        Self { route }
    }
}

impl<A: Actor> Proxy<A> for Address<A> {
    fn new(address: Self) -> Self {
        address
    }

    fn address(&self) -> &Self {
        self
    }
}

/// A reference to an actor: derefs to the proxy that its macro wrote, or to its [`Address`].
pub struct ActorRef<A: Actor> {
    proxy: A::Proxy,
}

impl<A: Actor> ActorRef<A> {
    /// A reference that leads to `address`.
    pub fn new(address: Address<A>) -> Self {
        Self { proxy: A::Proxy::new(address) }
    }

    /// The address inside.
    pub fn address(&self) -> &Address<A> {
        self.proxy.address()
    }
}

impl<A: Actor> Deref for ActorRef<A> {
    type Target = A::Proxy;

    fn deref(&self) -> &A::Proxy {
        &self.proxy
    }
}

impl<A: Actor> Clone for ActorRef<A> {
    fn clone(&self) -> Self {
        Self { proxy: self.proxy.clone() }
    }
}

/// Sends one type of message to an actor of any type.
pub struct Recipient<M: Message> {
    inner: Arc<dyn Receives<M>>,
}

trait Receives<M: Message>: Send + Sync {
    fn id(&self) -> ActorId;
    fn key(&self) -> Option<u64>;
    fn tell(&self, message: M) -> Result<(), SendError<M>>;
    fn send(&self, message: M) -> BoxFuture<'_, Result<(), SendError<M>>>;
    fn ask(&self, message: M) -> crate::call::Asking<M::Reply, M::Reply, mobula_types::NoError>;
}

impl<A: Handler<M>, M: Message> Receives<M> for Address<A> {
    fn id(&self) -> ActorId {
        Self::id(self)
    }

    fn key(&self) -> Option<u64> {
        registry::handler::<A, M>().map(HandlerEntry::key)
    }

    fn tell(&self, message: M) -> Result<(), SendError<M>> {
        self.try_send(message)
    }

    fn send(&self, message: M) -> BoxFuture<'_, Result<(), SendError<M>>> {
        Box::pin(Self::send(self, message))
    }

    fn ask(&self, message: M) -> crate::call::Asking<M::Reply, M::Reply, mobula_types::NoError> {
        Self::ask(self, message).into_future()
    }
}

impl<M: Message> Recipient<M> {
    /// The actor's id.
    pub fn id(&self) -> ActorId {
        self.inner.id()
    }

    /// Sends `message` without waiting for room or answer.
    ///
    /// # Errors
    ///
    /// Gives the message back with the reason.
    pub fn try_send(&self, message: M) -> Result<(), SendError<M>> {
        self.inner.tell(message)
    }

    /// Sends `message` as soon as the mailbox has room for it.
    ///
    /// # Errors
    ///
    /// Gives the message back with the reason.
    pub async fn send(&self, message: M) -> Result<(), SendError<M>> {
        self.inner.send(message).await
    }

    /// Sends `message` and waits for the reply, 30 s at most.
    ///
    /// # Errors
    ///
    /// The outcome kinds of G1.
    pub async fn ask(&self, message: M) -> Result<M::Reply, CallError> {
        self.inner.ask(message).await
    }
}

impl<M: Message> Clone for Recipient<M> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

macro_rules! same_by_id {
    ($($name:ident<$p:ident: $bound:path>, $id:expr;)*) => {$(
        impl<$p: $bound> PartialEq for $name<$p> {
            fn eq(&self, other: &Self) -> bool {
                $id(self) == $id(other)
            }
        }

        impl<$p: $bound> Eq for $name<$p> {}

        impl<$p: $bound> Hash for $name<$p> {
            fn hash<H: Hasher>(&self, state: &mut H) {
                $id(self).hash(state);
            }
        }

        impl<$p: $bound> fmt::Debug for $name<$p> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), $id(self))
            }
        }
    )*};
}

same_by_id! {
    Address<A: Actor>, |address: &Address<A>| address.id();
    ActorRef<A: Actor>, |actor: &ActorRef<A>| actor.address().id();
    Recipient<M: Message>, |recipient: &Recipient<M>| recipient.id();
}

impl<A: Actor> Serialize for ActorRef<A> {
    /// Writes the id. Only actors of registered types may be named outside of their process.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.address().serialize(serializer)
    }
}

impl<'de, A: Actor> Deserialize<'de> for ActorRef<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Address::deserialize(deserializer).map(Self::new)
    }
}

impl<A: Actor> Serialize for Address<A> {
    /// Writes the id. Only actors of registered types may be named outside of their process.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Serialize::serialize(&self.id(), serializer)
    }
}

impl<'de, A: Actor> Deserialize<'de> for Address<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let id = ActorId::deserialize(deserializer)?;
        let system = current::decoding()?;
        Self::resolve(id, &system).map_err(D::Error::custom)
    }
}

impl<M: Message> Serialize for Recipient<M> {
    /// Writes the id and which handler it leads to.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let key = self.inner.key().ok_or_else(|| {
            serde::ser::Error::custom(NotStarted::LocalOnly { type_name: std::any::type_name::<M>().to_owned() })
        })?;
        Serialize::serialize(&(self.id(), key), serializer)
    }
}

impl<'de, M: Message> Deserialize<'de> for Recipient<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let (id, key) = <(ActorId, u64)>::deserialize(deserializer)?;
        let system = current::decoding()?;
        registry::by_key(key)
            .and_then(|entry| entry.recipient(id, &system))
            .and_then(|recipient| recipient.downcast::<Self>().ok())
            .map(|recipient| *recipient)
            .ok_or_else(|| {
                D::Error::custom(format!("no handler {key:016x} of {} is known here", std::any::type_name::<M>()))
            })
    }
}
