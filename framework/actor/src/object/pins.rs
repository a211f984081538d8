//! References on their way inside a message.

use std::sync::Arc;

use mobula_types::{ObjectId, ProcessId};
use parking_lot::Mutex;

use super::exports::{hold_anywhere, release_anywhere};
use crate::system::System;

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

/// The reference is written into what is being encoded, and held for it.
pub(super) fn pin(system: &Arc<System>, id: ObjectId) {
    let pinned = SCOPE.with(|scope| match &mut *scope.lock() {
        Some(pins) => {
            pins.0.push(Pinned { system: system.clone(), id, by: system.process() });
            true
        }
        None => false,
    });
    if !pinned {
        // Nobody will say when it has arrived, so nobody may rely on it: what is written is only a name.
        release_anywhere(system, id, system.process());
    }
}
