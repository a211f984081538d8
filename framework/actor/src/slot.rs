//! Where one reply is awaited: a one-shot that also carries the caller's cancellation to the handler.
//!
//! A general one-shot channel tells the sender that the receiver is gone; a call needs more: a handler that runs must
//! see the cancellation from inside ([`CallState`]), and what the handler itself calls must end with it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use mobula_types::{CallError, Unknown};
use parking_lot::Mutex;

use crate::current;
use crate::patrol::patrol;
use crate::wakes;

/// What a handler may ask about the call it serves.
pub trait CallState: Any + Send + Sync {
    /// Whether the caller has gone away or given the call up.
    fn is_cancelled(&self) -> bool;

    /// Ready when the call is cancelled; else `cx` is woken then.
    fn poll_cancelled(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// The shared half of one awaited reply.
pub(crate) struct Slot<R> {
    cancelled: AtomicBool,
    inner: Mutex<Inner<R>>,
}

struct Inner<R> {
    reply: Reply<R>,
    caller: Option<Waker>,
    handler: Option<Waker>,
}

enum Reply<R> {
    Awaited,
    /// The error is boxed: it is large, rare, and every slot would pay for it.
    Here(Result<R, Box<CallError>>),
    Taken,
}

/// Makes the two ends of one reply.
pub(crate) fn slot<R: Send + 'static>() -> (ReplySender<R>, ReplyReceiver<R>) {
    let slot = Arc::new(Slot {
        cancelled: AtomicBool::new(false),
        inner: Mutex::new(Inner { reply: Reply::Awaited, caller: None, handler: None }),
    });
    (ReplySender { slot: Some(slot.clone()) }, ReplyReceiver { slot: Some(slot) })
}

impl<R> Slot<R> {
    fn fill(&self, reply: Result<R, CallError>) {
        let caller = {
            let mut inner = self.inner.lock();
            if matches!(inner.reply, Reply::Awaited) {
                inner.reply = Reply::Here(reply.map_err(Box::new));
            }
            inner.handler = None;
            inner.caller.take()
        };
        if let Some(caller) = caller {
            wakes::wake(caller);
        }
    }

    fn cancel(&self) {
        let (handler, unread) = {
            let mut inner = self.inner.lock();
            inner.caller = None;
            // An answered call is over: what its handler left running was not given up with it.
            if matches!(inner.reply, Reply::Awaited) {
                self.cancelled.store(true, Ordering::Release);
            }
            (inner.handler.take(), std::mem::replace(&mut inner.reply, Reply::Taken))
        };
        if matches!(unread, Reply::Awaited) {
            patrol().call_cancelled();
        }
        // A reply nobody reads may run the user's `Drop`: outside of the lock.
        drop(unread);
        if let Some(handler) = handler {
            handler.wake();
        }
    }
}

impl<R: Send + 'static> CallState for Slot<R> {
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    fn poll_cancelled(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_cancelled() {
            return Poll::Ready(());
        }
        let mut inner = self.inner.lock();
        // Read again under the lock, or a cancellation in between would wake nobody.
        if self.is_cancelled() {
            return Poll::Ready(());
        }
        match &mut inner.handler {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// The handler's end: answers once. Dropped without an answer it says [`Unknown::NoReply`], so that no caller waits for
/// ever.
pub(crate) struct ReplySender<R> {
    slot: Option<Arc<Slot<R>>>,
}

impl<R: Send + 'static> ReplySender<R> {
    pub(crate) fn send(mut self, reply: Result<R, CallError>) {
        if let Some(slot) = self.slot.take() {
            slot.fill(reply);
        }
    }

    pub(crate) fn state(&self) -> Option<Arc<dyn CallState>> {
        self.slot.clone().map(|slot| slot as Arc<dyn CallState>)
    }

    /// Runs `handler` as code that serves this call. The call is lent to the frame, not shared with it: two counts of
    /// its holders less, a twentieth of a call.
    pub(crate) fn served_by<T>(mut self, handler: impl FnOnce() -> T) -> (Self, T) {
        current::lend(self.slot.take().map(|slot| slot as Arc<dyn CallState>));
        let result = handler();
        let slot = current::lend(None).map(|call| call as Arc<dyn Any + Send + Sync>);
        self.slot = slot.map(|slot| slot.downcast().expect("a handler's frame goes back to the call it was lent"));
        (self, result)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| slot.is_cancelled())
    }
}

impl<R> Drop for ReplySender<R> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.fill(Err(CallError::MayHaveRun(Unknown::NoReply)));
        }
    }
}

/// The caller's end. Dropped before the reply came, it cancels the call.
pub(crate) struct ReplyReceiver<R> {
    /// Taken with the reply: what is answered cannot be cancelled.
    slot: Option<Arc<Slot<R>>>,
}

impl<R> ReplyReceiver<R> {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<R, Box<CallError>>> {
        let Some(slot) = &self.slot else { return Poll::Ready(Err(Box::new(CallError::Cancelled))) };
        let mut inner = slot.inner.lock();
        match std::mem::replace(&mut inner.reply, Reply::Taken) {
            Reply::Here(reply) => {
                drop(inner);
                self.slot = None;
                Poll::Ready(reply)
            }
            Reply::Taken => Poll::Ready(Err(Box::new(CallError::Cancelled))),
            Reply::Awaited => {
                inner.reply = Reply::Awaited;
                match &mut inner.caller {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                current::note_wait();
                Poll::Pending
            }
        }
    }
}

impl<R> Drop for ReplyReceiver<R> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use super::*;

    #[test]
    fn a_reply_is_read_once() {
        let (sender, mut receiver) = slot::<u32>();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(receiver.poll(&mut cx).is_pending());
        sender.send(Ok(7));
        assert_eq!(receiver.poll(&mut cx), Poll::Ready(Ok(7)));
    }

    #[test]
    fn a_sender_that_goes_away_answers() {
        let (sender, mut receiver) = slot::<u32>();
        drop(sender);
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(receiver.poll(&mut cx), Poll::Ready(Err(Box::new(CallError::MayHaveRun(Unknown::NoReply)))));
    }

    #[test]
    fn a_receiver_that_goes_away_is_seen_by_the_handler() {
        let (sender, receiver) = slot::<u32>();
        let state = sender.state().expect("the slot is still held");
        let mut cx = Context::from_waker(Waker::noop());
        assert!(state.poll_cancelled(&mut cx).is_pending());
        drop(receiver);
        assert!(sender.is_cancelled());
        assert!(state.poll_cancelled(&mut cx).is_ready());
    }
}
