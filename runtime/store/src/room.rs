//! Where a node writes for a process: an extent of a segment that is leased to it.
//!
//! The node writes by the file and not by a mapping: the kernel copies what has come into pages that are there, as fast as
//! this process could, and neither reads nor writes of others can be undefined here. The process does not look before it is
//! told that the node is done ([`Filling`](crate::Filling)).

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// An extent that a process has handed over to its node. It may outlive the lease: then what is written is nobody's.
#[derive(Clone, Debug)]
pub struct Room {
    file: Arc<OwnedFd>,
    at: u64,
    bytes: u64,
}

impl Room {
    pub(crate) fn new(file: Arc<OwnedFd>, at: u64, bytes: u64) -> Self {
        Self { file, at, bytes }
    }

    /// Writes pieces one behind the other, the first at `offset`.
    ///
    /// # Errors
    ///
    /// They do not fit, or the system does not write them; some may be written then.
    pub fn write(&self, offset: u64, pieces: &[impl AsRef<[u8]>]) -> io::Result<()> {
        let total: u64 = pieces.iter().map(|piece| piece.as_ref().len() as u64).sum();
        if offset.checked_add(total).is_none_or(|end| end > self.bytes) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not fit into its room"));
        }
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece.as_ref())).collect();
        let (mut slices, mut at) = (&mut slices[..], self.at + offset);
        // What is empty would be taken for a write that gets nowhere.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match rustix::io::pwritev(&self.file, slices, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut slices, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
