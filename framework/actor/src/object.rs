//! References to values: made by `put`, by tasks, by `submit`; read any number of times.
//!
//! | name | what it is |
//! |---|---|
//! | `ObjectId` | a plain id, in `mobula-types` |
//! | [`ObjectRef`] | the id and a guard: the value lives as long as one of them |
//! | [`Value`] | what `get` gives: the shared value itself |
//! | [`View`] | what `get_view` gives: the value where it lies |
//!
//! A value stays the typed value behind an `Arc` until its reference leaves the process; only then is it exported, under
//! its id, to be encoded for whoever asks (design.md §6). This file stores nothing on disk or in shared memory.

use std::any::Any;
use std::collections::HashMap;
use std::future::{Future, IntoFuture};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mobula_types::{CallError, ErrorChain, NotStarted, ObjectId, ProcessId};
use mobula_wire::plain::{self, Viewable};
use mobula_wire::{EncodeError, Encoded, INLINE_BYTES_MAX};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use slab::Slab;

use crate::deliver::Fetched;
use crate::slot::CallState;
use crate::system::System;
use crate::view::View;
use crate::{arbiters, current};

/// Why a reference has no value.
pub type GetError = CallError<ErrorChain>;

/// A reference to a value that is here, or will be, or failed to be.
///
/// Cheap to clone; cloning shares the value. Dropping it cancels nothing.
pub struct ObjectRef<T> {
    cell: Arc<ObjectCell<T>>,
}

struct ObjectCell<T> {
    id: ObjectId,
    system: Arc<System>,
    value: OnceLock<Result<Arc<T>, GetError>>,
    waiters: Mutex<Waiters>,
    call: Option<Arc<dyn Cancellable>>,
    /// Whether its value is too large for a message, once somebody has wanted to know.
    is_large: OnceLock<bool>,
    /// Held for another process's object; fetched when it is first asked for.
    foreign: Option<Foreign<T>>,
}

#[derive(Default)]
struct Waiters {
    wakers: Slab<Waker>,
}

struct Foreign<T> {
    decode: fn(&Bytes) -> Result<T, GetError>,
    fetching: Mutex<Fetching>,
}

/// How far the value of another process's object is.
#[derive(Clone, Default)]
enum Fetching {
    #[default]
    NotAsked,
    /// Its bytes are asked for, to be decoded if the value itself is wanted.
    Asked { decoded: bool },
    /// Its bytes are here.
    Here(Arc<Fetched>),
    /// Its bytes are being decoded, or there are none: what comes of it is the cell's value.
    Over,
}

impl<T> Drop for ObjectCell<T> {
    fn drop(&mut self) {
        if self.foreign.is_some()
            && let Some(deliver) = self.system.deliver()
        {
            deliver.release(self.id);
        }
    }
}

impl<T: Send + Sync + 'static> ObjectRef<T> {
    /// A reference to `value`.
    pub fn ready(system: &Arc<System>, value: T) -> Self {
        let object = Self::empty(system, None, None);
        object.fill(Ok(value));
        object
    }

    /// A reference whose value comes later, by [`fill`](Self::fill); `call` cancels what makes it.
    pub fn pending(system: &Arc<System>, call: Option<Arc<dyn Cancellable>>) -> Self {
        Self::empty(system, call, None)
    }

    fn empty(
        system: &Arc<System>,
        call: Option<Arc<dyn Cancellable>>,
        foreign: Option<(ObjectId, Foreign<T>)>,
    ) -> Self {
        let (id, foreign) = match foreign {
            Some((id, foreign)) => (id, Some(foreign)),
            None => (system.next_object_id(), None),
        };
        let (value, waiters, is_large) = (OnceLock::new(), Mutex::default(), OnceLock::new());
        Self { cell: Arc::new(ObjectCell { id, system: system.clone(), value, waiters, call, is_large, foreign }) }
    }

    /// Gives it its value, or the reason why it has none; the first wins.
    pub fn fill(&self, value: Result<T, GetError>) {
        if self.cell.value.set(value.map(Arc::new)).is_err() {
            return;
        }
        let waiting = std::mem::take(&mut self.cell.waiters.lock().wakers);
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// The object's id.
    pub fn id(&self) -> ObjectId {
        self.cell.id
    }

    /// Whether there is a value, or a reason why there is none.
    pub fn is_ready(&self) -> bool {
        self.cell.value.get().is_some()
    }

    /// Waits for the value. The future holds a reference of its own.
    pub fn get(&self) -> Get<T> {
        Get { object: self.clone(), key: None }
    }

    /// Waits for the value on a thread that may block: the `get` of functions that are not async.
    ///
    /// # Errors
    ///
    /// Why there is no value; [`NotStarted::WouldBlock`] on a thread that actors share.
    pub fn wait(&self) -> Result<Value<T>, GetError> {
        if let Some(value) = self.value() {
            return value;
        }
        if arbiters::is_shared_thread() {
            return Err(CallError::NotStarted(NotStarted::WouldBlock));
        }
        let mut get = self.get();
        match blocking::hook() {
            None => Ok(block_on(&mut get, None)),
            Some(hook) => {
                let mut value = None;
                let allowed = hook.block(&mut |limit| {
                    value = value.take().or_else(|| block_on(&mut get, limit));
                    value.is_some()
                });
                allowed.map(|()| value)
            }
        }
        .map_err(CallError::NotStarted)
        .and_then(|value| value.expect("a wait without a limit ends with a value"))
    }

    /// Gives up what makes the value: a task or call that waits never runs, one that runs sees it.
    pub fn cancel(&self) {
        if let Some(call) = &self.cell.call {
            call.cancel();
        }
    }

    fn value(&self) -> Option<Result<Value<T>, GetError>> {
        self.cell.value.get().map(|value| value.clone().map(Value))
    }

    /// The value itself if this is its last holder, else a clone.
    pub(crate) fn into_owned(self) -> Option<Result<T, GetError>>
    where
        T: Clone,
    {
        let shared = self.cell.value.get()?.clone();
        drop(self);
        Some(shared.map(Arc::unwrap_or_clone))
    }

    fn poll_value(&self, cx: &mut Context<'_>, key: &mut Option<usize>) -> Poll<Result<Value<T>, GetError>> {
        self.poll_for(cx, key, true, Self::value)
    }

    /// Registers the waker unless `look` finds what is waited for.
    fn poll_for<R>(
        &self,
        cx: &mut Context<'_>,
        key: &mut Option<usize>,
        decoded: bool,
        look: impl Fn(&Self) -> Option<R>,
    ) -> Poll<R> {
        if let Some(found) = look(self) {
            return Poll::Ready(found);
        }
        self.fetch_foreign(decoded);
        let mut waiters = self.cell.waiters.lock();
        // Filled while the lock was taken: whoever filled it may have woken the others already.
        if let Some(found) = look(self) {
            return Poll::Ready(found);
        }
        match key.and_then(|key| waiters.wakers.get_mut(key)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *key = Some(waiters.wakers.insert(cx.waker().clone())),
        }
        current::note_wait();
        Poll::Pending
    }

    /// Nobody waits there any more.
    fn forget_waiter(&self, key: usize) {
        let mut waiters = self.cell.waiters.lock();
        // Whoever gave the value has emptied the list; what is there now is another's.
        if !self.is_ready() {
            waiters.wakers.try_remove(key);
        }
    }

    /// Has another process's value come: its bytes, and if `decoded` then the value that they are.
    fn fetch_foreign(&self, decoded: bool) {
        let Some(foreign) = &self.cell.foreign else { return };
        let here = {
            let mut fetching = foreign.fetching.lock();
            match &mut *fetching {
                Fetching::NotAsked => {
                    *fetching = Fetching::Asked { decoded };
                    None
                }
                Fetching::Asked { decoded: wanted } => {
                    *wanted |= decoded;
                    return;
                }
                Fetching::Here(_) if decoded => match std::mem::replace(&mut *fetching, Fetching::Over) {
                    Fetching::Here(fetched) => Some(fetched),
                    _ => return,
                },
                Fetching::Here(_) | Fetching::Over => return,
            }
        };
        let (object, decode) = (self.clone(), foreign.decode);
        arbiters::runtime().spawn(async move {
            match here {
                Some(fetched) => object.decode_foreign(&fetched, decode),
                None => object.fetched(decode).await,
            }
        });
    }

    async fn fetched(&self, decode: fn(&Bytes) -> Result<T, GetError>) {
        let fetched = match self.cell.system.deliver() {
            Some(deliver) => deliver.fetch(self.id()).await,
            None => Err(CallError::NotStarted(NotStarted::NoSession)),
        };
        let Some(foreign) = &self.cell.foreign else { return };
        let fetched = match fetched {
            Ok(fetched) => Arc::new(fetched),
            Err(error) => {
                *foreign.fetching.lock() = Fetching::Over;
                return self.fill(Err(error));
            }
        };
        let is_decoded = {
            let mut fetching = foreign.fetching.lock();
            let decoded = matches!(&*fetching, Fetching::Asked { decoded: true });
            *fetching = if decoded { Fetching::Over } else { Fetching::Here(fetched.clone()) };
            decoded
        };
        if is_decoded {
            self.decode_foreign(&fetched, decode);
        } else {
            // Who waits for the value itself goes on waiting.
            let waiting: Vec<Waker> = self.cell.waiters.lock().wakers.iter().map(|(_, waker)| waker.clone()).collect();
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    fn decode_foreign(&self, fetched: &Fetched, decode: fn(&Bytes) -> Result<T, GetError>) {
        self.fill(current::within(&self.cell.system, || decode(&fetched.bytes)));
    }

    /// The bytes of another process's value, once they are here and as long as nobody has wanted the value itself.
    fn foreign_bytes(&self) -> Option<Arc<Fetched>> {
        match &*self.cell.foreign.as_ref()?.fetching.lock() {
            Fetching::Here(fetched) => Some(fetched.clone()),
            _ => None,
        }
    }
}

impl<T> Clone for ObjectRef<T> {
    fn clone(&self) -> Self {
        Self { cell: self.cell.clone() }
    }
}

impl<T> PartialEq for ObjectRef<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cell.id == other.cell.id
    }
}

impl<T> Eq for ObjectRef<T> {}

impl<T> fmt::Debug for ObjectRef<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectRef({})", self.cell.id)
    }
}

impl<T: Send + Sync + 'static> IntoFuture for ObjectRef<T> {
    type Output = Result<Value<T>, GetError>;
    type IntoFuture = Get<T>;

    fn into_future(self) -> Get<T> {
        Get { object: self, key: None }
    }
}

/// The wait for an object's value.
#[must_use = "a wait does nothing unless awaited"]
pub struct Get<T: Send + Sync + 'static> {
    object: ObjectRef<T>,
    key: Option<usize>,
}

impl<T: Send + Sync + 'static> Future for Get<T> {
    type Output = Result<Value<T>, GetError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { object, key } = &mut *self;
        object.poll_value(cx, key)
    }
}

impl<T: Send + Sync + 'static> Drop for Get<T> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.object.forget_waiter(key);
        }
    }
}

impl<T: Viewable> ObjectRef<T> {
    /// Waits until the value can be read where it lies.
    pub fn get_view(&self) -> GetView<T> {
        GetView { object: self.clone(), key: None }
    }

    fn view(&self) -> Option<Result<View<T>, GetError>> {
        if let Some(value) = self.value() {
            return Some(value.map(|value| View::of(value.into_arc())));
        }
        match View::of_bytes(self.foreign_bytes()?) {
            Some(view) => Some(Ok(view)),
            // It lies askew, or is no such value: decoding it gives a copy, or says what is wrong.
            None => {
                self.fetch_foreign(true);
                None
            }
        }
    }
}

/// The wait for a [`View`].
#[must_use = "a wait does nothing unless awaited"]
pub struct GetView<T: Viewable> {
    object: ObjectRef<T>,
    key: Option<usize>,
}

impl<T: Viewable> Future for GetView<T> {
    type Output = Result<View<T>, GetError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { object, key } = &mut *self;
        object.poll_for(cx, key, false, ObjectRef::view)
    }
}

impl<T: Viewable> Drop for GetView<T> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.object.forget_waiter(key);
        }
    }
}

/// A shared value: derefs to it.
pub struct Value<T>(Arc<T>);

impl<T> Value<T> {
    /// The value itself if nobody else holds it, else a clone.
    pub fn into_owned(self) -> T
    where
        T: Clone,
    {
        Arc::unwrap_or_clone(self.0)
    }

    /// The value behind its `Arc`.
    pub fn into_arc(self) -> Arc<T> {
        self.0
    }
}

impl<T> Deref for Value<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Value<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: fmt::Debug> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: fmt::Display> fmt::Display for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: PartialEq> PartialEq<T> for Value<T> {
    fn eq(&self, other: &T) -> bool {
        *self.0 == *other
    }
}

/// What makes an object, as far as it can be given up.
pub trait Cancellable: Send + Sync {
    /// Gives it up.
    fn cancel(&self);
}

/// The cancellation of a call whose answer is an object.
#[derive(Default)]
pub struct Cancel {
    cancelled: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Cancellable for Cancel {
    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        let waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.into_iter().for_each(Waker::wake);
        crate::patrol::patrol().call_cancelled();
    }
}

impl CallState for Cancel {
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    fn poll_cancelled(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.waiting.lock();
        if self.is_cancelled() {
            return Poll::Ready(());
        }
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl<T: Serialize + Send + Sync + 'static> ObjectRef<T> {
    /// Waits until there is a value or none, and says whether it is better read where it is than sent along: it is
    /// another's, or too large for a message.
    pub(crate) async fn stays_where_it_is(&self) -> Result<bool, GetError> {
        if self.cell.foreign.is_some() && !self.is_ready() {
            return Ok(true);
        }
        let value = self.get().await?;
        let is_large = || matches!(Encoded::of(&*value, INLINE_BYTES_MAX), Err(EncodeError::TooLarge { .. }));
        Ok(*self.cell.is_large.get_or_init(is_large))
    }
}

/// An object by its id alone: held, to be read as whatever its reader takes it for.
pub(crate) struct Foreigner {
    id: ObjectId,
    system: Arc<System>,
}

impl Foreigner {
    pub(crate) fn hold(system: &Arc<System>, id: ObjectId) -> Self {
        hold_anywhere(system, id);
        Self { id, system: system.clone() }
    }

    pub(crate) async fn fetch(&self) -> Result<Fetched, GetError> {
        let Self { id, system } = self;
        match system.deliver() {
            _ if id.owner == system.process() => system.encoded_object(*id).await,
            Some(deliver) => deliver.fetch(*id).await,
            None => Err(CallError::NotStarted(NotStarted::NoSession)),
        }
    }

    /// Runs `decode` as code of its system, to which what it meets belongs.
    pub(crate) fn within<R>(&self, decode: impl FnOnce() -> R) -> R {
        current::within(&self.system, decode)
    }
}

impl Drop for Foreigner {
    fn drop(&mut self) {
        release_anywhere(&self.system, self.id, self.system.process());
    }
}

/// Objects whose references have left the process, by id.
#[derive(Default)]
pub(crate) struct Exports {
    objects: Mutex<HashMap<ObjectId, Export>>,
}

struct Export {
    object: Arc<dyn Exported>,
    /// Who holds it how often; messages on their way count for the process that sends them, or for the one they go to
    /// once they have been handed to it.
    holders: Holders,
}

/// Few processes hold one object, so a list is enough. Nobody in it holds nothing.
#[derive(Default)]
struct Holders(Vec<(ProcessId, usize)>);

impl Holders {
    fn add(&mut self, by: ProcessId) {
        match self.0.iter_mut().find(|(holder, _)| *holder == by) {
            Some((_, count)) => *count += 1,
            None => self.0.push((by, 1)),
        }
    }

    fn remove(&mut self, by: ProcessId) {
        if let Some(at) = self.0.iter().position(|(holder, _)| *holder == by) {
            self.0[at].1 -= 1;
            if self.0[at].1 == 0 {
                self.0.swap_remove(at);
            }
        }
    }
}

/// An object whose type is forgotten.
trait Exported: Send + Sync {
    fn encoded(self: Arc<Self>) -> BoxFuture<'static, Result<Fetched, GetError>>;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<T: Serialize + Send + Sync + 'static> Exported for ObjectCell<T> {
    fn encoded(self: Arc<Self>) -> BoxFuture<'static, Result<Fetched, GetError>> {
        Box::pin(async move {
            let max = self.system.value_bytes_max();
            let value = ObjectRef { cell: self }.get().await?;
            let (bytes, pins) = pinning(|| plain::encode(&*value, max));
            let bytes = bytes.map_err(|error| CallError::NotStarted(error.into()))?;
            Ok(Fetched { bytes: bytes.into(), pins })
        })
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl System {
    /// The process `by` holds one of our objects once more.
    pub fn hold_object(&self, id: ObjectId, by: ProcessId) {
        if let Some(export) = self.exports.objects.lock().get_mut(&id) {
            export.holders.add(by);
        }
    }

    /// The process `by` holds it once less; the last holder frees the object.
    pub fn release_object(&self, id: ObjectId, by: ProcessId) {
        let freed = {
            let mut objects = self.exports.objects.lock();
            let Some(export) = objects.get_mut(&id) else { return };
            export.holders.remove(by);
            if export.holders.0.is_empty() { objects.remove(&id) } else { None }
        };
        drop(freed);
    }

    /// What one process held is held by another now.
    fn hand_object(&self, id: ObjectId, from: ProcessId, to: ProcessId) {
        if let Some(export) = self.exports.objects.lock().get_mut(&id) {
            export.holders.add(to);
            export.holders.remove(from);
        }
    }

    /// Processes that have ended hold nothing any more.
    pub fn holders_gone(&self, is_gone: impl Fn(ProcessId) -> bool) {
        let mut freed = Vec::new();
        self.exports.objects.lock().retain(|_, export| {
            export.holders.0.retain(|(holder, _)| !is_gone(*holder));
            let is_held = !export.holders.0.is_empty();
            if !is_held {
                freed.push(export.object.clone());
            }
            is_held
        });
        drop(freed);
    }

    /// Objects that other processes hold.
    pub fn objects_exported(&self) -> usize {
        self.exports.objects.lock().len()
    }

    /// The encoded value of one of our objects, as soon as it has one.
    pub fn encoded_object(&self, id: ObjectId) -> BoxFuture<'static, Result<Fetched, GetError>> {
        let object = self.exports.objects.lock().get(&id).map(|export| export.object.clone());
        match object {
            Some(object) => object.encoded(),
            None => {
                let message = format!("{id} is not held by anybody any more");
                Box::pin(async { Err(CallError::NotStarted(NotStarted::Codec { message })) })
            }
        }
    }
}

/// References that a message on its way names; they are held until it has arrived or is dropped.
#[derive(Default)]
pub struct Pins(Vec<Pinned>);

/// What is held for the receiver of a message that is about to be sent; taken back when it is dropped instead.
#[must_use = "what is dropped is taken back"]
pub struct Handed(Pins);

impl Handed {
    /// The message has been sent: its receiver releases this.
    pub fn sent(mut self) {
        self.0.0.clear();
    }
}

/// One reference that is held; an object of this process counts it for `by`.
struct Pinned {
    system: Arc<System>,
    id: ObjectId,
    by: ProcessId,
}

impl Pins {
    /// The ids, for the frame's header.
    pub fn ids(&self) -> Vec<ObjectId> {
        self.0.iter().map(|pin| pin.id).collect()
    }

    /// Whether the message names no references.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The message is about to be sent to the process `to`: what belongs to one of the two ends is held for it from now on,
    /// and released by it ([`received`](Self::received)). The second are the pins of objects that belong to others: they
    /// must be held until their owners count `to`.
    pub fn hand_to(mut self, to: ProcessId) -> (Handed, Self) {
        let (mut handed, mut others) = (Self::default(), Self::default());
        for pin in std::mem::take(&mut self.0) {
            let me = pin.system.process();
            if pin.id.owner == me {
                pin.system.hand_object(pin.id, pin.by, to);
                handed.0.push(Pinned { by: to, ..pin });
            } else if pin.id.owner == to || to == me {
                // What goes to this process itself is held by it already.
                handed.0.push(pin);
            } else {
                others.0.push(pin);
            }
        }
        (Handed(handed), others)
    }

    /// What a message of the process `from`, which names `ids`, held for us on its way. The owners of what belongs to
    /// neither end have been asked to count us for it.
    pub fn received(system: &Arc<System>, from: ProcessId, ids: &[ObjectId]) -> Self {
        Self(ids.iter().map(|id| Pinned { system: system.clone(), id: *id, by: from }).collect())
    }

    /// The same references, held once more.
    #[must_use = "what is dropped is released"]
    pub fn again(&self) -> Self {
        let hold = |pin: &Pinned| {
            let Pinned { system, id, .. } = pin;
            hold_anywhere(system, *id);
            Pinned { system: system.clone(), id: *id, by: system.process() }
        };
        Self(self.0.iter().map(hold).collect())
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for Pinned { system, id, by } in self.0.drain(..) {
            release_anywhere(&system, id, by);
        }
    }
}

fn hold_anywhere(system: &Arc<System>, id: ObjectId) {
    if id.owner == system.process() {
        system.hold_object(id, id.owner);
    } else if let Some(deliver) = system.deliver() {
        deliver.hold(id);
    }
}

fn release_anywhere(system: &Arc<System>, id: ObjectId, by: ProcessId) {
    if id.owner == system.process() {
        system.release_object(id, by);
    } else if let Some(deliver) = system.deliver() {
        deliver.release(id);
    }
}

thread_local! {
    static SCOPE: Mutex<Option<Pins>> = const { Mutex::new(None) };
}

/// Runs `encode` and gathers the references that what it encodes names.
pub fn pinning<T>(encode: impl FnOnce() -> T) -> (T, Pins) {
    let outer = SCOPE.with(|scope| scope.lock().replace(Pins::default()));
    let result = encode();
    let pins = SCOPE.with(|scope| std::mem::replace(&mut *scope.lock(), outer));
    (result, pins.unwrap_or_default())
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Serialize for ObjectRef<T> {
    /// Exports the object and writes its id.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ObjectCell { id, system, .. } = &*self.cell;
        if id.owner == system.process() {
            let mut objects = system.exports.objects.lock();
            let new = || Export { object: self.cell.clone(), holders: Holders::default() };
            objects.entry(*id).or_insert_with(new).holders.add(id.owner);
        } else if let Some(deliver) = system.deliver() {
            deliver.hold(*id);
        }
        let pinned = SCOPE.with(|scope| match &mut *scope.lock() {
            Some(pins) => {
                pins.0.push(Pinned { system: system.clone(), id: *id, by: system.process() });
                true
            }
            None => false,
        });
        if !pinned {
            // Nobody will say when it has arrived, so nobody may rely on it: what is written is only a name.
            release_anywhere(system, *id, system.process());
        }
        Serialize::serialize(id, serializer)
    }
}

impl<'de, T: Serialize + DeserializeOwned + Send + Sync + 'static> Deserialize<'de> for ObjectRef<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let id = ObjectId::deserialize(deserializer)?;
        let system = current::decoding()?;
        if id.owner == system.process() {
            let export = system.exports.objects.lock().get(&id).map(|export| export.object.clone());
            return export
                .and_then(|object| object.into_any().downcast::<ObjectCell<T>>().ok())
                .map(|cell| Self { cell })
                .ok_or_else(|| D::Error::custom(format!("{id} is not here, or not of this type")));
        }
        let deliver = system.deliver().ok_or_else(|| D::Error::custom(format!("{id} belongs to an unknown node")))?;
        deliver.hold(id);
        let decode = |bytes: &Bytes| {
            plain::decode::<T>(bytes)
                .map_err(|error| CallError::NotStarted(NotStarted::Codec { message: error.to_string() }))
        };
        Ok(Self::empty(&system, None, Some((id, Foreign { decode, fetching: Mutex::default() }))))
    }
}

/// Blocking waits, and who must know of them.
pub mod blocking {
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::time::Duration;

    use mobula_types::NotStarted;

    /// Waits in the name of a pool's thread, so that the pool can let another take its place meanwhile.
    pub trait Blocking: Send + Sync {
        /// Calls `wait` until it says that the value is there. `wait` sleeps at most the time it is given, or as long as
        /// it takes.
        ///
        /// # Errors
        ///
        /// Why this thread may not wait.
        fn block(&self, wait: &mut dyn FnMut(Option<Duration>) -> bool) -> Result<(), NotStarted>;
    }

    thread_local!(static HOOK: RefCell<Option<Arc<dyn Blocking>>> = const { RefCell::new(None) });

    /// Sets who does this thread's blocking waits.
    pub fn set_hook(hook: Arc<dyn Blocking>) {
        HOOK.with_borrow_mut(|slot| *slot = Some(hook));
    }

    pub(crate) fn hook() -> Option<Arc<dyn Blocking>> {
        HOOK.with_borrow(Clone::clone)
    }
}

/// Polls a future on this thread, which sleeps meanwhile, at most `limit`.
fn block_on<F: Future + Unpin>(mut future: F, limit: Option<Duration>) -> Option<F::Output> {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    let end = limit.map(|limit| Instant::now() + limit);
    loop {
        if let Poll::Ready(result) = Pin::new(&mut future).poll(&mut cx) {
            return Some(result);
        }
        match end.map(|end| end.saturating_duration_since(Instant::now())) {
            None => thread::park(),
            Some(Duration::ZERO) => return None,
            Some(left) => thread::park_timeout(left),
        }
    }
}
