//! Segments: memory files that one process writes and the others of its job read.
//!
//! ```text
//! Segment::take ─► Writing ──seal──► Sealed          in the process that the segment is leased to
//!                  │  ▲  │             ▲ │
//!      handed over ▼  │  └── dropped ──┼─┴─► free again
//!                  Filling ────────────┘             the process's node writes
//!                                      ▲ named by segment, offset and length
//!                   Lent::view ─► View ┘             in any other of the job
//! ```
//!
//! What lies where is known to the writer alone, in its own memory ([`Free`]): nothing of it is in the segment, so a process
//! that is killed leaves bytes and nothing that anybody would follow.

use std::io;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use rustix::fs::{
    FallocateFlags, MemfdFlags, Mode, OFlags, fallocate, fchmod, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate,
    memfd_create,
};

use super::OpenError;
use super::map::{LARGE_PAGE, Map};
use super::words::SEALS;
use crate::free::{Free, GRAIN};

/// Becomes large pages at once: each step has a word with every processor, and the time is looked at after each.
const LARGE_PAGES_STEP: usize = 128 << 20;

/// A memory file that nobody has yet. Its pages are all there, of zeros, and are large where the system has such.
#[derive(Debug)]
pub(crate) struct Blank {
    file: OwnedFd,
    bytes: usize,
}

impl Blank {
    /// Full memory is an error here and never a fault later. Large pages are made until then, and small ones after it.
    ///
    /// # Errors
    ///
    /// The system has no memory or descriptor left.
    pub(crate) fn new(bytes: usize, until: Instant) -> io::Result<Self> {
        let file = memfd_create("mobula-segment", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)?;
        ftruncate(&file, bytes as u64)?;
        if let Err(error) = make_large_pages(&file, bytes, until) {
            tracing::debug!(%error, bytes, "a segment has small pages");
        }
        fallocate(&file, FallocateFlags::empty(), 0, bytes as u64)?;
        Ok(Self { file, bytes })
    }

    /// One that says it is so long and has no memory.
    #[cfg(test)]
    pub(crate) fn hollow(bytes: usize) -> Self {
        Self { file: memfd_create("hollow", MemfdFlags::CLOEXEC).unwrap(), bytes }
    }

    /// How long it is.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its first `bytes`, for one process: the file keeps that length for ever.
    ///
    /// # Errors
    ///
    /// The system refuses, or it has not so many.
    pub(crate) fn cut(self, bytes: usize) -> io::Result<OwnedFd> {
        if bytes > self.bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if bytes < self.bytes {
            ftruncate(&self.file, bytes as u64)?;
        }
        fcntl_add_seals(&self.file, SEALS)?;
        // Who is given it to read cannot open it again to write.
        fchmod(&self.file, Mode::RUSR)?;
        Ok(self.file)
    }
}

/// Fills a memory file with large pages, as far as it has whole ones and the system gives them.
///
/// # Errors
///
/// What stopped it; the rest of the file is empty then.
fn make_large_pages(file: &OwnedFd, bytes: usize, until: Instant) -> io::Result<()> {
    let whole = bytes - bytes % LARGE_PAGE;
    if whole == 0 {
        return Ok(());
    }
    let map = Map::to_read(file, whole)?;
    for at in (0..whole).step_by(LARGE_PAGES_STEP) {
        let end = whole.min(at + LARGE_PAGES_STEP);
        if Instant::now() > until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // One small page in the place of each: there is nothing else to be made large.
        for page in (at..end).step_by(LARGE_PAGE) {
            fallocate(file, FallocateFlags::empty(), page as u64, 1)?;
        }
        map.enlarge_pages(at, end - at)?;
    }
    Ok(())
}

/// The same file by a descriptor that can only read.
///
/// # Errors
///
/// The system has no descriptor left.
pub(crate) fn read_only(file: impl AsFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// How many bytes a segment's file has, which cannot change any more.
fn sealed_length(file: &impl AsFd) -> Result<usize, OpenError> {
    let found = fstat(file).map_err(io::Error::from)?.st_size.unsigned_abs();
    let seals = fcntl_get_seals(file).map_err(io::Error::from)?;
    match usize::try_from(found) {
        Ok(bytes) if bytes > 0 && seals.contains(SEALS) => Ok(bytes),
        _ => Err(OpenError::NotSealed { found, expected: found, seals: seals.bits() }),
    }
}

/// A value of so many bytes begins in the middle of a page: common processors copy to a place that is up to half a kilobyte
/// further in its page than the source at a third of their speed, and allocators place what is long at the beginning of one.
const LONG: usize = 256 << 10;

const PAGE: usize = 4 << 10;

/// How much of a segment `bytes` need that begin `skew` bytes behind a multiple of 64.
pub(crate) fn needed(bytes: usize, skew: usize) -> Option<usize> {
    bytes.checked_add(skew)?.checked_add(if bytes < LONG { 0 } else { PAGE - GRAIN })
}

/// How far behind `at` the last grain of a page's first half begins.
fn to_middle(at: usize) -> usize {
    (PAGE + PAGE / 2 - GRAIN - at % PAGE) % PAGE
}

/// A segment that this process writes.
#[derive(Debug)]
pub(crate) struct Segment {
    map: Map,
    free: Mutex<Free>,
}

impl Segment {
    /// The segment behind a descriptor that was leased to this process, and to no other.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub(crate) fn open(file: &OwnedFd) -> Result<Arc<Self>, OpenError> {
        let bytes = sealed_length(file)?;
        let map = Map::to_write(file, bytes)?;
        Ok(Arc::new(Self { map, free: Mutex::new(Free::new(bytes)) }))
    }

    /// Takes `bytes` of it, to be written: they begin `skew` bytes behind a multiple of 64, and in the middle of a page when
    /// they are [`LONG`].
    pub(crate) fn take(self: &Arc<Self>, bytes: usize, skew: usize) -> Option<Writing> {
        let taken = needed(bytes, skew)?;
        let at = self.free.lock().take(taken)?;
        let before = if bytes < LONG { 0 } else { to_middle(at) };
        Some(Writing(Extent { segment: self.clone(), at, taken, start: at + before + skew, bytes }))
    }

    /// Whether nothing of it is taken.
    pub(crate) fn is_whole(&self) -> bool {
        self.free.lock().is_whole()
    }

    /// Bytes that are taken.
    pub(crate) fn taken(&self) -> usize {
        self.free.lock().taken()
    }

    /// Its length.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// The address of its first byte, by which the bytes of an extent are recognised.
    pub(crate) fn start(&self) -> usize {
        self.map.as_ptr() as usize
    }
}

/// A part of a segment that nobody else has.
#[derive(Debug)]
struct Extent {
    segment: Arc<Segment>,
    at: usize,
    taken: usize,
    /// Its `bytes` begin here, inside of what is taken.
    start: usize,
    bytes: usize,
}

impl Extent {
    fn as_ptr(&self) -> *mut u8 {
        debug_assert!(self.at <= self.start && self.start + self.bytes <= self.at + self.taken);
        // SAFETY: `Free` gave `taken` bytes from `at` on, which are inside the mapping (its `Free` was made with the mapping's
        // length). `start` lies less than a page and `skew` behind `at`, for which `needed` has counted.
        unsafe { self.segment.map.as_mut_ptr().add(self.start) }
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        self.segment.free.lock().give(self.at, self.taken);
    }
}

/// Bytes that are being written: nobody reads them yet.
#[derive(Debug)]
pub struct Writing(Extent);

impl Writing {
    /// They are written and never change again.
    pub fn seal(self) -> Sealed {
        Sealed(self.0)
    }
}

impl Writing {
    /// The process's node writes them from now on, until it says that it does not any more. Nobody here looks meanwhile.
    pub(crate) fn hand_over(self) -> Filling {
        Filling(ManuallyDrop::new(self.0))
    }
}

impl Deref for Writing {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as `deref_mut`; a shared borrow of `self` keeps `deref_mut` away.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.0.bytes) }
    }
}

impl DerefMut for Writing {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the bytes lie inside the mapping (`Extent::as_ptr`), which lives as long as the extent's segment and is
        // never shorter (`SEALS`). Every bit pattern is a `u8`. `Free` gives no byte to two extents at once, and this one
        // is borrowed mutably, so this process has no other reference to them. The segment is leased to this process
        // alone: others have it read-only, and are told of these bytes after `seal` only; what they were told of an earlier
        // extent in this place was given back by all of them before it was freed (`Sealed` lives until then). Its node
        // writes nothing but what it was told of by `hand_over`, and `Filling` keeps that from everybody here until the
        // node has said that it is done (`Filling::take_back`).
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), self.0.bytes) }
    }
}

/// Bytes that the process's node is writing: nobody here can look at them. Dropped before the node has said that it is done,
/// they are never given to anybody: the node may write them still.
#[derive(Debug)]
pub struct Filling(ManuallyDrop<Extent>);

impl Filling {
    /// The node has said that all of them are written.
    pub fn seal(self) -> Sealed {
        Sealed(ManuallyDrop::into_inner(self.0))
    }

    /// The node has said that it writes them no more; what they hold is of no meaning.
    pub fn take_back(self) -> Writing {
        Writing(ManuallyDrop::into_inner(self.0))
    }
}

/// Bytes that do not change any more, until this is dropped: then they are free, so whoever lends them keeps it.
#[derive(Debug)]
pub struct Sealed(Extent);

impl AsRef<[u8]> for Sealed {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: as `Writing::deref_mut`, and nobody can write them: `seal` has taken the `Writing`, or the `Filling` that
        // the node has done with.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.0.bytes) }
    }
}

/// A segment that another process writes.
#[derive(Debug)]
pub(crate) struct Lent {
    map: Map,
}

impl Lent {
    /// The segment behind a descriptor that can only read.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub(crate) fn open(file: &OwnedFd) -> Result<Arc<Self>, OpenError> {
        let bytes = sealed_length(file)?;
        let map = Map::to_read(file, bytes)?;
        Ok(Arc::new(Self { map }))
    }

    /// The bytes from `at` on, which their writer has sealed and keeps as long as this lives; `None` when the segment has
    /// no such bytes.
    pub(crate) fn view(self: &Arc<Self>, at: usize, bytes: usize) -> Option<View> {
        let end = at.checked_add(bytes)?;
        (end <= self.map.len()).then(|| View { lent: self.clone(), at, bytes })
    }

    /// The address of its first byte, by which the bytes of a view are recognised.
    pub(crate) fn start(&self) -> usize {
        self.map.as_ptr() as usize
    }

    /// Its length.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }
}

/// Sealed bytes that another process has written.
#[derive(Debug)]
pub struct View {
    lent: Arc<Lent>,
    at: usize,
    bytes: usize,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `Lent::view` has seen that the bytes lie inside the mapping, which lives as long as `lent` and whose file
        // cannot shrink (`sealed_length`). Nobody in this process writes them: the mapping is read-only. Their writer sealed
        // them before it told where they are, keeps its `Sealed` until this reader has said that it is done, and so neither
        // writes nor gives them to another extent meanwhile; when it ends, its file is never leased again (one file, one
        // lease). A process of the same job that breaks this contract by other code of its own can do no more here than give
        // wrong bytes to readers that check them as they do those of the network.
        unsafe { std::slice::from_raw_parts(self.lent.map.as_ptr().add(self.at), self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BYTES: usize = 1 << 16;

    fn create(bytes: usize) -> OwnedFd {
        Blank::new(bytes, Instant::now() + Duration::from_secs(60)).unwrap().cut(bytes).unwrap()
    }

    #[test]
    fn what_is_sealed_is_read_by_others() {
        let file = create(BYTES);
        let (ours, theirs) = (Segment::open(&file).unwrap(), Lent::open(&read_only(&file).unwrap()).unwrap());
        let mut writing = ours.take(5, 56).unwrap();
        writing.copy_from_slice(b"manta");
        let sealed = writing.seal();
        let at = sealed.as_ref().as_ptr() as usize - ours.start();
        assert_eq!(at % 64, 56, "elements behind a length begin at a cache line");
        assert_eq!(theirs.view(at, 5).unwrap().as_ref(), b"manta");
        assert_eq!((ours.taken(), ours.is_whole()), (64, false));
        drop(sealed);
        assert!(ours.is_whole(), "it is free again");
        assert!(ours.take(BYTES, 1).is_none() && ours.take(usize::MAX, 1).is_none());
    }

    #[test]
    fn what_is_long_begins_in_the_middle_of_a_page() {
        let bytes = 2 * LONG + 3 * PAGE;
        let segment = Segment::open(&create(bytes)).unwrap();
        let short = segment.take(LONG - 1, 56).unwrap();
        let long = segment.take(LONG, 56).unwrap();
        let at = |writing: &Writing| (writing.as_ptr() as usize - segment.start()) % PAGE;
        assert_eq!((at(&short), at(&long)), (56, PAGE / 2 - 8), "what follows a length of 8 bytes");
        assert_eq!(segment.taken(), LONG + GRAIN + LONG + PAGE, "in whole grains");
        drop((short, long));
        assert!(segment.is_whole());
        assert_eq!(needed(usize::MAX - 56, 56), None);
    }

    #[test]
    fn who_reads_cannot_write_nor_go_beyond() {
        let file = create(BYTES);
        let reading = read_only(&file).unwrap();
        assert!(Map::to_write(&reading, BYTES).is_err(), "a mapping to write");
        assert!(rustix::io::write(&reading, b"x").is_err());
        assert!(ftruncate(&file, 1).is_err(), "it keeps its length");
        let lent = Lent::open(&reading).unwrap();
        for (at, bytes) in [(BYTES, 1), (0, BYTES + 1), (usize::MAX, 2)] {
            assert!(lent.view(at, bytes).is_none(), "{bytes} bytes at {at}");
        }
        assert!(lent.view(BYTES, 0).unwrap().as_ref().is_empty());
    }

    #[test]
    fn what_is_cut_keeps_its_length_and_is_all_zeros() {
        let bytes = LARGE_PAGES_STEP + LARGE_PAGE + BYTES;
        let file = Blank::new(bytes, Instant::now() + Duration::from_secs(60)).unwrap().cut(bytes - 64).unwrap();
        assert!(ftruncate(&file, 1).is_err(), "it keeps its length");
        let segment = Segment::open(&file).unwrap();
        assert_eq!(segment.len(), bytes - 64);
        assert!(segment.take(bytes - PAGE, 0).unwrap().iter().all(|byte| *byte == 0));
        let small = Blank::new(bytes, Instant::now() - Duration::from_secs(1)).unwrap();
        assert!(small.cut(bytes + 1).is_err(), "it is not longer, whatever its pages are");
    }

    #[test]
    fn a_file_that_can_shrink_is_not_mapped() {
        let file = memfd_create("unsealed", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4_096).unwrap();
        assert!(matches!(Lent::open(&file), Err(OpenError::NotSealed { .. })));
        assert!(matches!(Segment::open(&file), Err(OpenError::NotSealed { .. })));
    }
}
