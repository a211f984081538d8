//! What leaves a node's shared memory when that runs short, and what comes back (design.md §6, G15, G16).
//!
//! ```text
//!            chosen, has no file                  written
//!  (here) ────────────────────────► being written ───────► in its file ──wanted──► waits for room ──► being read
//!    ▲  │                                │ disk full            ▲                        │               │
//!    │  └── chosen, has a file ──────────┼──────────────────────┘                        │ too long      │
//!    │                                   ▼                                               ▼               │
//!    └───────────────────────────────────┴── (no room: its readers hear that) ◄──────────┘               │
//!    └───────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A copy of which another is elsewhere is not written: it is given up. What a segment holds leaves together, since only an
//! empty segment is room again. Nothing leaves that is being read; if nothing else is there, its readers are asked to let go.
//!
//! Knows nothing of files and segments but how large they are: the driver writes, reads and says what came of it.

mod invariants;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mobula_types::{ObjectId, StateMachine, Time};
use mobula_wire::segments::SegmentId;

use crate::mutant::{Mutant, Planted};

pub use invariants::check;

/// Above this part of the budget copies leave (G15).
pub const SPILL_PART: f64 = 0.80;

/// Above this part of it nothing is leased to processes (G15): the rest is for what comes back to be read.
pub const FULL_PART: f64 = 0.95;

/// Bytes that are written at once: as much as a plain disk takes in a tenth of a second.
pub const SPILLING_BYTES_MAX: u64 = 32 << 20;

/// Copies that are written at once, however small they are.
pub const SPILLING_MAX: usize = 64;

/// Copies that are read at once: a file is read by one thread.
pub const RESTORING_MAX: usize = 8;

/// Copies that may wait to be read; beyond it they are as without room at once.
pub const WAITING_MAX: usize = 1 << 16;

/// What is wanted waits so long for room: others have to be written, which the disk decides.
pub const RESTORE_MAX: Duration = Duration::from_secs(10);

/// A lease that was refused is asked for again after a much shorter time than this, or not wanted any more.
pub const REFUSED_MAX: Duration = Duration::from_millis(500);

/// An emptied segment is back after a much shorter time, unless something unknown is in it: then another is chosen.
pub const RETURN_MAX: Duration = Duration::from_secs(1);

/// A full disk is tried again after this (G16: 5 s).
pub const DISK_LOOK: Duration = Duration::from_secs(2);

/// Readers that were asked to let go are asked again after this.
pub const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The same while somebody waits for what is in a file: readers who were asked before their bytes had reached them let go
/// of nothing.
pub const ASK_WAITING: Duration = Duration::from_millis(50);

/// What had no room when it was to be read is tried again after this, or when segments have come or gone: what is missing
/// may be nothing that the machine can see.
pub const RESTORE_AGAIN: Duration = Duration::from_millis(50);

/// Copies that are looked at for one whose whole segment can leave.
const LOOK_MAX: usize = 32;

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A copy lies in a segment from now on.
    Kept {
        /// Of which object.
        object: ObjectId,
        /// In which segment.
        segment: SegmentId,
        /// How long it is.
        bytes: u64,
        /// It must not be given up: there is no other.
        is_primary: bool,
    },
    /// One more reads it.
    Read {
        /// Which.
        object: ObjectId,
    },
    /// One less.
    Unread {
        /// Which.
        object: ObjectId,
    },
    /// Nobody wants a copy any more, or it is lost: what is done with it comes to nothing.
    Freed {
        /// Of which object.
        object: ObjectId,
    },
    /// A copy was written, or was not.
    Spilled {
        /// Of which object.
        object: ObjectId,
        /// What came of it.
        written: Written,
    },
    /// A copy that is in its file is to be read.
    Wanted {
        /// Of which object.
        object: ObjectId,
    },
    /// It was read into a segment; `None` when there was no room for one after all.
    Restored {
        /// Of which object.
        object: ObjectId,
        /// Where it is.
        segment: Option<SegmentId>,
    },
    /// How much is leased, and which segments there are.
    Arena {
        /// Bytes of all segments.
        leased: u64,
        /// Each, and how long it is.
        segments: BTreeMap<SegmentId, u64>,
    },
    /// A process was refused a segment, and waits for room.
    Refused {
        /// How long it is to be.
        bytes: u64,
    },
    /// Something in the files is not needed any more: a full disk may have room.
    FileFreed,
    /// Nothing but time has passed.
    Tick,
}

/// What came of writing a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is in its file.
    Whole,
    /// The disk has no room, or does not write.
    DiskFull,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Give a copy up: another is elsewhere.
    GiveUp {
        /// Of which object.
        object: ObjectId,
    },
    /// Give up the bytes of a copy that is in its file too.
    Evict {
        /// Of which object.
        object: ObjectId,
    },
    /// Write a copy to a file; [`Input::Spilled`] answers.
    Spill {
        /// Of which object.
        object: ObjectId,
    },
    /// Ask those who read a copy to let go of it, if they do not look at it.
    LetGo {
        /// Of which object.
        object: ObjectId,
    },
    /// Read a copy from its file into a new segment; [`Input::Restored`] answers.
    Restore {
        /// Of which object.
        object: ObjectId,
        /// Although that is beyond the budget.
        is_beyond: bool,
    },
    /// Who wants this copy hears that there is no room for it.
    NoRoom {
        /// Of which object.
        object: ObjectId,
    },
    /// The disk is full, or has room again: to be said.
    Disk {
        /// Which.
        is_full: bool,
    },
}

/// What a node keeps in its memory and in its files.
#[derive(Clone, Debug)]
pub struct Pressure {
    now: Time,
    budget: u64,
    /// Segments that there may be, however short they are.
    segments_max: usize,
    leased: u64,
    copies: BTreeMap<ObjectId, Copy>,
    segments: BTreeMap<SegmentId, Segment>,
    /// Copies that nobody reads: those first that cost nothing to let go, then the oldest.
    idle: BTreeSet<(Cost, u64, ObjectId)>,
    /// Copies that are read: the oldest first.
    read: BTreeSet<(u64, ObjectId)>,
    spilling: usize,
    spilling_bytes: u64,
    /// Copies that are to be read, in the order of their asking.
    waiting: VecDeque<ObjectId>,
    restoring: BTreeSet<ObjectId>,
    /// There was no room for one that was to be read: the next is not tried before.
    restore_at: Option<Time>,
    /// The largest segment that was refused of late, and until when that counts.
    refused: Option<(u64, Time)>,
    /// The disk is full; it is tried again then.
    full_until: Option<Time>,
    is_full: bool,
    count: u64,
    outputs: VecDeque<Output>,
    planted: Planted,
}

/// What it costs to let a copy go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cost {
    /// Another is elsewhere, or in its file.
    Nothing,
    /// It has to be written.
    Writing,
}

#[derive(Clone, Debug)]
struct Copy {
    bytes: u64,
    is_primary: bool,
    has_file: bool,
    readers: u32,
    /// When it was kept or last asked for.
    touched: u64,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Here {
        segment: SegmentId,
        asked: Option<Time>,
    },
    Spilling {
        segment: SegmentId,
    },
    File,
    /// Wanted since; room is waited for until then.
    Waiting {
        until: Time,
    },
    /// If there is no room after all, it is waited for until then.
    Restoring {
        until: Time,
    },
}

impl Copy {
    fn segment(&self) -> Option<SegmentId> {
        match self.place {
            Place::Here { segment, .. } | Place::Spilling { segment } => Some(segment),
            _ => None,
        }
    }

    fn cost(&self) -> Cost {
        if self.has_file || !self.is_primary { Cost::Nothing } else { Cost::Writing }
    }
}

#[derive(Clone, Debug, Default)]
struct Segment {
    /// Zero before the arena has said it.
    bytes: u64,
    copies: BTreeSet<ObjectId>,
    /// All that was in it has left, or is about to: it is expected back until then.
    back_by: Option<Time>,
}

impl StateMachine for Pressure {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Time, input: Input) {
        self.now = self.now.max(now);
        match input {
            Input::Kept { object, segment, bytes, is_primary } => self.kept(object, segment, bytes, is_primary),
            Input::Read { object } => {
                self.count += 1;
                let touched = self.count;
                self.change(object, |copy| {
                    (copy.readers, copy.touched) = (copy.readers + 1, touched);
                    // Whoever came last has not been asked.
                    if let Place::Here { asked, .. } = &mut copy.place {
                        *asked = None;
                    }
                });
            }
            Input::Unread { object } => self.change(object, |copy| copy.readers = copy.readers.saturating_sub(1)),
            Input::Freed { object } => self.freed(object),
            Input::Spilled { object, written } => self.spilled(object, written),
            Input::Wanted { object } => self.wanted(object),
            Input::Restored { object, segment } => self.restored(object, segment),
            Input::Arena { leased, segments } => self.arena(leased, segments),
            Input::Refused { bytes } => {
                let before = self.refused.map_or(0, |(bytes, _)| bytes);
                self.refused = Some((before.max(bytes), self.now + REFUSED_MAX));
            }
            Input::FileFreed => {
                if self.is_full {
                    self.full_until = None;
                }
            }
            Input::Tick => {}
        }
        self.look();
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Time> {
        let back = self.segments.values().filter_map(|segment| segment.back_by).min();
        let waiting = self.waiting.front().and_then(|object| match self.copies.get(object)?.place {
            Place::Waiting { until } => Some(until),
            _ => None,
        });
        let is_short = self.excess(0) > 0 || !self.waiting.is_empty();
        let again = (is_short && !self.read.is_empty()).then(|| self.now + self.ask_again());
        let refused = self.refused.map(|(_, until)| until);
        [back, waiting, self.restore_at, again, refused, self.full_until].into_iter().flatten().min()
    }
}

impl Pressure {
    /// Of a node that may lease so many bytes, in so many segments.
    pub fn new(budget: u64, segments_max: usize) -> Self {
        Self {
            now: Time::ZERO,
            budget,
            segments_max,
            leased: 0,
            copies: BTreeMap::new(),
            segments: BTreeMap::new(),
            idle: BTreeSet::new(),
            read: BTreeSet::new(),
            spilling: 0,
            spilling_bytes: 0,
            waiting: VecDeque::new(),
            restoring: BTreeSet::new(),
            restore_at: None,
            refused: None,
            full_until: None,
            is_full: false,
            count: 0,
            outputs: VecDeque::new(),
            planted: Planted::default(),
        }
    }

    /// The same with a fault in it, for the simulator to find.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_mutant(mut self, mutant: Mutant) -> Self {
        self.planted = Planted::new(mutant);
        self
    }

    /// Copies and segments that it knows.
    pub fn open(&self) -> (usize, usize) {
        (self.copies.len(), self.segments.len())
    }

    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        self.is_full
    }

    /// Bytes of copies that are in files and not in memory.
    pub fn spilled_bytes(&self) -> u64 {
        let is_away = |copy: &&Copy| copy.has_file && copy.segment().is_none();
        self.copies.values().filter(is_away).map(|copy| copy.bytes).sum()
    }

    /// Bytes of copies that are in memory.
    pub fn kept_bytes(&self) -> u64 {
        self.copies.values().filter(|copy| copy.segment().is_some()).map(|copy| copy.bytes).sum()
    }

    fn kept(&mut self, object: ObjectId, segment: SegmentId, bytes: u64, is_primary: bool) {
        self.freed(object);
        self.count += 1;
        let place = Place::Here { segment, asked: None };
        let copy = Copy { bytes, is_primary, has_file: false, readers: 0, touched: self.count, place };
        self.enter(object, copy);
    }

    /// A copy is as this says from now on.
    fn enter(&mut self, object: ObjectId, copy: Copy) {
        if let Place::Here { .. } = copy.place {
            // PRESS-1.
            if copy.readers == 0 || self.planted.is(Mutant::LeaveUnderReader) {
                self.idle.insert((copy.cost(), copy.touched, object));
            } else {
                self.read.insert((copy.touched, object));
            }
        }
        if let Some(segment) = copy.segment() {
            let segment = self.segments.entry(segment).or_default();
            segment.copies.insert(object);
            if matches!(copy.place, Place::Here { .. }) {
                segment.back_by = None;
            }
        }
        self.copies.insert(object, copy);
    }

    fn leave(&mut self, object: ObjectId) -> Option<Copy> {
        let copy = self.copies.remove(&object)?;
        self.idle.remove(&(copy.cost(), copy.touched, object));
        self.read.remove(&(copy.touched, object));
        if let Some(id) = copy.segment()
            && let Some(segment) = self.segments.get_mut(&id)
        {
            segment.copies.remove(&object);
        }
        Some(copy)
    }

    fn change(&mut self, object: ObjectId, change: impl FnOnce(&mut Copy)) {
        if let Some(mut copy) = self.leave(object) {
            change(&mut copy);
            self.enter(object, copy);
        }
    }

    /// Whether all that is known of a segment has left it or is about to: then it is expected back.
    fn expect_back(&mut self, id: SegmentId) {
        let Some(segment) = self.segments.get_mut(&id) else { return };
        let is_leaving = |object: &ObjectId| {
            self.copies.get(object).is_some_and(|copy| matches!(copy.place, Place::Spilling { .. }))
        };
        if segment.bytes == 0 && segment.copies.is_empty() {
            self.segments.remove(&id);
        } else if segment.copies.iter().all(is_leaving) {
            segment.back_by = Some(self.now + RETURN_MAX);
        }
    }

    fn freed(&mut self, object: ObjectId) {
        let Some(copy) = self.leave(object) else { return };
        match copy.place {
            // PRESS-2.
            Place::Spilling { .. } if !self.planted.is(Mutant::CountFreed) => {
                self.spilling -= 1;
                self.spilling_bytes -= copy.bytes;
            }
            Place::Waiting { .. } => self.waiting.retain(|waiting| *waiting != object),
            Place::Restoring { .. } => drop(self.restoring.remove(&object)),
            Place::Here { .. } | Place::Spilling { .. } | Place::File => {}
        }
        if let Some(segment) = copy.segment() {
            self.expect_back(segment);
        }
    }

    fn spilled(&mut self, object: ObjectId, written: Written) {
        let Some(Place::Spilling { segment }) = self.copies.get(&object).map(|copy| copy.place) else { return };
        let Some(mut copy) = self.leave(object) else { return };
        self.spilling -= 1;
        self.spilling_bytes -= copy.bytes;
        match written {
            Written::Whole => {
                copy.has_file = true;
                self.said_of_disk(false);
                // PRESS-1: somebody has begun to read it meanwhile.
                copy.place = if copy.readers > 0 && !self.planted.is(Mutant::EvictUnderReader) {
                    Place::Here { segment, asked: None }
                } else {
                    self.outputs.push_back(Output::Evict { object });
                    Place::File
                };
            }
            Written::DiskFull => {
                self.full_until = Some(self.now + DISK_LOOK);
                self.said_of_disk(true);
                copy.place = Place::Here { segment, asked: None };
            }
        }
        self.enter(object, copy);
        self.expect_back(segment);
    }

    fn said_of_disk(&mut self, is_full: bool) {
        if !is_full {
            self.full_until = None;
        }
        if std::mem::replace(&mut self.is_full, is_full) != is_full {
            self.outputs.push_back(Output::Disk { is_full });
        }
    }

    fn wanted(&mut self, object: ObjectId) {
        let until = self.now + RESTORE_MAX;
        let has_place = self.waiting.len() < WAITING_MAX;
        let Some(copy) = self.copies.get_mut(&object) else { return };
        if copy.place != Place::File {
            return;
        }
        if !has_place {
            return self.outputs.push_back(Output::NoRoom { object });
        }
        copy.place = Place::Waiting { until };
        self.waiting.push_back(object);
    }

    fn restored(&mut self, object: ObjectId, segment: Option<SegmentId>) {
        let found = self.copies.get(&object).map(|copy| (copy.place, copy.bytes));
        let Some((Place::Restoring { until }, bytes)) = found else { return };
        self.restoring.remove(&object);
        self.count += 1;
        let touched = self.count;
        match segment {
            Some(segment) => {
                // The arena may say it only after this.
                if !self.segments.contains_key(&segment) {
                    self.leased += bytes;
                }
                self.segments.entry(segment).or_default().bytes = bytes;
                let place = Place::Here { segment, asked: None };
                self.change(object, |copy| (copy.place, copy.touched) = (place, touched));
            }
            None => {
                self.restore_at = Some(self.now + RESTORE_AGAIN);
                // PRESS-7: it has waited since it was wanted.
                let until = if self.planted.is(Mutant::WaitAnew) { self.now + RESTORE_MAX } else { until };
                self.change(object, |copy| copy.place = Place::Waiting { until });
                let is_before = |other: &ObjectId| {
                    let place = self.copies.get(other).map(|copy| copy.place);
                    matches!(place, Some(Place::Waiting { until: of_other }) if of_other <= until)
                };
                // PRESS-4.
                if !self.planted.is(Mutant::ForgetUnread) {
                    self.waiting.insert(self.waiting.partition_point(is_before), object);
                }
            }
        }
    }

    fn arena(&mut self, leased: u64, segments: BTreeMap<SegmentId, u64>) {
        self.leased = leased;
        self.restore_at = None;
        for (id, bytes) in &segments {
            self.segments.entry(*id).or_default().bytes = *bytes;
        }
        self.segments.retain(|id, segment| {
            let is_there = segments.contains_key(id);
            if !is_there {
                (segment.bytes, segment.back_by) = (0, None);
            }
            is_there || !segment.copies.is_empty()
        });
    }

    /// Bytes by which more is leased than there is to be, if `wanted` more are needed to read what is wanted; one for a
    /// segment, where only those are short.
    fn excess(&self, wanted: u64) -> u64 {
        let (mut back, mut stays) = (0, self.restoring.len());
        for segment in self.segments.values() {
            match segment.back_by {
                Some(_) => back += segment.bytes,
                None => stays += 1,
            }
        }
        let leased = self.leased.saturating_sub(back);
        let usual = leased.saturating_sub(part(self.budget, SPILL_PART));
        let refused = self.refused.map_or(0, |(bytes, _)| bytes);
        let for_lease = if refused == 0 { 0 } else { (leased + refused).saturating_sub(part(self.budget, FULL_PART)) };
        let for_reading = if wanted == 0 { 0 } else { (leased + wanted).saturating_sub(self.budget) };
        let is_crowded = (wanted > 0 || refused > 0) && stays >= self.segments_max;
        usual.max(for_lease).max(for_reading).max(is_crowded.into())
    }

    fn look(&mut self) {
        let now = self.now;
        if self.refused.is_some_and(|(_, until)| until <= now) {
            self.refused = None;
        }
        if self.full_until.is_some_and(|until| until <= now) {
            self.full_until = None;
        }
        if self.restore_at.is_some_and(|at| at <= now) {
            self.restore_at = None;
        }
        for segment in self.segments.values_mut() {
            if segment.back_by.is_some_and(|by| by <= now) {
                segment.back_by = None;
            }
        }
        let wanted = self.restore();
        // Nothing has to be written: whether the disk is full is not known any more, and nobody's trouble.
        if self.is_full && self.full_until.is_none() && self.spilling == 0 && self.excess(wanted) == 0 {
            self.said_of_disk(false);
        }
        while self.excess(wanted) > 0 {
            if !self.choose() {
                self.ask_readers();
                self.restore_beyond();
                break;
            }
        }
    }

    /// Reads what is wanted and has room; says how much more the next needs.
    fn restore(&mut self) -> u64 {
        let coming = |machine: &Self| -> u64 {
            machine.restoring.iter().filter_map(|object| machine.copies.get(object)).map(|copy| copy.bytes).sum()
        };
        while let Some(object) = self.waiting.front().copied() {
            // PRESS-4.
            let Some(&Copy { bytes, place: Place::Waiting { until }, .. }) = self.copies.get(&object) else { break };
            if until <= self.now {
                self.waiting.pop_front();
                self.change(object, |copy| copy.place = Place::File);
                self.outputs.push_back(Output::NoRoom { object });
                continue;
            }
            let needed = coming(self) + bytes;
            let is_short = self.leased + needed > self.budget
                || self.segments.len() + self.restoring.len() >= self.segments_max
                || self.restoring.len() >= RESTORING_MAX;
            if is_short || self.restore_at.is_some() {
                return needed;
            }
            self.read_next(false);
        }
        0
    }

    /// Has the first of those that wait read.
    fn read_next(&mut self, is_beyond: bool) {
        let Some(object) = self.waiting.pop_front() else { return };
        let Some(Place::Waiting { until }) = self.copies.get(&object).map(|copy| copy.place) else { return };
        self.restoring.insert(object);
        self.change(object, |copy| copy.place = Place::Restoring { until });
        self.outputs.push_back(Output::Restore { object, is_beyond });
    }

    /// Nothing can leave because the disk is full too, so what is in files would be read by nobody: one copy at a time comes
    /// back beyond the budget (PRESS-6). It leaves again at no cost, for the next.
    fn restore_beyond(&mut self) {
        let comes_back = self.segments.values().any(|segment| segment.back_by.is_some());
        let is_full = self.is_full || self.planted.is(Mutant::ReadBeyond);
        let is_room_left = self.leased <= self.budget && self.restore_at.is_none();
        if is_full && is_room_left && !comes_back && self.restoring.is_empty() {
            self.read_next(true);
        }
    }

    /// Has a copy leave, and what is in its segment with it; false when none can.
    fn choose(&mut self) -> bool {
        let may_write = |machine: &Self| {
            let is_probe = machine.is_full && machine.spilling > 0;
            // PRESS-8.
            (machine.full_until.is_none() || machine.planted.is(Mutant::TryFullDisk))
                && !is_probe
                && machine.spilling < SPILLING_MAX
                && machine.spilling_bytes < SPILLING_BYTES_MAX
        };
        let is_open = may_write(self);
        let can_leave = |(cost, _, _): &&(Cost, u64, ObjectId)| *cost == Cost::Nothing || is_open;
        let segment_of = |object: &ObjectId| self.copies.get(object).and_then(Copy::segment);
        let leaves_whole = |(_, _, object): &&(Cost, u64, ObjectId)| {
            let segment = segment_of(object).and_then(|segment| self.segments.get(&segment));
            let is_idle = |object: &ObjectId| self.copies.get(object).is_some_and(|copy| copy.readers == 0);
            segment.is_some_and(|segment| segment.copies.iter().all(is_idle))
        };
        let of_cost = |cost: Cost| self.idle.iter().filter(move |(found, ..)| *found == cost).filter(can_leave);
        let whole = of_cost(Cost::Nothing).take(LOOK_MAX).find(leaves_whole);
        let whole = whole.or_else(|| of_cost(Cost::Writing).take(LOOK_MAX).find(leaves_whole));
        let Some((_, _, first)) = whole.or_else(|| self.idle.iter().find(can_leave)).copied() else { return false };
        let Some(id) = segment_of(&first) else { return false };
        let together: Vec<ObjectId> =
            self.segments.get(&id).map(|segment| segment.copies.iter().copied().collect()).unwrap_or_default();
        let mut has_left = false;
        for object in std::iter::once(first).chain(together.into_iter().filter(|object| *object != first)) {
            let Some(copy) = self.copies.get(&object) else { continue };
            if !self.idle.contains(&(copy.cost(), copy.touched, object)) {
                continue;
            }
            match copy.cost() {
                Cost::Nothing => self.let_go(object),
                // What does not fit now follows when this is written.
                Cost::Writing if !may_write(self) => continue,
                Cost::Writing => self.spill(object, id),
            }
            has_left = true;
        }
        self.expect_back(id);
        has_left
    }

    fn let_go(&mut self, object: ObjectId) {
        let Some(mut copy) = self.leave(object) else { return };
        if copy.has_file {
            self.outputs.push_back(Output::Evict { object });
            copy.place = Place::File;
            self.enter(object, copy);
        } else {
            self.outputs.push_back(Output::GiveUp { object });
        }
    }

    fn spill(&mut self, object: ObjectId, segment: SegmentId) {
        self.change(object, |copy| copy.place = Place::Spilling { segment });
        self.spilling += 1;
        self.spilling_bytes += self.copies.get(&object).map_or(0, |copy| copy.bytes);
        self.outputs.push_back(Output::Spill { object });
    }

    fn ask_again(&self) -> Duration {
        if self.waiting.is_empty() { ASK_AGAIN } else { ASK_WAITING }
    }

    /// Nothing can leave but what is read: who only has it by him lets go of it.
    fn ask_readers(&mut self) {
        let now = self.now;
        let again = self.ask_again();
        let due = |asked: Option<Time>| asked.is_none_or(|at| at + again <= now);
        for (_, object) in self.read.iter().take(SPILLING_MAX) {
            if let Some(Copy { place: Place::Here { asked, .. }, .. }) = self.copies.get_mut(object)
                && due(*asked)
            {
                *asked = Some(now);
                self.outputs.push_back(Output::LetGo { object: *object });
            }
        }
    }
}

/// A part of so many bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a part of a budget"
)]
pub fn part(bytes: u64, part: f64) -> u64 {
    (bytes as f64 * part) as u64
}
