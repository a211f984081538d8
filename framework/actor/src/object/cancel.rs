//! Giving up what makes an object.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use mobula_types::{ActorId, NotCancellable};
use parking_lot::Mutex;

use crate::slot::CallState;
use crate::waits::Party;

/// What makes an object, as far as it can be given up.
pub trait Cancellable: Send + Sync {
    /// Gives it up.
    fn cancel(&self);

    /// Ends the process that runs it.
    ///
    /// # Errors
    ///
    /// It has no process of its own.
    fn cancel_forced(&self) -> Result<(), NotCancellable> {
        Err(NotCancellable::NoTask)
    }

    /// Who makes it, as far as that is known.
    fn maker(&self) -> Option<Party> {
        None
    }
}

/// The cancellation of a call whose answer is an object.
#[derive(Default)]
pub struct Cancel {
    cancelled: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
    /// Who was called.
    to: Option<ActorId>,
}

impl Cancel {
    /// Of a call to an actor.
    pub(crate) fn of_call(to: ActorId) -> Self {
        Self { to: Some(to), ..Self::default() }
    }
}

impl Cancellable for Cancel {
    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        let waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.into_iter().for_each(Waker::wake);
        crate::patrol::patrol().call_cancelled();
    }

    fn maker(&self) -> Option<Party> {
        self.to.map(Party::Actor)
    }
}

impl CallState for Cancel {
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    fn poll_cancelled(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.waiting.lock();
        if self.is_cancelled() {
            return Poll::Ready(());
        }
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            if waiting.is_empty() {
                // Most have one, and there may be a million of them in a queue.
                waiting.reserve_exact(1);
            }
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}
