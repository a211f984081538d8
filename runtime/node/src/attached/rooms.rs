//! Room for payloads that come in parts, or that the nodes move: in the memory of this host, so that all its processes may
//! read them where they came to lie.
//!
//! ```text
//!            ┌─► room ◄──────── not moved ─┐
//!  (making) ─┤    └── all parts came ──► (sealed) ◄── moved
//!            └─► handed over ──haul──► filling ──────┘
//!                                        └── not wanted ─► abandoned ── the node is done ─► (free again)
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use mobula_actor::arbiters;
use mobula_actor::deliver::Room;
use mobula_actor::object::PrivateRoom;
use mobula_logic::intake::Road;
use mobula_store::Filling;
use mobula_types::ProcessId;
use mobula_wire::local::ToNode;
use mobula_wire::{Extent, TransferId};
use parking_lot::Mutex;

use super::process::Process;
use super::sharing::Shared;

/// The room of each payload that was admitted.
#[derive(Default)]
pub(crate) struct Rooms(Mutex<HashMap<Pulled, Place>>);

/// A payload that comes from another process, by its sender's name for it.
type Pulled = (ProcessId, TransferId);

enum Place {
    /// It is being made.
    Making,
    Room(Box<dyn Room>),
    /// The node has not been asked to fill it.
    HandedOver(Filling, Extent, u64),
    /// The node fills it.
    Filling(Filling),
    /// The node fills it, and nobody wants that any more.
    Abandoned(Filling),
    /// The node has filled it.
    Sealed(Bytes),
}

impl Rooms {
    /// A part has come.
    pub(crate) fn keep(&self, from: ProcessId, transfer: TransferId, offset: u64, bytes: &Bytes) {
        let mut rooms = self.0.lock();
        let Some(Place::Room(room)) = rooms.get_mut(&(from, transfer)) else { return };
        let begin = usize::try_from(offset).unwrap_or(usize::MAX);
        let place = begin.checked_add(bytes.len()).and_then(|end| room.bytes().get_mut(begin..end));
        if let Some(place) = place {
            place.copy_from_slice(bytes);
        }
    }

    /// All of it has come.
    pub(crate) fn seal(&self, from: ProcessId, transfer: TransferId) -> Bytes {
        let place = self.0.lock().remove(&(from, transfer));
        match place {
            Some(Place::Room(room)) => room.seal(),
            Some(Place::Sealed(bytes)) => bytes,
            _ => Bytes::new(),
        }
    }

    /// It is not wanted. Whether the node is to stop filling it: until it has, the room is nobody's.
    fn forget(&self, from: ProcessId, transfer: TransferId) -> bool {
        let mut rooms = self.0.lock();
        match rooms.remove(&(from, transfer)) {
            Some(Place::Filling(filling)) => {
                rooms.insert((from, transfer), Place::Abandoned(filling));
                true
            }
            place => {
                drop(rooms);
                if let Some(Place::HandedOver(filling, ..)) = place {
                    drop(filling.take_back());
                }
                false
            }
        }
    }

    fn expect(&self, from: ProcessId, transfer: TransferId) {
        self.0.lock().insert((from, transfer), Place::Making);
    }

    /// Room is there; of no use when it is not wanted any more.
    fn fill(&self, from: ProcessId, transfer: TransferId, made: Place) {
        let mut rooms = self.0.lock();
        let of_no_use = match rooms.get_mut(&(from, transfer)) {
            Some(place) => std::mem::replace(place, made),
            None => made,
        };
        drop(rooms);
        if let Place::HandedOver(filling, ..) = of_no_use {
            drop(filling.take_back());
        }
    }

    /// The node is asked to fill it now: where it is, and how long.
    fn haul(&self, from: ProcessId, transfer: TransferId) -> Option<(Extent, u64)> {
        let mut rooms = self.0.lock();
        match rooms.remove(&(from, transfer))? {
            Place::HandedOver(filling, at, bytes) => {
                rooms.insert((from, transfer), Place::Filling(filling));
                Some((at, bytes))
            }
            other => {
                rooms.insert((from, transfer), other);
                None
            }
        }
    }

    /// The node does not write in it any more.
    fn hauled(&self, from: ProcessId, transfer: TransferId, is_whole: bool) {
        let mut rooms = self.0.lock();
        let place = match rooms.remove(&(from, transfer)) {
            Some(Place::Filling(filling)) if is_whole => Place::Sealed(Bytes::from_owner(filling.seal())),
            Some(Place::Filling(filling)) => Place::Room(Box::new(Shared(filling.take_back()))),
            Some(Place::Abandoned(filling)) => {
                drop(rooms);
                return drop(filling.take_back());
            }
            Some(other) => other,
            None => return,
        };
        rooms.insert((from, transfer), place);
    }
}

impl Process {
    /// Makes room for a payload, and says when there is.
    pub(crate) fn open_room(self: &Arc<Self>, from: ProcessId, transfer: TransferId, bytes: u64, is_lent: bool) {
        self.large.rooms.expect(from, transfer);
        let process = self.clone();
        arbiters::runtime().spawn_blocking(move || {
            let (place, road) = process.place(bytes, is_lent && from.node() != process.me.node());
            process.large.rooms.fill(from, transfer, place);
            process.room_is_there(from, transfer, road);
        });
    }

    fn place(&self, bytes: u64, is_hauled: bool) -> (Place, Road) {
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        if let Some(store) = self.store.as_ref().filter(|_| is_hauled)
            && let Ok(room) = store.room(length)
        {
            return match store.hand_over(room) {
                Ok((filling, at)) => (Place::HandedOver(filling, at, bytes), Road::Nodes),
                Err(room) => (Place::Room(Box::new(Shared(room))), Road::Parts),
            };
        }
        // Beyond the budget it is this process's own: what comes at once is bounded by what is admitted.
        let room = self.room(length).unwrap_or_else(|_| Box::new(PrivateRoom::of(length)));
        (Place::Room(room), Road::Parts)
    }

    /// Has the nodes move a payload into its room.
    pub(crate) fn haul(self: &Arc<Self>, from: ProcessId, transfer: TransferId) {
        let Some((room, bytes)) = self.large.rooms.haul(from, transfer) else { return };
        if self.link.try_tell(&ToNode::Haul { from, transfer, room, bytes }).is_err() {
            self.hauled(from, transfer, false);
        }
    }

    /// The nodes are done with a payload.
    pub(crate) fn hauled(self: &Arc<Self>, from: ProcessId, transfer: TransferId, is_whole: bool) {
        self.large.rooms.hauled(from, transfer, is_whole);
        self.room_is_left(from, transfer, is_whole);
    }

    /// A payload is not wanted any more.
    pub(crate) fn forget_room(&self, from: ProcessId, transfer: TransferId) {
        if self.large.rooms.forget(from, transfer) {
            self.link.tell(&ToNode::StopHaul { from, transfer });
        }
    }
}

#[cfg(test)]
mod tests {
    use mobula_types::NodeId;

    use super::*;

    const FROM: ProcessId = ProcessId::new(NodeId(2), 1);

    #[test]
    fn parts_come_to_where_they_belong_and_nowhere_else() {
        let rooms = Rooms::default();
        rooms.expect(FROM, 7);
        rooms.keep(FROM, 7, 0, &Bytes::from_static(b"too early"));
        rooms.fill(FROM, 7, Place::Room(Box::new(PrivateRoom::of(8))));
        for (offset, part) in [(0, "mant"), (4, "aray"), (7, "beyond"), (u64::MAX, "x")] {
            rooms.keep(FROM, 7, offset, &Bytes::from_static(part.as_bytes()));
        }
        assert_eq!(rooms.haul(FROM, 7), None, "it was not handed over");
        rooms.hauled(FROM, 7, true);
        assert_eq!(rooms.seal(FROM, 7), "mantaray");
        assert_eq!(rooms.seal(FROM, 7), "", "it was taken");
    }
}
