//! Files to which values are written when memory is short (G15), and from which they are read back.
//!
//! ```text
//! spill/<number>      the bytes of several values, one behind the other; nothing else is in it
//! ```
//!
//! Where each value lies, and the hash by which it is known again, is in the node's memory alone: with the node all of it is
//! over, so the folder is emptied when one begins and removed when it ends. One thread does it all, in the order in which it
//! is told; what waits for it is bounded by [`logic::pressure`](mobula_logic::pressure).
//!
//! What of a file is not needed any more is given back to the disk at once where that can punch holes, and with the file
//! elsewhere.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use mobula_store::{Room, View};
use mobula_types::ObjectId;
use mobula_wire::segments::{NoSegment, SegmentId};
use rustix::fs::{FallocateFlags, fallocate};

/// The folder, in that of its node, unless another is given.
pub(crate) const FOLDER: &str = "spill";

/// A file that is longer than this is not continued.
const FILE_BYTES: u64 = 64 << 20;

/// Read, checked and written on in pieces of this, which stay in a processor's cache.
const PIECE_BYTES: usize = 1 << 20;

/// Where a value lies, and what it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    file: u64,
    at: u64,
    bytes: u64,
    hash: blake3::Hash,
}

/// What the thread has done.
#[derive(Debug)]
pub(crate) enum Done {
    /// Written, or not.
    Written { object: ObjectId, stamp: u64, result: io::Result<Slot> },
    /// Read into its room, or not.
    Read { object: ObjectId, stamp: u64, result: Result<Result<SegmentId, NoSegment>, (io::Error, SegmentId)> },
    /// Something is not needed any more.
    Freed,
}

/// Makes room for what is read.
type MakeRoom = Box<dyn FnOnce() -> Result<(SegmentId, Room), NoSegment> + Send>;

/// What it is told.
enum Job {
    Write { object: ObjectId, stamp: u64, view: View },
    Read { object: ObjectId, stamp: u64, slot: Slot, room: MakeRoom, offset: u64 },
    Free { slot: Slot },
}

/// The files of a node; with this they are over.
pub(crate) struct Spills {
    jobs: Option<Sender<Job>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Spills {
    /// Empties `folder`, and says to `done` what was done. At most `bytes_max` are in the files. A folder that cannot be
    /// written is an error here, and not a full disk later.
    pub(crate) fn start(folder: PathBuf, bytes_max: u64, done: impl FnMut(Done) + Send + 'static) -> io::Result<Self> {
        clear(&folder)?;
        try_out(&folder)?;
        let (jobs, told) = mpsc::channel();
        let is_over = Arc::new(AtomicBool::new(false));
        let files = Files { folder, bytes_max, bytes: 0, files: HashMap::new(), current: None, last: 0 };
        let ended = is_over.clone();
        let thread =
            thread::Builder::new().name("mobula-spill".to_owned()).spawn(move || work(files, &told, &ended, done))?;
        Ok(Self { jobs: Some(jobs), is_over, thread: Some(thread) })
    }

    /// Has a value written.
    pub(crate) fn write(&self, object: ObjectId, stamp: u64, view: View) {
        self.tell(Job::Write { object, stamp, view });
    }

    /// Has a value read into a room that is made then, in which it begins at `offset`.
    pub(crate) fn read(&self, object: ObjectId, stamp: u64, slot: Slot, (room, offset): (MakeRoom, u64)) {
        self.tell(Job::Read { object, stamp, slot, room, offset });
    }

    /// A value is not needed any more.
    pub(crate) fn free(&self, slot: Slot) {
        self.tell(Job::Free { slot });
    }

    fn tell(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread is there as long as this.
            jobs.send(job).ok();
        }
    }
}

impl Drop for Spills {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It looks up after each piece.
            thread.join().ok();
        }
    }
}

/// Nothing of a node that was killed is in the folder; another that lives would have the node's own.
fn clear(folder: &Path) -> io::Result<()> {
    if folder.exists() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // Its files are called by their numbers: nothing else that somebody has there is touched.
            if entry.file_name().to_str().is_some_and(|name| name.parse::<u64>().is_ok()) {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// Makes a file in the folder, and leaves nothing.
fn try_out(folder: &Path) -> io::Result<()> {
    make(folder)?;
    let file = folder.join("0");
    create(&file)?;
    fs::remove_file(file)?;
    // It may be somebody else's, or hold what is.
    fs::remove_dir(folder).ok();
    Ok(())
}

fn make(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn create(file: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)
}

fn work(mut files: Files, told: &Receiver<Job>, is_over: &AtomicBool, mut done: impl FnMut(Done)) {
    while let Ok(job) = told.recv() {
        if is_over.load(Ordering::Acquire) {
            continue;
        }
        done(match job {
            Job::Write { object, stamp, view } => {
                Done::Written { object, stamp, result: files.write(view.as_ref(), is_over) }
            }
            Job::Read { object, stamp, slot, room, offset } => {
                let result = match room() {
                    Ok((segment, room)) => {
                        let to = |at: u64, piece: &[u8]| room.write(offset + at, &[piece]);
                        files.read(&slot, is_over, to).map(|()| Ok(segment)).map_err(|error| (error, segment))
                    }
                    Err(no) => Ok(Err(no)),
                };
                Done::Read { object, stamp, result }
            }
            Job::Free { slot } => {
                files.free(&slot);
                Done::Freed
            }
        });
    }
    files.end();
}

struct Files {
    folder: PathBuf,
    bytes_max: u64,
    /// Of values that are needed.
    bytes: u64,
    files: HashMap<u64, Kept>,
    /// The one to which is written.
    current: Option<(u64, File)>,
    last: u64,
}

#[derive(Default)]
struct Kept {
    /// Where the next value begins.
    end: u64,
    /// Values in it that are needed.
    values: usize,
}

impl Files {
    fn path(&self, file: u64) -> PathBuf {
        self.folder.join(file.to_string())
    }

    fn write(&mut self, value: &[u8], is_over: &AtomicBool) -> io::Result<Slot> {
        let bytes = value.len() as u64;
        if self.bytes.saturating_add(bytes) > self.bytes_max {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let id = self.open()?;
        let kept = self.files.entry(id).or_default();
        let at = kept.end;
        let Some((_, file)) = &self.current else { return Err(io::ErrorKind::NotFound.into()) };
        let mut hasher = blake3::Hasher::new();
        let mut written = Ok(());
        for (number, piece) in value.chunks(PIECE_BYTES).enumerate() {
            hasher.update(piece);
            written = match is_over.load(Ordering::Acquire) {
                true => Err(io::ErrorKind::Interrupted.into()),
                false => file.write_all_at(piece, at + (number * PIECE_BYTES) as u64),
            };
            if written.is_err() {
                break;
            }
        }
        if let Err(error) = written {
            // What was written of it would take the room of others.
            file.set_len(at).ok();
            if self.files.get(&id).is_some_and(|kept| kept.values == 0) {
                self.remove(id);
            }
            return Err(error);
        }
        (kept.end, kept.values) = (at + bytes, kept.values + 1);
        self.bytes += bytes;
        Ok(Slot { file: id, at, bytes, hash: hasher.finalize() })
    }

    /// The file to which is written.
    fn open(&mut self) -> io::Result<u64> {
        if let Some((id, _)) = &self.current
            && self.files.get(id).is_some_and(|kept| kept.end < FILE_BYTES)
        {
            return Ok(*id);
        }
        make(&self.folder)?;
        self.last += 1;
        let file = create(&self.path(self.last))?;
        self.current = Some((self.last, file));
        self.files.insert(self.last, Kept::default());
        Ok(self.last)
    }

    fn read(
        &self,
        slot: &Slot,
        is_over: &AtomicBool,
        mut to: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let file = File::open(self.path(slot.file))?;
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE_BYTES];
        let mut at = 0;
        while at < slot.bytes && !is_over.load(Ordering::Acquire) {
            let length = usize::try_from(slot.bytes - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let piece = &mut piece[..length];
            file.read_exact_at(piece, slot.at + at)?;
            hasher.update(piece);
            to(at, piece)?;
            at += length as u64;
        }
        if hasher.finalize() == slot.hash {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "its bytes are not what was written"))
        }
    }

    fn free(&mut self, slot: &Slot) {
        let Some(kept) = self.files.get_mut(&slot.file) else { return };
        kept.values -= 1;
        self.bytes -= slot.bytes;
        if kept.values == 0 {
            self.remove(slot.file);
        } else if let Ok(file) = OpenOptions::new().write(true).open(self.path(slot.file)) {
            // Not every disk can.
            fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, slot.at, slot.bytes).ok();
        }
    }

    fn remove(&mut self, id: u64) {
        if self.current.as_ref().is_some_and(|(current, _)| *current == id) {
            self.current = None;
        }
        self.files.remove(&id);
        if let Err(error) = fs::remove_file(self.path(id)) {
            tracing::warn!(%error, "a file of values that are not needed any more is left");
        }
    }

    fn end(&mut self) {
        let all: Vec<u64> = self.files.keys().copied().collect();
        all.into_iter().for_each(|id| self.remove(id));
        // It may be somebody else's, or hold what is.
        fs::remove_dir(&self.folder).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static ON: AtomicBool = AtomicBool::new(false);

    fn files(folder: &Path, bytes_max: u64) -> Files {
        let folder = folder.join(FOLDER);
        Files { folder, bytes_max, bytes: 0, files: HashMap::new(), current: None, last: 0 }
    }

    fn value(seed: u8, bytes: usize) -> Vec<u8> {
        (0..bytes).map(|index| seed.wrapping_mul(31).wrapping_add(index.to_le_bytes()[0])).collect()
    }

    fn read(files: &Files, slot: &Slot) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        files.read(slot, &ON, |at, piece| {
            assert_eq!(at, all.len() as u64);
            all.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn values_come_back_as_they_were_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = files(folder.path(), u64::MAX);
        let values: Vec<Vec<u8>> = (0..20).map(|seed| value(seed, 300_000 * usize::from(seed) + 1)).collect();
        let slots: Vec<Slot> = values.iter().map(|value| files.write(value, &ON).unwrap()).collect();
        for (slot, value) in slots.iter().zip(&values).rev() {
            assert!(read(&files, slot).unwrap() == *value);
        }
        for (slot, value) in slots.iter().zip(&values).step_by(2) {
            files.free(slot);
            assert!(value.len() as u64 == slot.bytes);
        }
        for (slot, value) in slots.iter().zip(&values).skip(1).step_by(2) {
            assert!(read(&files, slot).unwrap() == *value, "its neighbours are gone");
            files.free(slot);
        }
        assert_eq!((files.bytes, files.files.len()), (0, 0));
        assert_eq!(fs::read_dir(folder.path().join(FOLDER)).unwrap().count(), 0);
        files.end();
        assert!(!folder.path().join(FOLDER).exists());
    }

    #[test]
    fn a_bound_is_a_full_disk() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = files(folder.path(), 1_000);
        let first = files.write(&value(1, 600), &ON).unwrap();
        assert_eq!(files.write(&value(2, 600), &ON).unwrap_err().kind(), io::ErrorKind::StorageFull);
        files.free(&first);
        assert!(files.write(&value(2, 600), &ON).is_ok());
    }

    #[test]
    fn a_file_that_was_changed_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = files(folder.path(), u64::MAX);
        let slot = files.write(&value(1, 5_000), &ON).unwrap();
        let file = OpenOptions::new().write(true).open(files.path(slot.file)).unwrap();
        file.write_all_at(b"manta", 1_000).unwrap();
        assert_eq!(read(&files, &slot).unwrap_err().kind(), io::ErrorKind::InvalidData);
        file.set_len(100).unwrap();
        assert_eq!(read(&files, &slot).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "no folder").unwrap();
        assert!(Spills::start(file.join("spill"), u64::MAX, drop).is_err());
        let good = folder.path().join("spill");
        drop(Spills::start(good.clone(), u64::MAX, drop).unwrap());
        assert!(!good.exists(), "nothing is left of the trial");
    }

    #[test]
    fn only_its_own_files_are_cleared() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("7"), "of a node that was killed").unwrap();
        fs::write(folder.path().join("letter"), "somebody else's").unwrap();
        clear(folder.path()).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["letter"]);
    }
}
