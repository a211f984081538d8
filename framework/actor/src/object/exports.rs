//! Objects whose references have left the process: who holds them, and their bytes for whoever asks.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use mobula_types::{CallError, NotStarted, ObjectId, ProcessId};
use mobula_wire::{Encoded, PAYLOAD_BYTES_MAX, plain};
use parking_lot::Mutex;
use serde::Serialize;

use super::{GetError, ObjectCell, ObjectRef, pinning, room};
use crate::arbiters;
use crate::current;
use crate::deliver::Fetched;
use crate::system::System;

/// Objects whose references have left the process, by id.
#[derive(Default)]
pub(crate) struct Exports {
    objects: Mutex<HashMap<ObjectId, Export>>,
}

impl Exports {
    /// The reference to an object of this process leaves it: held once more, by the process itself.
    pub(super) fn export(&self, id: ObjectId, object: impl FnOnce() -> Arc<dyn Exported>) {
        let mut objects = self.objects.lock();
        let new = || Export { object: object(), holders: Holders::default() };
        objects.entry(id).or_insert_with(new).holders.add(id.owner);
    }

    pub(super) fn get(&self, id: ObjectId) -> Option<Arc<dyn Exported>> {
        self.objects.lock().get(&id).map(|export| export.object.clone())
    }
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
pub(super) trait Exported: Send + Sync {
    fn encoded(self: Arc<Self>) -> BoxFuture<'static, Result<Fetched, GetError>>;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<T: Serialize + Send + Sync + 'static> Exported for ObjectCell<T> {
    fn encoded(self: Arc<Self>) -> BoxFuture<'static, Result<Fetched, GetError>> {
        Box::pin(async move {
            let object = ObjectRef { cell: self };
            object.settled().await;
            let cell = &object.cell;
            if let Some(shared) = cell.shared.get() {
                return Ok(shared.again());
            }
            let value = object.get().await?.into_arc();
            match written(&cell.system, value).await? {
                // Two that asked at once may both have written it; one of the two is kept.
                (fetched, true) => Ok(cell.shared.get_or_init(|| Arc::new(fetched)).again()),
                (fetched, false) => Ok(fetched),
            }
        })
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
    pub(super) fn hand_object(&self, id: ObjectId, from: ProcessId, to: ProcessId) {
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
        match self.exports.get(id) {
            Some(object) => object.encoded(),
            None => {
                let message = format!("{id} is not held by anybody any more");
                Box::pin(async { Err(CallError::NotStarted(NotStarted::Codec { message })) })
            }
        }
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

pub(super) fn hold_anywhere(system: &Arc<System>, id: ObjectId) {
    if id.owner == system.process() {
        system.hold_object(id, id.owner);
    } else if let Some(deliver) = system.deliver() {
        deliver.hold(id);
    }
}

pub(super) fn release_anywhere(system: &Arc<System>, id: ObjectId, by: ProcessId) {
    if id.owner == system.process() {
        system.release_object(id, by);
    } else if let Some(deliver) = system.deliver() {
        deliver.release(id);
    }
}
