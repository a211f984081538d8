//! Mail that waits for its arguments before it may be sent, and the later mail of the same sender behind it (G3).
//!
//! A message whose argument is a reference leaves when the reference has a value; until then everything the same sender
//! sends to the same actor stands behind it, and other senders pass. One small task per such (sender, actor) sends the
//! mail in order and ends when its queue is empty.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use mobula_types::ActorId;
use parking_lot::Mutex;

use crate::arbiters;
use crate::current::SenderId;

/// Messages of one sender held back for one actor; beyond it the send is refused as full.
const HELD_MAX: usize = 1024;

/// Shards by actor: mail to one actor does not look at what is held for another.
const SHARDS: usize = 16;

/// One message's way: resolve what is missing, then wait for room and send.
pub(crate) type Sending = BoxFuture<'static, ()>;

type Lane = (SenderId, ActorId);

#[derive(Default)]
pub(crate) struct Held {
    shards: [Shard; SHARDS],
}

#[derive(Default)]
struct Shard {
    /// Lanes with held mail: zero nearly always, and then nobody takes the lock.
    count: AtomicUsize,
    lanes: Mutex<HashMap<Lane, VecDeque<Sending>>>,
}

impl Held {
    /// Whether mail from `sender` to `actor` must stand behind mail that is held.
    pub(crate) fn holds(&self, sender: impl FnOnce() -> SenderId, actor: ActorId) -> bool {
        let shard = self.shard(actor);
        shard.count.load(Ordering::Acquire) > 0 && shard.lanes.lock().contains_key(&(sender(), actor))
    }

    /// Puts mail behind what is held.
    ///
    /// # Errors
    ///
    /// How many wait already, at the bound.
    pub(crate) fn hold(self: &Arc<Self>, sender: SenderId, actor: ActorId, sending: Sending) -> Result<(), usize> {
        let shard = self.shard(actor);
        let mut lanes = shard.lanes.lock();
        match lanes.get_mut(&(sender, actor)) {
            Some(lane) if lane.len() >= HELD_MAX => return Err(lane.len()),
            Some(lane) => lane.push_back(sending),
            None => {
                lanes.insert((sender, actor), VecDeque::from([sending]));
                shard.count.fetch_add(1, Ordering::AcqRel);
                drop(lanes);
                arbiters::runtime().spawn(self.clone().drain((sender, actor)));
            }
        }
        Ok(())
    }

    async fn drain(self: Arc<Self>, lane: Lane) {
        while let Some(sending) = self.next(lane) {
            sending.await;
        }
    }

    fn next(&self, lane: Lane) -> Option<Sending> {
        let shard = self.shard(lane.1);
        let mut lanes = shard.lanes.lock();
        let next = lanes.get_mut(&lane)?.pop_front();
        if next.is_none() {
            lanes.remove(&lane);
            shard.count.fetch_sub(1, Ordering::AcqRel);
        }
        next
    }

    fn shard(&self, actor: ActorId) -> &Shard {
        &self.shards[actor.slot as usize % SHARDS]
    }
}
