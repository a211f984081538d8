//! A node whose memory runs short: objects are put, read and freed, and leave for a disk that is full now and then, because
//! somebody else fills it or it fails. What is written and read back comes in any order, also for objects that are gone
//! meanwhile, and readers die.
//!
//! The witness knows where every byte truly is, who reads it and who waits for it: it sees what leaves under a reader, what
//! is read beyond the budget, a disk that is tried though it is full, and who is neither answered nor refused in time.

mod store;

use std::collections::BTreeMap;
use std::time::Duration;

use mobula_logic::pressure::{
    self, DISK_LOOK, Input, Output, RESTORE_MAX, RESTORING_MAX, SPILL_PART, SPILLING_MAX, Written, part,
};
use mobula_logic::{Mutant, Pressure, Violation};
use mobula_types::{NodeId, ObjectId, ProcessId, StateMachine, Time};
use mobula_wire::segments::SegmentId;

use crate::agenda::Agenda;
use crate::coverage::Coverage;
use crate::failure::{Failure, Steps, ensure};
use crate::rng::Rng;
use crate::world;
use store::{Arena, Disk, Leased};

/// Runs the node of `seed` until all is freed, with `mutant` planted in it.
///
/// # Errors
/// The first promise that did not hold.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Coverage, Failure> {
    world::run::<World>(seed, mutant)
}

/// Segments of a node: few, so that they run out too.
const SEGMENTS_MAX: usize = 20;
const MIB: u64 = 1 << 20;
/// Of these there are more than are written at once, now and then.
const SMALL: u64 = 64 << 10;
const PROCESSES: u64 = 6;
/// About as many copies are kept at once.
const COPIES: usize = 14;
/// Objects are put, and the disk fails, for so long.
const BUSY_MS: u64 = 15_000;
/// By then all who waited when that ends have been answered.
const CALM_MS: u64 = 15_000;
/// A refused lease is asked for again after this, and not beyond [`PUT_MAX`].
const PUT_AGAIN: Duration = Duration::from_millis(400);
const PUT_MAX: Duration = Duration::from_secs(2);
/// Writing takes at most so long, and reading.
const WRITE_MAX_MS: u64 = 60;
const READ_MAX_MS: u64 = 90;
/// More than ever happens in a run that comes to rest.
const EVENTS_MAX: u64 = 100_000;

struct World {
    rng: Rng,
    agenda: Agenda<Event>,
    machine: Pressure,
    arena: Arena,
    disk: Disk,
    copies: BTreeMap<ObjectId, Copy>,
    readers: BTreeMap<u64, Reader>,
    /// Objects of which there may be another copy some day.
    gone: Vec<ObjectId>,
    /// Copies, readers and objects so far.
    count: u64,
    phase: Phase,
    is_look_noted: bool,
    wake: Option<Time>,
    is_disk_full: bool,
    /// A full disk is not tried before.
    try_at: Time,
    happened: u64,
    /// Readers hold what they have for long.
    is_stubborn: bool,
    coverage: Coverage,
    steps: Steps,
}

/// What happens of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Everything.
    Busy,
    /// Nothing new, and the disk stays as it is.
    Calm,
    /// What is in files is read, one after another.
    Reading(ObjectId),
    /// The disk has room.
    Healed,
}

struct Copy {
    /// Tells it from others of the same object.
    stamp: u64,
    bytes: u64,
    is_primary: bool,
    segment: Option<SegmentId>,
    has_file: bool,
    is_writing: bool,
    is_coming: bool,
    readers: usize,
    waiting: Vec<u32>,
    /// When the first of those who wait came.
    asked: Option<Time>,
}

struct Reader {
    /// Of another host when `None`: the machine does not know of it.
    process: Option<u32>,
    object: ObjectId,
    stamp: u64,
    segment: SegmentId,
}

#[derive(Debug)]
enum Event {
    NewPut,
    Put { since: Time, bytes: u64, values: u64 },
    Sealed { segment: SegmentId, bytes: u64 },
    Read,
    Unread { reader: u64 },
    Free,
    ProcessDies,
    DiskChanges,
    Written { object: ObjectId, stamp: u64, bytes: u64 },
    ReadBack { object: ObjectId, stamp: u64, bytes: u64, is_beyond: bool },
    FileFreed { bytes: u64 },
    Return { segment: SegmentId },
    Look,
    Wake { at: Time },
    Late { object: ObjectId, stamp: u64, asked: Time },
    Calm,
    ReadNext,
}

impl world::World for World {
    const NAME: &'static str = "pressure";

    fn new(seed: u64, mutant: Option<Mutant>, records: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x7072_6573);
        let budget = (64 + rng.below(128)) * MIB;
        let room = budget / 4 * (1 + rng.below(8));
        Self {
            agenda: Agenda::default(),
            machine: mutant.into_iter().fold(Pressure::new(budget, SEGMENTS_MAX), Pressure::with_mutant),
            arena: Arena::new(budget, SEGMENTS_MAX),
            disk: Disk { room, used: 0, others: 0, is_broken: false },
            copies: BTreeMap::new(),
            readers: BTreeMap::new(),
            gone: Vec::new(),
            count: 0,
            phase: Phase::Busy,
            is_look_noted: false,
            wake: None,
            is_disk_full: false,
            try_at: Time::ZERO,
            happened: 0,
            is_stubborn: rng.chance(30),
            coverage: Coverage::default(),
            steps: Steps::new(records),
            rng,
        }
    }

    fn play(&mut self) -> Result<(), Violation> {
        for event in [Event::NewPut, Event::Read, Event::Free, Event::ProcessDies, Event::DiskChanges] {
            self.agenda.after(Duration::ZERO, event);
        }
        self.agenda.after(Duration::from_millis(BUSY_MS), Event::Calm);
        self.go_on()?;
        self.rests()?;
        for object in self.copies.keys().copied().collect::<Vec<_>>() {
            self.free(object)?;
        }
        self.go_on()?;
        self.is_over()
    }

    fn end(self) -> (Time, Coverage, Steps) {
        (self.agenda.now(), self.coverage, self.steps)
    }
}

impl World {
    /// Until nothing is going to happen any more.
    fn go_on(&mut self) -> Result<(), Violation> {
        while let Some(event) = self.agenda.step() {
            let now = self.agenda.now();
            self.steps.note(now, || format!("{event:?}"));
            if matches!(event, Event::Wake { at } if self.wake != Some(at)) {
                continue;
            }
            self.happened += 1;
            ensure(self.happened < EVENTS_MAX, "PRESS-7", || "it does not come to rest".to_owned())?;
            self.happen(event)?;
            self.compare()?;
            let due = self.machine.next_timeout();
            if due != self.wake {
                self.wake = due;
                due.into_iter().for_each(|at| self.agenda.at(at, Event::Wake { at }));
            }
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::NewPut => self.new_put(),
            Event::Put { since, bytes, values } => self.put(since, bytes, values),
            Event::Sealed { segment, bytes } => self.sealed(segment, bytes),
            Event::Read => self.read_any(),
            Event::Unread { reader } => self.unread(reader),
            Event::Free => self.free_some(),
            Event::ProcessDies => self.process_dies(),
            Event::DiskChanges => self.disk_changes(),
            Event::Written { object, stamp, bytes } => self.written(object, stamp, bytes),
            Event::ReadBack { object, stamp, bytes, is_beyond } => self.read_back(object, stamp, bytes, is_beyond),
            Event::FileFreed { bytes } => {
                self.disk.used -= bytes;
                self.try_at = self.agenda.now();
                self.drive(Input::FileFreed)
            }
            Event::Return { segment } => {
                if self.arena.segments.get(&segment).is_some_and(Leased::is_empty) {
                    self.arena.take(segment);
                    self.arena_changed();
                }
                Ok(())
            }
            Event::Look => self.look(),
            Event::Wake { .. } => {
                self.wake = None;
                self.drive(Input::Tick)
            }
            Event::Late { object, stamp, asked } => {
                let copy = self.copies.get(&object).filter(|copy| copy.stamp == stamp && copy.asked == Some(asked));
                ensure(copy.is_none(), "PRESS-7", || format!("{object} is neither read nor said to have no room"))
            }
            Event::Calm => {
                self.phase = Phase::Calm;
                self.agenda.after(Duration::from_millis(CALM_MS), Event::ReadNext);
                Ok(())
            }
            Event::ReadNext => self.read_next(),
        }
    }

    /// Has the next of a kind of event happen, as long as there is to be one.
    fn again(&mut self, max_ms: u64, event: Event) -> bool {
        let is_busy = self.phase == Phase::Busy;
        if is_busy {
            let delay = self.rng.span(max_ms);
            self.agenda.after(delay, event);
        }
        is_busy
    }

    fn any_copy(&mut self) -> Option<ObjectId> {
        let at = self.rng.below(self.copies.len().max(1) as u64) as usize;
        self.copies.keys().nth(at).copied()
    }

    fn new_put(&mut self) -> Result<(), Violation> {
        if !self.again(400, Event::NewPut) {
            return Ok(());
        }
        let (bytes, values) = match self.rng.below(200) {
            0..3 => (SMALL, SPILLING_MAX as u64 + 6),
            3..40 => (1 + self.rng.below(self.arena.budget / 3), 1),
            _ => (1 + self.rng.below(self.arena.budget / 16), 1 + self.rng.below(3)),
        };
        self.put(self.agenda.now(), bytes, values)
    }

    /// A process writes values of so many bytes each: into a segment that it has, or a new one.
    fn put(&mut self, since: Time, bytes: u64, values: u64) -> Result<(), Violation> {
        let process = self.process();
        let all = bytes * values;
        let has_room = |leased: &Leased| leased.writer == Some(process) && leased.bytes - leased.used >= all;
        let of_it = self.arena.segments.iter().find(|(_, leased)| has_room(leased)).map(|(segment, _)| *segment);
        if of_it.is_some() {
            self.coverage.saw("a value is put where others are");
        }
        let spare = if self.rng.chance(50) { all / 2 } else { 0 };
        let Some(segment) = of_it.or_else(|| self.arena.lease(process, all + spare)) else {
            self.arena_changed();
            if self.agenda.now() - since >= PUT_MAX {
                self.coverage.saw("a put is told that the store is full");
            } else {
                self.agenda.after(PUT_AGAIN, Event::Put { since, bytes, values });
            }
            return Ok(());
        };
        if of_it.is_none() {
            self.arena_changed();
        }
        if self.agenda.now() > since {
            self.coverage.saw("a refused put finds room");
        }
        for _ in 0..values {
            self.change_segment(segment, |leased| {
                (leased.used, leased.holds) = (leased.used + bytes, leased.holds + 1)
            });
            let delay = self.rng.span(8);
            self.agenda.after(delay, Event::Sealed { segment, bytes });
        }
        Ok(())
    }

    fn process(&mut self) -> u32 {
        1 + self.rng.below(PROCESSES) as u32
    }

    fn change_segment(&mut self, segment: SegmentId, change: impl FnOnce(&mut Leased)) {
        let Some(leased) = self.arena.segments.get_mut(&segment) else { return };
        change(leased);
        if !leased.is_empty() {
            return;
        }
        if leased.writer.is_none() {
            self.arena.take(segment);
            return self.arena_changed();
        }
        // Its process has other things to do, or keeps it for what comes next.
        let delay = if self.rng.chance(80) { self.rng.span(30) } else { self.rng.span(3_000) };
        self.agenda.after(delay, Event::Return { segment });
    }

    fn arena_changed(&mut self) {
        if !std::mem::replace(&mut self.is_look_noted, true) {
            let delay = self.rng.span(5);
            self.agenda.after(delay, Event::Look);
        }
    }

    fn look(&mut self) -> Result<(), Violation> {
        self.is_look_noted = false;
        let segments = self.arena.segments.iter().map(|(segment, leased)| (*segment, leased.bytes)).collect();
        self.drive(Input::Arena { leased: self.arena.leased, segments })?;
        let Some(bytes) = self.arena.refused.take() else { return Ok(()) };
        self.coverage.saw("a lease is refused");
        self.drive(Input::Refused { bytes })
    }

    fn sealed(&mut self, segment: SegmentId, bytes: u64) -> Result<(), Violation> {
        self.count += 1;
        let is_known = !self.gone.is_empty() && self.rng.chance(15);
        let again =
            is_known.then(|| self.rng.below(self.gone.len() as u64) as usize).map(|at| self.gone.swap_remove(at));
        if again.is_some() {
            self.coverage.saw("there is a copy again");
        }
        let object = again.unwrap_or(ObjectId { owner: ProcessId::new(NodeId(1), 1), seq: self.count });
        let copy = Copy {
            stamp: self.count,
            bytes,
            is_primary: self.rng.chance(75) || bytes == SMALL,
            segment: Some(segment),
            has_file: false,
            is_writing: false,
            is_coming: false,
            readers: 0,
            waiting: Vec::new(),
            asked: None,
        };
        let is_primary = copy.is_primary;
        self.copies.insert(object, copy);
        self.change_segment(segment, |leased| (leased.copies, leased.holds) = (leased.copies + 1, leased.holds - 1));
        self.drive(Input::Kept { object, segment, bytes, is_primary })
    }

    fn read_any(&mut self) -> Result<(), Violation> {
        if !self.again(160, Event::Read) {
            return Ok(());
        }
        // Somebody needs many at once now and then.
        for _ in 0..if self.rng.chance(2) { 2 * COPIES } else { 1 } {
            let process = self.process();
            if let Some(object) = self.any_copy() {
                self.read(process, object)?;
            }
        }
        Ok(())
    }

    /// A process wants an object.
    fn read(&mut self, process: u32, object: ObjectId) -> Result<(), Violation> {
        let now = self.agenda.now();
        let Some(copy) = self.copies.get_mut(&object) else { return Ok(()) };
        let Some(segment) = copy.segment else {
            copy.waiting.push(process);
            let (stamp, asked) = (copy.stamp, *copy.asked.get_or_insert(now));
            let late = asked + RESTORE_MAX + Duration::from_millis(READ_MAX_MS + 1);
            self.agenda.at(late, Event::Late { object, stamp, asked });
            self.coverage.saw("an object is wanted that is in a file");
            return self.drive(Input::Wanted { object });
        };
        if copy.is_writing {
            self.coverage.saw("a copy is read while it is written");
        }
        if self.rng.chance(8) {
            let stamp = copy.stamp;
            self.change_segment(segment, |leased| leased.holds += 1);
            self.begin_read(Reader { process: None, object, stamp, segment });
            return Ok(());
        }
        self.read_here(process, object, segment)
    }

    fn read_here(&mut self, process: u32, object: ObjectId, segment: SegmentId) -> Result<(), Violation> {
        let Some(copy) = self.copies.get_mut(&object) else { return Ok(()) };
        copy.readers += 1;
        let stamp = copy.stamp;
        self.begin_read(Reader { process: Some(process), object, stamp, segment });
        self.drive(Input::Read { object })
    }

    fn begin_read(&mut self, reader: Reader) {
        self.count += 1;
        self.readers.insert(self.count, reader);
        let long = match self.rng.below(20) {
            _ if self.phase != Phase::Busy => self.rng.span(100),
            0 => self.rng.span(20_000),
            1..10 if self.is_stubborn => self.rng.span(40_000),
            1..5 => self.rng.span(2_000),
            _ => self.rng.span(300),
        };
        self.agenda.after(long, Event::Unread { reader: self.count });
    }

    fn unread(&mut self, reader: u64) -> Result<(), Violation> {
        let Some(Reader { process, object, stamp, segment }) = self.readers.remove(&reader) else { return Ok(()) };
        match self.copies.get_mut(&object).filter(|copy| copy.stamp == stamp && process.is_some()) {
            Some(copy) => {
                copy.readers -= 1;
                self.drive(Input::Unread { object })
            }
            None => {
                self.change_segment(segment, |leased| leased.holds -= 1);
                Ok(())
            }
        }
    }

    fn free_some(&mut self) -> Result<(), Violation> {
        if !self.again(200, Event::Free) {
            return Ok(());
        }
        for _ in 0..self.copies.len() / COPIES {
            if let Some(object) = self.any_copy() {
                self.free(object)?;
            }
        }
        Ok(())
    }

    /// Nobody holds an object any more.
    fn free(&mut self, object: ObjectId) -> Result<(), Violation> {
        let Some(copy) = self.copies.remove(&object) else { return Ok(()) };
        self.gone.push(object);
        let freed = match (copy.segment, copy.has_file) {
            _ if copy.is_writing => "a copy is freed while it is written",
            _ if copy.is_coming => "a copy is freed while it comes back",
            (None, _) if copy.asked.is_some() => "a copy is freed while it is waited for",
            (None, _) => "a copy in a file is freed",
            (Some(_), _) if copy.readers > 0 => "a copy is freed while it is read",
            (Some(_), true) => "a copy in memory and in a file is freed",
            (Some(_), false) => "a copy in memory is freed",
        };
        self.coverage.saw(freed);
        if copy.has_file {
            self.free_file(copy.bytes);
        }
        if let Some(segment) = copy.segment {
            // Who reads it goes on.
            self.change_segment(segment, |leased| {
                (leased.copies, leased.holds) = (leased.copies - 1, leased.holds + copy.readers);
            });
        }
        self.drive(Input::Freed { object })
    }

    fn free_file(&mut self, bytes: u64) {
        let delay = self.rng.span(5);
        self.agenda.after(delay, Event::FileFreed { bytes });
    }

    fn process_dies(&mut self) -> Result<(), Violation> {
        if !self.again(3_000, Event::ProcessDies) {
            return Ok(());
        }
        let process = self.process();
        let of_it = self.readers.iter().filter(|(_, reader)| reader.process == Some(process));
        for reader in of_it.map(|(reader, _)| *reader).collect::<Vec<_>>() {
            self.coverage.saw("a reader dies");
            self.unread(reader)?;
        }
        for copy in self.copies.values_mut() {
            let before = copy.waiting.len();
            copy.waiting.retain(|waiting| *waiting != process);
            if copy.waiting.len() < before {
                self.coverage.saw("one who waits dies");
            }
        }
        let of_it = self.arena.segments.iter().filter(|(_, leased)| leased.writer == Some(process));
        for segment in of_it.map(|(segment, _)| *segment).collect::<Vec<_>>() {
            self.coverage.saw("a segment outlives its process");
            self.change_segment(segment, |leased| leased.writer = None);
        }
        Ok(())
    }

    fn disk_changes(&mut self) -> Result<(), Violation> {
        if !self.again(4_000, Event::DiskChanges) {
            return Ok(());
        }
        let free = self.disk.room.saturating_sub(self.disk.used);
        (self.disk.others, self.disk.is_broken) = match self.rng.below(6) {
            0 => {
                self.coverage.saw("the disk fails");
                (0, true)
            }
            1 | 2 => {
                self.coverage.saw("somebody else fills the disk");
                (free.saturating_sub(self.rng.below(8 * MIB)), false)
            }
            _ => {
                self.coverage.saw("somebody else leaves the disk");
                (0, false)
            }
        };
        Ok(())
    }

    fn written(&mut self, object: ObjectId, stamp: u64, bytes: u64) -> Result<(), Violation> {
        let is_written = self.disk.write(bytes);
        let Some(copy) = self.copies.get_mut(&object).filter(|copy| copy.stamp == stamp) else {
            self.coverage.saw("a copy is written that is gone");
            if is_written {
                self.free_file(bytes);
            }
            return Ok(());
        };
        (copy.is_writing, copy.has_file) = (false, is_written);
        if is_written {
            self.coverage.saw("a copy is written");
            return self.drive(Input::Spilled { object, written: Written::Whole });
        }
        self.coverage.saw("a copy finds the disk full");
        self.try_at = self.agenda.now() + DISK_LOOK;
        self.drive(Input::Spilled { object, written: Written::DiskFull })
    }

    fn read_back(&mut self, object: ObjectId, stamp: u64, bytes: u64, is_beyond: bool) -> Result<(), Violation> {
        let room = self.arena.bring(bytes, is_beyond);
        let copy = self.copies.get_mut(&object).filter(|copy| copy.stamp == stamp);
        let (Some(copy), Some(segment)) = (copy, room) else {
            let is_gone = room.is_some();
            self.coverage.saw(if is_gone { "a copy is read back that is gone" } else { "there is no room after all" });
            room.into_iter().for_each(|segment| self.change_segment(segment, |_| ()));
            let Some(copy) = self.copies.get_mut(&object).filter(|copy| copy.stamp == stamp) else { return Ok(()) };
            copy.is_coming = false;
            return self.drive(Input::Restored { object, segment: None });
        };
        copy.is_coming = false;
        if self.phase == Phase::Busy && self.rng.chance(2) {
            self.coverage.saw("a file cannot be read");
            self.change_segment(segment, |_| ());
            return self.free(object);
        }
        self.coverage.saw(if is_beyond { "a copy comes back beyond the budget" } else { "a copy comes back" });
        (copy.segment, copy.asked) = (Some(segment), None);
        let waiting = std::mem::take(&mut copy.waiting);
        self.change_segment(segment, |leased| leased.copies += 1);
        self.arena_changed();
        for process in waiting {
            self.coverage.saw("one who waits reads");
            self.read_here(process, object, segment)?;
        }
        self.drive(Input::Restored { object, segment: Some(segment) })
    }

    /// Memory and disk are as they were left, and nobody reads for long: all that is in files can be read, one after another.
    fn read_next(&mut self) -> Result<(), Violation> {
        let last = match self.phase {
            Phase::Reading(object) if self.copies.get(&object).is_some_and(|copy| copy.asked.is_some()) => {
                self.agenda.after(Duration::from_millis(20), Event::ReadNext);
                return Ok(());
            }
            Phase::Reading(object) => Some(object),
            _ => {
                for reader in self.readers.keys().copied().collect::<Vec<_>>() {
                    self.unread(reader)?;
                }
                None
            }
        };
        let mut after = self.copies.iter().filter(|(object, _)| last.is_none_or(|last| **object > last));
        let Some(object) = after.find(|(_, copy)| copy.segment.is_none()).map(|(object, _)| *object) else {
            self.phase = Phase::Healed;
            self.disk = Disk { room: u64::MAX, used: self.disk.used, others: 0, is_broken: false };
            return Ok(());
        };
        self.coverage.saw(if self.is_disk_full { "all is read from a full disk" } else { "all is read from the disk" });
        self.phase = Phase::Reading(object);
        self.agenda.after(Duration::from_millis(20), Event::ReadNext);
        let process = self.process();
        self.read(process, object)
    }

    fn drive(&mut self, input: Input) -> Result<(), Violation> {
        self.machine.handle(self.agenda.now(), input);
        pressure::check(&self.machine)?;
        while let Some(output) = self.machine.poll_output() {
            let now = self.agenda.now();
            self.steps.note(now, || format!("  {output:?}"));
            self.perform(output)?;
        }
        Ok(())
    }

    fn perform(&mut self, output: Output) -> Result<(), Violation> {
        match output {
            Output::GiveUp { object } => self.given_up(object),
            Output::Evict { object } => {
                self.coverage.saw("a copy is evicted");
                let copy = self.leaves(object)?;
                ensure(copy.has_file, "PRESS-5", || format!("{object} is in no file"))
            }
            Output::Spill { object } => self.spill(object),
            Output::LetGo { object } => {
                self.coverage.saw("readers are asked to let go");
                let of_it =
                    self.readers.iter().filter(|(_, reader)| reader.object == object && reader.process.is_some());
                for reader in of_it.map(|(reader, _)| *reader).collect::<Vec<_>>() {
                    if !self.is_stubborn && self.rng.chance(50) {
                        let delay = self.rng.span(20);
                        self.agenda.after(delay, Event::Unread { reader });
                    }
                }
                Ok(())
            }
            Output::Restore { object, is_beyond } => self.restore(object, is_beyond),
            Output::NoRoom { object } => self.no_room(object),
            Output::Disk { is_full } => {
                ensure(is_full != self.is_disk_full, "PRESS-8", || format!("it is said twice: {is_full}"))?;
                self.coverage.saw(if is_full { "the disk is full" } else { "the disk has room" });
                self.is_disk_full = is_full;
                Ok(())
            }
        }
    }

    /// A copy leaves memory.
    fn leaves(&mut self, object: ObjectId) -> Result<&Copy, Violation> {
        let found = self.copies.get_mut(&object).and_then(|copy| Some((copy.readers, copy.segment.take()?)));
        let here = found.ok_or_else(|| Violation { invariant: "PRESS-3", seen: format!("{object} is not there") });
        let (readers, segment) = here?;
        ensure(readers == 0, "PRESS-1", || format!("{object} leaves under {readers} readers"))?;
        self.change_segment(segment, |leased| leased.copies -= 1);
        Ok(&self.copies[&object])
    }

    fn given_up(&mut self, object: ObjectId) -> Result<(), Violation> {
        let is_primary = self.copies.get(&object).is_none_or(|copy| copy.is_primary);
        ensure(!is_primary, "PRESS-5", || format!("{object} is given up, of which there is no other"))?;
        if self.rng.chance(15) {
            self.coverage.saw("a copy that is given up must stay");
            let Some(copy) = self.copies.get_mut(&object) else { return Ok(()) };
            copy.is_primary = true;
            let (bytes, segment) = (copy.bytes, copy.segment.unwrap_or_default());
            return self.drive(Input::Kept { object, segment, bytes, is_primary: true });
        }
        self.coverage.saw("a copy is given up");
        self.leaves(object)?;
        self.copies.remove(&object);
        self.gone.push(object);
        Ok(())
    }

    fn spill(&mut self, object: ObjectId) -> Result<(), Violation> {
        let now = self.agenda.now();
        let writing = self.copies.values().filter(|copy| copy.is_writing).count();
        if self.is_disk_full {
            self.coverage.saw("a full disk is tried");
            ensure(writing == 0 && now >= self.try_at, "PRESS-8", || format!("a full disk is tried with {object}"))?;
        }
        ensure(writing < SPILLING_MAX, "PRESS-2", || format!("{writing} are written already"))?;
        if writing + 1 == SPILLING_MAX {
            self.coverage.saw("as many are written as may be");
        }
        let Some(copy) = self.copies.get_mut(&object) else { return Ok(()) };
        let is_idle = copy.segment.is_some() && !copy.is_writing && copy.readers == 0;
        ensure(is_idle, "PRESS-1", || format!("{object} is not idle"))?;
        self.coverage.saw("a copy is to be written");
        copy.is_writing = true;
        let (stamp, bytes, delay) = (copy.stamp, copy.bytes, self.rng.span(WRITE_MAX_MS));
        self.agenda.after(delay, Event::Written { object, stamp, bytes });
        Ok(())
    }

    fn restore(&mut self, object: ObjectId, is_beyond: bool) -> Result<(), Violation> {
        let coming = self.copies.values().filter(|copy| copy.is_coming).count();
        ensure(coming < RESTORING_MAX, "PRESS-2", || format!("{coming} are read already"))?;
        let is_right = !is_beyond || self.is_disk_full && coming == 0;
        ensure(is_right, "PRESS-6", || format!("{object} is read beyond the budget"))?;
        if coming + 1 == RESTORING_MAX {
            self.coverage.saw("as many are read as may be");
        }
        let Some(copy) = self.copies.get_mut(&object) else { return Ok(()) };
        let is_away = copy.segment.is_none() && copy.has_file && !copy.is_coming;
        ensure(is_away, "PRESS-5", || format!("{object} is not only in its file"))?;
        copy.is_coming = true;
        let (stamp, bytes, delay) = (copy.stamp, copy.bytes, self.rng.span(READ_MAX_MS));
        self.agenda.after(delay, Event::ReadBack { object, stamp, bytes, is_beyond });
        Ok(())
    }

    fn no_room(&mut self, object: ObjectId) -> Result<(), Violation> {
        let now = self.agenda.now();
        let may_be = matches!(self.phase, Phase::Busy | Phase::Calm) || self.arena.is_crowded();
        ensure(may_be, "PRESS-7", || format!("there is no room for {object}, and nobody reads anything"))?;
        let Some(copy) = self.copies.get_mut(&object) else { return Ok(()) };
        let is_time = copy.asked.take().is_some_and(|asked| now >= asked + RESTORE_MAX);
        ensure(is_time, "PRESS-7", || format!("nobody has waited long for {object}"))?;
        for _ in std::mem::take(&mut copy.waiting) {
            self.coverage.saw("one who waits is told that there is no room");
        }
        Ok(())
    }

    /// What the machine says of its books, and what is so.
    fn compare(&self) -> Result<(), Violation> {
        let (mut here, mut away) = (0, 0);
        for copy in self.copies.values() {
            *(if copy.segment.is_some() { &mut here } else { &mut away }) += copy.bytes;
        }
        let says = (self.machine.open().0, self.machine.kept_bytes(), self.machine.spilled_bytes());
        let truth = (self.copies.len(), here, away);
        ensure(says == truth, "PRESS-3", || {
            format!("copies, bytes here and in files: it says {says:?}, not {truth:?}")
        })?;
        let is_full = self.machine.is_disk_full();
        ensure(is_full == self.is_disk_full, "PRESS-8", || format!("the disk is full: {is_full}, and that is not said"))
    }

    /// The disk has room and nobody reads: there is room in memory, and nobody waits.
    fn rests(&self) -> Result<(), Violation> {
        let waits = self.copies.iter().find(|(_, copy)| copy.asked.is_some());
        ensure(waits.is_none(), "PRESS-7", || format!("{:?} is waited for", waits.map(|(object, _)| object)))?;
        let (leased, budget) = (self.arena.leased, self.arena.budget);
        let is_room = leased <= part(budget, SPILL_PART) && !self.is_disk_full;
        ensure(is_room, "PRESS-7", || format!("{leased} of {budget} bytes are leased, full: {}", self.is_disk_full))
    }

    /// All is freed.
    fn is_over(&self) -> Result<(), Violation> {
        let left = (self.machine.open(), self.arena.leased, self.disk.used, self.readers.len());
        ensure(left == ((0, 0), 0, 0, 0), "PRESS-3", || {
            format!("copies and segments, leased, written: {left:?} are left")
        })
    }
}
