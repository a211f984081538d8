//! References on their way inside a message.

use std::any::Any;
use std::sync::Arc;

use mobula_types::ObjectId;
use parking_lot::Mutex;

use super::exports::Hold;
use crate::system::System;

/// What small values may take together that go with the references of one message.
const CARRIED_TOGETHER_MAX: usize = 16 << 20;

/// References that a message on its way names; they are held until it has arrived or is dropped.
#[derive(Clone, Default)]
pub struct Pins(Vec<Pinned>);

/// One reference, and what holds it: dropped with the last clone.
#[derive(Clone)]
struct Pinned {
    id: ObjectId,
    _held: Arc<dyn Any + Send + Sync>,
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

    /// References that somebody else holds for as long as it takes.
    pub fn named(ids: &[ObjectId]) -> Self {
        Self(ids.iter().map(|id| Pinned { id: *id, _held: Arc::new(()) }).collect())
    }

    /// What a message named that has come: each of `ids` has been [held](crate::Deliver::hold) for it, and is released with
    /// this.
    pub fn received(system: &Arc<System>, ids: &[ObjectId]) -> Self {
        let pin = |id: &ObjectId| Pinned { id: *id, _held: Arc::new(Hold::taken_over(system, *id)) };
        Self(ids.iter().map(pin).collect())
    }
}

/// What is being encoded.
#[derive(Default)]
struct Scope {
    pins: Pins,
    /// Bytes of values that go with references.
    carried: usize,
}

thread_local! {
    static SCOPE: Mutex<Option<Scope>> = const { Mutex::new(None) };
}

/// Runs `encode` and gathers the references that what it encodes names.
pub fn pinning<T>(encode: impl FnOnce() -> T) -> (T, Pins) {
    let outer = SCOPE.with(|scope| scope.lock().replace(Scope::default()));
    let result = encode();
    let scope = SCOPE.with(|scope| std::mem::replace(&mut *scope.lock(), outer));
    (result, scope.unwrap_or_default().pins)
}

/// The reference is written into what is being encoded, and held for it. Where nobody will say when that has arrived, nobody
/// may rely on it: what is written is only a name.
pub(super) fn pin(id: ObjectId, held: Arc<dyn Any + Send + Sync>) {
    SCOPE.with(|scope| {
        if let Some(scope) = &mut *scope.lock() {
            scope.pins.0.push(Pinned { id, _held: held });
        }
    });
}

/// Whether so many bytes more may go with the references of what is being encoded, which may have `max` in all: they take at
/// most a quarter of that.
pub(super) fn carry(bytes: usize, max: usize) -> bool {
    SCOPE.with(|scope| {
        let mut scope = scope.lock();
        let Some(scope) = scope.as_mut() else { return false };
        let fits = scope.carried + bytes <= CARRIED_TOGETHER_MAX.min(max / 4);
        if fits {
            scope.carried += bytes;
        }
        fits
    })
}
