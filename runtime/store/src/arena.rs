//! A node's budget of shared memory: segments, each leased to one process of one job, once.
//!
//! ```text
//! budget ──lease──► leased to a process ──returned, process or job ended──► given back to the system
//! ```
//!
//! A segment is a file of its own for one lease, so nobody ever sees what another job wrote: the next one begins with
//! zeros, which the system makes. What lies where inside is known to the process that writes it.
//!
//! For a process the node also moves bytes to and from other hosts: it reads what the process lends ([`Arena::lent`]) and
//! writes where it waits for what comes ([`Arena::room`]).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use mobula_types::{JobId, ProcessId};
use mobula_wire::PROTOCOL;
use mobula_wire::segments::{Extent, FromStore, NoSegment, SegmentId, ToStore};
use parking_lot::Mutex;

use crate::ahead::Ahead;
use crate::room::Room;
use crate::sys::segment::{self, Blank, Lent, View};

/// Segments of a node at once. Each takes a descriptor of the node, which has a thousand of them on a stock system.
pub const SEGMENTS_MAX: usize = 512;

/// The part of a host's memory that is a node's budget unless it is told otherwise.
pub const BUDGET_PART: f64 = 0.3;

/// The part of a budget that is leased to processes (G15): the rest is for what the node brings back to be read.
pub const LEASED_PART: f64 = 0.95;

/// A process that waits for a segment gives up after 5 s: what has not become large pages by then is made of small ones,
/// which take a tenth of the time here and ten times as much when they are first written.
const LARGE_PAGES_MAX: Duration = Duration::from_secs(1);

/// For what nobody waits for, the system may take its time.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// The segments of a node, and who may have them.
pub struct Arena {
    budget: u64,
    /// What of it is leased to processes.
    leased_max: u64,
    state: Mutex<State>,
    ahead: Mutex<Ahead>,
    on_change: OnceLock<OnChange>,
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("budget", &self.budget).field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    last: SegmentId,
    members: HashMap<ProcessId, Member>,
    segments: BTreeMap<SegmentId, Leased>,
    /// Of segments that are leased or being made.
    bytes: u64,
    making: usize,
    refused: u64,
    /// The longest that was refused since somebody looked.
    wanted: Option<u64>,
}

#[derive(Debug)]
struct Member {
    job: JobId,
    secret: String,
}

#[derive(Debug)]
struct Leased {
    /// Also what the node writes for its process has it, until that is written.
    file: Arc<OwnedFd>,
    bytes: u64,
    job: JobId,
    to: ProcessId,
    /// The node's own mapping, made when it is first read for another host.
    read: OnceLock<Arc<Lent>>,
}

/// How much of an arena is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that it may lease.
    pub budget: u64,
    /// Bytes that it has leased.
    pub leased: u64,
    /// Bytes that it has made and nobody has asked for yet.
    pub ahead: u64,
    /// Segments that are leased.
    pub segments: usize,
    /// Segments that were refused because the budget was used up, since the node began.
    pub refused: u64,
}

/// What has changed in an arena since somebody looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bytes of all segments.
    pub leased: u64,
    /// Each, and how long it is.
    pub segments: BTreeMap<SegmentId, u64>,
    /// The longest segment that a process was refused since.
    pub refused: Option<u64>,
}

/// Told when segments come or go, or one is refused; it must not wait for anything.
type OnChange = Box<dyn Fn() + Send + Sync>;

impl Arena {
    /// An arena that leases at most `budget` bytes. It takes none of them before they are asked for, or before
    /// [`make_ahead`](Self::make_ahead) is called.
    pub fn new(budget: u64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a part"
        )]
        let leased_max = (budget as f64 * LEASED_PART) as u64;
        Self { budget, leased_max, state: Mutex::default(), ahead: Mutex::default(), on_change: OnceLock::new() }
    }

    /// The same, which makes at most `bytes` of its budget before they are asked for.
    #[must_use]
    pub fn with_ahead(mut self, bytes: u64) -> Self {
        self.ahead = Mutex::new(Ahead::new(bytes.min(self.budget)));
        self
    }

    /// How many bytes [`make_ahead`](Self::make_ahead) would make.
    pub fn lacks_ahead(&self) -> Option<u64> {
        let leased = self.state.lock().bytes;
        let ahead = self.ahead.lock();
        ahead.lacks().filter(|bytes| leased.saturating_add(ahead.bytes()).saturating_add(*bytes) <= self.budget)
    }

    /// Makes a segment that nobody has asked for yet, if one is lacking. Blocks while the system makes it.
    ///
    /// # Errors
    ///
    /// The system has no memory for it.
    pub fn make_ahead(&self) -> io::Result<()> {
        let Some(bytes) = self.lacks_ahead() else { return Ok(()) };
        let blank = Blank::new(usize::try_from(bytes).map_err(io::Error::other)?, Instant::now() + AHEAD_MAX)?;
        self.ahead.lock().add(blank);
        // Others may have leased what it would have been made of.
        self.keep_budget();
        Ok(())
    }

    /// Gives back what nobody has asked for: memory is short.
    pub fn drop_ahead(&self) {
        let dropped = self.ahead.lock().take_all();
        drop(dropped);
    }

    /// What is leased goes before what is made ahead.
    fn keep_budget(&self) {
        let leased = self.state.lock().bytes;
        if leased.saturating_add(self.ahead.lock().bytes()) > self.budget {
            self.drop_ahead();
        }
    }

    /// Says who is told when segments come or go, or one is refused; the first counts.
    pub fn on_change(&self, tell: impl Fn() + Send + Sync + 'static) {
        self.on_change.set(Box::new(tell)).ok();
    }

    /// What there is, and what was refused since this was asked before.
    pub fn look(&self) -> Seen {
        let mut state = self.state.lock();
        let segments = state.segments.iter().map(|(id, leased)| (*id, leased.bytes)).collect();
        Seen { leased: state.bytes, segments, refused: state.wanted.take() }
    }

    fn changed(&self) {
        if let Some(tell) = self.on_change.get() {
            tell();
        }
    }

    /// A process of a job has come; it proves that it is that by `secret`.
    pub fn admit(&self, process: ProcessId, job: JobId, secret: &str) {
        self.state.lock().members.insert(process, Member { job, secret: secret.to_owned() });
    }

    /// Whether `secret` is what this process was admitted with.
    pub fn knows(&self, process: ProcessId, secret: &str) -> bool {
        self.state.lock().members.get(&process).is_some_and(|member| member.secret == secret)
    }

    /// Whether a process was admitted and has not ended.
    pub fn has(&self, process: ProcessId) -> bool {
        self.state.lock().members.contains_key(&process)
    }

    /// A process has ended: what it wrote is not lent any more, but for segments that `is_kept`, which stay until they are
    /// [given up](Self::give_up). Who reads others at this moment goes on.
    pub fn gone(&self, process: ProcessId, is_kept: impl Fn(SegmentId) -> bool) {
        let freed: Vec<Leased> = {
            let mut state = self.state.lock();
            state.members.remove(&process);
            let of_it = state.segments.iter().filter(|(segment, leased)| leased.to == process && !is_kept(**segment));
            let of_it: Vec<SegmentId> = of_it.map(|(segment, _)| *segment).collect();
            of_it.iter().filter_map(|segment| state.take(*segment)).collect()
        };
        // Outside the lock: giving memory back takes time.
        drop(freed);
    }

    /// Answers what is said on one socket, with the descriptor that goes with the answer. `speaker` is who has proved on it
    /// who it is. Blocks while the system makes a segment.
    pub fn answer(&self, speaker: &mut Option<ProcessId>, said: ToStore) -> (FromStore, Option<OwnedFd>) {
        let answered = match (said, *speaker) {
            (ToStore::Hello { protocol, .. }, _) if protocol != PROTOCOL => Err(NoSegment::Protocol { ours: PROTOCOL }),
            (ToStore::Hello { process, secret, .. }, None) if self.knows(process, &secret) => {
                *speaker = Some(process);
                Ok((FromStore::Done, None))
            }
            (ToStore::Hello { .. }, _) | (_, None) => Err(NoSegment::Unknown),
            (ToStore::Lease { bytes, least }, Some(process)) => self
                .lease_least(process, bytes, least)
                .map(|(segment, file)| (FromStore::Leased { segment }, Some(file))),
            (ToStore::Open { segment }, Some(process)) => {
                self.open(process, segment).map(|file| (FromStore::Opened, Some(file)))
            }
            (ToStore::Return { segment }, Some(process)) => {
                self.give_back(process, segment).map(|()| (FromStore::Done, None))
            }
        };
        answered.unwrap_or_else(|why| (FromStore::Refused(why), None))
    }

    /// A new segment for a process, and the descriptor by which it writes. Blocks while the system makes it.
    ///
    /// # Errors
    ///
    /// [`NoSegment`].
    pub fn lease(&self, process: ProcessId, bytes: u64) -> Result<(SegmentId, OwnedFd), NoSegment> {
        self.lease_least(process, bytes, bytes)
    }

    /// The same, of `least` bytes where there is no room for more.
    fn lease_least(&self, process: ProcessId, bytes: u64, least: u64) -> Result<(SegmentId, OwnedFd), NoSegment> {
        let reserved = self.reserve(process, bytes.max(least), least);
        if let Err(NoSegment::Full { .. }) = reserved {
            self.changed();
        }
        let (segment, job, bytes) = reserved?;
        let theirs = self.make(segment, process, job, bytes)?;
        self.changed();
        Ok((segment, theirs))
    }

    /// A segment of the node's own, in which it brings something back that processes of a job read; `node` is its name as a
    /// process. It is [given up](Self::give_up) when nothing is kept in it. One that `is_beyond` may be what exceeds the
    /// budget: else nobody could read what is in files, when neither memory nor disk has room.
    ///
    /// # Errors
    ///
    /// [`NoSegment`].
    pub fn bring(
        &self,
        node: ProcessId,
        job: JobId,
        bytes: u64,
        is_beyond: bool,
    ) -> Result<(SegmentId, Room), NoSegment> {
        let segment = {
            let mut state = self.state.lock();
            // Only what processes are refused is said.
            let wanted = state.wanted;
            let max = if is_beyond { self.budget.saturating_add(bytes) } else { self.budget };
            let reserved = state.reserve(bytes, max, self.budget);
            state.wanted = wanted;
            reserved?
        };
        self.make(segment, node, job, bytes)?;
        let state = self.state.lock();
        let leased = state.segments.get(&segment).ok_or(NoSegment::NoSuch { segment })?;
        let room = Room::new(leased.file.clone(), 0, bytes);
        drop(state);
        self.changed();
        Ok((segment, room))
    }

    /// Makes a segment that was reserved; the descriptor is for who writes it.
    fn make(&self, segment: SegmentId, process: ProcessId, job: JobId, bytes: u64) -> Result<OwnedFd, NoSegment> {
        let size = usize::try_from(bytes).unwrap_or(usize::MAX);
        let ahead = self.ahead.lock().take(bytes);
        self.keep_budget();
        let blank = ahead.map_or_else(|| Blank::new(size, Instant::now() + LARGE_PAGES_MAX), Ok);
        let made = blank.and_then(|blank| blank.cut(size)).and_then(|file| Ok((file.try_clone()?, file)));
        let mut state = self.state.lock();
        state.making -= 1;
        let is_known = process.number() == 0 || state.members.contains_key(&process);
        match made {
            Ok((theirs, file)) if is_known => {
                let (file, read) = (Arc::new(file), OnceLock::new());
                state.segments.insert(segment, Leased { file, bytes, job, to: process, read });
                Ok(theirs)
            }
            // It has ended meanwhile.
            Ok(_) => {
                state.bytes -= bytes;
                Err(NoSegment::Unknown)
            }
            Err(error) => {
                state.bytes -= bytes;
                Err(NoSegment::System { why: error.to_string() })
            }
        }
    }

    fn reserve(&self, process: ProcessId, bytes: u64, least: u64) -> Result<(SegmentId, JobId, u64), NoSegment> {
        let mut state = self.state.lock();
        let job = state.members.get(&process).ok_or(NoSegment::Unknown)?.job;
        let has_room = state.bytes.checked_add(bytes).is_some_and(|wanted| wanted <= self.leased_max);
        let bytes = if has_room { bytes } else { least };
        Ok((state.reserve(bytes, self.leased_max, self.budget)?, job, bytes))
    }

    /// A segment of its own job for a process to read.
    ///
    /// # Errors
    ///
    /// [`NoSegment`].
    pub fn open(&self, process: ProcessId, segment: SegmentId) -> Result<OwnedFd, NoSegment> {
        let state = self.state.lock();
        let job = state.members.get(&process).ok_or(NoSegment::Unknown)?.job;
        let leased = state.segments.get(&segment).filter(|leased| leased.job == job);
        let leased = leased.ok_or(NoSegment::NoSuch { segment })?;
        segment::read_only(leased.file.as_fd()).map_err(|error| NoSegment::System { why: error.to_string() })
    }

    /// A process gives back a segment that was leased to it.
    ///
    /// # Errors
    ///
    /// [`NoSegment`].
    pub fn give_back(&self, process: ProcessId, segment: SegmentId) -> Result<(), NoSegment> {
        let mut state = self.state.lock();
        if state.segments.get(&segment).is_none_or(|leased| leased.to != process) {
            return Err(NoSegment::NoSuch { segment });
        }
        let freed = state.take(segment);
        drop(state);
        drop(freed);
        self.changed();
        Ok(())
    }

    /// Nothing is kept any more of a segment whose process has ended; of one whose process lives, that decides.
    pub fn give_up(&self, segment: SegmentId) {
        let freed = {
            let mut state = self.state.lock();
            let is_orphan = state.segments.get(&segment).is_some_and(|leased| !state.members.contains_key(&leased.to));
            if is_orphan { state.take(segment) } else { None }
        };
        drop(freed);
        self.changed();
    }

    /// The node begins anew: of what was there, nobody is lent anything any more. Who reads it at this moment goes on.
    pub fn clear(&self) {
        let freed = {
            let mut state = self.state.lock();
            state.members.clear();
            let segments = std::mem::take(&mut state.segments);
            state.bytes -= segments.values().map(|leased| leased.bytes).sum::<u64>();
            segments
        };
        drop(freed);
        self.changed();
    }

    /// The job that a segment is of.
    pub fn job_of(&self, segment: SegmentId) -> Option<JobId> {
        self.state.lock().segments.get(&segment).map(|leased| leased.job)
    }

    /// The process that a segment is leased to.
    pub fn writer_of(&self, segment: SegmentId) -> Option<ProcessId> {
        self.state.lock().segments.get(&segment).map(|leased| leased.to)
    }

    /// Bytes that a process of this node lends to another host: of a segment of its job, for as long as the process keeps
    /// them.
    ///
    /// # Errors
    ///
    /// [`NoSegment`].
    pub fn lent(&self, process: ProcessId, Extent { segment, offset }: Extent, bytes: u64) -> Result<View, NoSegment> {
        let state = self.state.lock();
        let job = state.members.get(&process).ok_or(NoSegment::Unknown)?.job;
        let leased = state.segments.get(&segment).filter(|leased| leased.job == job);
        let leased = leased.ok_or(NoSegment::NoSuch { segment })?;
        view(leased, Extent { segment, offset }, bytes)
    }

    /// Bytes of a copy that the node counts on, for another host: whoever wrote them, also when that process has ended.
    ///
    /// # Errors
    ///
    /// [`NoSegment`].
    pub fn kept(&self, at: Extent, bytes: u64) -> Result<View, NoSegment> {
        let state = self.state.lock();
        let leased = state.segments.get(&at.segment).ok_or(NoSegment::NoSuch { segment: at.segment })?;
        view(leased, at, bytes)
    }

    /// Where a process of this node waits for what comes from another host: in a segment that it writes.
    ///
    /// # Errors
    ///
    /// [`NoSegment`].
    pub fn room(&self, process: ProcessId, Extent { segment, offset }: Extent, bytes: u64) -> Result<Room, NoSegment> {
        let state = self.state.lock();
        let leased = state.segments.get(&segment).filter(|leased| leased.to == process);
        let is_inside = |leased: &&Leased| offset.checked_add(bytes).is_some_and(|end| end <= leased.bytes);
        let leased = leased.filter(is_inside).ok_or(NoSegment::NoSuch { segment })?;
        Ok(Room::new(leased.file.clone(), offset, bytes))
    }

    /// How much of it is in use.
    pub fn usage(&self) -> Usage {
        let ahead = self.ahead.lock().bytes();
        let State { bytes, segments, refused, .. } = &*self.state.lock();
        Usage { budget: self.budget, leased: *bytes, ahead, segments: segments.len(), refused: *refused }
    }
}

/// Bytes of a segment as the node reads them for another host.
fn view(leased: &Leased, Extent { segment, offset }: Extent, bytes: u64) -> Result<View, NoSegment> {
    let lent = match leased.read.get() {
        Some(lent) => lent.clone(),
        None => {
            let mapped = Lent::open(&leased.file).map_err(|error| NoSegment::System { why: error.to_string() })?;
            leased.read.get_or_init(|| mapped).clone()
        }
    };
    let place = usize::try_from(offset).ok().zip(usize::try_from(bytes).ok());
    place.and_then(|(at, bytes)| lent.view(at, bytes)).ok_or(NoSegment::NoSuch { segment })
}

impl State {
    fn reserve(&mut self, bytes: u64, max: u64, budget: u64) -> Result<SegmentId, NoSegment> {
        let is_full = self.segments.len() + self.making >= SEGMENTS_MAX;
        let Some(wanted) = self.bytes.checked_add(bytes).filter(|wanted| *wanted <= max && !is_full) else {
            self.refused += 1;
            // What never fits is not waited for.
            if bytes <= max {
                self.wanted = self.wanted.max(Some(bytes));
            }
            return Err(NoSegment::Full { bytes, leased: self.bytes, budget });
        };
        if bytes == 0 {
            return Err(NoSegment::System { why: "a segment of no bytes".to_owned() });
        }
        (self.bytes, self.making, self.last) = (wanted, self.making + 1, self.last + 1);
        Ok(self.last)
    }

    fn take(&mut self, segment: SegmentId) -> Option<Leased> {
        let leased = self.segments.remove(&segment)?;
        self.bytes -= leased.bytes;
        Some(leased)
    }
}

#[cfg(test)]
mod tests {
    use mobula_types::NodeId;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn process(number: u32) -> ProcessId {
        ProcessId::new(NodeId(1), number)
    }

    fn arena() -> Arena {
        let arena = Arena::new(8 * MIB);
        arena.admit(process(1), JobId(1), "one");
        arena.admit(process(2), JobId(1), "one");
        arena.admit(process(3), JobId(2), "two");
        arena
    }

    #[test]
    fn a_budget_is_kept() {
        let arena = arena();
        let (first, _) = arena.lease(process(1), 5 * MIB).unwrap();
        let full = NoSegment::Full { bytes: 4 * MIB, leased: 5 * MIB, budget: 8 * MIB };
        assert_eq!(arena.lease(process(3), 4 * MIB).unwrap_err(), full);
        assert!(matches!(arena.lease(process(3), u64::MAX), Err(NoSegment::Full { .. })), "no sum overflows");
        arena.give_back(process(1), first).unwrap();
        assert_eq!(arena.usage(), Usage { budget: 8 * MIB, leased: 0, ahead: 0, segments: 0, refused: 2 });
        let (second, _) = arena.lease(process(3), 7 * MIB).unwrap();
        assert_ne!(first, second, "no name is used twice");
    }

    #[test]
    fn what_is_made_ahead_gives_way_to_what_is_leased() {
        let arena = Arena::new(150 * MIB).with_ahead(140 * MIB);
        arena.admit(process(1), JobId(1), "one");
        assert_eq!(arena.lacks_ahead(), Some(66 * MIB));
        arena.make_ahead().unwrap();
        arena.make_ahead().unwrap();
        assert_eq!((arena.lacks_ahead(), arena.ahead.lock().bytes()), (None, 132 * MIB));
        assert_eq!(arena.usage().leased, 0, "nobody has it");

        let (first, file) = arena.lease(process(1), 50 * MIB).unwrap();
        assert_eq!(rustix::fs::fstat(&file).unwrap().st_size, 50 << 20, "cut to what was asked for");
        assert_eq!((arena.usage().leased, arena.ahead.lock().bytes()), (50 * MIB, 66 * MIB));
        assert_eq!(arena.lacks_ahead(), None, "there is no room for another one");
        arena.lease(process(1), 20 * MIB).unwrap();
        assert_eq!(arena.ahead.lock().bytes(), 66 * MIB, "that was not made for so short a one");
        arena.lease(process(1), 15 * MIB).unwrap();
        assert_eq!(arena.ahead.lock().bytes(), 0, "the budget is one for both");

        arena.give_back(process(1), first).unwrap();
        arena.make_ahead().unwrap();
        assert_eq!(arena.ahead.lock().bytes(), 66 * MIB);
        arena.drop_ahead();
        assert_eq!(arena.ahead.lock().bytes(), 0);
    }

    #[test]
    fn the_last_part_is_for_what_the_node_brings_back() {
        let arena = arena();
        let told = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = told.clone();
        arena.on_change(move || {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
        arena.lease(process(1), 7 * MIB).unwrap();
        assert!(arena.lease(process(1), MIB).is_err(), "it is more than the part for processes");
        assert_eq!(arena.look().refused, Some(MIB));
        assert_eq!(arena.look().refused, None, "it was said");
        let (segment, room) = arena.bring(NodeId(1).into(), JobId(1), MIB, false).unwrap();
        room.write(0, &[b"mantaray"]).unwrap();
        assert!(arena.open(process(1), segment).is_ok() && arena.open(process(3), segment).is_err());
        let view = arena.kept(Extent { segment, offset: 5 }, 3).unwrap();
        assert_eq!(view.as_ref(), b"ray");
        assert!(arena.bring(NodeId(1).into(), JobId(1), 1, false).is_err(), "all of it is used");
        let (beyond, _) = arena.bring(NodeId(1).into(), JobId(1), MIB, true).unwrap();
        assert!(arena.bring(NodeId(1).into(), JobId(1), MIB, true).is_err(), "one alone is beyond it");
        arena.give_up(beyond);
        arena.give_up(segment);
        assert_eq!(arena.look().segments.len(), 1);
        assert_eq!(told.load(std::sync::atomic::Ordering::Relaxed), 6);
    }

    #[test]
    fn room_for_one_value_is_leased_where_there_is_none_for_more() {
        let arena = arena();
        let said = ToStore::Lease { bytes: 64 * MIB, least: 6 * MIB };
        let leased = |arena: &Arena| arena.answer(&mut Some(process(1)), said.clone()).0;
        assert!(matches!(leased(&arena), FromStore::Leased { .. }));
        assert_eq!(arena.usage().leased, 6 * MIB);
        assert!(matches!(leased(&arena), FromStore::Refused(NoSegment::Full { bytes, .. }) if bytes == 6 * MIB));
    }

    #[test]
    fn one_job_reads_nothing_of_another() {
        let arena = arena();
        let (segment, _) = arena.lease(process(1), MIB).unwrap();
        assert!(arena.open(process(2), segment).is_ok());
        assert_eq!(arena.open(process(3), segment).unwrap_err(), NoSegment::NoSuch { segment });
        assert_eq!(arena.give_back(process(2), segment), Err(NoSegment::NoSuch { segment }), "it is not its own");
        assert!(arena.knows(process(1), "one") && !arena.knows(process(1), "two") && !arena.knows(process(9), ""));
        assert_eq!(arena.lease(process(9), MIB).unwrap_err(), NoSegment::Unknown);
    }

    #[test]
    fn what_a_process_had_is_given_back_at_its_end() {
        let arena = arena();
        let (segment, _) = arena.lease(process(1), MIB).unwrap();
        arena.lease(process(2), MIB).unwrap();
        arena.gone(process(1), |_| false);
        assert_eq!(arena.usage().leased, MIB);
        assert_eq!(arena.open(process(2), segment).unwrap_err(), NoSegment::NoSuch { segment });
        assert_eq!(arena.lease(process(1), MIB).unwrap_err(), NoSegment::Unknown);
    }

    #[test]
    fn what_is_kept_of_the_dead_is_read_on_until_it_is_given_up() {
        let arena = arena();
        let (kept, _) = arena.lease(process(1), MIB).unwrap();
        arena.lease(process(1), MIB).unwrap();
        arena.give_up(kept);
        assert_eq!(arena.usage().leased, 2 * MIB, "its process lives");
        arena.gone(process(1), |segment| segment == kept);
        assert_eq!(arena.usage().leased, MIB);
        assert!(arena.open(process(2), kept).is_ok());
        assert_eq!(arena.open(process(3), kept).unwrap_err(), NoSegment::NoSuch { segment: kept });
        arena.give_up(kept);
        assert_eq!(arena.usage().leased, 0);
    }

    #[test]
    fn a_node_reads_and_writes_for_a_process_what_that_may() {
        let arena = arena();
        let (segment, file) = arena.lease(process(1), MIB).unwrap();
        let at = |offset| Extent { segment, offset };
        let room = arena.room(process(1), at(4_000), 200).unwrap();
        room.write(0, &[&b"manta"[..], b" and "]).unwrap();
        room.write(190, &[&b"mobula ray"[..]]).unwrap();
        for (offset, bytes) in [(191, 10), (200, 1), (u64::MAX, 2)] {
            assert!(room.write(offset, &[vec![1; bytes]]).is_err(), "{bytes} bytes at {offset} are not its");
        }
        let mut written = [0; 200];
        rustix::io::pread(&file, &mut written, 4_000).unwrap();
        assert_eq!((&written[..10], &written[190..]), (&b"manta and "[..], &b"mobula ray"[..]));

        // Any process of the job may lend what it reads there.
        for number in [1, 2] {
            assert_eq!(arena.lent(process(number), at(4_000), 5).unwrap().as_ref(), b"manta");
        }
        let none = NoSegment::NoSuch { segment };
        assert_eq!(arena.lent(process(3), at(0), 1).unwrap_err(), none, "it is of another job");
        assert_eq!(arena.lent(process(9), at(0), 1).unwrap_err(), NoSegment::Unknown);
        for number in [2, 3, 9] {
            assert_eq!(arena.room(process(number), at(0), 1).unwrap_err(), none, "it is not leased to it");
        }
        for (offset, bytes) in [(MIB, 1), (0, MIB + 1), (u64::MAX, 2)] {
            assert_eq!(arena.lent(process(1), at(offset), bytes).unwrap_err(), none);
            assert_eq!(arena.room(process(1), at(offset), bytes).unwrap_err(), none);
        }

        // Who is being read or written when its lease ends keeps the memory, and nobody else gets it.
        let view = arena.lent(process(1), at(4_000), 5).unwrap();
        arena.gone(process(1), |_| false);
        assert_eq!((view.as_ref(), arena.usage().leased), (&b"manta"[..], 0));
        room.write(0, &[&b"x"[..]]).unwrap();
        assert_eq!(arena.room(process(1), at(0), 1).unwrap_err(), none);
    }

    #[test]
    fn nothing_is_left_when_a_node_begins_anew() {
        let arena = arena();
        let (segment, _) = arena.lease(process(1), MIB).unwrap();
        arena.clear();
        assert_eq!(arena.usage(), Usage { budget: 8 * MIB, ..Usage::default() });
        assert_eq!(arena.open(process(2), segment).unwrap_err(), NoSegment::Unknown);
        assert_eq!(arena.lease(process(1), MIB).unwrap_err(), NoSegment::Unknown, "it has to come again");
        arena.admit(process(1), JobId(1), "one");
        assert!(arena.lease(process(1), 7 * MIB).is_ok());
    }

    #[test]
    fn segments_are_bounded_in_number_too() {
        let arena = Arena::new(u64::MAX);
        arena.admit(process(1), JobId(1), "one");
        let all: Vec<_> = (0..SEGMENTS_MAX).map(|_| arena.lease(process(1), 4_096).map(|(id, _)| id)).collect();
        // A system with few descriptors gives fewer; none is given beyond.
        assert!(all.iter().all(|leased| matches!(leased, Ok(_) | Err(NoSegment::System { .. }))));
        if all.iter().all(Result::is_ok) {
            assert!(matches!(arena.lease(process(1), 4_096), Err(NoSegment::Full { .. })));
        }
        arena.gone(process(1), |_| false);
        assert_eq!(arena.usage().leased, 0);
    }
}
