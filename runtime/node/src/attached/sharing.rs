//! Payloads in the memory of this host: written there instead of sent, and read where they lie.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mobula_actor::arbiters;
use mobula_actor::deliver::{NoRoom, Room};
use mobula_store::{StoreError, View, Writing};
use mobula_types::ProcessId;
use mobula_wire::segments::NoSegment;
use mobula_wire::{Extent, Talk, TransferId};

use super::process::Process;

/// What is for another host and lies elsewhere is copied to where the nodes move it from if it is so long: a part of a
/// shorter one is written to the node in the time of that copy.
const MOVED_BYTES_MIN: usize = 1 << 20;

/// When memory is short it is looked so often what is not in use: who borrows something of this process hears of that at the
/// same time, and says a moment later that it has let go.
const SWEEPS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(20), Duration::from_millis(100)];

impl Process {
    /// Room in the memory of this host.
    ///
    /// # Errors
    ///
    /// There is none, now or at all.
    pub(crate) fn room(&self, bytes: usize) -> Result<Box<dyn Room>, NoRoom> {
        let Some(store) = &self.store else { return Err(NoRoom::NoStore) };
        match store.room(bytes) {
            Ok(room) => Ok(Box::new(Shared(room))),
            Err(StoreError::Refused(NoSegment::Full { leased, budget, .. })) => {
                Err(NoRoom::Full { bytes: bytes as u64, in_use: leased, budget })
            }
            Err(error) => {
                tracing::debug!(%error, "nothing is shared");
                Err(NoRoom::NoStore)
            }
        }
    }

    /// A large payload as its receiver can read it where it lies, if both are on this host and there is room: it is moved
    /// there unless it is there already. So is what is for another host, if it is long: the nodes read it there.
    pub(crate) fn share(&self, to: ProcessId, payload: Bytes) -> (Bytes, Option<Extent>) {
        let Some(store) = self.store.as_ref().filter(|_| to.number() != 0) else {
            return (payload, None);
        };
        let at = store.place_of(&payload);
        let is_worth_it = to.node() == self.me.node() || payload.len() >= MOVED_BYTES_MIN;
        if at.is_some() || !is_worth_it {
            return (payload, at);
        }
        match store.room(payload.len()) {
            Ok(mut room) => {
                room.copy_from_slice(&payload);
                let sealed = Bytes::from_owner(room.seal());
                let at = store.place_of(&sealed);
                (sealed, at)
            }
            Err(error) => {
                // It goes as to another host, in parts.
                tracing::debug!(%error, "a payload is not shared");
                (payload, None)
            }
        }
    }

    /// A payload that another process of this host lends: it is told when nobody here reads it any more. `None` when it
    /// cannot be read so; then it is asked for in parts.
    pub(crate) fn borrow(
        self: &Arc<Self>,
        from: ProcessId,
        transfer: TransferId,
        at: Extent,
        bytes: u64,
    ) -> Option<Bytes> {
        let view = if from.node() == self.me.node() { self.mapped(at, bytes) } else { None }?;
        Some(Bytes::from_owner(Borrowed { view, process: Arc::downgrade(self), from, transfer }))
    }

    /// Bytes in the memory of this host. `None` when they cannot be read there.
    pub(crate) fn mapped(&self, at: Extent, bytes: u64) -> Option<View> {
        let store = self.store.as_ref()?;
        let view = match store.mapped(at, bytes) {
            Ok(Some(view)) => Ok(view),
            // Once for each segment. Whatever else this thread would do goes on on another.
            Ok(None) => tokio::task::block_in_place(|| store.view(at, bytes)),
            Err(error) => Err(error),
        };
        match view {
            Ok(view) => Some(view),
            Err(error) => {
                tracing::debug!(segment = at.segment, %error, "bytes cannot be read where they lie");
                None
            }
        }
    }

    /// Memory is short: gives back at once what is not in use, and what is not a moment later. What is asked for meanwhile is
    /// done with it.
    pub(crate) fn sweep_at_once(self: &Arc<Self>) {
        if self.store.is_none() || self.is_sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let process = self.clone();
        arbiters::runtime().spawn(async move {
            for (number, wait) in SWEEPS.into_iter().enumerate() {
                tokio::time::sleep(wait).await;
                if number + 1 == SWEEPS.len() {
                    // What is asked for from here on may be missed by this one.
                    process.is_sweeping.store(false, Ordering::Release);
                }
                let process = process.clone();
                let sweep = move || {
                    if let Some(store) = &process.store {
                        store.sweep_at_once();
                    }
                };
                tokio::task::spawn_blocking(sweep).await.ok();
            }
        });
    }

    /// Gives back what is not in use, which may have to wait for the node.
    pub(crate) async fn sweep(self: &Arc<Self>) {
        if self.store.as_ref().is_some_and(|store| store.holds_any()) {
            let process = self.clone();
            let swept = tokio::task::spawn_blocking(move || {
                if let Some(store) = &process.store {
                    store.sweep(Instant::now());
                }
            });
            swept.await.ok();
        }
    }
}

/// Room in a segment of this process.
pub(super) struct Shared(pub(super) Writing);

impl Room for Shared {
    fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn written(&self) -> &[u8] {
        &self.0
    }

    fn seal(self: Box<Self>) -> Bytes {
        Bytes::from_owner(self.0.seal())
    }
}

/// What another process lends.
struct Borrowed {
    view: View,
    process: Weak<Process>,
    from: ProcessId,
    transfer: TransferId,
}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        self.view.as_ref()
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let Some(process) = self.process.upgrade() else { return };
        let (to, transfer) = (self.from, self.transfer);
        // Wherever it is dropped, no lock is held there that saying it takes.
        arbiters::runtime().spawn(async move { process.say(to, Talk::Taken { transfer }) });
    }
}
