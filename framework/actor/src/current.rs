//! Who runs on this thread now: the system, the actor or task, and the call it serves.
//!
//! A frame is set around every poll of a cell, a handler or a task, and taken away after it, so that what user code
//! calls inherits deadline, cancellation and the sender's identity without naming them.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mobula_types::{ActorId, Attempt, Deadline, NotStarted, TaskId};
use mobula_wire::schema;

use crate::slot::CallState;
use crate::system::System;
use crate::waits::Party;

/// Who sends: order is kept per (sender, receiver).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SenderId(pub u64);

impl SenderId {
    /// The driver: all code of a process that is neither actor nor task.
    pub const DRIVER: Self = Self(0);

    /// A sender that no other is.
    pub fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What code that runs now belongs to.
#[derive(Clone, Default)]
pub struct Frame {
    /// The system it runs in.
    pub system: Option<Arc<System>>,
    /// The actor whose code it is.
    pub actor: Option<ActorId>,
    /// Its identity as a sender.
    pub sender: SenderId,
    /// The deadline of the call that is served.
    pub deadline: Deadline,
    /// Whether that deadline was set by a person; a default one is not inherited by tasks (G3).
    pub deadline_explicit: bool,
    /// The call that is served, when it can be cancelled.
    pub call: Option<Arc<dyn CallState>>,
    /// Whether its actor does nothing else until it is over.
    pub holds_actor: bool,
    /// The task that it is a run of, and which one, where a task may run more than once.
    pub run: Option<(TaskId, Attempt)>,
}

thread_local! {
    static FRAME: RefCell<Frame> = const { RefCell::new(Frame::NOBODY) };
}

impl Frame {
    /// Of code that is neither actor nor task.
    const NOBODY: Self = Self {
        system: None,
        actor: None,
        sender: SenderId::DRIVER,
        deadline: Deadline::NEVER,
        deadline_explicit: false,
        call: None,
        holds_actor: false,
        run: None,
    };

    /// Who awaits what this code awaits, and does nothing else meanwhile.
    pub(crate) fn party(&self) -> Option<Party> {
        let task = self.run.map(|(task, _)| Party::Task(task));
        task.or_else(|| self.actor.filter(|_| self.holds_actor).map(Party::Actor))
    }

    /// Runs `op` within this frame and takes the frame back.
    pub fn enter<T>(&mut self, op: impl FnOnce() -> T) -> T {
        let _guard = Swapped::new(self);
        op()
    }
}

/// Swaps a frame in, and out again on every way out, a panic too.
struct Swapped<'a>(&'a mut Frame);

impl<'a> Swapped<'a> {
    fn new(frame: &'a mut Frame) -> Self {
        FRAME.with_borrow_mut(|current| std::mem::swap(current, frame));
        Self(frame)
    }
}

impl Drop for Swapped<'_> {
    fn drop(&mut self) {
        FRAME.with_borrow_mut(|current| std::mem::swap(current, self.0));
    }
}

/// Makes `system` the one of this thread, for threads that belong to one system for life.
pub fn adopt(system: Option<Arc<System>>) -> Option<Arc<System>> {
    FRAME.with_borrow_mut(|frame| std::mem::replace(&mut frame.system, system))
}

/// Runs `op` as code of `system`: references and actors that it meets, in bytes say, belong to that.
pub fn within<T>(system: &Arc<System>, op: impl FnOnce() -> T) -> T {
    let before = adopt(Some(system.clone()));
    let result = op();
    adopt(before);
    result
}

/// The system of the code that runs now, else the process's first.
pub fn system() -> Option<Arc<System>> {
    FRAME.with_borrow(|frame| frame.system.clone()).or_else(System::process_default)
}

/// The system to which references belong that are met while something is decoded.
///
/// While a type is only traced for its schema there is none, session or not: a reference then always counts as its
/// type's name, so that both sides of a call hash alike.
pub(crate) fn decoding<E: serde::de::Error>() -> Result<Arc<System>, E> {
    if schema::is_tracing() {
        return Err(E::custom("a reference is not traced"));
    }
    system().ok_or_else(|| E::custom(NotStarted::NoSession))
}

/// Whether the caller of the code that runs now has gone away or given up.
#[inline]
pub fn cancelled() -> bool {
    FRAME.with_borrow(|frame| frame.call.as_ref().is_some_and(|call| call.is_cancelled()))
}

/// Reads the frame of the code that runs now.
#[inline]
pub fn with<T>(op: impl FnOnce(&Frame) -> T) -> T {
    FRAME.with_borrow(op)
}

/// Changes which call may be cancelled under the code of this frame, and gives back the one before.
#[inline]
pub(crate) fn lend(call: Option<Arc<dyn CallState>>) -> Option<Arc<dyn CallState>> {
    FRAME.with_borrow_mut(|frame| std::mem::replace(&mut frame.call, call))
}

/// Changes which call the code of this frame serves, from one message to the next.
#[inline]
pub(crate) fn serve(deadline: Deadline, explicit: bool, call: Option<Arc<dyn CallState>>) {
    let before = FRAME.with_borrow_mut(|frame| {
        frame.deadline = deadline;
        frame.deadline_explicit = explicit;
        std::mem::replace(&mut frame.call, call)
    });
    drop(before);
}

thread_local! {
    /// Whether code of this thread awaits a value of others since somebody looked.
    static AWAITS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// The code that is polled now awaits an object or a reply that is not there.
pub(crate) fn note_wait() {
    AWAITS.set(true);
}

/// Whether what was polled on this thread since the last look awaits an object or a reply: it needs no CPU meanwhile.
pub fn take_wait() -> bool {
    AWAITS.replace(false)
}
