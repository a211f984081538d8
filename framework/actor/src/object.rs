//! References to values: made by `put`, by tasks, by `submit`; read any number of times.
//!
//! | name | what it is |
//! |---|---|
//! | `ObjectId` | a plain id, in `mobula-types` |
//! | [`ObjectRef`] | the id and a guard: the value lives as long as one of them |
//! | [`Value`] | what `get` gives: the shared value itself |
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

use futures_util::future::BoxFuture;
use mobula_types::{CallError, ErrorChain, NotStarted, ObjectId, ProcessId};
use mobula_wire::codec;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use slab::Slab;

use crate::deliver::Fetched;
use crate::slot::CallState;
use crate::system::System;
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
    /// Held for another process's object; fetched when it is first asked for.
    foreign: Option<Foreign<T>>,
}

#[derive(Default)]
struct Waiters {
    wakers: Slab<Waker>,
}

struct Foreign<T> {
    asked: AtomicBool,
    decode: fn(&[u8]) -> Result<T, GetError>,
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
        let cell =
            ObjectCell { id, system: system.clone(), value: OnceLock::new(), waiters: Mutex::default(), call, foreign };
        Self { cell: Arc::new(cell) }
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
    fn into_owned(self) -> Option<Result<T, GetError>>
    where
        T: Clone,
    {
        let shared = self.cell.value.get()?.clone();
        drop(self);
        Some(shared.map(Arc::unwrap_or_clone))
    }

    /// Registers `waker` unless the value is there.
    fn poll_value(&self, cx: &mut Context<'_>, key: &mut Option<usize>) -> Poll<Result<Value<T>, GetError>> {
        if let Some(value) = self.value() {
            return Poll::Ready(value);
        }
        self.fetch_foreign();
        let mut waiters = self.cell.waiters.lock();
        // Filled while the lock was taken: whoever filled it may have woken the others already.
        if let Some(value) = self.value() {
            return Poll::Ready(value);
        }
        match key.and_then(|key| waiters.wakers.get_mut(key)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *key = Some(waiters.wakers.insert(cx.waker().clone())),
        }
        current::note_wait();
        Poll::Pending
    }

    fn fetch_foreign(&self) {
        let Some(foreign) = &self.cell.foreign else { return };
        if foreign.asked.swap(true, Ordering::AcqRel) {
            return;
        }
        let decode = foreign.decode;
        let object = self.clone();
        let system = self.cell.system.clone();
        arbiters::runtime().spawn(async move {
            let fetched = match system.deliver() {
                Some(deliver) => deliver.fetch(object.id()).await,
                None => Err(CallError::NotStarted(NotStarted::NoSession)),
            };
            // Decoding may meet references and actors: they belong to the system that asked.
            let before = current::adopt(Some(system));
            object.fill(fetched.and_then(|Fetched { bytes, pins: _pins }| decode(&bytes)));
            current::adopt(before);
        });
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
        if let Some(key) = self.key
            && !self.object.is_ready()
        {
            self.object.cell.waiters.lock().wakers.try_remove(key);
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

/// An argument on its way: a value, or a wait for one.
pub enum Arg<T> {
    /// Here.
    Value(T),
    /// As soon as a reference has its value.
    Later(BoxFuture<'static, Result<T, GetError>>),
}

impl<T: Send + 'static> Arg<T> {
    /// Waits for the value.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub async fn resolve(self) -> Result<T, GetError> {
        match self {
            Self::Value(value) => Ok(value),
            Self::Later(wait) => wait.await,
        }
    }
}

/// What can stand where a `T` is wanted: a `T`, or a reference to one.
#[diagnostic::on_unimplemented(
    message = "expected `{T}` or `ObjectRef<{T}>`, found `{Self}`",
    label = "cannot stand for `{T}`"
)]
pub trait IntoArg<T> {
    /// The argument.
    fn into_arg(self) -> Arg<T>;
}

#[diagnostic::do_not_recommend]
impl<T> IntoArg<T> for T {
    fn into_arg(self) -> Arg<T> {
        Arg::Value(self)
    }
}

#[diagnostic::do_not_recommend]
impl<T: Clone + Send + Sync + 'static> IntoArg<T> for ObjectRef<T> {
    fn into_arg(self) -> Arg<T> {
        Arg::Later(Box::pin(async move {
            if !self.is_ready() {
                self.get().await?;
            }
            self.into_owned().unwrap_or(Err(CallError::NotStarted(NotStarted::NoSession)))
        }))
    }
}

#[diagnostic::do_not_recommend]
impl<T: Clone + Send + Sync + 'static> IntoArg<T> for &ObjectRef<T> {
    fn into_arg(self) -> Arg<T> {
        self.clone().into_arg()
    }
}

#[diagnostic::do_not_recommend]
impl<T: Send + Sync + 'static> IntoArg<Arc<T>> for ObjectRef<T> {
    fn into_arg(self) -> Arg<Arc<T>> {
        Arg::Later(Box::pin(async move { self.get().await.map(Value::into_arc) }))
    }
}

#[diagnostic::do_not_recommend]
impl<T: Send + Sync + 'static> IntoArg<Arc<T>> for &ObjectRef<T> {
    fn into_arg(self) -> Arg<Arc<T>> {
        self.clone().into_arg()
    }
}

#[diagnostic::do_not_recommend]
impl IntoArg<String> for &str {
    fn into_arg(self) -> Arg<String> {
        Arg::Value(self.to_owned())
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
            let (bytes, pins) = pinning(|| codec::encode_limited(&*value, max));
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
            let by = system.process();
            if id.owner == by {
                system.hold_object(*id, by);
            } else if let Some(deliver) = system.deliver() {
                deliver.hold(*id);
            }
            Pinned { system: system.clone(), id: *id, by }
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
        let decode = |bytes: &[u8]| {
            codec::decode::<T>(bytes)
                .map_err(|error| CallError::NotStarted(NotStarted::Codec { message: error.to_string() }))
        };
        Ok(Self::empty(&system, None, Some((id, Foreign { asked: AtomicBool::new(false), decode }))))
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
