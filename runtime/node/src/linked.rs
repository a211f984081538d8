//! The cancellation of one piece of work that ends with the call inside which it was begun.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Wake, Waker};

use mobula_actor::CallState;
use mobula_actor::object::{Cancel, Cancellable};
use mobula_actor::patrol::{Ticket, patrol};
use mobula_types::{TaskId, Time};

/// Cancelled by itself, or because its parent was.
#[derive(Default)]
pub(crate) struct Linked {
    own: Cancel,
    /// Its process is to end with it.
    is_forced: AtomicBool,
    /// Its place with the patrol, which tells when the parent is cancelled: a call wakes only one, its handler.
    ticket: OnceLock<Ticket>,
    /// What is done for it, where another process has asked for that.
    work: OnceLock<Weak<dyn Returnable>>,
    /// Which task it is, once it is one of those that run elsewhere.
    task: OnceLock<TaskId>,
}

/// Work that can go back to where it came from, as long as it has not begun.
pub(crate) trait Returnable: Send + Sync {
    /// Ends it with [`NotStarted::HandedBack`](mobula_types::NotStarted::HandedBack), unless it has begun.
    fn hand_back(&self);
}

impl Linked {
    pub(crate) fn to(parent: Option<Arc<dyn CallState>>) -> Arc<Self> {
        let linked = Arc::new(Self::default());
        if let Some(parent) = parent {
            let waker = Waker::from(Arc::new(ByParent(Arc::downgrade(&linked))));
            linked.ticket.get_or_init(|| patrol().enter(Time::MAX, waker, Some(parent.clone())));
            // Cancelled before the patrol knew: it looks again only at the next cancellation.
            if parent.is_cancelled() {
                linked.cancel();
            }
        }
        linked
    }

    /// Says which task it is.
    pub(crate) fn is_task(&self, task: TaskId) {
        self.task.set(task).ok();
    }

    /// Which task it is, if that is known.
    pub(crate) fn task(&self) -> Option<TaskId> {
        self.task.get().copied()
    }

    /// Says what is done for it.
    pub(crate) fn does(&self, work: Weak<dyn Returnable>) {
        self.work.set(work).ok();
    }

    /// Whoever asked for it would rather have it done elsewhere.
    pub(crate) fn hand_back(&self) {
        if let Some(work) = self.work.get().and_then(Weak::upgrade) {
            work.hand_back();
        }
    }

    /// Cancels it, and says that its process is to end.
    pub(crate) fn force(&self) {
        self.is_forced.store(true, Ordering::Release);
        self.cancel();
    }

    pub(crate) fn is_forced(&self) -> bool {
        self.is_forced.load(Ordering::Acquire)
    }

    pub(crate) async fn cancelled(&self) {
        std::future::poll_fn(|cx| self.poll_cancelled(cx)).await;
    }
}

impl CallState for Linked {
    fn is_cancelled(&self) -> bool {
        self.own.is_cancelled()
    }

    fn poll_cancelled(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.own.poll_cancelled(cx)
    }
}

impl Cancellable for Linked {
    fn cancel(&self) {
        self.own.cancel();
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            patrol().leave(ticket);
        }
    }
}

struct ByParent(Weak<Linked>);

impl Wake for ByParent {
    fn wake(self: Arc<Self>) {
        if let Some(linked) = self.0.upgrade() {
            linked.cancel();
        }
    }
}
