//! Mappings of memory files, which begin where a large page may: only so can the system map large pages as such, and spare
//! 511 of 512 faults.

use std::ffi::c_void;
use std::io;
use std::os::fd::AsFd;
use std::ptr;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// A large page of the usual processors.
pub(super) const LARGE_PAGE: usize = 2 << 20;

/// A mapping of a file's first bytes, shared with everybody who maps the file.
#[derive(Debug)]
pub(super) struct Map {
    /// Addresses that nothing else gets: the file's bytes lie in them, from the first multiple of [`LARGE_PAGE`] on.
    reserved: *mut c_void,
    reserved_len: usize,
    start: *mut u8,
    len: usize,
}

// SAFETY: it is a range of addresses that belongs to it until it is dropped, and no thread's own. Who reads and writes what
// is in it says by what right.
unsafe impl Send for Map {}
// SAFETY: as above; none of its methods reads or writes the memory.
unsafe impl Sync for Map {}

impl Map {
    /// To be read and written; all faults that can be taken at once are.
    ///
    /// # Errors
    ///
    /// The system does not map it.
    pub(super) fn to_write(file: impl AsFd, len: usize) -> io::Result<Self> {
        Self::new(file, len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::POPULATE)
    }

    /// To be read only.
    ///
    /// # Errors
    ///
    /// The system does not map it.
    pub(super) fn to_read(file: impl AsFd, len: usize) -> io::Result<Self> {
        Self::new(file, len, ProtFlags::READ, MapFlags::empty())
    }

    fn new(file: impl AsFd, len: usize, access: ProtFlags, flags: MapFlags) -> io::Result<Self> {
        let reserved_len = len.checked_add(LARGE_PAGE).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the system chooses the addresses, so nothing that is mapped already changes.
        let reserved = unsafe {
            mmap_anonymous(ptr::null_mut(), reserved_len, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)?
        };
        let skipped = reserved.addr().next_multiple_of(LARGE_PAGE) - reserved.addr();
        // SAFETY: less than `LARGE_PAGE` is skipped, so `len` bytes behind it are inside what is reserved.
        let start = unsafe { reserved.byte_add(skipped) };
        let map = Self { reserved, reserved_len, start: start.cast(), len };
        // SAFETY: these addresses were reserved above and nobody has seen them; `map` unmaps them, also on an error here.
        unsafe { mmap(start, len, access, flags | MapFlags::SHARED | MapFlags::FIXED, file, 0)? };
        Ok(map)
    }

    /// Puts large pages where the file has any page; what it has nowhere is zeros. Where the system has none to give, what
    /// is there stays as it is.
    ///
    /// # Errors
    ///
    /// Some or all stay as they are.
    pub(super) fn enlarge_pages(&self, at: usize, len: usize) -> io::Result<()> {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len), "it is outside the mapping");
        // SAFETY: the range is inside this mapping. What its bytes are does not change, only the pages that hold them.
        let done = unsafe { libc::madvise(self.start.add(at).cast(), len, libc::MADV_COLLAPSE) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Its first byte.
    pub(super) fn as_ptr(&self) -> *const u8 {
        self.start
    }

    /// Its first byte; to be written only where the mapping is [to write](Self::to_write).
    pub(super) fn as_mut_ptr(&self) -> *mut u8 {
        self.start
    }

    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: these addresses are this mapping's own, and what borrows from it has ended.
        if let Err(error) = unsafe { munmap(self.reserved, self.reserved_len) } {
            tracing::error!(%error, "a mapping of {} bytes stays", self.reserved_len);
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    #[test]
    fn it_begins_where_a_large_page_may() {
        let file = memfd_create("map", MemfdFlags::CLOEXEC).unwrap();
        let len = LARGE_PAGE + 4_096;
        ftruncate(&file, len as u64).unwrap();
        let (writes, reads) = (Map::to_write(&file, len).unwrap(), Map::to_read(&file, len).unwrap());
        for map in [&writes, &reads] {
            assert_eq!((map.as_ptr().addr() % LARGE_PAGE, map.len()), (0, len));
        }
        // SAFETY: both mappings have this byte, and no other thread knows the file.
        unsafe {
            writes.as_mut_ptr().add(len - 1).write(7);
            assert_eq!(reads.as_ptr().add(len - 1).read(), 7);
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let file = memfd_create("map", MemfdFlags::CLOEXEC).unwrap();
        Map::to_read(&file, usize::MAX).unwrap_err();
        Map::to_read(&file, 0).unwrap_err();
        Map::to_read(std::io::stderr(), 4_096).map(|_| ()).unwrap_err();
    }
}
