//! An actor's mail: two strictly ordered lanes behind one lock.
//!
//! | lane | holds | bound | at the bound |
//! |---|---|---|---|
//! | control | stops, kills, deaths of others, verdicts | links + watchers + children | a kill always fits |
//! | user | letters | items and bytes ([`MailboxBounds`]) | senders wait in order, `try_send` says full |
//!
//! The consumer takes a batch of at most [`BATCH_MAX`] letters; beside what waits, that many are in its hand. A closed
//! lane drains: every letter in it is answered, no caller stays behind. This file knows nothing of threads or actix.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use mobula_types::ExitReason;
use parking_lot::Mutex;

use crate::Actor;
use crate::control::Control;
use crate::envelope::Envelope;

/// Letters the consumer takes at once, and handles before it lets its neighbours run.
pub(crate) const BATCH_MAX: usize = 256;

/// How much mail may wait (G14).
///
/// Each process that an actor's senders are in may have as much on its way or waiting, up to the default; there, room that
/// has become free is known a moment later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailboxBounds {
    /// Messages that may wait.
    pub items_max: usize,
    /// Bytes that may wait; a message larger than this fits only an empty mailbox.
    pub bytes_max: usize,
}

impl Default for MailboxBounds {
    /// 1,024 messages and 16 MiB.
    fn default() -> Self {
        Self { items_max: 1024, bytes_max: 16 << 20 }
    }
}

pub(crate) type Mail<A> = Box<dyn Envelope<A>>;

/// Senders that may wait for room in one mailbox. Each is a caller that waits or a submitted call; a node's queue has
/// the same bound (G14).
const WAITING_MAX: usize = 1 << 20;

/// Why a letter came back.
pub(crate) enum Refused {
    Full { waiting: usize },
    Ended(ExitReason),
}

impl Refused {
    /// Whether the actor goes on elsewhere, where the letter is to go, too.
    pub(crate) fn has_moved(&self) -> bool {
        matches!(self, Self::Ended(ExitReason::Moved))
    }
}

pub(crate) struct Lanes<A: Actor> {
    bounds: MailboxBounds,
    /// Whether control mail waits: looked at between two letters without taking the lock.
    control_waits: AtomicBool,
    inner: Mutex<Inner<A>>,
}

struct Inner<A: Actor> {
    control: VecDeque<Control>,
    user: VecDeque<Mail<A>>,
    user_bytes: usize,
    /// The cell's waker, kept from its last poll.
    cell: Option<Waker>,
    /// Whether the cell waits for user mail; a cell that handles a message is woken for control only.
    hungry: bool,
    /// Letters of senders that wait for room, in order. They move up by themselves: no sender that is not looked at
    /// keeps those behind it waiting.
    waiting: VecDeque<Waiting<A>>,
    next_ticket: u64,
    /// Boxed: it is large, and every actor alive would pay for it.
    ended: Option<Box<ExitReason>>,
    /// It takes no mail any more, and its cell still hears control: its children end.
    is_leaving: bool,
}

struct Waiting<A: Actor> {
    ticket: u64,
    letter: Mail<A>,
    /// Woken when the letter has moved up; none for a caller that waits for the reply anyway.
    sender: Option<Waker>,
}

impl<A: Actor> Inner<A> {
    fn has_room(&self, bytes: usize, bounds: &MailboxBounds) -> bool {
        self.user.is_empty()
            || (self.user.len() < bounds.items_max && self.user_bytes.saturating_add(bytes) <= bounds.bytes_max)
    }

    fn push(&mut self, letter: Mail<A>, bytes: usize) -> Option<Waker> {
        self.user_bytes += bytes;
        self.user.push_back(letter);
        if std::mem::take(&mut self.hungry) { self.cell.clone() } else { None }
    }

    /// Moves letters that waited into the room there is now; gives the wakers of their senders.
    fn move_up(&mut self, bounds: &MailboxBounds) -> Vec<Waker> {
        let mut moved = Vec::new();
        while let Some(next) = self.waiting.front() {
            let bytes = next.letter.bytes();
            if !self.has_room(bytes, bounds) {
                break;
            }
            let Some(next) = self.waiting.pop_front() else { break };
            moved.extend(next.sender);
            self.user_bytes += bytes;
            self.user.push_back(next.letter);
        }
        moved
    }

    fn remember(&mut self, cx: &Context<'_>) {
        match &mut self.cell {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
}

impl<A: Actor> Lanes<A> {
    pub(crate) fn new(bounds: MailboxBounds) -> Self {
        Self {
            bounds,
            control_waits: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                control: VecDeque::new(),
                user: VecDeque::new(),
                user_bytes: 0,
                cell: None,
                hungry: false,
                waiting: VecDeque::new(),
                next_ticket: 0,
                ended: None,
                is_leaving: false,
            }),
        }
    }

    /// Puts a letter behind the others, or gives it back.
    pub(crate) fn try_push(&self, letter: Mail<A>) -> Result<(), (Mail<A>, Refused)> {
        let bytes = letter.bytes();
        let mut inner = self.inner.lock();
        if let Some(reason) = &inner.ended {
            let reason = ExitReason::clone(reason);
            return Err((letter, Refused::Ended(reason)));
        }
        if !inner.waiting.is_empty() || !inner.has_room(bytes, &self.bounds) {
            let waiting = inner.user.len();
            return Err((letter, Refused::Full { waiting }));
        }
        let woken = inner.push(letter, bytes);
        drop(inner);
        if let Some(cell) = woken {
            cell.wake();
        }
        Ok(())
    }

    /// Puts a letter behind the others; without room it waits, and moves up by itself. Gives its ticket then.
    pub(crate) fn push_or_wait(&self, letter: Mail<A>) -> Result<Option<u64>, (Mail<A>, Refused)> {
        let bytes = letter.bytes();
        let mut inner = self.inner.lock();
        if let Some(reason) = &inner.ended {
            let reason = ExitReason::clone(reason);
            return Err((letter, Refused::Ended(reason)));
        }
        if inner.waiting.is_empty() && inner.has_room(bytes, &self.bounds) {
            let woken = inner.push(letter, bytes);
            drop(inner);
            if let Some(cell) = woken {
                cell.wake();
            }
            return Ok(None);
        }
        if inner.waiting.len() >= WAITING_MAX {
            let waiting = inner.waiting.len();
            return Err((letter, Refused::Full { waiting }));
        }
        let ticket = inner.next_ticket;
        inner.next_ticket += 1;
        inner.waiting.push_back(Waiting { ticket, letter, sender: None });
        Ok(Some(ticket))
    }

    /// Ready when the letter with this ticket waits no more: it has moved up, or the actor has ended.
    pub(crate) fn poll_moved_up(&self, cx: &mut Context<'_>, ticket: u64) -> Poll<()> {
        let mut inner = self.inner.lock();
        match inner.waiting.iter_mut().find(|waiting| waiting.ticket == ticket) {
            Some(waiting) => {
                waiting.sender = Some(cx.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }

    /// Takes back a letter that still waits.
    pub(crate) fn withdraw(&self, ticket: u64) -> Option<Mail<A>> {
        let mut inner = self.inner.lock();
        let at = inner.waiting.iter().position(|waiting| waiting.ticket == ticket)?;
        inner.waiting.remove(at).map(|waiting| waiting.letter)
    }

    /// Puts a control message; always fits, because whoever sends one is bounded.
    pub(crate) fn push_control(&self, control: Control) -> bool {
        let mut inner = self.inner.lock();
        if inner.ended.is_some() && !inner.is_leaving {
            return false;
        }
        inner.control.push_back(control);
        self.control_waits.store(true, Ordering::Release);
        inner.hungry = false;
        let cell = inner.cell.clone();
        drop(inner);
        if let Some(cell) = cell {
            cell.wake();
        }
        true
    }

    /// Takes the next control message; `cx` is woken when one comes.
    pub(crate) fn poll_control(&self, cx: &mut Context<'_>) -> Poll<Control> {
        let mut inner = self.inner.lock();
        if let Some(control) = self.pop_control(&mut inner) {
            return Poll::Ready(control);
        }
        inner.remember(cx);
        Poll::Pending
    }

    /// Takes control messages first; else moves up to [`BATCH_MAX`] letters into `batch`.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>, batch: &mut VecDeque<Mail<A>>) -> Poll<Option<Control>> {
        let mut inner = self.inner.lock();
        if let Some(control) = self.pop_control(&mut inner) {
            return Poll::Ready(Some(control));
        }
        if inner.user.is_empty() {
            inner.remember(cx);
            inner.hungry = true;
            return Poll::Pending;
        }
        if inner.user.len() <= BATCH_MAX && batch.is_empty() {
            std::mem::swap(&mut inner.user, batch);
            inner.user_bytes = 0;
        } else {
            let count = inner.user.len().min(BATCH_MAX);
            let taken: usize = inner.user.iter().take(count).map(|letter| letter.bytes()).sum();
            batch.extend(inner.user.drain(..count));
            inner.user_bytes = inner.user_bytes.saturating_sub(taken);
        }
        let moved = inner.move_up(&self.bounds);
        drop(inner);
        moved.into_iter().for_each(Waker::wake);
        Poll::Ready(None)
    }

    /// Whether a control message waits, without taking it or the lock.
    pub(crate) fn has_control(&self) -> bool {
        self.control_waits.load(Ordering::Acquire)
    }

    fn pop_control(&self, inner: &mut Inner<A>) -> Option<Control> {
        let control = inner.control.pop_front();
        if inner.control.is_empty() {
            self.control_waits.store(false, Ordering::Release);
        }
        control
    }

    /// How much may wait.
    pub(crate) fn bounds(&self) -> MailboxBounds {
        self.bounds
    }

    /// Letters that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.inner.lock().user.len()
    }

    /// Why the actor has ended, if it has.
    pub(crate) fn ended(&self) -> Option<ExitReason> {
        self.inner.lock().ended.as_deref().cloned()
    }

    /// The actor is to move: takes no more mail from now on, if there is none; false when there is.
    pub(crate) fn leave_if_empty(&self) -> bool {
        let mut inner = self.inner.lock();
        let is_empty = inner.user.is_empty() && inner.waiting.is_empty();
        if is_empty {
            inner.ended = Some(Box::new(ExitReason::Moved));
            inner.is_leaving = true;
        }
        is_empty
    }

    /// Takes no more mail from now on and gives back what waited, for room too.
    pub(crate) fn close(&self, reason: ExitReason) -> (VecDeque<Mail<A>>, VecDeque<Control>) {
        let (mut user, control, waiting) = {
            let mut inner = self.inner.lock();
            inner.ended = Some(Box::new(reason));
            inner.is_leaving = false;
            inner.cell = None;
            inner.user_bytes = 0;
            (std::mem::take(&mut inner.user), std::mem::take(&mut inner.control), std::mem::take(&mut inner.waiting))
        };
        let mut senders = Vec::new();
        for waiting in waiting {
            senders.extend(waiting.sender);
            user.push_back(waiting.letter);
        }
        senders.into_iter().for_each(Waker::wake);
        (user, control)
    }
}
