//! What other nodes read of this one's copies of objects, whoever wrote them: also what is only being filled.
//!
//! ```text
//! filling ──all of it came──► whole ──not counted on──► hidden ── nobody reads it ─► its room is used again
//!    └── given up ─────────────────────────────────────────┘
//! ```
//!
//! A range of what is being filled is waited for, so that a node that reads of one that reads gets each range a moment after
//! it. The room of a copy is its process's again only when nothing here sends any of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use mobula_store::{Arena, View};
use mobula_types::{Digest, ObjectId};
use mobula_wire::Extent;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::input::Input;
use super::routes::Routes;

/// A range that is not there yet is waited for so long: longer than a source takes that is well, shorter than what a reader
/// takes for silence. It has other sources then.
const COMES_WITHIN: Duration = Duration::from_secs(2);

/// The copies of a node that others may read.
pub(crate) struct Copies {
    routes: Arc<Routes>,
    runtime: Handle,
    there: Mutex<HashMap<ObjectId, Arc<Shown>>>,
}

/// A copy that others may read, until nobody does.
pub(crate) struct Shown {
    object: ObjectId,
    digest: Digest,
    at: Extent,
    bytes: u64,
    came: Mutex<Came>,
    changed: Notify,
    /// What the node's state hears when nobody reads it any more.
    last_words: Mutex<Option<Input>>,
    routes: Arc<Routes>,
    runtime: Handle,
}

/// How much of a copy is there.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// These ranges, by where they begin, with where they end; none touches another.
    Some(BTreeMap<u64, u64>),
    All,
    /// What is not there will not come.
    Over,
}

impl Came {
    /// Whether a range is there; `None` while it may come.
    fn has(&self, from: u64, until: u64) -> Option<bool> {
        match self {
            Self::Some(ranges) => {
                let before = ranges.range(..=from).next_back();
                before.is_some_and(|(_, end)| *end >= until).then_some(true)
            }
            Self::All => Some(true),
            Self::Over => Some(false),
        }
    }

    fn add(&mut self, mut from: u64, mut until: u64) {
        let Self::Some(ranges) = self else { return };
        if let Some((start, end)) = ranges.range(..=from).next_back().filter(|(_, end)| **end >= from) {
            (from, until) = (*start, until.max(*end));
        }
        while let Some((start, end)) = ranges.range(from..=until).next().map(|(start, end)| (*start, *end)) {
            ranges.remove(&start);
            until = until.max(end);
        }
        ranges.insert(from, until);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(words) = self.last_words.get_mut().take() {
            say(&self.routes, &self.runtime, words);
        }
    }
}

/// Tells the node's state something, wherever this is.
fn say(routes: &Routes, runtime: &Handle, words: Input) {
    if let Some(own) = routes.own() {
        runtime.spawn(async move { own.send(words).await.ok() });
    }
}

impl Shown {
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// A range of it is there.
    pub(crate) fn came(&self, offset: u64, bytes: u64) {
        self.came.lock().add(offset, offset.saturating_add(bytes));
        self.changed.notify_waiters();
        // Where the node's state has too much to hear, the next range says it.
        if let Some(own) = self.routes.own() {
            own.try_send(Input::Coming { object: self.object }).ok();
        }
    }

    async fn has(&self, from: u64, until: u64) -> bool {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Before the look: a change in between would wake nobody.
            changed.as_mut().enable();
            if let Some(has) = self.came.lock().has(from, until) {
                return has;
            }
            changed.await;
        }
    }
}

impl Copies {
    /// Must be made on the runtime on which it works.
    pub(crate) fn new(routes: Arc<Routes>) -> Self {
        Self { routes, runtime: Handle::current(), there: Mutex::default() }
    }

    /// A copy is being made.
    pub(crate) fn begin(&self, object: ObjectId, digest: Digest, at: Extent, bytes: u64) -> Arc<Shown> {
        self.insert(object, digest, at, bytes, Came::Some(BTreeMap::new()))
    }

    fn insert(&self, object: ObjectId, digest: Digest, at: Extent, bytes: u64, came: Came) -> Arc<Shown> {
        let shown = Arc::new(Shown {
            object,
            digest,
            at,
            bytes,
            came: Mutex::new(came),
            changed: Notify::new(),
            last_words: Mutex::default(),
            routes: self.routes.clone(),
            runtime: self.runtime.clone(),
        });
        let replaced = self.there.lock().insert(object, shown.clone());
        drop(replaced);
        shown
    }

    /// A copy is whole: one that was being made, or another.
    pub(crate) fn show(&self, object: ObjectId, digest: Digest, at: Extent, bytes: u64) -> Weak<Shown> {
        let there = self.there.lock().get(&object).filter(|shown| shown.at == at && shown.bytes == bytes).cloned();
        match there {
            Some(shown) => Arc::downgrade(&shown),
            None => Arc::downgrade(&self.insert(object, digest, at, bytes, Came::All)),
        }
    }

    /// All of a copy has come: `words` are for the node's state.
    pub(crate) fn whole(&self, shown: &Shown, words: Input) {
        *shown.came.lock() = Came::All;
        shown.changed.notify_waiters();
        say(&self.routes, &self.runtime, words);
    }

    /// A copy that was being made is given up: the node's state hears `words` when nobody reads it.
    pub(crate) fn give_up(&self, shown: Arc<Shown>, words: Option<Input>) {
        *shown.last_words.lock() = words;
        *shown.came.lock() = Came::Over;
        shown.changed.notify_waiters();
        let hidden = self.take(&shown);
        drop((hidden, shown));
    }

    /// Nobody begins to read a copy any more. When somebody does read it, the node's state hears when that is over.
    pub(crate) fn hide(&self, shown: &Weak<Shown>) {
        let Some(shown) = shown.upgrade() else { return };
        let hidden = self.take(&shown);
        // These two are ours; out of the table there will be no others.
        if Arc::strong_count(&shown) > 1 + usize::from(hidden.is_some()) {
            *shown.last_words.lock() = Some(Input::Unread { object: shown.object });
        }
        drop((hidden, shown));
    }

    fn take(&self, shown: &Arc<Shown>) -> Option<Arc<Shown>> {
        let mut there = self.there.lock();
        let is_it = there.get(&shown.object).is_some_and(|it| Arc::ptr_eq(it, shown));
        if is_it { there.remove(&shown.object) } else { None }
    }

    /// The node begins anew: nobody may read anything of before.
    pub(crate) fn clear(&self) {
        let there = std::mem::take(&mut *self.there.lock());
        drop(there);
    }

    /// A range of a copy, as soon as it is there.
    pub(crate) fn range(
        &self,
        arena: &Arc<Arena>,
        (object, digest): (ObjectId, Digest),
        offset: u64,
        bytes: u64,
    ) -> impl Future<Output = Option<Bytes>> + Send + 'static {
        let shown = self.there.lock().get(&object).filter(|shown| shown.digest == digest).cloned();
        let arena = arena.clone();
        async move {
            let shown = shown?;
            let until = offset.checked_add(bytes).filter(|until| *until <= shown.bytes)?;
            if !timeout(COMES_WITHIN, shown.has(offset, until)).await.ok()? {
                return None;
            }
            let at = Extent { offset: shown.at.offset.checked_add(offset)?, ..shown.at };
            match arena.kept(at, bytes) {
                Ok(view) => Some(Bytes::from_owner(Sent { view, _shown: shown })),
                Err(error) => {
                    tracing::debug!(%object, %error, "a copy is not where it was");
                    None
                }
            }
        }
    }
}

/// A range of a copy that is being sent.
struct Sent {
    view: View,
    _shown: Arc<Shown>,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        self.view.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use mobula_types::{NodeId, ProcessId};
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn the_node_s_state_hears_of_each_range() {
        let object = ObjectId { owner: ProcessId::new(NodeId(1), 1), seq: 1 };
        let (own, mut heard) = mpsc::channel(1);
        let routes = Arc::new(Routes::default());
        routes.set_own(own);
        let copies = Copies::new(routes);
        let shown = copies.begin(object, Digest(7), Extent { segment: 1, offset: 0 }, 30);
        shown.came(0, 10);
        shown.came(10, 10);
        assert!(matches!(heard.try_recv(), Ok(Input::Coming { object: it }) if it == object));
        assert!(heard.try_recv().is_err(), "there was no room for a second");
        shown.came(20, 10);
        assert!(matches!(heard.try_recv(), Ok(Input::Coming { .. })));
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let mut came = Came::Some(BTreeMap::new());
        for (from, until) in [(10, 20), (30, 40), (0, 5)] {
            came.add(from, until);
        }
        assert_eq!((came.has(10, 20), came.has(12, 18), came.has(10, 21)), (Some(true), Some(true), None));
        assert_eq!((came.has(5, 6), came.has(15, 35)), (None, None));
        came.add(20, 30);
        came.add(5, 10);
        assert_eq!(came, Came::Some(BTreeMap::from([(0, 40)])));
        assert_eq!((came.has(0, 40), Came::Over.has(0, 1), Came::All.has(0, 1)), (Some(true), Some(false), Some(true)));
    }
}
