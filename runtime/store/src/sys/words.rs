//! Numbers that two processes read and write at once, in a memory file without a name.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};

/// A mapping of a memory file that can neither shrink nor grow.
pub(crate) struct SharedWords {
    map: MmapRaw,
    len: usize,
}

/// What keeps the file's length for ever, and keeps others from changing that.
pub(super) const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Why a descriptor cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused.
    #[error("cannot map shared memory: {0}")]
    Io(#[from] io::Error),
    /// The file's length is not the expected one, or may still change.
    #[error("the shared memory has {found} bytes and seals {seals:?}, expected {expected} bytes that cannot change")]
    NotSealed {
        /// Its length.
        found: u64,
        /// The length expected.
        expected: u64,
        /// What is known to stay as it is, as the system's flags.
        seals: u32,
    },
}

impl SharedWords {
    /// New memory of `len` zeros, and the descriptor by which another process opens it. No child inherits it: it is handed
    /// over, as standard input or through a socket.
    pub(crate) fn create(name: &str, len: usize) -> io::Result<(Self, OwnedFd)> {
        let file = memfd_create(name, MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)?;
        ftruncate(&file, byte_len(len))?;
        fcntl_add_seals(&file, SEALS)?;
        let words = Self::map(&file, len)?;
        Ok((words, file))
    }

    /// The memory behind a descriptor that [`create`](Self::create) gave to another process.
    pub(crate) fn open(file: impl AsFd, len: usize) -> Result<Self, OpenError> {
        let found = fstat(&file).map_err(io::Error::from)?.st_size.unsigned_abs();
        let seals = fcntl_get_seals(&file).map_err(io::Error::from)?;
        if found != byte_len(len) || !seals.contains(SEALS) {
            return Err(OpenError::NotSealed { found, expected: byte_len(len), seals: seals.bits() });
        }
        Ok(Self::map(&file, len)?)
    }

    fn map(file: &impl AsFd, len: usize) -> io::Result<Self> {
        let file = std::fs::File::from(file.as_fd().try_clone_to_owned()?);
        let map = MmapOptions::new().len(len * size_of::<AtomicU64>()).map_raw(&file)?;
        Ok(Self { map, len })
    }

    /// The numbers. Others may change them between any two reads.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is `len` times 8 bytes long (`map`), begins at a page and so is aligned for `AtomicU64`,
        // and lives as long as `self`. Its file is sealed against shrinking before anything is mapped (`create`, `open`),
        // so no page of it can go away. Every process reaches these bytes through atomics only, and every bit pattern is
        // an `AtomicU64`.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>(), self.len) }
    }
}

fn byte_len(len: usize) -> u64 {
    (len * size_of::<AtomicU64>()) as u64
}
