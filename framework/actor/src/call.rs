//! A call that has not been made yet, and the wait for its reply.
//!
//! | end of a [`Call`] | waits for room | waits for the reply | deadline by default |
//! |---|---|---|---|
//! | `.await` | yes | yes | 30 s |
//! | [`tell`](Call::tell) | no, says full | no | |
//! | [`send`](Call::send) | yes | no | |
//! | [`submit`](Call::submit) | yes, in the background | no, gives a reference to it | none |

use std::fmt;
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use mobula_types::{ActorId, CallError, Deadline, ErrorChain, NoError, NotStarted, Outcome, Time};

use crate::current::{self, Frame};
use crate::envelope::{Letter, OtherReply, ReplyTo};
use crate::mailbox::Mailbox;
use crate::object::{Cancel, Cancellable, GetError, ObjectRef};
use crate::patrol::{Ticket, patrol};
use crate::slot::{ReplyReceiver, slot};
use crate::system::System;
use crate::waits::{On, Wait};
use crate::{Actor, Address, Handler, Message, clock};

/// What an `ask` waits at most unless it says otherwise (G3).
pub const ASK_TIMEOUT: Duration = Duration::from_secs(30);

/// A prepared call of one message; nothing is sent before one of its ends is chosen.
#[must_use = "a call does nothing until it is awaited, told, sent or submitted"]
pub struct Call<'a, A: Actor, M: Message, T = <M as Message>::Reply, E = NoError> {
    address: &'a Address<A>,
    message: Content<M>,
    flatten: fn(M::Reply) -> Result<T, CallError<E>>,
    timeout: Timeout,
}

enum Content<M> {
    Here(M),
    /// References that stand for arguments are still without a value.
    Later(BoxFuture<'static, Result<M, GetError>>),
}

#[derive(Clone, Copy)]
enum Timeout {
    Default,
    Never,
    After(Duration),
}

impl<'a, A: Handler<M>, M: Message> Call<'a, A, M> {
    pub(crate) fn new(address: &'a Address<A>, message: M) -> Self {
        Self { address, message: Content::Here(message), flatten: Ok, timeout: Timeout::Default }
    }
}

impl<'a, A: Handler<M>, M: Message, T, E> Call<'a, A, M, T, E> {
    /// A call whose reply `flatten` turns into a value or the function's own error: what macros make.
    pub fn flattened(address: &'a Address<A>, message: M, flatten: fn(M::Reply) -> Result<T, CallError<E>>) -> Self {
        Self { address, message: Content::Here(message), flatten, timeout: Timeout::Default }
    }

    /// The same for a message whose arguments are still awaited.
    pub fn resolving(
        address: &'a Address<A>,
        message: BoxFuture<'static, Result<M, GetError>>,
        flatten: fn(M::Reply) -> Result<T, CallError<E>>,
    ) -> Self {
        Self { address, message: Content::Later(message), flatten, timeout: Timeout::Default }
    }

    /// Waits at most `timeout` for the reply; what the handler calls inherits what is left of it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Timeout::After(timeout);
        self
    }

    /// Waits for the reply as long as it takes.
    pub fn no_timeout(mut self) -> Self {
        self.timeout = Timeout::Never;
        self
    }

    /// Sends without waiting for room or reply.
    ///
    /// # Errors
    ///
    /// Gives the message back with the reason: the mailbox is full, the actor has ended, or the message cannot travel.
    #[inline]
    pub fn tell(self) -> Result<(), SendError<M>> {
        let letter = |message| Letter {
            message,
            reply: ReplyTo::Nobody,
            deadline: self.timeout.explicit(),
            deadline_explicit: self.timeout.is_explicit(),
        };
        match self.message {
            Content::Here(message) if !behind_held(self.address) => self
                .address
                .try_send_letter(letter(message))
                .map_err(|(letter, cause)| SendError { message: letter.message, cause }),
            content => {
                hold(self.address, content, self.timeout.explicit(), self.timeout.is_explicit(), ReplyTo::Nobody);
                Ok(())
            }
        }
    }

    /// Sends as soon as the mailbox has room, and does not wait for the reply.
    ///
    /// # Errors
    ///
    /// Gives the message back with the reason: the actor has ended, or the message cannot travel.
    ///
    /// # Cancel safety
    ///
    /// Dropped before there was room, nothing is sent.
    pub async fn send(self) -> Result<(), SendError<M>> {
        let (deadline, deadline_explicit) = (self.timeout.explicit(), self.timeout.is_explicit());
        match self.message {
            Content::Here(message) if !behind_held(self.address) => {
                let letter = Letter { message, reply: ReplyTo::Nobody, deadline, deadline_explicit };
                self.address.send_letter(letter).await
            }
            content => {
                hold(self.address, content, deadline, deadline_explicit, ReplyTo::Nobody);
                Ok(())
            }
        }
    }
}

impl<'a, A: Handler<M>, M: Message, T, E> Call<'a, A, M, T, E> {
    /// Sends it again until the actor has handled it: in a later life of the actor too, when its process ends before that.
    /// So it may be handled more than once, but not by one life of the actor. It is a tell: nobody gets the reply.
    ///
    /// The third process that ends over a message makes it a dead letter, and the actor goes on without it; so does an
    /// actor that has ended for good. A handler that panics has handled its message.
    ///
    /// ```
    /// # use mobula_actor::{Actor, Address, Context, Handler, Message, Spawn, System, SystemConfig};
    /// # use mobula_types::{Error, NodeId, ProcessId};
    /// # struct Counter(u64);
    /// # impl Actor for Counter {
    /// #     type Args = ();
    /// #     type Proxy = Address<Self>;
    /// #     async fn start(_: (), _: &Context<Self>) -> Result<Self, Error> { Ok(Counter(0)) }
    /// # }
    /// # struct Add(u64);
    /// # impl Message for Add { type Reply = u64; }
    /// # impl Handler<Add> for Counter {
    /// #     async fn handle(&mut self, add: Add, _: &Context<Self>) -> u64 { self.0 += add.0; self.0 }
    /// # }
    /// # let system = System::start(&SystemConfig { process: ProcessId::from(NodeId(1)), arbiters: 1, value_bytes_max: 1 << 20 });
    /// # system.make_process_default();
    /// # mobula_actor::arbiters::runtime().block_on(async {
    /// let counter = Spawn::<Counter>::here(()).await?;
    /// counter.ask(Add(2)).at_least_once().tell()?;
    /// assert_eq!(counter.ask(Add(0)).await?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub fn at_least_once(self) -> AtLeastOnce<'a, A, M> {
        AtLeastOnce { address: self.address, message: self.message }
    }
}

/// A call that is sent until it has been handled; nothing is sent before it is told.
#[must_use = "nothing is sent until it is told"]
pub struct AtLeastOnce<'a, A: Actor, M: Message> {
    address: &'a Address<A>,
    message: Content<M>,
}

impl<A: Handler<M>, M: Message> AtLeastOnce<'_, A, M> {
    /// Sends, and does not wait for anything. Messages of one sender to one actor are bounded while they are not handled:
    /// 65,536 of them, and 10 minutes for each.
    ///
    /// # Errors
    ///
    /// Gives the message back with the reason: too many are not handled, the actor has ended, or the message cannot travel.
    pub fn tell(self) -> Result<(), SendError<M>> {
        match self.message {
            Content::Here(message) if !behind_held(self.address) => {
                self.address.send_until_handled(crate::address::plain_letter(message))
            }
            content => {
                hold_as(self.address, content, Deadline::NEVER, false, ReplyTo::Nobody, true);
                Ok(())
            }
        }
    }
}

impl<A: Handler<M>, M: Message, T, E> Call<'_, A, M, T, E>
where
    T: Send + Sync + 'static,
    E: fmt::Display + 'static,
{
    /// Sends, and gives a reference to the future reply at once. It has no deadline unless one was set.
    #[track_caller]
    pub fn submit(self) -> ObjectRef<T> {
        let system = self.address.system().clone();
        let cancel = Arc::new(Cancel::of_call(self.address.id()));
        let object = ObjectRef::pending(&system, Some(cancel.clone() as Arc<dyn Cancellable>));
        system.counters().add_submitted();
        let filled = Unfilled { object: Some(object.clone()), system };
        let flatten = self.flatten;
        let deliver = move |reply: Result<M::Reply, CallError>| {
            filled.fill(match reply {
                Ok(reply) => flatten(reply).map_err(|error| error.map_returned(|error| ErrorChain::message(error))),
                Err(error) => Err(error.widen()),
            });
        };
        let reply = ReplyTo::Other(Box::new(OtherReply { deliver: Box::new(deliver), call: Some(cancel) }));
        let (deadline, explicit) = (self.timeout.explicit(), self.timeout.is_explicit());
        match self.message {
            Content::Here(message) if !behind_held(self.address) => {
                let letter = Letter { message, reply, deadline, deadline_explicit: explicit };
                // Whoever holds the object is told by the reply.
                let _ = self.address.send_or_wait(letter);
            }
            content => hold(self.address, content, deadline, explicit, reply),
        }
        object
    }
}

/// An object that is owed a value: whatever becomes of the call, it gets one.
struct Unfilled<T: Send + Sync + 'static> {
    object: Option<ObjectRef<T>>,
    system: Arc<System>,
}

impl<T: Send + Sync + 'static> Unfilled<T> {
    fn fill(mut self, value: Result<T, GetError>) {
        self.settle(value);
    }

    fn settle(&mut self, value: Result<T, GetError>) {
        if let Some(object) = self.object.take() {
            self.system.counters().add_outcome(value.as_ref().map_or_else(CallError::outcome, |_| Outcome::Ok));
            object.fill(value);
        }
    }
}

impl<T: Send + Sync + 'static> Drop for Unfilled<T> {
    fn drop(&mut self) {
        self.settle(Err(CallError::MayHaveRun(mobula_types::Unknown::NoReply)));
    }
}

impl<A: Handler<M>, M: Message, T, E> IntoFuture for Call<'_, A, M, T, E> {
    type Output = Result<T, CallError<E>>;
    type IntoFuture = Asking<M::Reply, T, E>;

    /// Sends now, or takes its place among those who wait for room, and gives the wait for the reply.
    fn into_future(self) -> Asking<M::Reply, T, E> {
        let system = self.address.system().clone();
        let (inherited, inherited_explicit) = current::with(|frame| (frame.deadline, frame.deadline_explicit));
        let (asked_at, own) = match self.timeout {
            // Short of 30 s by a tick at most.
            Timeout::Default => {
                let now = clock::recent();
                (now, Deadline::at(now + ASK_TIMEOUT))
            }
            Timeout::Never => (clock::recent(), Deadline::NEVER),
            Timeout::After(timeout) => {
                let now = clock::now();
                (now, Deadline::at(now + timeout))
            }
        };
        let deadline = own.earlier(inherited);
        let explicit = self.timeout.is_explicit() || inherited_explicit;
        system.counters().add_submitted();
        let (sender, receiver) = slot();
        let reply = ReplyTo::Caller(sender);
        let mut asking = Asking {
            refused: None,
            receiver,
            flatten: self.flatten,
            to: self.address.id(),
            asked_at,
            deadline,
            ticket: None,
            system: Some(system),
        };
        match self.message {
            Content::Here(message) if !behind_held(self.address) => {
                let letter = Letter { message, reply, deadline, deadline_explicit: explicit };
                asking.refused = self.address.send_or_wait(letter).err().map(Box::new);
            }
            content => hold(self.address, content, deadline, explicit, reply),
        }
        asking
    }
}

impl Timeout {
    fn is_explicit(self) -> bool {
        matches!(self, Self::After(_))
    }

    fn explicit(self) -> Deadline {
        match self {
            Self::After(timeout) => Deadline::at(clock::now() + timeout),
            Self::Default | Self::Never => Deadline::NEVER,
        }
    }
}

/// The wait for a reply; dropping it cancels the call.
#[must_use = "dropping the wait for a reply cancels the call"]
pub struct Asking<R, T, E> {
    /// Why it was never sent.
    refused: Option<Box<NotStarted>>,
    receiver: ReplyReceiver<R>,
    flatten: fn(R) -> Result<T, CallError<E>>,
    to: ActorId,
    asked_at: Time,
    deadline: Deadline,
    ticket: Option<Ticket>,
    /// Taken when the outcome has been counted.
    system: Option<Arc<System>>,
}

impl<R, T, E> Asking<R, T, E> {
    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, CallError<E>>> {
        if let Some(cause) = self.refused.take() {
            return Poll::Ready(Err(CallError::NotStarted(*cause)));
        }
        match self.receiver.poll(cx) {
            Poll::Ready(Ok(reply)) => Poll::Ready((self.flatten)(reply)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(match *error {
                CallError::DeadlineExceeded { .. } => self.deadline_exceeded(),
                error => error.widen(),
            })),
            Poll::Pending => self.poll_given_up(cx),
        }
    }

    /// Whether the deadline has passed or the call within which we wait was cancelled; else the patrol wakes us then.
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, CallError<E>>> {
        if current::cancelled() {
            return Poll::Ready(Err(CallError::Cancelled));
        }
        match self.ticket {
            Some(ticket) => {
                if self.deadline.is_set() && self.deadline.has_passed(clock::now()) {
                    return Poll::Ready(Err(self.deadline_exceeded()));
                }
                patrol().renew(ticket, cx.waker());
            }
            None => {
                let (parent, by) = current::with(|frame| (frame.call.clone(), frame.party()));
                if self.deadline.is_set() || parent.is_some() || by.is_some() {
                    let about = by.map(|by| Wait { by, on: On::Actor(self.to), since: self.asked_at });
                    let (due, waker) = (self.deadline.time(), cx.waker().clone());
                    self.ticket = Some(patrol().enter_about(due, waker, parent, about));
                }
            }
        }
        Poll::Pending
    }

    fn deadline_exceeded(&self) -> CallError<E> {
        CallError::DeadlineExceeded { given: self.deadline.left(self.asked_at) }
    }

    fn count(&mut self, outcome: Outcome) {
        if let Some(system) = self.system.take() {
            system.counters().add_outcome(outcome);
        }
        if let Some(ticket) = self.ticket.take() {
            patrol().leave(ticket);
        }
    }
}

impl<R, T, E> Future for Asking<R, T, E> {
    type Output = Result<T, CallError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let result = std::task::ready!(this.poll_outcome(cx));
        this.count(result.as_ref().map_or_else(CallError::outcome, |_| Outcome::Ok));
        Poll::Ready(result)
    }
}

impl<R, T, E> Drop for Asking<R, T, E> {
    fn drop(&mut self) {
        self.count(Outcome::Cancelled);
    }
}

/// A message that was not sent, and why.
pub struct SendError<M> {
    /// The message, given back.
    pub message: M,
    /// Why it was not sent.
    pub cause: NotStarted,
}

impl<M> fmt::Debug for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendError({:?})", self.cause)
    }
}

impl<M> fmt::Display for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not sent: {}", self.cause)
    }
}

impl<M> std::error::Error for SendError<M> {}

/// A letter that waits for room in a mailbox; dropped before it has moved up, it is taken back.
pub(crate) struct Room<A: Actor> {
    mailbox: Arc<Mailbox<A>>,
    ticket: u64,
}

impl<A: Actor> Room<A> {
    pub(crate) fn new(mailbox: Arc<Mailbox<A>>, ticket: u64) -> Self {
        Self { mailbox, ticket }
    }

    /// Waits until the letter has moved up, or was refused because the actor has ended.
    pub(crate) async fn wait(&self) {
        poll_fn(|cx| self.mailbox.lanes.poll_moved_up(cx, self.ticket)).await;
    }
}

impl<A: Actor> Drop for Room<A> {
    fn drop(&mut self) {
        drop(self.mailbox.lanes.withdraw(self.ticket));
    }
}

fn behind_held<A: Actor>(address: &Address<A>) -> bool {
    address.system().held.holds(|| current::with(|frame| frame.sender), address.id())
}

/// Puts a message behind what the same sender has waiting for the same actor.
fn hold<A: Handler<M>, M: Message>(
    address: &Address<A>,
    content: Content<M>,
    deadline: Deadline,
    deadline_explicit: bool,
    reply: ReplyTo<M::Reply>,
) {
    hold_as(address, content, deadline, deadline_explicit, reply, false);
}

fn hold_as<A: Handler<M>, M: Message>(
    address: &Address<A>,
    content: Content<M>,
    deadline: Deadline,
    deadline_explicit: bool,
    reply: ReplyTo<M::Reply>,
    at_least_once: bool,
) {
    let to = address.clone();
    let frame = current::with(Frame::clone);
    let sender = frame.sender;
    // Shared with the refusal below: whoever is first tells the caller.
    let reply = Arc::new(parking_lot::Mutex::new(Some(reply)));
    let owed = reply.clone();
    let sending = Box::pin(async move {
        let message = match content {
            Content::Here(message) => Ok(message),
            Content::Later(message) => message.await,
        };
        let Some(reply) = owed.lock().take() else { return };
        match message {
            Err(cause) => reply.send(Err(CallError::NotStarted(NotStarted::Argument { cause: Box::new(cause) }))),
            Ok(message) => {
                let id = to.id();
                let tell = matches!(reply, ReplyTo::Nobody);
                let letter = Letter { message, reply, deadline, deadline_explicit };
                let sent = match at_least_once {
                    true => to.send_until_handled(letter),
                    false => to.send_letter(letter).await,
                };
                if let Err(error) = sent
                    && tell
                {
                    dead_letter::<M>(to.system(), id, &error.cause);
                }
            }
        }
    });
    if let Err(waiting) = address.system().held.hold(sender, address.id(), sending)
        && let Some(reply) = reply.lock().take()
    {
        let cause = NotStarted::MailboxFull { waiting };
        if matches!(reply, ReplyTo::Nobody) {
            dead_letter::<M>(address.system(), address.id(), &cause);
        }
        reply.send(Err(CallError::NotStarted(cause)));
    }
}

fn dead_letter<M>(system: &Arc<System>, to: ActorId, cause: &NotStarted) {
    let reason = match cause {
        NotStarted::ActorEnded { reason, .. } => reason.clone(),
        other => mobula_types::ExitReason::Failed(ErrorChain::message(other)),
    };
    system.dead_letter(to, std::any::type_name::<M>(), &reason);
}
