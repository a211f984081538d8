//! What this build can receive from outside: actors and messages by name and schema hash.
//!
//! Entries are made by the macros and gathered at link time. The name finds the entry, the hash of its types proves that
//! both sides mean the same; what has no entry works inside the process only.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mobula_types::{ActorId, CallError, Deadline, ExitReason, Interface, NotStarted, Unknown};
use mobula_wire::{CallFrame, name_hash, plain, schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::address::refusal;
use crate::call::Room;
use crate::current::{self, within};
use crate::deliver::{EncodedItem, EncodedReply, Left, Payload, Spawned, refuse};
use crate::envelope::{Counted, Letter, OtherReply, ReplyTo};
use crate::lanes::Mail;
use crate::mailbox::Mailbox;
use crate::object::pinning;
use crate::spawn::{Spawn, SpawnError, SpawnFrame};
use crate::stream::{ReplyStream, StreamItem, credit};
use crate::system::System;
use crate::{Actor, Address, Handler, Message, arbiters, clock};

/// Decoding an item of a stream may wait this far ahead in bytes; items are counted by their own size on both sides.
const ENCODED_ITEM_BYTES: usize = 16 << 10;

/// One message of one actor type that may come from outside.
pub struct HandlerEntry {
    name: &'static str,
    types: fn() -> (TypeId, TypeId),
    schema: fn() -> u64,
    encode: fn(&dyn Any, usize) -> Result<Vec<u8>, NotStarted>,
    open: Open,
    decode_reply: fn(Payload) -> Result<Box<dyn Any + Send>, CallError>,
    recipient: MakeRecipient,
}

/// Decodes a frame for a mailbox whose type is forgotten, up to its door.
type Open = fn(Arc<dyn Any + Send + Sync>, &CallFrame, Option<EncodedReply>) -> Result<Box<dyn Incoming>, NotStarted>;

/// Makes a `Recipient<M>` whose message type is forgotten.
type MakeRecipient = fn(ActorId, &Arc<System>) -> Option<Box<dyn Any>>;

inventory::collect!(HandlerEntry);

impl HandlerEntry {
    /// An entry for messages that are answered with one value.
    pub const fn value<A, M>(name: &'static str) -> Self
    where
        A: Handler<M>,
        M: Message + Serialize + DeserializeOwned,
        M::Reply: Serialize + DeserializeOwned,
    {
        refuse_local::<M>();
        Self {
            name,
            types: || (TypeId::of::<A>(), TypeId::of::<M>()),
            schema: || schema::schema_hash::<(M, M::Reply)>(),
            encode: encode_any::<M>,
            open: |mailbox, frame, reply| open::<A, M>(mailbox, frame, reply, value_reply::<M::Reply>),
            decode_reply: |payload| match payload {
                Payload::Value(bytes, _pins) => decode_boxed::<M::Reply>(&bytes),
                Payload::Stream(_) | Payload::Stored(_) => Err(unexpected_reply()),
            },
            recipient: recipient::<A, M>,
        }
    }

    /// An entry for messages that are answered with a stream.
    pub const fn stream<A, M, T>(name: &'static str) -> Self
    where
        A: Handler<M>,
        M: Message<Reply = ReplyStream<T>> + Serialize + DeserializeOwned,
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        refuse_local::<M>();
        Self {
            name,
            types: || (TypeId::of::<A>(), TypeId::of::<M>()),
            schema: || schema::schema_hash::<(M, Vec<T>)>(),
            encode: encode_any::<M>,
            open: |mailbox, frame, reply| open::<A, M>(mailbox, frame, reply, stream_reply::<T>),
            decode_reply: |payload| match payload {
                Payload::Stream(items) => Ok(Box::new(decoded_stream::<T>(items))),
                Payload::Value(..) | Payload::Stored(_) => Err(unexpected_reply()),
            },
            recipient: recipient::<A, M>,
        }
    }

    /// The registered name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The name as it travels.
    pub fn key(&self) -> u64 {
        name_hash(self.name)
    }

    /// The hash of the message's and the reply's types.
    pub fn schema(&self) -> u64 {
        remembered(self.key(), self.schema)
    }

    pub(crate) fn encode_message(&self, message: &dyn Any, max: usize) -> Result<Vec<u8>, NotStarted> {
        (self.encode)(message, max)
    }

    pub(crate) fn decode_reply(&self, payload: Payload) -> Result<Box<dyn Any + Send>, CallError> {
        (self.decode_reply)(payload)
    }

    pub(crate) fn recipient(&self, id: ActorId, system: &Arc<System>) -> Option<Box<dyn Any>> {
        (self.recipient)(id, system)
    }
}

/// Entries are made while a program is compiled, so this ends the compilation.
const fn refuse_local<M: Message>() {
    assert!(!M::LOCAL, "the message says that it is local: remove #[handler], or `local` from #[message(..)]");
}

/// One actor type that may be spawned from outside.
pub struct ActorEntry {
    name: &'static str,
    type_id: fn() -> TypeId,
    schema: fn() -> u64,
    encode: fn(&dyn Any, usize) -> Result<Vec<u8>, NotStarted>,
    spawn: fn(&Arc<System>, SpawnFrame) -> Result<Spawned, SpawnError>,
}

inventory::collect!(ActorEntry);

impl ActorEntry {
    /// An entry for the actor type `A`.
    pub const fn of<A>(name: &'static str) -> Self
    where
        A: Actor,
        A::Args: Serialize + DeserializeOwned,
    {
        Self {
            name,
            type_id: || TypeId::of::<A>(),
            schema: || schema::schema_hash::<A::Args>(),
            encode: encode_any::<A::Args>,
            spawn: |system, frame| {
                let args = within(system, || decode::<A::Args>(&frame.args));
                let args = args.map_err(|message| SpawnError::NotStarted(NotStarted::Codec { message }))?;
                Spawn::<A>::from_outside(system.clone(), args, frame.options, frame.guest)
            },
        }
    }

    /// The registered name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn key(&self) -> u64 {
        name_hash(self.name)
    }

    pub(crate) fn schema(&self) -> u64 {
        remembered(self.key(), self.schema)
    }

    pub(crate) fn encode_args(&self, args: &dyn Any, max: usize) -> Result<Vec<u8>, NotStarted> {
        (self.encode)(args, max)
    }
}

/// A decoded call before the mailbox's door.
pub trait Incoming: Send {
    /// Goes in now.
    ///
    /// # Errors
    ///
    /// Why not; whoever waits for the answer is told the same.
    fn try_enter(self: Box<Self>) -> Result<(), NotStarted>;

    /// Goes in as soon as there is room; `left` is dropped when it has left the mailbox again, or never went in.
    fn enter(self: Box<Self>, left: Option<Left>) -> BoxFuture<'static, Result<(), NotStarted>>;
}

impl System {
    /// Decodes a call from outside, up to the door of its mailbox.
    ///
    /// # Errors
    ///
    /// Why it cannot be received: no such actor or handler, other types, bytes that are no message.
    pub fn receive(
        self: &Arc<Self>,
        frame: &CallFrame,
        reply: Option<EncodedReply>,
    ) -> Result<Box<dyn Incoming>, NotStarted> {
        let header = &frame.header;
        let Some(mailbox) = self.local(header.target) else {
            let cause = NotStarted::ActorEnded { actor: header.target, reason: ExitReason::Gone };
            return Err(refuse(reply, cause));
        };
        let Some(entry) = by_key(header.message) else {
            return Err(refuse(reply, NotStarted::Unknown { name: format!("handler {:016x}", header.message) }));
        };
        if entry.schema() != header.schema {
            return Err(refuse(reply, NotStarted::Unknown { name: entry.name.to_owned() }));
        }
        within(self, || (entry.open)(mailbox.into_any(), frame, reply))
    }

    /// Spawns an actor for somebody outside.
    ///
    /// # Errors
    ///
    /// Why it cannot be: an unknown type, other argument types, a taken name.
    pub fn receive_spawn(self: &Arc<Self>, frame: SpawnFrame) -> Result<Spawned, SpawnError> {
        let entry = table().actors_by_key.get(&frame.actor).filter(|entry| entry.schema() == frame.schema).ok_or_else(
            || SpawnError::NotStarted(NotStarted::Unknown { name: format!("actor {:016x}", frame.actor) }),
        )?;
        (entry.spawn)(self, frame)
    }
}

/// The entry for messages `M` to actors `A`.
pub(crate) fn handler<A: Actor, M: Message>() -> Option<&'static HandlerEntry> {
    table().handlers.get(&(TypeId::of::<A>(), TypeId::of::<M>())).copied()
}

/// What actors of type `A` can be asked from outside.
pub(crate) fn interface<A: Actor>() -> Interface {
    let Some(entry) = actor::<A>() else { return Interface::default() };
    let handlers = table().handlers_of.get(&TypeId::of::<A>()).into_iter().flatten();
    let mut handlers: Vec<(u64, u64)> = handlers.map(|handler| (handler.key(), handler.schema())).collect();
    handlers.sort_unstable();
    Interface { type_name: entry.name.to_owned(), handlers }
}

/// What differs between actors of type `A`, as this program knows them, and one of another program: messages that one of
/// the two does not know are no difference, because a call of one says so.
pub(crate) fn differs<A: Actor>(theirs: &Interface) -> Option<String> {
    // Who has no entry is of this very process, and its type is checked there.
    let (entry, false) = (actor::<A>()?, theirs.type_name.is_empty()) else { return None };
    if theirs.type_name != entry.name {
        return Some(format!("it is a {}", theirs.type_name));
    }
    let handlers = table().handlers_of.get(&TypeId::of::<A>()).into_iter().flatten();
    let differs = |handler: &&&HandlerEntry| {
        theirs.handlers.iter().any(|(key, schema)| *key == handler.key() && *schema != handler.schema())
    };
    let names: Vec<&str> = handlers.filter(differs).map(|handler| handler.name).collect();
    (!names.is_empty()).then(|| {
        format!("its program knows {} with other types: build both from one version of it", names.join(" and "))
    })
}

/// The entry with this travelling name.
pub(crate) fn by_key(key: u64) -> Option<&'static HandlerEntry> {
    table().handlers_by_key.get(&key).copied()
}

/// The entry for the actor type `A`.
pub(crate) fn actor<A: Actor>() -> Option<&'static ActorEntry> {
    table().actors.get(&TypeId::of::<A>()).copied()
}

/// The name of the actor type that travels as `key`.
pub fn actor_name(key: u64) -> Option<&'static str> {
    table().actors_by_key.get(&key).map(|entry| entry.name)
}

/// A name that two entries have, if there is one: mail for one of them would be given to the other. Types of one name in
/// one module can be told apart by nobody; they stand in different functions.
pub fn name_said_twice() -> Option<&'static str> {
    let names = inventory::iter::<HandlerEntry>().map(|entry| entry.name);
    let mut names: Vec<_> = names.chain(inventory::iter::<ActorEntry>().map(|entry| entry.name)).collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

struct Table {
    handlers: HashMap<(TypeId, TypeId), &'static HandlerEntry>,
    handlers_by_key: HashMap<u64, &'static HandlerEntry>,
    handlers_of: HashMap<TypeId, Vec<&'static HandlerEntry>>,
    actors: HashMap<TypeId, &'static ActorEntry>,
    actors_by_key: HashMap<u64, &'static ActorEntry>,
    /// By travelling name; made at first use, because tracing the types takes microseconds.
    schemas: HashMap<u64, OnceLock<u64>>,
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| Table {
        handlers_of: inventory::iter::<HandlerEntry>().fold(HashMap::new(), |mut of, entry| {
            of.entry((entry.types)().0).or_insert_with(Vec::new).push(entry);
            of
        }),
        handlers: inventory::iter::<HandlerEntry>().map(|entry| ((entry.types)(), entry)).collect(),
        handlers_by_key: inventory::iter::<HandlerEntry>().map(|entry| (entry.key(), entry)).collect(),
        actors: inventory::iter::<ActorEntry>().map(|entry| ((entry.type_id)(), entry)).collect(),
        actors_by_key: inventory::iter::<ActorEntry>().map(|entry| (entry.key(), entry)).collect(),
        schemas: inventory::iter::<HandlerEntry>()
            .map(HandlerEntry::key)
            .chain(inventory::iter::<ActorEntry>().map(ActorEntry::key))
            .map(|key| (key, OnceLock::new()))
            .collect(),
    })
}

fn remembered(key: u64, schema: fn() -> u64) -> u64 {
    table().schemas.get(&key).map_or_else(schema, |once| *once.get_or_init(schema))
}

fn encode_any<T: Serialize + 'static>(value: &dyn Any, max: usize) -> Result<Vec<u8>, NotStarted> {
    let other = || NotStarted::Codec { message: format!("expected {}", type_name::<T>()) };
    Ok(plain::encode(value.downcast_ref::<T>().ok_or_else(other)?, max)?)
}

fn decode<T: DeserializeOwned + 'static>(bytes: &Bytes) -> Result<T, String> {
    plain::decode(bytes).map_err(|error| error.to_string())
}

fn decode_boxed<T: DeserializeOwned + Send + 'static>(bytes: &Bytes) -> Result<Box<dyn Any + Send>, CallError> {
    match decode::<T>(bytes) {
        Ok(value) => Ok(Box::new(value)),
        Err(message) => Err(CallError::MayHaveRun(Unknown::Codec { message })),
    }
}

fn unexpected_reply() -> CallError {
    CallError::MayHaveRun(Unknown::Codec { message: "a value came for a stream, or a stream for a value".into() })
}

fn recipient<A: Handler<M>, M: Message>(id: ActorId, system: &Arc<System>) -> Option<Box<dyn Any>> {
    let address = Address::<A>::resolve(id, system).ok()?;
    Some(Box::new(address.recipient::<M>()))
}

struct Door<A: Handler<M>, M: Message> {
    mailbox: Arc<Mailbox<A>>,
    letter: Letter<M>,
}

fn open<A, M>(
    mailbox: Arc<dyn Any + Send + Sync>,
    frame: &CallFrame,
    reply: Option<EncodedReply>,
    encoding: fn(EncodedReply, usize) -> OtherReply<M::Reply>,
) -> Result<Box<dyn Incoming>, NotStarted>
where
    A: Handler<M>,
    M: Message + DeserializeOwned,
{
    let Ok(mailbox) = mailbox.downcast::<Mailbox<A>>() else {
        let name = format!("{} as {}", frame.header.target, type_name::<A>());
        return Err(refuse(reply, NotStarted::Unknown { name }));
    };
    let message = match decode::<M>(&frame.payload) {
        Ok(message) => message,
        Err(message) => return Err(refuse(reply, NotStarted::Codec { message })),
    };
    let deadline = frame.header.left.map_or(Deadline::NEVER, |left| Deadline::at(clock::now() + left));
    let max = mailbox.system.value_bytes_max();
    let reply = reply.map_or(ReplyTo::Nobody, |reply| ReplyTo::Other(Box::new(encoding(reply, max))));
    Ok(Box::new(Door { mailbox, letter: Letter { message, reply, deadline, deadline_explicit: false } }))
}

impl<A: Handler<M>, M: Message> Incoming for Door<A, M> {
    fn try_enter(self: Box<Self>) -> Result<(), NotStarted> {
        let Self { mailbox, letter } = *self;
        mailbox.lanes.try_push(Box::new(letter)).map_err(|(mail, refused)| {
            let cause = refusal(mailbox.id, refused);
            mail.refuse(CallError::NotStarted(cause.clone()));
            cause
        })
    }

    fn enter(self: Box<Self>, left: Option<Left>) -> BoxFuture<'static, Result<(), NotStarted>> {
        let Self { mailbox, letter } = *self;
        let mail: Mail<A> = match left {
            Some(left) => Box::new(Counted { letter, left }),
            None => Box::new(letter),
        };
        let entered = mailbox.lanes.push_or_wait(mail).map_err(|(mail, refused)| {
            let cause = refusal(mailbox.id, refused);
            mail.refuse(CallError::NotStarted(cause.clone()));
            cause
        });
        Box::pin(async move {
            if let Some(ticket) = entered? {
                Room::new(mailbox, ticket).wait().await;
            }
            Ok(())
        })
    }
}

fn value_reply<R: Serialize + Send + 'static>(reply: EncodedReply, max: usize) -> OtherReply<R> {
    let EncodedReply { answer, call } = reply;
    let deliver = move |result: Result<R, CallError>| {
        answer(result.and_then(|value| {
            let (bytes, pins) = pinning(|| plain::encode(&value, max));
            match bytes {
                Ok(bytes) => Ok(Payload::Value(bytes.into(), pins)),
                Err(error) => Err(CallError::MayHaveRun(error.into())),
            }
        }));
    };
    OtherReply { deliver: Box::new(deliver), call }
}

fn stream_reply<T: Serialize + Send + 'static>(reply: EncodedReply, max: usize) -> OtherReply<ReplyStream<T>> {
    let EncodedReply { answer, call } = reply;
    let deliver =
        move |result: Result<ReplyStream<T>, CallError>| answer(result.map(|items| encoded_stream(items, max)));
    OtherReply { deliver: Box::new(deliver), call }
}

/// Encodes the items of a stream as they come, each in `max` bytes.
pub fn encoded_stream<T: Serialize + Send + 'static>(mut items: ReplyStream<T>, max: usize) -> Payload {
    let (sender, receiver) = mpsc::channel(credit(ENCODED_ITEM_BYTES));
    arbiters::runtime().spawn(async move {
        loop {
            let next = tokio::select! {
                next = items.next() => next,
                () = sender.closed() => return,
            };
            let (item, last) = match next {
                Some(Ok(item)) => match pinning(|| plain::encode(&item, max)) {
                    (Ok(bytes), pins) => (EncodedItem::Item(bytes.into(), pins), false),
                    (Err(error), _) => (EncodedItem::Failed(CallError::MayHaveRun(error.into())), true),
                },
                Some(Err(error)) => (EncodedItem::Failed(error), true),
                None => (EncodedItem::End, true),
            };
            if sender.send(item).await.is_err() || last {
                return;
            }
        }
    });
    Payload::Stream(receiver)
}

/// Decodes the items of a stream as they come, as values of the system that runs now.
pub fn decoded_stream<T: DeserializeOwned + Send + 'static>(mut items: mpsc::Receiver<EncodedItem>) -> ReplyStream<T> {
    let (sender, receiver) = mpsc::channel(credit(size_of::<T>()));
    let system = current::system();
    arbiters::runtime().spawn(async move {
        loop {
            let next = tokio::select! {
                next = items.recv() => next,
                () = sender.closed() => return,
            };
            let (item, last) = match next {
                Some(EncodedItem::Item(bytes, _pins)) => {
                    let before = current::adopt(system.clone());
                    let item = decode::<T>(&bytes);
                    current::adopt(before);
                    match item {
                        Ok(item) => (StreamItem::Item(item), false),
                        Err(message) => (StreamItem::Failed(CallError::MayHaveRun(Unknown::Codec { message })), true),
                    }
                }
                Some(EncodedItem::Failed(error)) => (StreamItem::Failed(error), true),
                Some(EncodedItem::End) => (StreamItem::End, true),
                None => (StreamItem::Failed(CallError::MayHaveRun(Unknown::NoReply)), true),
            };
            if sender.send(item).await.is_err() || last {
                return;
            }
        }
    });
    ReplyStream::from_channel(receiver)
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::Context;

    struct Till;
    struct Nameless;

    #[derive(Serialize, Deserialize)]
    struct Put(u64);

    #[derive(Serialize, Deserialize)]
    struct Take(String);

    #[derive(Serialize, Deserialize)]
    struct Count;

    macro_rules! till {
        ($($message:ty => $name:literal),*) => {$(
            impl Message for $message {
                type Reply = u64;
            }

            impl Handler<$message> for Till {
                async fn handle(&mut self, _: $message, _: &Context<Self>) -> u64 {
                    0
                }
            }

            inventory::submit! { HandlerEntry::value::<Till, $message>($name) }
        )*};
    }
    till!(Put => "shop::Till::put", Take => "shop::Till::take", Count => "shop::Till::count");

    impl Actor for Till {
        type Args = ();
        type Proxy = Address<Self>;

        async fn start((): (), _: &Context<Self>) -> Result<Self, mobula_types::Error> {
            Ok(Self)
        }
    }

    impl Actor for Nameless {
        type Args = ();
        type Proxy = Address<Self>;

        async fn start((): (), _: &Context<Self>) -> Result<Self, mobula_types::Error> {
            Ok(Self)
        }
    }

    inventory::submit! { ActorEntry::of::<Till>("shop::Till") }

    /// What another program says of its till: each message with the hash of its types.
    fn theirs(handlers: &[(&str, u64)]) -> Interface {
        let handlers = handlers.iter().map(|(name, schema)| (name_hash(name), *schema)).collect();
        Interface { type_name: "shop::Till".into(), handlers }
    }

    fn put() -> (&'static str, u64) {
        ("shop::Till::put", schema::schema_hash::<(Put, u64)>())
    }

    fn take() -> (&'static str, u64) {
        ("shop::Till::take", schema::schema_hash::<(Take, u64)>())
    }

    #[test]
    fn an_interface_names_every_message_with_its_types() {
        let own = interface::<Till>();
        assert_eq!((own.type_name.as_str(), own.handlers.len()), ("shop::Till", 3));
        for (name, schema) in [put(), take()] {
            assert!(own.handlers.contains(&(name_hash(name), schema)), "{name}: {own:?}");
        }
        assert_eq!(interface::<Nameless>(), Interface::default());
    }

    #[test]
    fn programs_that_agree_on_what_both_know_do_not_differ() {
        let news = ("shop::Till::audit", 7);
        let agreeing = [
            interface::<Till>(),
            // It lacks messages, or has others: who sends one that is unknown is told then.
            theirs(&[]),
            theirs(&[put()]),
            theirs(&[put(), take(), news]),
            // One of this very build says nothing.
            Interface::default(),
        ];
        for theirs in agreeing {
            assert_eq!(differs::<Till>(&theirs), None, "{theirs:?}");
        }
        assert_eq!(differs::<Nameless>(&theirs(&[put()])), None, "its type is checked where it is bound");
    }

    #[test]
    fn a_difference_names_the_type_or_the_messages() {
        let changed = |(name, schema): (&'static str, u64)| (name, schema ^ 1);
        let cases: [(Interface, &[&str], &[&str]); 3] = [
            (Interface { type_name: "shop::Safe".into(), ..theirs(&[put()]) }, &["it is a shop::Safe"], &["put"]),
            (theirs(&[changed(put()), take()]), &["shop::Till::put", "one version"], &["take", "count"]),
            (theirs(&[changed(take()), changed(put())]), &["shop::Till::put", " and ", "shop::Till::take"], &["count"]),
        ];
        for (theirs, says, says_not) in cases {
            let difference = differs::<Till>(&theirs).expect("they differ");
            assert!(says.iter().all(|text| difference.contains(text)), "{difference}");
            assert!(!says_not.iter().any(|text| difference.contains(text)), "{difference}");
        }
    }

    #[test]
    fn other_types_under_one_name_hash_otherwise() {
        #[derive(Serialize, Deserialize)]
        struct Put {
            amount: u64,
        }
        assert_ne!(put().1, schema::schema_hash::<(Put, u64)>(), "a field has a name now");
        assert_ne!(put().1, schema::schema_hash::<(super::tests::Put, u32)>(), "the reply is another");
        assert_eq!(Put { amount: 1 }.amount, 1);
    }
}
