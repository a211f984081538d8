//! Large payloads between the memories of two hosts: this node reads what its processes lend to others, and writes what it
//! reads of other nodes in the rooms of its own. Copies of objects it also reads for itself, of several nodes.
//!
//! ```text
//! a process here: Lend ─► lent ─── a node asks for a range ─► bytes of the segment, as they lie     (EndLend ─► LendEnded)
//! this node's copies ─────── a node asks for a range ─► bytes of the segment, as soon as they are there   (`copies`)
//! a process here: Haul ─► machine ─► ranges asked of its node ─► its room                           (─► Hauled)
//! ```
//!
//! Which range is asked for is decided by [`logic::haul`](mobula_logic::haul); here its words are carried out, by whoever
//! has something to tell it. A process is told that its room or its payload is its own again only when nothing here reads
//! or writes it: a range that is being sent holds what is lent, and a range that is being read is heard of by the machine
//! when its task is over, however it ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use mobula_logic::haul::{HaulId, Input, Output, Sources, What};
use mobula_net::mesh::{RangeComing, RangeError, Ranges};
use mobula_store::{Arena, Room, View};
use mobula_types::{Digest, NodeId, ObjectId, ProcessId, StateMachine, Time};
use mobula_wire::local::{FromNode, ToNode};
use mobula_wire::segments::NoSegment;
use mobula_wire::{Extent, RangeAsked, RangeOf, TransferId};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::copies::{Copies, Shown};
use super::input;
use super::routes::Routes;

/// Payloads that processes of this node lend to others, of some hundred bytes each; what comes beyond is asked for in parts.
const LENT_MAX: usize = 65_536;

/// What is lent from here, and what is moved to here.
pub(crate) struct Hauls {
    routes: Arc<Routes>,
    arena: Arc<Arena>,
    lent: Mutex<HashMap<(ProcessId, TransferId), Arc<Lending>>>,
    pub(crate) copies: Copies,
    sent: Arc<AtomicU64>,
    moving: Mutex<Moving>,
    runtime: Handle,
}

#[derive(Default)]
struct Moving {
    machine: mobula_logic::Hauls,
    /// Where each payload is written, from its beginning to its end in the machine.
    rooms: HashMap<HaulId, Place>,
    counts: Counts,
}

struct Place {
    room: Room,
    /// What others may read of it already.
    shown: Option<Arc<Shown>>,
    /// By where their ranges begin, with whom they read of.
    tasks: HashMap<u64, (NodeId, AbortHandle)>,
}

impl Place {
    fn new(room: Room, shown: Option<Arc<Shown>>) -> Self {
        Self { room, shown, tasks: HashMap::new() }
    }
}

/// What became of payloads that processes of a node wanted to have moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// All of them came.
    pub whole: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// They did not come: they were not wanted any more, or take the road in parts.
    pub failed: u64,
    /// They are on their way.
    pub moving: usize,
    /// Bytes of ranges that other nodes were given: of what processes lend, and of copies.
    pub sent: u64,
}

/// A payload that a process lends, until nothing of it is being sent.
struct Lending {
    from: ProcessId,
    transfer: TransferId,
    to: ProcessId,
    at: Extent,
    bytes: u64,
    /// The process waits for its end.
    is_awaited: AtomicBool,
    routes: Arc<Routes>,
}

impl Drop for Lending {
    fn drop(&mut self) {
        if self.is_awaited.load(Ordering::Acquire) {
            self.routes.tell(self.from, &FromNode::LendEnded { transfer: self.transfer });
        }
    }
}

/// A range of what is lent.
struct Lent {
    view: View,
    _lending: Arc<Lending>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.view.as_ref()
    }
}

impl Hauls {
    /// Must be made on the runtime on which it works.
    pub(crate) fn new(routes: Arc<Routes>, arena: Arc<Arena>) -> Arc<Self> {
        let runtime = Handle::current();
        let copies = Copies::new(routes.clone());
        let (lent, sent, moving) = (Mutex::default(), Arc::default(), Mutex::default());
        Arc::new(Self { routes, arena, lent, copies, sent, moving, runtime })
    }

    pub(crate) fn counts(&self) -> Counts {
        let moving = self.moving.lock();
        Counts { moving: moving.machine.count(), sent: self.sent.load(Ordering::Relaxed), ..moving.counts }
    }

    /// What a process of this host says; given back if it is for others. Said here in its order with what it sends: whoever
    /// hears of a payload finds it lent.
    pub(crate) fn said(self: &Arc<Self>, process: ProcessId, said: ToNode) -> Option<ToNode> {
        match said {
            ToNode::Lend { transfer, to, at, bytes } => self.lend(process, transfer, to, at, bytes),
            ToNode::EndLend { transfer } => self.end_lend(process, transfer),
            ToNode::Haul { from, transfer, room, bytes } => {
                self.begin(HaulId { to: process, what: What::Lent { from, transfer } }, from.node(), room, bytes);
            }
            ToNode::StopHaul { from, transfer } => {
                self.drive(Input::Stop { haul: HaulId { to: process, what: What::Lent { from, transfer } } });
            }
            said => return Some(said),
        }
        None
    }

    /// A process has ended, whose segments are not leased any more; or with the number 0 a whole node.
    pub(crate) fn gone(self: &Arc<Self>, process: ProcessId) {
        let ended: Vec<Arc<Lending>> = {
            let mut lent = self.lent.lock();
            let of_it = lent.keys().copied().filter(|(from, _)| *from == process);
            let of_it: Vec<_> = of_it.collect();
            of_it.iter().filter_map(|key| lent.remove(key)).collect()
        };
        drop(ended);
        self.drive(Input::Gone { process });
    }

    fn lend(self: &Arc<Self>, from: ProcessId, transfer: TransferId, to: ProcessId, at: Extent, bytes: u64) {
        let (is_awaited, routes) = (AtomicBool::new(false), self.routes.clone());
        let lending = Arc::new(Lending { from, transfer, to, at, bytes, is_awaited, routes });
        let mut lent = self.lent.lock();
        // What a process said before its end may be read after it.
        if lent.len() < LENT_MAX && self.arena.has(from) {
            lent.insert((from, transfer), lending);
        }
    }

    fn end_lend(&self, from: ProcessId, transfer: TransferId) {
        let ended = self.lent.lock().remove(&(from, transfer));
        match ended {
            // It tells the process when it is dropped, here or with the last range that is being sent.
            Some(lending) => lending.is_awaited.store(true, Ordering::Release),
            None => self.routes.tell(from, &FromNode::LendEnded { transfer }),
        }
    }

    /// Gets a copy of an object into a process's room; the node's state hears how that ended.
    ///
    /// # Errors
    ///
    /// The process has no such room.
    pub(crate) fn fetch(
        self: &Arc<Self>,
        object: ObjectId,
        to: ProcessId,
        at: Extent,
        (bytes, digest): (u64, Digest),
        sources: Sources,
    ) -> Result<Weak<Shown>, NoSegment> {
        let haul = HaulId { to, what: What::Copy { object } };
        let room = self.arena.room(to, at, bytes)?;
        let shown = self.copies.begin(object, digest, at, bytes);
        let weak = Arc::downgrade(&shown);
        {
            let mut moving = self.moving.lock();
            moving.rooms.insert(haul, Place::new(room, Some(shown)));
            moving.machine.handle(NOW, Input::Begin { haul, bytes, sources });
        }
        self.perform();
        Ok(weak)
    }

    fn begin(self: &Arc<Self>, haul: HaulId, of: NodeId, room: Extent, bytes: u64) {
        {
            let mut moving = self.moving.lock();
            match self.arena.room(haul.to, room, bytes) {
                Ok(room) => {
                    // A payload that is begun twice is moved to where it was begun first.
                    moving.rooms.entry(haul).or_insert_with(|| Place::new(room, None));
                    moving.machine.handle(NOW, Input::Begin { haul, bytes, sources: Sources::one(of) });
                }
                Err(error) => {
                    tracing::warn!(process = %haul.to, %error, "it has no such room");
                    drop(moving);
                    return self.tell(haul, false);
                }
            }
        }
        self.perform();
    }

    fn drive(self: &Arc<Self>, input: Input) {
        self.moving.lock().machine.handle(NOW, input);
        self.perform();
    }

    fn perform(self: &Arc<Self>) {
        loop {
            let output = self.moving.lock().machine.poll_output();
            match output {
                Some(Output::Ask { haul, offset, bytes, source }) => self.ask(haul, offset, bytes, source),
                Some(Output::GiveUp { haul, source }) => {
                    let moving = self.moving.lock();
                    let tasks = moving.rooms.get(&haul).map(|place| place.tasks.values().cloned().collect::<Vec<_>>());
                    drop(moving);
                    let given_up = |of: NodeId| source.is_none_or(|source| source == of);
                    tasks.into_iter().flatten().filter(|(of, _)| given_up(*of)).for_each(|(_, task)| task.abort());
                }
                Some(Output::End { haul, is_whole, bytes, is_told }) => {
                    let mut moving = self.moving.lock();
                    let Moving { rooms, counts, .. } = &mut *moving;
                    if is_whole {
                        counts.whole += 1;
                        counts.bytes += bytes;
                    } else {
                        counts.failed += 1;
                    }
                    let place = rooms.remove(&haul);
                    drop(moving);
                    self.ended(haul, place, is_whole, is_told);
                }
                None => return,
            }
        }
    }

    /// Nobody writes in the room of a payload any more.
    fn ended(&self, haul: HaulId, place: Option<Place>, is_whole: bool, is_told: bool) {
        let HaulId { to: process, what } = haul;
        let shown = place.and_then(|place| place.shown);
        match (what, shown) {
            (What::Lent { .. }, _) if is_told => self.tell(haul, is_whole),
            (What::Copy { object }, Some(shown)) => {
                let filled = input::Input::Filled { process, object, is_whole };
                if is_whole {
                    self.copies.whole(&shown, filled);
                } else {
                    self.copies.give_up(shown, is_told.then_some(filled));
                }
            }
            _ => {}
        }
    }

    fn tell(&self, HaulId { to, what }: HaulId, is_whole: bool) {
        if let What::Lent { from, transfer } = what {
            self.routes.tell(to, &FromNode::Hauled { from, transfer, is_whole });
        }
    }

    fn ask(self: &Arc<Self>, haul: HaulId, offset: u64, bytes: u32, source: NodeId) {
        let place = self.moving.lock().rooms.get(&haul).map(|place| (place.room.clone(), place.shown.clone()));
        let Some((room, shown)) = place else { return };
        let of = match haul.what {
            What::Lent { from, transfer } => RangeOf::Lent { to: haul.to, from, transfer },
            What::Copy { object } => {
                RangeOf::Copy { object, digest: shown.as_ref().map_or(Digest::default(), |shown| shown.digest()) }
            }
        };
        let landing = Landing { hauls: self.clone(), haul, offset, bytes, shown, came: Err(false) };
        let task = self.runtime.spawn(read(landing, room, source, RangeAsked { of, offset, bytes }));
        if let Some(place) = self.moving.lock().rooms.get_mut(&haul) {
            place.tasks.retain(|_, (_, task)| !task.is_finished());
            place.tasks.insert(offset, (source, task.abort_handle()));
        }
    }
}

impl std::fmt::Debug for Hauls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hauls").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// The machine needs no clock: ranges have deadlines of their own.
const NOW: Time = Time::ZERO;

impl Ranges for Hauls {
    fn range(&self, by: ProcessId, words: &[u8]) -> RangeComing {
        let asked = mobula_wire::decode(words).ok().filter(|_| by.number() == 0);
        let sent = self.sent.clone();
        let counted = move |range: &Bytes| {
            sent.fetch_add(range.len() as u64, Ordering::Relaxed);
        };
        match asked {
            // Whoever may have it is of the node that asks.
            Some(RangeAsked { of: RangeOf::Lent { to, from, transfer }, offset, bytes }) if to.node() == by.node() => {
                let range = self.lent_range((to, from, transfer), offset, bytes);
                Box::pin(std::future::ready(range.inspect(counted)))
            }
            // Nodes are of one cluster: each sees to it who reads what is there.
            Some(RangeAsked { of: RangeOf::Copy { object, digest }, offset, bytes }) => {
                let range = self.copies.range(&self.arena, (object, digest), offset, bytes.into());
                Box::pin(async move { range.await.inspect(counted) })
            }
            _ => Box::pin(std::future::ready(None)),
        }
    }
}

impl Hauls {
    fn lent_range(
        &self,
        (to, from, transfer): (ProcessId, ProcessId, TransferId),
        offset: u64,
        bytes: u32,
    ) -> Option<Bytes> {
        let lending = self.lent.lock().get(&(from, transfer)).filter(|lending| lending.to == to).cloned()?;
        let bytes = u64::from(bytes);
        let Extent { segment, offset: at } = lending.at;
        if offset.checked_add(bytes)? > lending.bytes {
            return None;
        }
        let at = Extent { segment, offset: at.checked_add(offset)? };
        match self.arena.lent(from, at, bytes) {
            Ok(view) => Some(Bytes::from_owner(Lent { view, _lending: lending })),
            Err(error) => {
                tracing::debug!(%from, %error, "what a process lends is not there");
                None
            }
        }
    }
}

/// A range that is being read; the machine hears of it when this is dropped.
struct Landing {
    hauls: Arc<Hauls>,
    haul: HaulId,
    offset: u64,
    bytes: u32,
    shown: Option<Arc<Shown>>,
    /// Or whether it will never come.
    came: Result<(), bool>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let (haul, offset) = (self.haul, self.offset);
        if let Some(shown) = self.shown.take().filter(|_| self.came.is_ok()) {
            shown.came(offset, self.bytes.into());
        }
        self.hauls.drive(match self.came {
            Ok(()) => Input::Came { haul, offset },
            Err(is_final) => Input::Failed { haul, offset, is_final },
        });
    }
}

/// Reads a range from a node that has it into its room.
async fn read(mut landing: Landing, room: Room, source: NodeId, asked: RangeAsked) {
    let RangeAsked { offset, bytes, .. } = asked;
    let (Ok(words), Some(mesh)) = (mobula_wire::encode(&asked), landing.hauls.routes.mesh().cloned()) else { return };
    let keep = |at: u64, chunks: &[Bytes]| room.write(offset + at, chunks);
    landing.came = match mesh.fetch_range(source.into(), words.into(), bytes.into(), keep).await {
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::debug!(haul = ?landing.haul, %source, offset, %error, "a range did not come");
            // Whatever else it is, it may be another the next time.
            Err(!matches!(error, RangeError::Cut { .. }))
        }
    };
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use mobula_types::{JobId, NodeId};

    use super::*;

    const HERE: NodeId = NodeId(1);
    const THERE: NodeId = NodeId(2);
    const BYTES: u64 = 1 << 20;

    fn here(number: u32) -> ProcessId {
        ProcessId::new(HERE, number)
    }

    fn there(number: u32) -> ProcessId {
        ProcessId::new(THERE, number)
    }

    /// Two processes of one job and one of another, whose words are read by nobody.
    fn hauls() -> Arc<Hauls> {
        let arena = Arena::new(8 * BYTES);
        for (number, job) in [(1, 1), (2, 1), (3, 2)] {
            arena.admit(here(number), JobId(job), "secret");
        }
        Hauls::new(Arc::default(), Arc::new(arena))
    }

    fn asked(to: ProcessId, from: ProcessId, offset: u64, bytes: u32) -> Vec<u8> {
        mobula_wire::encode(&RangeAsked { of: RangeOf::Lent { to, from, transfer: 7 }, offset, bytes }).unwrap()
    }

    #[tokio::test]
    async fn a_node_reads_what_is_lent_to_its_processes_and_nothing_else() {
        let hauls = hauls();
        let (segment, file) = hauls.arena.lease(here(1), BYTES).unwrap();
        rustix::io::pwrite(&file, b"manta", 100).unwrap();
        let at = Extent { segment, offset: 100 };
        let lend = |from| hauls.said(from, ToNode::Lend { transfer: 7, to: there(1), at, bytes: 5 });
        assert_eq!(lend(here(1)), None, "it is for nobody else");
        let range = |by: ProcessId, words: &[u8]| hauls.range(by, words).now_or_never().flatten();
        let right = asked(there(1), here(1), 1, 4);
        assert_eq!(range(THERE.into(), &right).unwrap(), "anta");
        for (by, words, why) in [
            (THERE.into(), asked(there(2), here(1), 0, 5), "it is lent to another process"),
            (NodeId(3).into(), right.clone(), "another node asks"),
            (there(1), right.clone(), "no node asks"),
            (THERE.into(), asked(there(1), here(1), 0, 6), "so much is not lent"),
            (THERE.into(), asked(there(1), here(1), u64::MAX, 6), "nothing has so much"),
            (THERE.into(), asked(there(1), here(2), 0, 5), "another lends nothing"),
            (THERE.into(), b"nonsense".to_vec(), "nonsense"),
        ] {
            assert_eq!(range(by, &words), None, "{why}");
        }
        // A process that lends what is another job's lends nothing.
        lend(here(3));
        assert_eq!(range(THERE.into(), &asked(there(1), here(3), 0, 5)), None);
        // One that has ended lends nothing any more, whenever its words are read; who reads goes on.
        let reading = range(THERE.into(), &right).unwrap();
        hauls.arena.gone(here(1), |_| false);
        hauls.gone(here(1));
        lend(here(1));
        assert_eq!((range(THERE.into(), &right), &reading[..]), (None, &b"anta"[..]));
        assert!(hauls.lent.lock().keys().all(|(from, _)| *from == here(3)));
    }

    #[tokio::test]
    async fn what_is_lent_is_its_process_s_again_when_nobody_reads_it() {
        let hauls = hauls();
        let (segment, _file) = hauls.arena.lease(here(1), BYTES).unwrap();
        let at = Extent { segment, offset: 0 };
        hauls.said(here(1), ToNode::Lend { transfer: 7, to: there(1), at, bytes: 5 });
        let reading = hauls.range(THERE.into(), &asked(there(1), here(1), 0, 5)).await.unwrap();
        let lending = Arc::downgrade(hauls.lent.lock().values().next().unwrap());
        hauls.said(here(1), ToNode::EndLend { transfer: 7 });
        assert_eq!(hauls.range(THERE.into(), &asked(there(1), here(1), 0, 5)).await, None, "nobody begins to read it");
        let is_awaited = lending.upgrade().expect("it is read").is_awaited.load(Ordering::Acquire);
        assert!(is_awaited, "its end is told to the process");
        drop(reading);
        assert!(lending.upgrade().is_none(), "that is now");
    }

    #[tokio::test]
    async fn only_its_own_room_is_filled_for_a_process() {
        let hauls = hauls();
        let (segment, _file) = hauls.arena.lease(here(1), BYTES).unwrap();
        let room = Extent { segment, offset: 0 };
        let haul = |process, bytes| {
            hauls.said(process, ToNode::Haul { from: there(1), transfer: 7, room, bytes });
            hauls.moving.lock().machine.count()
        };
        assert_eq!(haul(here(2), BYTES), 0, "it is leased to another");
        assert_eq!(haul(here(1), BYTES + 1), 0, "it is longer than its segment");
        assert_eq!(haul(here(1), BYTES), 1);
        // No mesh is there: what is asked for never comes.
        let ended = async {
            while hauls.moving.lock().machine.count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), ended).await.expect("it is given up");
        let moving = hauls.moving.lock();
        assert_eq!((moving.counts, moving.rooms.len()), (Counts { failed: 1, ..Counts::default() }, 0));
    }
}
