//! Objects whose references have left the process, and their bytes for whoever asks.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mobula_types::{CallError, NotStarted, ObjectId};
use mobula_wire::{Encoded, INLINE_BYTES_MAX, PAYLOAD_BYTES_MAX, plain};
use parking_lot::Mutex;
use serde::Serialize;

use super::carried::Size;
use super::{GetError, ObjectCell, ObjectRef, Ordering, pinning, room};
use crate::arbiters;
use crate::current;
use crate::deliver::Fetched;
use crate::system::System;
use crate::waits::Party;

/// Objects of this process whose references have left it, by id, as long as something here refers to them.
#[derive(Default)]
pub(crate) struct Exports {
    objects: Mutex<HashMap<ObjectId, Weak<dyn Exported>>>,
    /// References to others' objects whose bytes are by them.
    readers: Mutex<HashMap<ObjectId, Vec<Weak<dyn LetGo>>>>,
}

/// What has bytes by it that can be had again.
pub(super) trait LetGo: Send + Sync {
    /// Memory is short: lets go of them. Whoever looks at them goes on doing so.
    fn let_go(&self);
}

impl Exports {
    pub(super) fn get(&self, id: ObjectId) -> Option<Arc<dyn Exported>> {
        self.objects.lock().get(&id).and_then(Weak::upgrade)
    }

    /// Nothing here refers to it any more.
    pub(super) fn forget(&self, id: ObjectId) {
        self.objects.lock().remove(&id);
    }

    /// A reference to another's object has its bytes by it.
    pub(super) fn reads(&self, id: ObjectId, reader: Weak<dyn LetGo>) {
        let mut readers = self.readers.lock();
        let readers = readers.entry(id).or_default();
        readers.retain(|reader| reader.strong_count() > 0);
        readers.push(reader);
    }

    /// One of them is gone.
    pub(super) fn reads_no_more(&self, id: ObjectId) {
        let mut readers = self.readers.lock();
        if let Some(of_it) = readers.get_mut(&id) {
            of_it.retain(|reader| reader.strong_count() > 0);
            if of_it.is_empty() {
                readers.remove(&id);
            }
        }
    }
}

impl<T: Serialize + Send + Sync + 'static> ObjectCell<T> {
    /// The reference leaves this process: from now on the object is held outside, and has its bytes there as soon as there
    /// are any.
    pub(super) fn leave(self: &Arc<Self>) {
        if !self.count() {
            return;
        }
        let Some(deliver) = self.system.deliver() else { return };
        if let Some(fetched) = self.encoded_now() {
            return deliver.seal(self.id, fetched);
        }
        let (object, deliver) = (self.clone(), deliver.clone());
        arbiters::runtime().spawn(async move {
            let id = object.id;
            ObjectRef { cell: object.clone() }.settled().await;
            // What its task has left on another node is there already.
            if !object.is_stored() {
                deliver.seal(id, object.encoded().await);
            }
        });
    }

    /// From now on it counts as held by this process, outside. Says whether it did not, and is to be sealed.
    pub(super) fn count(self: &Arc<Self>) -> bool {
        if self.is_counted.load(Ordering::Acquire) {
            return false;
        }
        let Some(deliver) = self.system.deliver() else { return false };
        let mut objects = self.system.exports.objects.lock();
        // Whoever comes second goes on only when the first has said it.
        if self.is_counted.swap(true, Ordering::AcqRel) {
            return false;
        }
        let object: Arc<dyn Exported> = self.clone();
        objects.insert(self.id, Arc::downgrade(&object));
        deliver.export(self.id, self.site)
    }

    /// Its bytes, if they are there or take no time.
    fn encoded_now(&self) -> Option<Result<Fetched, GetError>> {
        if let Some(shared) = &*self.shared.lock() {
            return Some(Ok(shared.again()));
        }
        match self.value.get()? {
            Ok(value) => {
                let (encoded, pins) = pinning(|| Encoded::of(&**value, INLINE_BYTES_MAX));
                let bytes: Bytes = encoded.ok()?.into_vec().into();
                self.size.get_or_init(|| Size::of(bytes.len(), pins.is_empty()));
                Some(Ok(Fetched { bytes, pins }))
            }
            Err(error) => Some(Err(error.clone())),
        }
    }
}

/// An object whose type is forgotten.
pub(super) trait Exported: LetGo {
    fn encoded(self: Arc<Self>) -> BoxFuture<'static, Result<Fetched, GetError>>;
    /// Who makes it, while there is no value.
    fn maker(&self) -> Option<Party>;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<T: Serialize + Send + Sync + 'static> Exported for ObjectCell<T> {
    fn encoded(self: Arc<Self>) -> BoxFuture<'static, Result<Fetched, GetError>> {
        Box::pin(async move {
            let object = ObjectRef { cell: self };
            object.settled().await;
            let cell = &object.cell;
            if let Some(shared) = &*cell.shared.lock() {
                return Ok(shared.again());
            }
            let value = object.get().await?.into_arc();
            match written(&cell.system, value).await? {
                // Two that asked at once may both have written it; one of the two is kept.
                (fetched, true) => Ok(cell.shared.lock().get_or_insert_with(|| Arc::new(fetched)).again()),
                (fetched, false) => Ok(fetched),
            }
        })
    }

    fn maker(&self) -> Option<Party> {
        let is_pending = self.value.get().is_none() && self.shared.lock().is_none();
        self.call.as_ref().filter(|_| is_pending).and_then(|call| call.maker())
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// Encodes a value: in the memory that the host shares if there is any and it is too large for a message. Says whether it is
/// there.
async fn written<T>(system: &Arc<System>, value: Arc<T>) -> Result<(Fetched, bool), GetError>
where
    T: Serialize + Send + Sync + 'static,
{
    let max = system.value_bytes_max();
    // An array is bounded by the room there is for it alone, unless the session says less than a message carries.
    let is_bounded = max < PAYLOAD_BYTES_MAX || !plain::is_copied::<T>();
    let (encoded, pins) = pinning(|| Encoded::of(&*value, if is_bounded { max } else { usize::MAX }));
    let encoded = encoded.map_err(|error| CallError::NotStarted(error.into()))?;
    let Some(mut room) = room::shared(system, encoded.len()).await.map_err(CallError::NotStarted)? else {
        return Ok((Fetched { bytes: encoded.into_vec().into(), pins }, false));
    };
    let bytes = if matches!(encoded, Encoded::Plain(_, elements) if elements.len() > room::LONG_BYTES) {
        let copied = value.clone();
        let copy = move || {
            // It takes no time, and as many bytes as before.
            if let Ok(encoded) = Encoded::of(&*copied, usize::MAX) {
                encoded.write(room.bytes());
            }
            room.seal()
        };
        let copied = arbiters::runtime().spawn_blocking(copy).await;
        copied.map_err(|_| CallError::NotStarted(NotStarted::NoSession))?
    } else {
        encoded.write(room.bytes());
        room.seal()
    };
    Ok((Fetched { bytes, pins }, true))
}

impl System {
    /// Who makes those of our objects that others know of and that have no value yet: at most `max` of them.
    pub fn makers(&self, max: usize) -> Vec<(ObjectId, Party)> {
        let objects: Vec<_> = {
            let objects = self.exports.objects.lock();
            objects.iter().filter_map(|(id, object)| Some((*id, object.upgrade()?))).collect()
        };
        // Without the table: what is dropped here takes itself out of it.
        objects.iter().filter_map(|(id, object)| Some((*id, object.maker()?))).take(max).collect()
    }

    /// Objects whose references have left this process, and are still referred to in it.
    pub fn objects_exported(&self) -> usize {
        self.exports.objects.lock().len()
    }

    /// What holds one of our objects as long as it is there; `None` when nothing here refers to it any more.
    pub fn object_here(&self, id: ObjectId) -> Option<Arc<dyn Any + Send + Sync>> {
        self.exports.get(id).map(Exported::into_any)
    }

    /// Memory is short: references here to an object let go of its bytes, unless somebody looks at them. They can be fetched
    /// again.
    pub fn let_go_of_object(&self, id: ObjectId) {
        if let Some(object) = self.exports.get(id) {
            object.let_go();
        }
        let readers: Vec<Weak<dyn LetGo>> = self.exports.readers.lock().remove(&id).unwrap_or_default();
        // Without the table: what is dropped here takes itself out of it.
        readers.iter().filter_map(Weak::upgrade).for_each(|reader| reader.let_go());
    }

    /// The encoded value of one of our objects, as soon as it has one; `None` when nothing here refers to it any more.
    pub fn encoded_object(&self, id: ObjectId) -> Option<BoxFuture<'static, Result<Fetched, GetError>>> {
        self.exports.get(id).map(Exported::encoded)
    }
}

/// One reference to an object whose bytes are elsewhere.
pub(super) struct Hold {
    system: Arc<System>,
    id: ObjectId,
}

impl Hold {
    pub(super) fn taken_over(system: &Arc<System>, id: ObjectId) -> Self {
        Self { system: system.clone(), id }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(deliver) = self.system.deliver() {
            deliver.release(self.id);
        }
    }
}

/// An object by its id alone: held, to be read as whatever its reader takes it for.
pub(crate) struct Foreigner {
    id: ObjectId,
    system: Arc<System>,
    held: Held,
}

enum Held {
    /// It is one of ours.
    Here(Arc<dyn Exported>),
    Elsewhere(#[expect(dead_code, reason = "it is dropped")] Hold),
}

impl Foreigner {
    pub(crate) fn hold(system: &Arc<System>, id: ObjectId) -> Self {
        let held = match system.exports.get(id) {
            Some(object) => Held::Here(object),
            None => {
                if let Some(deliver) = system.deliver() {
                    deliver.hold(id);
                }
                Held::Elsewhere(Hold::taken_over(system, id))
            }
        };
        Self { id, system: system.clone(), held }
    }

    pub(crate) async fn fetch(&self) -> Result<Fetched, GetError> {
        match (&self.held, self.system.deliver()) {
            (Held::Here(object), _) => object.clone().encoded().await,
            (Held::Elsewhere(_), Some(deliver)) => deliver.fetch(self.id).await,
            (Held::Elsewhere(_), None) => Err(CallError::NotStarted(NotStarted::NoSession)),
        }
    }

    /// Runs `decode` as code of its system, to which what it meets belongs.
    pub(crate) fn within<R>(&self, decode: impl FnOnce() -> R) -> R {
        current::within(&self.system, decode)
    }
}
