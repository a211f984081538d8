//! Room for payloads that come in parts: in the memory of this host, so that all its processes may read them where they came
//! to lie.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use mobula_actor::arbiters;
use mobula_actor::deliver::Room;
use mobula_actor::object::PrivateRoom;
use mobula_types::ProcessId;
use mobula_wire::TransferId;
use parking_lot::Mutex;

use super::process::Process;

/// The room of each payload that was admitted; none while it is being made.
#[derive(Default)]
pub(crate) struct Rooms(Mutex<HashMap<Pulled, Option<Box<dyn Room>>>>);

/// A payload that comes in parts, by its sender's name for it.
type Pulled = (ProcessId, TransferId);

impl Rooms {
    /// A part has come.
    pub(crate) fn keep(&self, from: ProcessId, transfer: TransferId, offset: u64, bytes: &Bytes) {
        let mut rooms = self.0.lock();
        let Some(Some(room)) = rooms.get_mut(&(from, transfer)) else { return };
        let begin = usize::try_from(offset).unwrap_or(usize::MAX);
        let place = begin.checked_add(bytes.len()).and_then(|end| room.bytes().get_mut(begin..end));
        if let Some(place) = place {
            place.copy_from_slice(bytes);
        }
    }

    /// All of it has come.
    pub(crate) fn seal(&self, from: ProcessId, transfer: TransferId) -> Bytes {
        let room = self.0.lock().remove(&(from, transfer)).flatten();
        room.map(Room::seal).unwrap_or_default()
    }

    /// It is not wanted.
    pub(crate) fn forget(&self, from: ProcessId, transfer: TransferId) {
        let room = self.0.lock().remove(&(from, transfer));
        drop(room);
    }

    fn expect(&self, from: ProcessId, transfer: TransferId) {
        self.0.lock().insert((from, transfer), None);
    }

    /// Room is there; of no use when it is not wanted any more.
    fn fill(&self, from: ProcessId, transfer: TransferId, room: Box<dyn Room>) {
        if let Some(place) = self.0.lock().get_mut(&(from, transfer)) {
            *place = Some(room);
        }
    }
}

impl Process {
    /// Makes room for a payload, and says when there is.
    pub(crate) fn open_room(self: &Arc<Self>, from: ProcessId, transfer: TransferId, bytes: u64) {
        self.large.rooms.expect(from, transfer);
        let process = self.clone();
        arbiters::runtime().spawn_blocking(move || {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            // Beyond the budget it is this process's own: what comes at once is bounded by what is admitted.
            let room = process.room(bytes).unwrap_or_else(|_| Box::new(PrivateRoom::of(bytes)));
            process.large.rooms.fill(from, transfer, room);
            process.room_is_there(from, transfer);
        });
    }
}
