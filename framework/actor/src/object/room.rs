//! Room for encoded values: in the memory that the processes of a host share, or in this one's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mobula_types::NotStarted;
use mobula_wire::INLINE_BYTES_MAX;
use tokio::time::Instant;

use crate::arbiters;
use crate::deliver::{NoRoom, Room};
use crate::system::System;

/// A value that finds the store full waits so long for others to let go of theirs (G15).
const FULL_MAX: Duration = Duration::from_secs(2);
/// Between two looks whether they have.
const FULL_LOOK: Duration = Duration::from_millis(20);

/// To copy more than this, or to make memory for it, takes a fifth of a millisecond and more: that is done on a thread that
/// may take its time.
pub(super) const LONG_BYTES: usize = 1 << 20;

/// Shared room for a value of so many bytes, as soon as there is some; none for what fits into a message, or where nothing
/// is shared.
///
/// # Errors
///
/// The store stays full.
pub(super) async fn shared(system: &Arc<System>, bytes: usize) -> Result<Option<Box<dyn Room>>, NotStarted> {
    let Some(deliver) = system.deliver().filter(|_| bytes > INLINE_BYTES_MAX) else { return Ok(None) };
    let until = Instant::now() + FULL_MAX;
    loop {
        let asked = deliver.clone();
        let room = if bytes > LONG_BYTES {
            // It is over only with this process.
            arbiters::runtime().spawn_blocking(move || asked.room(bytes)).await.unwrap_or(Err(NoRoom::NoStore))
        } else {
            asked.room(bytes)
        };
        match room {
            Ok(room) => return Ok(Some(room)),
            Err(NoRoom::NoStore) => return Ok(None),
            // What is more than all there is gets no room, however long it waits.
            Err(NoRoom::Full { bytes, in_use, budget }) if bytes > budget || Instant::now() >= until => {
                return Err(NotStarted::StoreFull { bytes, in_use, budget });
            }
            Err(NoRoom::Full { .. }) => tokio::time::sleep(FULL_LOOK).await,
        }
    }
}

/// Room in this process, in which an array that follows its length is aligned for every number.
pub struct PrivateRoom {
    words: Vec<u128>,
    bytes: usize,
}

impl PrivateRoom {
    const SKEW: usize = size_of::<u128>() - mobula_wire::plain::LENGTH_BYTES;

    /// Room for so many bytes, which take memory as they are written.
    pub fn of(bytes: usize) -> Self {
        Self { words: vec![0; (bytes + Self::SKEW).div_ceil(size_of::<u128>())], bytes }
    }
}

impl AsRef<[u8]> for PrivateRoom {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[Self::SKEW..Self::SKEW + self.bytes]
    }
}

impl Room for PrivateRoom {
    fn bytes(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[Self::SKEW..Self::SKEW + self.bytes]
    }

    fn written(&self) -> &[u8] {
        self.as_ref()
    }

    fn seal(self: Box<Self>) -> Bytes {
        Bytes::from_owner(*self)
    }
}
