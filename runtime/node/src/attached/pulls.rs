//! How the bytes of an object of which another node has a copy come here, to be kept for this node.
//!
//! ```text
//! the node gets them:      Room ─► room, handed over ─► (the node fills it) ─► Filled ─► sealed ─► Copied
//!                            ├── none ─► NoRoom ─┐                               └── not whole ─► free again
//! this process gets them:    │                   └► Pull ─► asked of who keeps them ─► Copied
//!                            └── the store is full ─► NoRoom: whoever waits for them hears StoreFull
//! ```

use std::sync::Arc;

use mobula_actor::arbiters;
use mobula_actor::deliver::Fetched;
use mobula_logic::ownership::FETCH_MAX;
use mobula_store::{Filling, StoreError};
use mobula_types::{Digest, ObjectId, ProcessId};
use mobula_wire::objects::ObjectWord;
use mobula_wire::segments::NoSegment;
use mobula_wire::{ExchangeId, Extent};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, timeout};

use super::exchanges::Waiting;
use super::lineage::digest;
use super::process::Process;

/// A full store is asked again for so long: others' values go to files meanwhile (G15).
const FULL_MAX: Duration = Duration::from_secs(2);
/// Between two tries.
const FULL_LOOK: Duration = Duration::from_millis(20);

/// A node says at once who has an object. A question that was lost is asked again after this, of whoever has it then.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

impl Process {
    /// Makes room that the node fills.
    pub(super) fn make_room(self: &Arc<Self>, object: ObjectId, bytes: u64) {
        let process = self.clone();
        arbiters::runtime().spawn(async move {
            let until = Instant::now() + FULL_MAX;
            let word = loop {
                let asked = process.clone();
                let filling = tokio::task::spawn_blocking(move || asked.filling(bytes)).await;
                match filling.unwrap_or(Err(false)) {
                    Ok((filling, at)) => {
                        // Until the node says that it is done it is nobody's: see `Filling`.
                        let other = process.objects.books.lock().filling.insert(object, filling);
                        debug_assert!(other.is_none(), "the node asks for one room at a time");
                        break ObjectWord::Room { object, at };
                    }
                    // The node takes other values to files meanwhile.
                    Err(true) if Instant::now() < until => tokio::time::sleep(FULL_LOOK).await,
                    Err(is_full) => break ObjectWord::NoRoom { object, is_full },
                }
            };
            process.note_of_object(word);
        });
    }

    /// Room, or whether there may be some soon.
    fn filling(&self, bytes: u64) -> Result<(Filling, Extent), bool> {
        let (Some(store), Ok(length)) = (&self.store, usize::try_from(bytes)) else { return Err(false) };
        let room = store.room(length).map_err(|error| {
            tracing::debug!(%error, "no room for an object");
            matches!(error, StoreError::Refused(NoSegment::Full { budget, .. }) if bytes <= budget)
        });
        store.hand_over(room?).map_err(|_| false)
    }

    /// The node writes no more in the room for an object. When it is whole, which bytes they should be, and what they name.
    pub(super) fn room_filled(self: &Arc<Self>, object: ObjectId, whole: Option<(Digest, Vec<ObjectId>)>) {
        let filling = self.objects.books.lock().filling.remove(&object);
        let Some(filling) = filling else { return };
        let Some((expected, inner)) = whole else { return drop(filling.take_back()) };
        let bytes = bytes::Bytes::from_owner(filling.seal());
        let process = self.clone();
        arbiters::runtime().spawn(async move { process.keep_right(object, bytes, expected, inner).await });
    }

    /// Keeps the bytes that have come, if they are those that were made: of what was put that is not known.
    async fn keep_right(
        self: &Arc<Self>,
        object: ObjectId,
        bytes: bytes::Bytes,
        expected: Digest,
        inner: Vec<ObjectId>,
    ) {
        let held = bytes.clone();
        // A gigabyte takes part of a second.
        let are_right = expected == Digest::default()
            || arbiters::runtime().spawn_blocking(move || digest(&held) == expected).await.unwrap_or(false);
        if !are_right {
            tracing::warn!(%object, "its bytes are not those that were made");
            return self.note_of_object(ObjectWord::NotPulled { object });
        }
        let kept = self.keep_object(object, bytes, inner.clone());
        self.note_of_object(ObjectWord::Copied { object, kept, digest: expected, inner });
    }

    /// Fetches an object of which another node has a copy, and keeps it for this one.
    pub(super) async fn pull_object(self: Arc<Self>, object: ObjectId, source: ProcessId) {
        let (sender, keeper) = oneshot::channel();
        let exchange = self.exchanges.open(source, Waiting::Keeper { sender });
        let _awaited = self.exchanges.awaited(exchange);
        self.ask_for(source, exchange, object);
        let pulled = match timeout(ANSWERED_WITHIN, keeper).await {
            Ok(Ok((keeper, digest))) => {
                let fetched = timeout(FETCH_MAX, self.fetch_from(keeper, object)).await;
                fetched.ok().and_then(Result::ok).map(|fetched| (fetched, digest))
            }
            Ok(Err(_)) | Err(_) => None,
        };
        let Some((Fetched { bytes, pins }, digest)) = pulled else {
            return self.note_of_object(ObjectWord::NotPulled { object });
        };
        self.keep_right(object, bytes, digest, pins.ids()).await;
        // Whoever reads them holds what they name: the node says so with the bytes.
        drop(pins);
    }

    /// A node has said which process has the bytes of an object.
    pub(crate) fn keeper_said(&self, from: ProcessId, exchange: ExchangeId, keeper: Option<(ProcessId, Digest)>) {
        if let Some(Waiting::Keeper { sender }) = self.exchanges.close(exchange, from)
            && let Some(keeper) = keeper
        {
            sender.send(keeper).ok();
        }
    }
}
