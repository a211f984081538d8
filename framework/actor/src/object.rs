//! References to values: made by `put`, by tasks, by `submit`; read any number of times.
//!
//! | name | what it is |
//! |---|---|
//! | `ObjectId` | a plain id, in `mobula-types` |
//! | [`ObjectRef`] | the id and a guard: the value lives as long as one of them |
//! | [`Value`] | what `get` gives: the shared value itself |
//! | [`View`] | what `get_view` gives: the value where it lies |
//! | [`Writer`] | an array while it is written where it will be read |
//! | [`Pins`] | references on their way inside a message |
//!
//! A value stays the typed value behind an `Arc` until its reference leaves the process; only then is it encoded, and its
//! node owns it from then on (design.md §6). This file stores nothing on disk or in shared memory.

mod cancel;
mod carried;
mod exports;
mod pins;
mod room;
mod value;
mod writer;

pub mod blocking;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::Location;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use mobula_types::{CallError, ErrorChain, NotCancellable, NotStarted, ObjectId, Time};
use mobula_wire::INLINE_BYTES_MAX;
use mobula_wire::plain::{self, Viewable};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use slab::Slab;

pub use self::cancel::{Cancel, Cancellable};
pub(crate) use self::carried::Named;
use self::carried::{CARRIED_BYTES_MAX, Size};
use self::exports::LetGo;
pub(crate) use self::exports::{Exports, Foreigner};
pub use self::pins::{Pins, pinning};
pub use self::room::PrivateRoom;
pub use self::value::Value;
pub use self::writer::Writer;
use crate::deliver::Fetched;
use crate::patrol::{Ticket, patrol};
use crate::system::System;
use crate::view::View;
use crate::waits::{On, Wait};
use crate::{arbiters, clock, current, wakes};

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
    /// Where it was made: in the user's code, for one of ours.
    site: &'static Location<'static>,
    system: Arc<System>,
    value: OnceLock<Result<Arc<T>, GetError>>,
    waiters: Mutex<Waiters>,
    call: Option<Arc<dyn Cancellable>>,
    /// How large its value is for a message, once somebody has wanted to know.
    size: OnceLock<Size>,
    /// Its value is first of all bytes, to be decoded when they are wanted.
    encoded: Option<ByBytes<T>>,
    /// Of one of ours: the bytes of its value where others of this host read them, once somebody has.
    shared: Mutex<Option<Arc<Fetched>>>,
    /// It counts as held by this process, outside.
    is_counted: AtomicBool,
}

#[derive(Default)]
struct Waiters {
    wakers: Slab<Waker>,
}

/// An object whose value may be bytes: another process's, fetched when it is first asked for, or one of ours that was written
/// as such or came so.
struct ByBytes<T> {
    decode: fn(&Bytes) -> Result<T, GetError>,
    fetching: Mutex<Fetching>,
    is_foreign: bool,
    /// One of ours that has its value, on another node.
    is_stored: AtomicBool,
}

impl<T: DeserializeOwned + 'static> ByBytes<T> {
    fn of(is_foreign: bool) -> Self {
        Self { decode: decode::<T>, fetching: Mutex::default(), is_foreign, is_stored: AtomicBool::new(false) }
    }
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

/// What somebody waits for.
#[derive(Clone, Copy)]
enum Wish {
    Value,
    Bytes,
    /// Whether there is a value, or none.
    Readiness,
}

impl<T: Send + Sync + 'static> LetGo for ObjectCell<T> {
    fn let_go(&self) {
        // What is taken is dropped without a lock: that may take others.
        let shared = self.shared.lock().take();
        let Some(encoded) = &self.encoded else { return };
        let here = {
            let mut fetching = encoded.fetching.lock();
            let is_here = matches!(&*fetching, Fetching::Here(_));
            if is_here {
                // From now on it is fetched as what another node has.
                encoded.is_stored.store(true, Ordering::Release);
            }
            is_here.then(|| std::mem::take(&mut *fetching))
        };
        drop((shared, here));
    }
}

impl<T> ObjectCell<T> {
    fn is_foreign(&self) -> bool {
        self.encoded.as_ref().is_some_and(|encoded| encoded.is_foreign)
    }

    /// Whether it has its value, and that is on another node.
    fn is_stored(&self) -> bool {
        self.encoded.as_ref().is_some_and(|encoded| encoded.is_stored.load(Ordering::Acquire))
    }
}

impl<T> Drop for ObjectCell<T> {
    fn drop(&mut self) {
        if !*self.is_counted.get_mut() {
            return;
        }
        if self.is_foreign() {
            self.system.exports.reads_no_more(self.id);
        } else {
            self.system.exports.forget(self.id);
        }
        if let Some(deliver) = self.system.deliver() {
            deliver.release(self.id);
        }
    }
}

impl<T: Send + Sync + 'static> ObjectRef<T> {
    /// A reference to `value`.
    #[track_caller]
    pub fn ready(system: &Arc<System>, value: T) -> Self {
        let object = Self::empty(system, None, None);
        object.fill(Ok(value));
        object
    }

    /// A reference whose value comes later, by [`fill`](Self::fill); `call` cancels what makes it.
    #[track_caller]
    pub fn pending(system: &Arc<System>, call: Option<Arc<dyn Cancellable>>) -> Self {
        Self::empty(system, call, None)
    }

    #[track_caller]
    fn empty(
        system: &Arc<System>,
        call: Option<Arc<dyn Cancellable>>,
        encoded: Option<(ObjectId, ByBytes<T>)>,
    ) -> Self {
        let (id, encoded) = match encoded {
            Some((id, encoded)) => (id, Some(encoded)),
            None => (system.next_object_id(), None),
        };
        let (value, waiters, size) = (OnceLock::new(), Mutex::default(), OnceLock::new());
        let (system, shared) = (system.clone(), Mutex::default());
        let is_counted = AtomicBool::new(encoded.as_ref().is_some_and(|encoded| encoded.is_foreign));
        let site = Location::caller();
        let cell = ObjectCell { id, site, system, value, waiters, call, size, encoded, shared, is_counted };
        Self { cell: Arc::new(cell) }
    }

    /// A reference to a value that was written as its bytes.
    #[track_caller]
    pub(crate) fn written(system: &Arc<System>, bytes: Fetched) -> Self
    where
        T: Serialize + DeserializeOwned,
    {
        let object = Self::pending_bytes(system, None);
        object.fill_bytes(bytes);
        object
    }

    /// Like [`pending`](Self::pending), of a value that may come as its bytes, by [`fill_bytes`](Self::fill_bytes).
    #[track_caller]
    pub fn pending_bytes(system: &Arc<System>, call: Option<Arc<dyn Cancellable>>) -> Self
    where
        T: DeserializeOwned,
    {
        Self::empty(system, call, Some((system.next_object_id(), ByBytes::of(false))))
    }

    /// Gives it the bytes of its value, to be decoded if anybody wants more than to look at them.
    ///
    /// Bytes in the memory of the host are the node's from then on, which takes them elsewhere when that runs short.
    pub fn fill_bytes(&self, bytes: Fetched)
    where
        T: Serialize,
    {
        let is_shared = || self.cell.system.deliver().is_some_and(|deliver| deliver.is_shared(&bytes.bytes));
        let is_shared = bytes.bytes.len() > INLINE_BYTES_MAX && is_shared();
        let Some(encoded) = self.cell.encoded.as_ref().filter(|_| self.cell.value.get().is_none()) else { return };
        let bytes = Arc::new(bytes);
        {
            let mut shared = self.cell.shared.lock();
            if shared.is_some() {
                return;
            }
            *shared = Some(bytes.clone());
        }
        if is_shared {
            self.cell.leave();
        }
        self.bytes_came(encoded, &bytes);
    }

    /// It has its value, on another node: it is fetched when somebody wants it. False when it has one here, or a reason why it
    /// has none.
    pub fn fill_stored(&self) -> bool
    where
        T: Serialize,
    {
        let Some(encoded) = self.cell.encoded.as_ref().filter(|_| !self.is_ready()) else { return false };
        self.cell.count();
        let wanted = {
            let mut fetching = encoded.fetching.lock();
            encoded.is_stored.store(true, Ordering::Release);
            match std::mem::take(&mut *fetching) {
                Fetching::Asked { decoded } => Some(decoded),
                other => {
                    *fetching = other;
                    None
                }
            }
        };
        if let Some(decoded) = wanted {
            self.fetch(decoded);
        }
        let waiting: Vec<Waker> = self.cell.waiters.lock().wakers.iter().map(|(_, waker)| waker.clone()).collect();
        waiting.into_iter().for_each(wakes::wake);
        true
    }

    /// Gives it its value, or the reason why it has none; the first wins.
    pub fn fill(&self, value: Result<T, GetError>) {
        if self.cell.value.set(value.map(Arc::new)).is_err() {
            return;
        }
        let waiting = std::mem::take(&mut self.cell.waiters.lock().wakers);
        waiting.into_iter().for_each(|(_, waker)| wakes::wake(waker));
    }

    /// The object's id.
    pub fn id(&self) -> ObjectId {
        self.cell.id
    }

    /// Whether there is a value, be it as its bytes, or a reason why there is none.
    pub fn is_ready(&self) -> bool {
        let cell = &self.cell;
        cell.value.get().is_some() || cell.shared.lock().is_some() || cell.is_stored() || self.bytes_here().is_some()
    }

    /// Waits for the value. The future holds a reference of its own.
    pub fn get(&self) -> Get<T> {
        Get { object: self.clone(), key: None, noted: Noted::default() }
    }

    /// Has the value come here, if it is elsewhere: whoever waits for several, one after the other, waits for the slowest
    /// and not for the sum.
    pub fn prefetch(&self) {
        if self.cell.value.get().is_none() {
            self.fetch(true);
        }
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
        blocking::wait(self.get()).map_err(CallError::NotStarted)?
    }

    /// Gives up what makes the value: a task or call that waits never runs, one that runs sees it.
    pub fn cancel(&self) {
        if let Some(call) = &self.cell.call {
            call.cancel();
        }
    }

    /// Waits until it [is ready](Self::is_ready): what is only waited for is not decoded.
    pub fn settled(&self) -> Settled<T> {
        Settled { object: self.clone(), key: None }
    }

    /// Gives the task up that makes the value, and ends the process in which it runs, within 1 s: for code that does not
    /// look whether it is cancelled. Whoever waits for the value gets [`CallError::Cancelled`]. What the task has submitted
    /// is cancelled with it.
    ///
    /// A task that has its outcome is left alone, also when [`cancel`](Self::cancel) was that.
    ///
    /// # Errors
    ///
    /// [`NotCancellable`]: the task was not submitted with `options().isolated()`, on a cluster and by this process. It is
    /// as if this had not been called.
    pub fn cancel_forced(&self) -> Result<(), NotCancellable> {
        self.cell.call.as_ref().map_or(Err(NotCancellable::NoTask), |call| call.cancel_forced())
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
        self.poll_for(cx, key, Wish::Value, Self::value)
    }

    /// Whom those wait for that wait for it.
    fn awaited(&self) -> Option<On> {
        match &self.cell.call {
            Some(maker) => Some(On::Made(maker.clone())),
            None => self.cell.is_foreign().then_some(On::Object(self.cell.id)),
        }
    }

    /// Registers the waker unless `look` finds what is waited for.
    fn poll_for<R>(
        &self,
        cx: &mut Context<'_>,
        key: &mut Option<usize>,
        wish: Wish,
        look: impl Fn(&Self) -> Option<R>,
    ) -> Poll<R> {
        if let Some(found) = look(self) {
            return Poll::Ready(found);
        }
        match wish {
            Wish::Value => self.fetch(true),
            Wish::Bytes => self.fetch(false),
            // Of one of ours it is known without reading it.
            Wish::Readiness if self.cell.is_foreign() => self.fetch(false),
            Wish::Readiness => {}
        }
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
        if self.cell.value.get().is_none() {
            waiters.wakers.try_remove(key);
        }
    }

    /// Has a value that is bytes come: those, and if `decoded` then the value that they are.
    fn fetch(&self, decoded: bool) {
        let Some(encoded) = &self.cell.encoded else { return };
        let here = {
            let mut fetching = encoded.fetching.lock();
            match &mut *fetching {
                Fetching::NotAsked => {
                    *fetching = Fetching::Asked { decoded };
                    if !encoded.is_foreign && !encoded.is_stored.load(Ordering::Acquire) {
                        // What makes it here gives it.
                        return;
                    }
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
        // It takes less time than another's turn.
        if let Some(fetched) = here.as_ref().filter(|fetched| fetched.bytes.len() <= CARRIED_BYTES_MAX) {
            return self.decode_bytes(fetched, encoded.decode);
        }
        let (object, decode) = (self.clone(), encoded.decode);
        arbiters::runtime().spawn(async move {
            match here {
                Some(fetched) => object.decode_bytes(&fetched, decode),
                None => object.fetched().await,
            }
        });
    }

    async fn fetched(&self) {
        let fetched = match self.cell.system.deliver() {
            Some(deliver) => deliver.fetch(self.id()).await,
            None => Err(CallError::NotStarted(NotStarted::NoSession)),
        };
        let Some(encoded) = &self.cell.encoded else { return };
        let fetched = match fetched {
            Ok(fetched) => Arc::new(fetched),
            Err(error) => {
                *encoded.fetching.lock() = Fetching::Over;
                return self.fill(Err(error));
            }
        };
        self.bytes_came(encoded, &fetched);
    }

    /// The bytes of its value are here: they are decoded for those who want it, and kept for those who do not.
    fn bytes_came(&self, encoded: &ByBytes<T>, fetched: &Arc<Fetched>) {
        let is_decoded = {
            let mut fetching = encoded.fetching.lock();
            let decoded = matches!(&*fetching, Fetching::Asked { decoded: true });
            *fetching = if decoded { Fetching::Over } else { Fetching::Here(fetched.clone()) };
            decoded
        };
        if is_decoded {
            self.decode_bytes(fetched, encoded.decode);
        } else {
            if encoded.is_foreign && fetched.bytes.len() > INLINE_BYTES_MAX {
                let cell: Arc<dyn LetGo> = self.cell.clone();
                self.cell.system.exports.reads(self.cell.id, Arc::downgrade(&cell));
            }
            // Who waits for the value itself goes on waiting.
            let waiting: Vec<Waker> = self.cell.waiters.lock().wakers.iter().map(|(_, waker)| waker.clone()).collect();
            waiting.into_iter().for_each(wakes::wake);
        }
    }

    fn decode_bytes(&self, fetched: &Fetched, decode: fn(&Bytes) -> Result<T, GetError>) {
        self.fill(current::within(&self.cell.system, || decode(&fetched.bytes)));
    }

    /// The bytes of a value that is bytes, once they are here and as long as nobody has wanted the value itself.
    fn bytes_here(&self) -> Option<Arc<Fetched>> {
        match &*self.cell.encoded.as_ref()?.fetching.lock() {
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
        Get { object: self, key: None, noted: Noted::default() }
    }
}

/// The wait for an object's value.
#[must_use = "a wait does nothing unless awaited"]
pub struct Get<T: Send + Sync + 'static> {
    object: ObjectRef<T>,
    key: Option<usize>,
    noted: Noted,
}

impl<T: Send + Sync + 'static> Future for Get<T> {
    type Output = Result<Value<T>, GetError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { object, key, noted } = &mut *self;
        let polled = object.poll_value(cx, key);
        noted.look(object, polled.is_pending());
        polled
    }
}

/// That its code waits for an object, for lists; nothing of code that may do something else meanwhile.
#[derive(Default)]
struct Noted(Option<Ticket>);

impl Noted {
    fn look<T: Send + Sync + 'static>(&mut self, object: &ObjectRef<T>, is_pending: bool) {
        if !is_pending {
            self.leave();
        } else if self.0.is_none()
            && let Some(by) = current::with(current::Frame::party)
            && let Some(on) = object.awaited()
        {
            let about = Wait { by, on, since: clock::recent() };
            // Woken by the object, and by nothing else.
            self.0 = Some(patrol().enter_about(Time::MAX, Waker::noop().clone(), None, Some(about)));
        }
    }

    fn leave(&mut self) {
        if let Some(ticket) = self.0.take() {
            patrol().leave(ticket);
        }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<T: Send + Sync + 'static> Drop for Get<T> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.object.forget_waiter(key);
        }
    }
}

/// The wait until an object is ready.
#[must_use = "a wait does nothing unless awaited"]
pub struct Settled<T: Send + Sync + 'static> {
    object: ObjectRef<T>,
    key: Option<usize>,
}

impl<T: Send + Sync + 'static> Future for Settled<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { object, key } = &mut *self;
        object.poll_for(cx, key, Wish::Readiness, |object| object.is_ready().then_some(()))
    }
}

impl<T: Send + Sync + 'static> Drop for Settled<T> {
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
        match View::of_bytes(self.bytes_here()?) {
            Some(view) => Some(Ok(view)),
            // It lies askew, or is no such value: decoding it gives a copy, or says what is wrong.
            None => {
                // Not here: who looks may have the list of those that wait, and the value is told to all of these.
                let object = self.clone();
                arbiters::runtime().spawn(async move { object.fetch(true) });
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
        object.poll_for(cx, key, Wish::Bytes, ObjectRef::view)
    }
}

impl<T: Viewable> Drop for GetView<T> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.object.forget_waiter(key);
        }
    }
}

impl<T: Serialize + Send + Sync + 'static> ObjectRef<T> {
    /// Waits until there is a value or none, and says whether it is better read where it is than sent along: it is
    /// another's, or too large for a message.
    pub(crate) async fn stays_where_it_is(&self) -> Result<bool, GetError> {
        if self.cell.is_foreign() && !self.is_ready() {
            return Ok(true);
        }
        self.settled().await;
        if self.cell.shared.lock().is_some() || self.cell.is_stored() {
            return Ok(true);
        }
        let value = self.get().await?;
        Ok(self.cell.size(&*value) == Size::Large)
    }
}

fn decode<T: DeserializeOwned + 'static>(bytes: &Bytes) -> Result<T, GetError> {
    plain::decode::<T>(bytes).map_err(|error| CallError::NotStarted(NotStarted::Codec { message: error.to_string() }))
}
