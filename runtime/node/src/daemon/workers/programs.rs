//! Executables by their hash: what jobs run, kept in a folder that only this user may enter.
//!
//! A driver's program comes in through its open file ([`Programs::keep`]), that of another node's driver in parts that
//! must add up to its hash ([`Programs::store_chunk`]). A file appears under its hash whole or not at all. Does not know
//! where programs are fetched from, nor which job runs which.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use mobula_types::program::Target;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::platform;

/// Bytes that all programs take together. A debug build of a large program is half a gigabyte: twenty of those stay.
pub const PROGRAMS_BYTES_MAX: u64 = 8 << 30;

/// Bytes of one program.
pub const PROGRAM_BYTES_MAX: u64 = 4 << 30;

/// Bytes of one part.
pub const CHUNK_BYTES_MAX: usize = 8 << 20;

/// Programs that come in at once. The one whose last part is longest ago gives way: its sender is gone, or begins again.
const COMING_MAX: usize = 16;

/// Files whose hash is remembered, so that a driver that starts again is not read again.
const STAMPS_MAX: usize = 256;

/// The BLAKE3 hash of a program; as text, 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProgramHash(pub [u8; 32]);

/// A part of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramChunk {
    /// The part.
    pub bytes: Vec<u8>,
    /// The length of the whole program.
    pub total_bytes: u64,
}

/// Why a program is not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// It is not here.
    #[error("program {hash} is not kept here: fetch it from the node of its driver")]
    Unknown {
        /// Which.
        hash: ProgramHash,
    },
    /// It is no file, or too large.
    #[error("{path} is no program that can be kept: expected a file of at most {PROGRAM_BYTES_MAX} bytes", path = path.display())]
    NoProgram {
        /// Which.
        path: PathBuf,
    },
    /// All that is kept is in use.
    #[error("programs in use take {used} bytes, and {wanted} more do not fit into {max}: end a job")]
    Full {
        /// The bytes of those in use.
        used: u64,
        /// The bytes of this one.
        wanted: u64,
        /// The bytes allowed.
        max: u64,
    },
    /// A part does not follow what is there.
    #[error("program {hash} has {expected} bytes here, and a part came for offset {found}: go on from there")]
    OutOfOrder {
        /// Which.
        hash: ProgramHash,
        /// What is there.
        expected: u64,
        /// Where the part belongs.
        found: u64,
    },
    /// The parts are not the program that they were said to be.
    #[error("what came as program {hash} is another one, and is not kept: fetch it again")]
    WrongHash {
        /// Which.
        hash: ProgramHash,
    },
    /// The system refused.
    #[error("cannot keep programs in {path}: {source}", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// The programs of a node. Clones are the same programs. All of it blocks on the disk: call it where that is allowed.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: Arc<Path>,
    bytes_max: u64,
    state: Arc<Mutex<State>>,
}

/// As long as this lives, the program stays.
#[derive(Debug)]
pub struct ProgramInUse {
    programs: Programs,
    hash: ProgramHash,
}

#[derive(Debug, Default)]
struct State {
    kept: BTreeMap<ProgramHash, Kept>,
    coming: BTreeMap<ProgramHash, Coming>,
    /// Newest last.
    stamps: VecDeque<(Stamp, ProgramHash)>,
    /// Counts uses and temporary files: higher is later.
    turn: u64,
}

#[derive(Debug)]
struct Kept {
    bytes: u64,
    used_at: u64,
    users: usize,
    target: Option<Target>,
}

/// A program of which a front part is here.
#[derive(Debug)]
struct Coming {
    file: Partial,
    hasher: Box<blake3::Hasher>,
    have: u64,
    touched: u64,
}

/// By what a file is known again without being read. Who may write to it can forge the times, but runs as this user too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Programs {
    /// The programs in a folder, which is made and closed to others. What was left half done is removed.
    ///
    /// # Errors
    ///
    /// The folder cannot be made or read.
    pub fn open(folder: &Path) -> Result<Self, ProgramError> {
        Self::with_bound(folder, PROGRAMS_BYTES_MAX)
    }

    fn with_bound(folder: &Path, bytes_max: u64) -> Result<Self, ProgramError> {
        let failed = |source| ProgramError::Io { path: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(failed)?;
        let mut state = State::default();
        for entry in fs::read_dir(folder).map_err(failed)?.flatten() {
            let hash = entry.file_name().to_str().and_then(|name| name.parse::<ProgramHash>().ok());
            match (hash, entry.metadata()) {
                (Some(hash), Ok(meta)) if meta.is_file() => {
                    let target = File::open(entry.path()).ok().as_ref().and_then(platform::target_of);
                    state.kept.insert(hash, Kept { bytes: meta.len(), used_at: 0, users: 0, target });
                }
                _ => _ = fs::remove_file(entry.path()),
            }
        }
        Ok(Self { folder: folder.into(), bytes_max, state: Arc::new(Mutex::new(state)) })
    }

    /// Keeps the program in a file; `/proc/<pid>/exe` is the one that a process runs, even if its file was replaced since.
    ///
    /// # Errors
    ///
    /// [`ProgramError`].
    pub fn keep(&self, path: &Path) -> Result<ProgramHash, ProgramError> {
        let failed = |source| ProgramError::Io { path: path.to_owned(), source };
        let no_program = || ProgramError::NoProgram { path: path.to_owned() };
        // Without this flag, opening a pipe waits for a writer.
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() || meta.len() > PROGRAM_BYTES_MAX {
            return Err(no_program());
        }
        let stamp = Stamp::of(&meta);
        if let Some(hash) = self.known(stamp) {
            return Ok(hash);
        }
        let mut copy = self.partial()?;
        // Within the kernel: a program may have hundreds of megabytes, and its driver waits.
        let bytes =
            io::copy(&mut file.take(PROGRAM_BYTES_MAX + 1), &mut copy.file).map_err(|source| self.io(source))?;
        if bytes > PROGRAM_BYTES_MAX {
            return Err(no_program());
        }
        // What is hashed is what was written, whatever becomes of the file meanwhile.
        copy.file.rewind().map_err(|source| self.io(source))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&copy.file).map_err(|source| self.io(source))?;
        let hash = ProgramHash(*hasher.finalize().as_bytes());
        self.settle(hash, bytes, copy)?;
        let mut state = self.state.lock();
        if state.stamps.len() == STAMPS_MAX {
            state.stamps.pop_front();
        }
        state.stamps.push_back((stamp, hash));
        Ok(hash)
    }

    /// Adds a part of a program that is fetched from elsewhere; parts come in order. Returns whether it is whole now.
    ///
    /// # Errors
    ///
    /// [`ProgramError`]; after [`WrongHash`](ProgramError::WrongHash) nothing is left of it.
    pub fn store_chunk(
        &self,
        hash: ProgramHash,
        total_bytes: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<bool, ProgramError> {
        if self.has(hash) {
            return Ok(true);
        }
        if total_bytes > PROGRAM_BYTES_MAX || bytes.len() > CHUNK_BYTES_MAX {
            return Err(ProgramError::NoProgram { path: self.folder.join(hash.to_string()) });
        }
        let coming = self.state.lock().coming.remove(&hash);
        let mut coming = match coming {
            Some(coming) => coming,
            None => Coming { file: self.partial()?, hasher: Box::default(), have: 0, touched: 0 },
        };
        if offset != coming.have {
            let expected = coming.have;
            self.put_aside(hash, coming);
            return Err(ProgramError::OutOfOrder { hash, expected, found: offset });
        }
        coming.file.file.write_all(bytes).map_err(|source| self.io(source))?;
        coming.hasher.update(bytes);
        coming.have += bytes.len() as u64;
        if coming.have < total_bytes {
            self.put_aside(hash, coming);
            return Ok(false);
        }
        if coming.have > total_bytes || coming.hasher.finalize().as_bytes() != &hash.0 {
            return Err(ProgramError::WrongHash { hash });
        }
        self.settle(hash, coming.have, coming.file)?;
        Ok(true)
    }

    /// Removes what has come of a program that is not fetched any more.
    pub fn give_up(&self, hash: ProgramHash) {
        let coming = self.state.lock().coming.remove(&hash);
        // Removes its file, which takes no lock.
        drop(coming);
    }

    /// Reads a part of a program, at most [`CHUNK_BYTES_MAX`] bytes.
    ///
    /// # Errors
    ///
    /// [`ProgramError`].
    pub fn open_chunk(&self, hash: ProgramHash, offset: u64, max: usize) -> Result<ProgramChunk, ProgramError> {
        let in_use = self.use_program(hash)?;
        let read = || {
            let mut file = File::open(in_use.path())?;
            let (total_bytes, mut bytes) = (file.metadata()?.len(), Vec::new());
            file.seek(SeekFrom::Start(offset))?;
            file.take(max.min(CHUNK_BYTES_MAX) as u64).read_to_end(&mut bytes)?;
            Ok(ProgramChunk { bytes, total_bytes })
        };
        read().map_err(|source| self.io(source))
    }

    /// Whether a program is here.
    pub fn has(&self, hash: ProgramHash) -> bool {
        self.state.lock().kept.contains_key(&hash)
    }

    /// Keeps a program from being removed, as long as a job runs it.
    ///
    /// # Errors
    ///
    /// [`ProgramError::Unknown`].
    pub fn use_program(&self, hash: ProgramHash) -> Result<ProgramInUse, ProgramError> {
        let mut state = self.state.lock();
        let turn = state.next_turn();
        let kept = state.kept.get_mut(&hash).ok_or(ProgramError::Unknown { hash })?;
        kept.users += 1;
        kept.used_at = turn;
        Ok(ProgramInUse { programs: self.clone(), hash })
    }

    fn known(&self, stamp: Stamp) -> Option<ProgramHash> {
        let mut state = self.state.lock();
        let turn = state.next_turn();
        let hash = state.stamps.iter().rev().find(|(known, _)| *known == stamp)?.1;
        state.kept.get_mut(&hash)?.used_at = turn;
        Some(hash)
    }

    /// A file that is removed unless it is settled.
    fn partial(&self) -> Result<Partial, ProgramError> {
        let turn = self.state.lock().next_turn();
        let path = self.folder.join(format!("coming-{turn}"));
        let file = OpenOptions::new().create_new(true).read(true).write(true).mode(0o700).open(&path);
        Ok(Partial { file: file.map_err(|source| self.io(source))?, path: Some(path) })
    }

    fn put_aside(&self, hash: ProgramHash, mut coming: Coming) {
        let mut state = self.state.lock();
        coming.touched = state.next_turn();
        state.coming.insert(hash, coming);
        if state.coming.len() > COMING_MAX {
            let oldest = state.coming.iter().min_by_key(|(_, coming)| coming.touched).map(|(hash, _)| *hash);
            oldest.and_then(|hash| state.coming.remove(&hash));
        }
    }

    /// Gives a whole file its name, and makes room for it.
    fn settle(&self, hash: ProgramHash, bytes: u64, mut partial: Partial) -> Result<(), ProgramError> {
        let target = platform::target_of(&partial.file);
        let mut state = self.state.lock();
        let turn = state.next_turn();
        if let Some(kept) = state.kept.get_mut(&hash) {
            kept.used_at = turn;
            return Ok(());
        }
        let mut used: u64 = state.kept.values().map(|kept| kept.bytes).sum();
        while used + bytes > self.bytes_max {
            let idle = state.kept.iter().filter(|(_, kept)| kept.users == 0);
            let Some(oldest) = idle.min_by_key(|(_, kept)| kept.used_at).map(|(hash, _)| *hash) else {
                return Err(ProgramError::Full { used, wanted: bytes, max: self.bytes_max });
            };
            used -= state.kept.remove(&oldest).map_or(0, |kept| kept.bytes);
            fs::remove_file(self.folder.join(oldest.to_string())).ok();
        }
        let Some(path) = partial.path.take() else { return Ok(()) };
        if let Err(source) = fs::rename(&path, self.folder.join(hash.to_string())) {
            partial.path = Some(path);
            return Err(self.io(source));
        }
        state.kept.insert(hash, Kept { bytes, used_at: turn, users: 0, target });
        Ok(())
    }

    fn io(&self, source: io::Error) -> ProgramError {
        ProgramError::Io { path: self.folder.to_path_buf(), source }
    }
}

impl State {
    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }
}

impl ProgramInUse {
    /// Which program.
    pub fn hash(&self) -> ProgramHash {
        self.hash
    }

    /// What it was built for; none when its file does not say.
    pub fn target(&self) -> Option<Target> {
        self.programs.state.lock().kept.get(&self.hash).and_then(|kept| kept.target.clone())
    }

    /// Its executable.
    pub fn path(&self) -> PathBuf {
        self.programs.folder.join(self.hash.to_string())
    }
}

impl Drop for ProgramInUse {
    fn drop(&mut self) {
        if let Some(kept) = self.programs.state.lock().kept.get_mut(&self.hash) {
            kept.users -= 1;
        }
    }
}

#[derive(Debug)]
struct Partial {
    file: File,
    path: Option<PathBuf>,
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            fs::remove_file(path).ok();
        }
    }
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl fmt::Display for ProgramHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ProgramHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProgramHash({self})")
    }
}

/// The text is no hash of a program.
#[derive(Debug, thiserror::Error)]
#[error("a program's hash has 64 hexadecimal digits, lower case")]
pub struct NoHash;

impl FromStr for ProgramHash {
    type Err = NoHash;

    fn from_str(text: &str) -> Result<Self, NoHash> {
        let is_ours = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            let digits = text.get(2 * at..2 * at + 2).filter(|_| is_ours).ok_or(NoHash)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NoHash)?;
        }
        Ok(Self(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(bytes: &[u8]) -> ProgramHash {
        ProgramHash(*blake3::hash(bytes).as_bytes())
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_program_is_kept_under_its_hash() {
        let folder = tempfile::tempdir().unwrap();
        let (programs, source) = (Programs::open(&folder.path().join("programs")).unwrap(), folder.path().join("a"));
        fs::write(&source, "program").unwrap();
        let kept = programs.keep(&source).unwrap();
        assert_eq!(kept, hash(b"program"));
        let in_use = programs.use_program(kept).unwrap();
        assert_eq!(fs::read(in_use.path()).unwrap(), b"program");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&in_use.path()), mode(in_use.path().parent().unwrap())), (0o700, 0o700));
        // A node that starts later still has it, and nothing else.
        fs::write(folder.path().join("programs/coming-9"), "half").unwrap();
        let later = Programs::open(&folder.path().join("programs")).unwrap();
        assert!(later.has(kept));
        assert_eq!(names(&folder.path().join("programs")), [kept.to_string()]);
    }

    #[test]
    fn a_file_that_changed_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (programs, source) = (Programs::open(&folder.path().join("programs")).unwrap(), folder.path().join("a"));
        fs::write(&source, "one").unwrap();
        assert_eq!(programs.keep(&source).unwrap(), hash(b"one"));
        assert_eq!(programs.keep(&source).unwrap(), hash(b"one"));
        assert_eq!(programs.state.lock().stamps.len(), 1, "the second time it was known by its stamp");
        // Another file of the same length at the same path, as builds make them.
        fs::write(folder.path().join("b"), "two").unwrap();
        fs::rename(folder.path().join("b"), &source).unwrap();
        assert_eq!(programs.keep(&source).unwrap(), hash(b"two"));
    }

    #[test]
    fn the_program_of_a_running_process_is_kept_by_its_open_file() {
        let folder = tempfile::tempdir().unwrap();
        let programs = Programs::open(folder.path()).unwrap();
        let kept = programs.keep(Path::new(&format!("/proc/{}/exe", std::process::id()))).unwrap();
        let mine = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(kept, hash(&mine));
        for wrong in [folder.path(), Path::new("/dev/zero")] {
            assert!(matches!(programs.keep(wrong), Err(ProgramError::NoProgram { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn parts_must_add_up_to_the_hash() {
        let folder = tempfile::tempdir().unwrap();
        let programs = Programs::open(folder.path()).unwrap();
        let (good, other) = (hash(b"abcdef"), hash(b"another"));
        assert!(!programs.store_chunk(good, 6, 0, b"abc").unwrap());
        assert!(!programs.has(good));
        let skipped = programs.store_chunk(good, 6, 5, b"f").unwrap_err();
        assert!(matches!(skipped, ProgramError::OutOfOrder { expected: 3, found: 5, .. }));
        assert!(programs.store_chunk(good, 6, 3, b"def").unwrap());
        assert_eq!(programs.open_chunk(good, 2, 3).unwrap(), ProgramChunk { bytes: b"cde".to_vec(), total_bytes: 6 });
        assert!(matches!(programs.store_chunk(other, 3, 0, b"xyz"), Err(ProgramError::WrongHash { .. })));
        assert!(matches!(programs.store_chunk(other, 2, 0, b"xyz"), Err(ProgramError::WrongHash { .. })));
        assert!(programs.store_chunk(other, u64::MAX, 0, b"x").is_err());
        assert_eq!(names(folder.path()), [good.to_string()], "nothing is left of what was wrong");
        assert!(matches!(programs.open_chunk(other, 0, 1), Err(ProgramError::Unknown { .. })));
    }

    #[test]
    fn those_that_begin_and_never_end_give_way() {
        let folder = tempfile::tempdir().unwrap();
        let programs = Programs::open(folder.path()).unwrap();
        for n in 0..3 * COMING_MAX as u64 {
            programs.store_chunk(hash(&n.to_le_bytes()), 100, 0, b"x").unwrap();
        }
        assert_eq!(names(folder.path()).len(), COMING_MAX);
        for n in 0..3 * COMING_MAX as u64 {
            programs.give_up(hash(&n.to_le_bytes()));
        }
        assert!(names(folder.path()).is_empty(), "nothing is left of what was given up");
    }

    #[test]
    fn the_least_recently_used_give_way_but_never_those_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let programs = Programs::with_bound(folder.path(), 10).unwrap();
        let store = |bytes: &[u8]| programs.store_chunk(hash(bytes), bytes.len() as u64, 0, bytes);
        let (a, b, c) = (b"aaaa", b"bbbb", b"cccc");
        assert!(store(a).unwrap() && store(b).unwrap());
        drop(programs.use_program(hash(a)).unwrap());
        assert!(store(c).unwrap());
        assert!(programs.has(hash(a)) && !programs.has(hash(b)) && programs.has(hash(c)));
        let _in_use = [a, c].map(|bytes| programs.use_program(hash(bytes)).unwrap());
        assert!(matches!(store(b), Err(ProgramError::Full { used: 8, wanted: 4, max: 10 })));
        assert_eq!(names(folder.path()).len(), 2);
    }

    #[test]
    fn a_hash_is_read_only_as_it_is_written() {
        let text = hash(b"x").to_string();
        assert_eq!(text.parse::<ProgramHash>().unwrap(), hash(b"x"));
        for wrong in ["", "x", &text[1..], &text.to_uppercase(), &format!("{text}0"), &"é".repeat(32)] {
            assert!(wrong.parse::<ProgramHash>().is_err(), "{wrong}");
        }
    }
}
