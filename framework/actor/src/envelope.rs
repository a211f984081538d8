//! A message on its way to one actor, with what must come back and until when.
//!
//! An [`Envelope`] is a [`Letter`] whose message type is forgotten: what a mailbox holds.

use std::any::{Any, type_name};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use mobula_types::{CallError, Deadline, ExitReason, MessageId, NotStarted, Panic, Time, Unknown};

use crate::call::SendError;
use crate::deliver::Left;
use crate::progress::handling;
use crate::slot::{CallState, ReplySender};
use crate::{Actor, Context, Handler, Message, Mode, current, panics};

/// Where the answer goes.
pub(crate) enum ReplyTo<R> {
    /// Nobody waits: a tell.
    Nobody,
    /// An `ask` of this process waits.
    Caller(ReplySender<R>),
    /// Something else takes it: an object to fulfil, an encoder to send it on.
    Other(Box<OtherReply<R>>),
}

/// A receiver of the answer that is not an `ask` of this process.
pub(crate) struct OtherReply<R> {
    pub(crate) deliver: Box<dyn FnOnce(Result<R, CallError>) + Send>,
    pub(crate) call: Option<Arc<dyn CallState>>,
}

impl<R: Send + 'static> ReplyTo<R> {
    pub(crate) fn send(self, reply: Result<R, CallError>) {
        match self {
            Self::Nobody => {}
            Self::Caller(sender) => sender.send(reply),
            Self::Other(other) => (other.deliver)(reply),
        }
    }

    pub(crate) fn call(&self) -> Option<Arc<dyn CallState>> {
        match self {
            Self::Nobody => None,
            Self::Caller(sender) => sender.state(),
            Self::Other(other) => other.call.clone(),
        }
    }

    /// Runs a handler that waits for nothing as code that serves this call.
    fn served_by<T>(self, handler: impl FnOnce() -> T) -> (Self, T) {
        match self {
            Self::Nobody => (self, handler()),
            Self::Caller(sender) => {
                let (sender, result) = sender.served_by(handler);
                (Self::Caller(sender), result)
            }
            Self::Other(other) => {
                current::lend(other.call.clone());
                let result = handler();
                drop(current::lend(None));
                (Self::Other(other), result)
            }
        }
    }

    fn is_cancelled(&self) -> bool {
        match self {
            Self::Nobody => false,
            Self::Caller(sender) => sender.is_cancelled(),
            Self::Other(other) => other.call.as_ref().is_some_and(|call| call.is_cancelled()),
        }
    }
}

/// A message with its way back.
pub(crate) struct Letter<M: Message> {
    pub(crate) message: M,
    pub(crate) reply: ReplyTo<M::Reply>,
    pub(crate) deadline: Deadline,
    /// Set by a person, not by default: inherited by tasks too.
    pub(crate) deadline_explicit: bool,
}

impl<M: Message> Letter<M> {
    /// Tells whoever waits for the answer that there is none, and gives the message back.
    pub(crate) fn refused(self, cause: NotStarted) -> SendError<M> {
        self.reply.send(Err(CallError::NotStarted(cause.clone())));
        SendError { message: self.message, cause }
    }
}

/// What became of a message that began.
pub(crate) enum Handling<'a> {
    /// Handled within this call.
    Done,
    /// Panicked within this call; the caller has been told.
    Panicked(Panic),
    /// Goes on in this future.
    Pending(LocalBoxFuture<'a, Result<(), Panic>>),
}

/// What the cell must know of a letter before it handles it.
pub(crate) struct Facts {
    pub(crate) mode: Mode,
    pub(crate) cancel_drops: bool,
    pub(crate) cancelled: bool,
    pub(crate) deadline: Deadline,
    pub(crate) deadline_explicit: bool,
    /// The call it serves; a handler that waits for nothing is lent it while it runs.
    pub(crate) call: Option<Arc<dyn CallState>>,
}

impl Facts {
    /// Whether nobody wants the letter handled any more at `now`.
    pub(crate) fn is_stale(&self, now: Time) -> bool {
        self.cancelled || self.deadline.has_passed(now)
    }
}

/// A letter for an actor of type `A`, its message type forgotten.
pub(crate) trait Envelope<A: Actor>: Send + Any {
    /// Bytes it counts in the mailbox.
    fn bytes(&self) -> usize;
    fn is_tell(&self) -> bool;
    /// What the cell must know before it handles it: one look behind the forgotten type instead of several.
    fn facts(&self) -> Facts;
    /// Begins to handle it alone. A stale one ends here without running.
    fn handle<'a>(self: Box<Self>, state: &'a mut A, ctx: &'a Context<A>) -> Handling<'a>;
    /// Handles it beside others.
    fn handle_shared<'a>(self: Box<Self>, state: &'a A, ctx: &'a Context<A>) -> LocalBoxFuture<'a, Result<(), Panic>>;
    /// Answers it without having run it.
    fn refuse(self: Box<Self>, error: CallError);
    fn message_name(&self) -> &'static str;
}

impl<A: Handler<M>, M: Message> Envelope<A> for Letter<M> {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.message.heap_bytes()
    }

    fn is_tell(&self) -> bool {
        matches!(self.reply, ReplyTo::Nobody)
    }

    fn facts(&self) -> Facts {
        Facts {
            mode: A::MODE,
            cancel_drops: A::CANCEL_DROPS,
            cancelled: self.reply.is_cancelled(),
            deadline: self.deadline,
            deadline_explicit: self.deadline_explicit,
            call: if A::MODE == Mode::Sync { None } else { self.reply.call() },
        }
    }

    fn handle<'a>(self: Box<Self>, state: &'a mut A, ctx: &'a Context<A>) -> Handling<'a> {
        (*self).begin(state, ctx)
    }

    fn handle_shared<'a>(self: Box<Self>, state: &'a A, ctx: &'a Context<A>) -> LocalBoxFuture<'a, Result<(), Panic>> {
        (*self).begin_shared(state, ctx)
    }

    fn refuse(self: Box<Self>, error: CallError) {
        self.reply.send(Err(error));
    }

    fn message_name(&self) -> &'static str {
        type_name::<M>()
    }
}

impl<M: Message> Letter<M> {
    #[inline]
    fn begin<'a, A: Handler<M>>(self, state: &'a mut A, ctx: &'a Context<A>) -> Handling<'a> {
        let Self { message, reply, .. } = self;
        if A::MODE == Mode::Sync {
            let handler = || catch_unwind(AssertUnwindSafe(|| state.handle_sync(message, ctx)));
            let (reply, result) = reply.served_by(handler);
            return match answer::<A, M>(ctx, reply, result) {
                Ok(()) => Handling::Done,
                Err(panic) => Handling::Panicked(panic),
            };
        }
        Handling::Pending(Box::pin(async move {
            let reply = OnTheWay::<A, M> { reply: Some(reply), ctx };
            let result = AssertUnwindSafe(state.handle(message, ctx)).catch_unwind().await;
            answer::<A, M>(ctx, reply.arrived(), result)
        }))
    }

    #[inline]
    fn begin_shared<'a, A: Handler<M>>(
        self,
        state: &'a A,
        ctx: &'a Context<A>,
    ) -> LocalBoxFuture<'a, Result<(), Panic>> {
        let Self { message, reply, .. } = self;
        Box::pin(async move {
            let reply = OnTheWay::<A, M> { reply: Some(reply), ctx };
            let result = AssertUnwindSafe(state.handle_shared(message, ctx)).catch_unwind().await;
            answer::<A, M>(ctx, reply.arrived(), result)
        })
    }
}

/// A letter from another process, which is told when the letter has left the mailbox.
pub(crate) struct Counted<M: Message> {
    pub(crate) letter: Letter<M>,
    pub(crate) left: Left,
}

impl<A: Handler<M>, M: Message> Envelope<A> for Counted<M> {
    fn bytes(&self) -> usize {
        Envelope::<A>::bytes(&self.letter)
    }

    fn is_tell(&self) -> bool {
        Envelope::<A>::is_tell(&self.letter)
    }

    fn facts(&self) -> Facts {
        Envelope::<A>::facts(&self.letter)
    }

    fn handle<'a>(self: Box<Self>, state: &'a mut A, ctx: &'a Context<A>) -> Handling<'a> {
        let Self { letter, left } = *self;
        let message = left.message();
        drop(left);
        let Some(message) = message else { return letter.begin(state, ctx) };
        match handling(message, || letter.begin(state, ctx)) {
            Handling::Pending(rest) => Handling::Pending(handling_on(message, rest)),
            over => over,
        }
    }

    fn handle_shared<'a>(self: Box<Self>, state: &'a A, ctx: &'a Context<A>) -> LocalBoxFuture<'a, Result<(), Panic>> {
        let Self { letter, left } = *self;
        let message = left.message();
        drop(left);
        let handled = letter.begin_shared(state, ctx);
        match message {
            Some(message) => handling_on(message, handled),
            None => handled,
        }
    }

    fn refuse(self: Box<Self>, error: CallError) {
        self.letter.reply.send(Err(error));
    }

    fn message_name(&self) -> &'static str {
        type_name::<M>()
    }
}

/// The rest of the handling of a message that is sent again.
fn handling_on<'a, T: 'a>(message: MessageId, mut rest: LocalBoxFuture<'a, T>) -> LocalBoxFuture<'a, T> {
    Box::pin(poll_fn(move |cx| handling(message, || rest.as_mut().poll(cx))))
}

/// Gives the caller what the handler returned, or its panic; the panic is the cell's too.
fn answer<A: Actor, M: Message>(
    ctx: &Context<A>,
    reply: ReplyTo<M::Reply>,
    result: std::thread::Result<M::Reply>,
) -> Result<(), Panic> {
    match result {
        Ok(value) => {
            reply.send(Ok(value));
            Ok(())
        }
        Err(payload) => {
            let panic = panics::describe(payload);
            match reply {
                ReplyTo::Nobody => dead_letter::<A, M>(ctx, &ExitReason::Panicked(panic.clone())),
                reply => reply.send(Err(CallError::Panicked(panic.clone()))),
            }
            Err(panic)
        }
    }
}

/// A tell that began and did not end: nobody waits who could be told (G8, G21).
fn dead_letter<A: Actor, M: Message>(ctx: &Context<A>, reason: &ExitReason) {
    ctx.system().dead_letter(ctx.id(), type_name::<M>(), reason);
}

/// A reply that is owed: a handler that is dropped half-way says why to its caller.
struct OnTheWay<'a, A: Actor, M: Message> {
    reply: Option<ReplyTo<M::Reply>>,
    ctx: &'a Context<A>,
}

impl<A: Actor, M: Message> OnTheWay<'_, A, M> {
    fn arrived(mut self) -> ReplyTo<M::Reply> {
        self.reply.take().unwrap_or(ReplyTo::Nobody)
    }
}

impl<A: Actor, M: Message> Drop for OnTheWay<'_, A, M> {
    fn drop(&mut self) {
        match (self.reply.take(), self.ctx.ending()) {
            (None, _) => {}
            (Some(ReplyTo::Nobody), reason) => {
                dead_letter::<A, M>(self.ctx, &reason.unwrap_or(ExitReason::Shutdown));
            }
            (Some(reply), Some(reason)) => {
                let unknown = match reason {
                    // As its caller hears it from another process.
                    ExitReason::ProcessDied(death) => Unknown::ProcessDied { death },
                    reason => Unknown::ActorEnded { actor: self.ctx.id(), reason },
                };
                reply.send(Err(CallError::MayHaveRun(unknown)));
            }
            (Some(reply), None) => reply.send(Err(CallError::Cancelled)),
        }
    }
}
