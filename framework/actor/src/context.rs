//! What a handler can do beside changing its state: make children, set timers, stop, watch, see its caller go.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use mobula_types::{ActorId, Deadline, Error, ErrorChain, ExitReason, Incarnation};
use tokio::task::AbortHandle;

use crate::control::{ChildEvent, Control, Down};
use crate::envelope::{Letter, ReplyTo};
use crate::lanes::Mail;
use crate::mailbox::Mailbox;
use crate::spawn::Spawn;
use crate::stream::{self, ReplyStream};
use crate::system::System;
use crate::{Actor, ActorRef, Address, Handler, Message, clock, current};

/// An actor's own view of itself while it runs.
///
/// Everything takes `&self`, so that handlers which run beside one another share it.
pub struct Context<A: Actor> {
    pub(crate) mailbox: Arc<Mailbox<A>>,
    /// In start order; they stop in reverse.
    pub(crate) children: RefCell<Vec<ActorId>>,
    /// Set by [`stop`](Self::stop), acted on after the message that is handled now.
    stop: RefCell<Option<Box<ExitReason>>>,
    /// Set by the cell before it drops handlers half-way: what their callers are told.
    ending: RefCell<Option<Box<ExitReason>>>,
    /// Timers and streams of this incarnation.
    tasks: RefCell<Vec<Background>>,
}

impl<A: Actor> Context<A> {
    pub(crate) fn new(mailbox: Arc<Mailbox<A>>) -> Self {
        Self {
            mailbox,
            children: RefCell::default(),
            stop: RefCell::default(),
            ending: RefCell::default(),
            tasks: RefCell::default(),
        }
    }

    /// The actor's id, the same over all restarts.
    pub fn id(&self) -> ActorId {
        self.mailbox.id
    }

    /// Which start of the actor this is; the first is 1.
    pub fn incarnation(&self) -> Incarnation {
        self.mailbox.incarnation()
    }

    /// The actor's own reference, to give to others.
    pub fn me(&self) -> ActorRef<A> {
        ActorRef::new(Address::of(&self.mailbox))
    }

    /// The system the actor lives in.
    pub fn system(&self) -> &Arc<System> {
        &self.mailbox.system
    }

    /// Prepares a supervised child: it is placed beside this actor, restarted by its own policy, and ends with this
    /// actor. A child that dies more often than its policy allows ends this actor too, unless it handles
    /// [`ChildEvent`] (see [`observe_children`](Self::observe_children)).
    pub fn spawn<B: Actor>(&self, args: B::Args) -> Spawn<B> {
        Spawn::new(self.mailbox.system.clone(), args).child_of(self.mailbox.id)
    }

    /// Hands the events of children to the actor's handler instead of failing when a child gives up.
    pub fn observe_children(&self)
    where
        A: Handler<ChildEvent>,
    {
        self.mailbox.hooks.child.get_or_init(|| mail_of::<A, ChildEvent>);
    }

    /// Ends the actor after the message that is handled now.
    pub fn stop(&self) {
        self.end_of(ExitReason::Normal);
    }

    /// Ends the actor with an error, which its supervisor takes for a failure, after the message that is handled now.
    pub fn fail(&self, error: impl Into<Error>) {
        self.end_of(ExitReason::Failed(ErrorChain::from(error.into())));
    }

    /// Whether the caller of the message that is handled now has gone away or given up.
    pub fn is_cancelled(&self) -> bool {
        current::cancelled()
    }

    /// Waits until the caller has gone away or given up; for ever when it is a tell.
    pub async fn cancelled(&self) {
        match current::with(|frame| frame.call.clone()) {
            Some(call) => poll_fn(|cx| call.poll_cancelled(cx)).await,
            None => std::future::pending().await,
        }
    }

    /// The deadline of the message that is handled now.
    pub fn deadline(&self) -> Deadline {
        current::with(|frame| frame.deadline)
    }

    /// How long the caller of the message that is handled now still waits; `None` when it waits as long as it takes.
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline().left(clock::now())
    }

    /// Sends `message` to the actor itself after `delay`, unless it has ended or restarted by then.
    pub fn send_after<M: Message>(&self, delay: Duration, message: M) -> Timer
    where
        A: Handler<M>,
    {
        let mailbox = self.mailbox.clone();
        self.background(
            async move {
                tokio::time::sleep(delay).await;
                Address::local(mailbox).send_letter(tell(message)).await.ok();
            },
            false,
        )
    }

    /// Sends what `make` gives to the actor itself every `period`, the first time after one period. A tick that finds
    /// the mailbox full waits; ticks missed meanwhile are skipped.
    pub fn send_every<M: Message>(&self, period: Duration, mut make: impl FnMut() -> M + 'static) -> Timer
    where
        A: Handler<M>,
    {
        let mailbox = self.mailbox.clone();
        self.background(
            async move {
                // A period of zero would never let anybody else run.
                let mut ticks = tokio::time::interval(period.max(Duration::from_millis(1)));
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
                ticks.tick().await;
                loop {
                    ticks.tick().await;
                    if Address::local(mailbox.clone()).send_letter(tell(make())).await.is_err() {
                        return;
                    }
                }
            },
            false,
        )
    }

    /// Tells this actor of every death of `other` as a [`Down`] message.
    pub fn watch<B: Actor>(&self, other: &Address<B>)
    where
        A: Handler<Down>,
    {
        self.mailbox.hooks.down.get_or_init(|| mail_of::<A, Down>);
        self.system().control(other.id(), Control::Watch { by: self.id() });
    }

    /// Ends what [`watch`](Self::watch) began.
    pub fn unwatch<B: Actor>(&self, other: &Address<B>) {
        self.system().control(other.id(), Control::Unwatch { by: self.id() });
    }

    /// Ties this actor and `other` together: when one dies abnormally, so does the other.
    pub fn link<B: Actor>(&self, other: &Address<B>) {
        self.mailbox.link(other.id());
        self.system().control(other.id(), Control::Link { peer: self.id() });
    }

    /// Marks the handler as one that may block its thread: until the mark is dropped it is not reported as hanging.
    pub fn protect(&self) -> crate::Protected {
        crate::progress::protect()
    }

    /// Runs `items` beside the actor and gives the reading end, the way handlers that return a stream do.
    pub fn stream<T: Send + 'static>(&self, items: impl Stream<Item = T> + 'static) -> ReplyStream<T> {
        let (pump, reader) = stream::pump(items);
        self.background(pump, true);
        reader
    }

    fn background(&self, task: impl Future<Output = ()> + 'static, is_stream: bool) -> Timer {
        let handle = actix_rt::spawn(crate::shell::within(self.mailbox.id, self.mailbox.system.clone(), false, task))
            .abort_handle();
        let mut tasks = self.tasks.borrow_mut();
        // Finished ones are swept when the list has doubled, so it stays within twice what is alive.
        if tasks.len() == tasks.capacity() {
            tasks.retain(|task| !task.handle.is_finished());
        }
        tasks.push(Background { handle: handle.clone(), is_stream });
        Timer(handle)
    }

    /// Ends the actor for `reason` after the message that is handled now.
    pub(crate) fn end_of(&self, reason: ExitReason) {
        self.stop.borrow_mut().get_or_insert_with(|| Box::new(reason));
    }

    pub(crate) fn take_stop(&self) -> Option<ExitReason> {
        self.stop.borrow_mut().take().map(|reason| *reason)
    }

    pub(crate) fn stop_is_asked(&self) -> bool {
        self.stop.borrow().is_some()
    }

    pub(crate) fn ending(&self) -> Option<ExitReason> {
        self.ending.borrow().as_deref().cloned()
    }

    pub(crate) fn set_ending(&self, reason: Option<ExitReason>) {
        *self.ending.borrow_mut() = reason.map(Box::new);
    }

    /// Ends timers and streams of an incarnation that is over.
    pub(crate) fn end_tasks(&self) {
        self.tasks.borrow_mut().drain(..).for_each(|task| task.handle.abort());
        *self.stop.borrow_mut() = None;
    }

    /// Ends the timers of an actor that moves. Its streams do not need it, and come to their ends where they are.
    pub(crate) fn end_timers(&self) {
        self.tasks.borrow_mut().retain(|task| {
            if !task.is_stream {
                task.handle.abort();
            }
            task.is_stream
        });
        *self.stop.borrow_mut() = None;
    }

    /// Waits until the streams have come to their ends: an actor's own thread ends with it.
    pub(crate) async fn streams_ended(&self) {
        while self.tasks.borrow().iter().any(|task| !task.handle.is_finished()) {
            tokio::time::sleep(STREAMS_LOOK).await;
        }
    }
}

/// Between two looks whether the streams of an actor that has moved have ended.
const STREAMS_LOOK: Duration = Duration::from_millis(5);

/// What runs beside an actor.
struct Background {
    handle: AbortHandle,
    is_stream: bool,
}

/// A timer or stream of an actor; it ends with the incarnation that made it.
#[derive(Debug)]
pub struct Timer(AbortHandle);

impl Timer {
    /// Ends it now; dropping a timer does not.
    pub fn cancel(&self) {
        self.0.abort();
    }
}

fn tell<M: Message>(message: M) -> Letter<M> {
    Letter { message, reply: ReplyTo::Nobody, deadline: Deadline::NEVER, deadline_explicit: false }
}

fn mail_of<A: Handler<M>, M: Message>(message: M) -> Mail<A> {
    Box::new(tell(message))
}
