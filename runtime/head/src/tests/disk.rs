//! A disk for tests: it can be full, and it remembers what was done to it, so that its power can be cut at any moment.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use redb::{Builder, Database, DatabaseError, StorageBackend};

use crate::medium::Medium;

/// What was done to a disk.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Write {
        offset: usize,
        bytes: Vec<u8>,
    },
    SetLen(usize),
    Sync,
    /// Not the disk's: somebody has noted that this much was acknowledged.
    Mark(usize),
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    steps: Vec<Step>,
    /// The disk takes no longer file than this.
    full_at: Option<usize>,
    /// Whatever this user writes fails.
    broken_for: Option<u32>,
}

/// The disk; clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    state: Arc<Mutex<State>>,
    user: u32,
}

impl Disk {
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        let disk = Self::default();
        disk.state.lock().unwrap().bytes = bytes;
        disk
    }

    /// The same disk, as another user has it.
    pub(crate) fn of_another(&self) -> Self {
        Self { user: self.user + 1, ..self.clone() }
    }

    pub(crate) fn mark(&self, acknowledged: usize) {
        self.state.lock().unwrap().steps.push(Step::Mark(acknowledged));
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.state.lock().unwrap().steps.clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.state.lock().unwrap().bytes.len()
    }

    pub(crate) fn set_full_at(&self, full_at: Option<usize>) {
        self.state.lock().unwrap().full_at = full_at;
    }

    pub(crate) fn set_broken(&self, is_broken: bool) {
        self.state.lock().unwrap().broken_for = is_broken.then_some(self.user);
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state.lock().unwrap().bytes.clone()
    }
}

/// What is on a disk after `steps`: all of what was synced, and of the rest what `keeps` says.
pub(crate) fn after(steps: &[Step], mut keeps: impl FnMut(usize) -> bool) -> Vec<u8> {
    let synced = steps.iter().rposition(|step| matches!(step, Step::Sync)).unwrap_or(0);
    let mut bytes: Vec<u8> = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        if at > synced && !keeps(at) {
            continue;
        }
        match step {
            Step::Write { offset, bytes: written } => {
                let end = offset + written.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(written);
            }
            Step::SetLen(len) => bytes.resize(*len, 0),
            Step::Sync | Step::Mark(_) => {}
        }
    }
    bytes
}

impl Medium for Disk {
    fn open(&self, builder: &Builder) -> Result<Database, DatabaseError> {
        builder.create_with_backend(self.clone())
    }

    fn path(&self) -> &Path {
        Path::new("test.redb")
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock().unwrap();
        let from = offset as usize;
        let found = state.bytes.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.takes(self.user, len as usize)?;
        state.bytes.resize(len as usize, 0);
        state.steps.push(Step::SetLen(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.broken_for == Some(self.user) {
            return Err(io::Error::other("the disk is broken"));
        }
        state.steps.push(Step::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let (from, end) = (offset as usize, offset as usize + data.len());
        state.takes(self.user, end)?;
        if state.bytes.len() < end {
            state.bytes.resize(end, 0);
        }
        state.bytes[from..end].copy_from_slice(data);
        state.steps.push(Step::Write { offset: from, bytes: data.to_vec() });
        Ok(())
    }
}

impl State {
    fn takes(&self, user: u32, len: usize) -> io::Result<()> {
        match self.full_at {
            Some(max) if len > max => Err(io::ErrorKind::StorageFull.into()),
            _ if self.broken_for == Some(user) => Err(io::Error::other("the disk is broken")),
            _ => Ok(()),
        }
    }
}
