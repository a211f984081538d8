//! The loop that owns an actor's state: starts it, feeds it mail, catches its panics, buries and restarts it.
//!
//! ```text
//!            ┌────────── verdict: start again ───────────┐
//!            ▼                                           │
//!  start ──► serve ──► end children ──► stopping ──► drop state ──► verdict ──► end for good
//!    │         │ panic, kill: no `stopping`              ▲
//!    └─────────┴─────────────────────────────────────────┘
//! ```
//!
//! Mail waits in the mailbox over a restart; the letter that panicked is consumed (G8). The verdict is the actor's own
//! [`Restarts`] or its supervisor's, which answers with a control message.
//!
//! An actor that is to move handles all mail that is there, says goodbye and leaves: what follows is its home's.

use std::cell::Cell as StdCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{FutureExt, future};
use mobula_logic::restarts::{Restarts, Verdict};
use mobula_types::{ActorId, CallError, Deadline, ErrorChain, ExitReason, NotStarted, Panic, RestartPolicy, Time};

use crate::control::{ChildEvent, ChildState, Control};
use crate::counters::Count;
use crate::current::{self, Frame, SenderId};
use crate::envelope::{Facts, Handling};
use crate::lanes::{BATCH_MAX, Mail};
use crate::mailbox::{ActorState, Mailbox};
use crate::places::{Lodging, no_place};
use crate::progress::was_reported;
use crate::shell::Framed;
use crate::spawn::{SpawnError, Spawner};
use crate::{Actor, Context, Mode, clock, panics};

/// How long a child may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an actor goes on with its mail before it lets its neighbours run: a neighbour's answer is promised within
/// 20 ms, and there may be several busy actors.
const SLICE: Duration = Duration::from_millis(1);

/// Letters between two looks at the clock, which costs a quarter of a letter.
const CLOCK_EVERY: usize = 16;

/// Who decides what happens after a death.
pub(crate) enum Supervised {
    /// The policy given at spawn, else that of the actor's type.
    ByItself(Option<Box<RestartPolicy>>),
    /// The parent, which answers every death with a verdict.
    ByParent,
}

pub(crate) struct Cell<A: Actor> {
    mailbox: Arc<Mailbox<A>>,
    ctx: Context<A>,
    args: A::Args,
    supervised: Supervised,
    /// Of one that is said to run in a placement group of this process.
    lodging: Option<Box<Lodging>>,
    /// Made at the first death: most actors never need it.
    restarts: Option<Box<Restarts>>,
    /// Whether a constructor has ever succeeded: what never ran is not restarted.
    has_run: bool,
    /// Who waits for the first start to succeed or fail.
    spawner: Option<Spawner>,
    batch: VecDeque<Mail<A>>,
    /// Deaths and children's events as mail, in order and before the batch.
    notices: VecDeque<Mail<A>>,
    /// Control messages that came while a handler ran.
    deferred: VecDeque<Control>,
    /// It is to move when its mail is handled.
    is_leaving: bool,
}

/// How one incarnation ended.
struct Death {
    /// Boxed: it is large, and the future of every actor alive has room for one.
    reason: Box<ExitReason>,
    /// Ended in order: the state is whole and says goodbye.
    in_order: bool,
    /// A supervisor asked for it and decides what follows.
    asked: Option<Asked>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// End for good.
    End,
    /// Wait for a verdict.
    Park,
    /// Go on elsewhere.
    Leave,
}

impl Death {
    fn unasked(reason: ExitReason, in_order: bool) -> Self {
        Self { reason: Box::new(reason), in_order, asked: None }
    }
}

/// What follows a death.
enum Next {
    Again,
    Leave,
    End(ExitReason, bool),
}

impl<A: Actor> Cell<A> {
    pub(crate) fn new(
        mailbox: Arc<Mailbox<A>>,
        args: A::Args,
        supervised: Supervised,
        lodging: Option<Box<Lodging>>,
        spawner: Option<Spawner>,
    ) -> Self {
        let ctx = Context::new(mailbox.clone());
        Self {
            mailbox,
            ctx,
            args,
            supervised,
            lodging,
            restarts: None,
            has_run: false,
            spawner,
            batch: VecDeque::new(),
            notices: VecDeque::new(),
            deferred: VecDeque::new(),
            is_leaving: false,
        }
    }

    /// Ends what never began: mail that came meanwhile is refused, and whoever spawned it is told why.
    pub(crate) fn stillborn(mut self, error: SpawnError) {
        if let Some(spawner) = self.spawner.take() {
            spawner.send(Err(error.clone())).ok();
        }
        self.end(ExitReason::Failed(ErrorChain::message(error)), false);
    }

    /// Boxed, because a future keeps an argument twice: as it came and as it is used.
    pub(crate) async fn run(mut self: Box<Self>) {
        if self.lodging.is_some()
            && let Err(reason) = Box::pin(self.find_place()).await
        {
            return self.end(reason, false);
        }
        let (reason, gave_up) = loop {
            let death = self.live().await;
            match Box::pin(self.after(death)).await {
                Next::Again => self.mailbox.system.counters().add(Count::Restarts),
                Next::Leave => {
                    self.leave();
                    return Box::pin(self.ctx.streams_ended()).await;
                }
                Next::End(reason, gave_up) => break (reason, gave_up),
            }
        };
        self.end(reason, gave_up);
    }

    /// Waits for the place that was asked for, unless it is to end before it has begun.
    async fn find_place(&mut self) -> Result<(), ExitReason> {
        let Some(Lodging::Wanted(place)) = self.lodging.as_deref_mut() else { return Ok(()) };
        let (mailbox, deferred) = (&self.mailbox, &mut self.deferred);
        let found = poll_fn(|cx| {
            while let Poll::Ready(control) = mailbox.lanes.poll_control(cx) {
                match mailbox.note_audience(control) {
                    Some(Control::Kill) => return Poll::Ready(Err(ExitReason::Killed)),
                    Some(Control::End { reason } | Control::Stop { reason, park: false }) => {
                        return Poll::Ready(Err(reason));
                    }
                    other => deferred.extend(other),
                }
            }
            place.poll_unpin(cx).map_err(no_place)
        });
        let place = found.await?;
        self.lodging = Some(Box::new(Lodging::Kept { _place: place }));
        Ok(())
    }

    /// One incarnation, from its constructor to the drop of its state.
    async fn live(&mut self) -> Death {
        self.mailbox.next_incarnation();
        self.mailbox.system.counters().add(Count::Starts);
        self.ctx.set_ending(None);
        let mut state = match Box::pin(self.start()).await {
            Ok(state) => state,
            Err(reason) => {
                Box::pin(self.end_children()).await;
                self.ctx.end_tasks();
                return Death::unasked(reason, false);
            }
        };
        self.mailbox.enter(ActorState::Running);
        self.mailbox.tell_parent(ChildState::Started);
        self.has_run = true;
        if let Some(spawner) = self.spawner.take() {
            spawner.send(Ok(())).ok();
        }
        let mut death = self.serve(&mut state).await;
        self.mailbox.enter(ActorState::Stopping);
        current::serve(Deadline::NEVER, false, None);
        Box::pin(self.end_children()).await;
        if death.in_order
            && let Err(panic) = Box::pin(self.goodbye(&mut state, &death.reason)).await
        {
            death = Death { reason: Box::new(ExitReason::Panicked(panic)), in_order: false, ..death };
        }
        match death.asked {
            Some(Asked::Leave) => self.ctx.end_timers(),
            _ => self.ctx.end_tasks(),
        }
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(state))) {
            let panic = panics::describe(payload);
            self.mailbox.system.counters().add(Count::Panics);
            // What killed it first stays the cause.
            if death.in_order {
                *death.reason = ExitReason::Panicked(panic);
            }
        }
        death
    }

    async fn start(&mut self) -> Result<A, ExitReason> {
        // A constructor's future is made inside too: what it does before its first await may panic as well.
        let args = self.args.clone();
        let ctx = &self.ctx;
        let starting = AssertUnwindSafe(async move { A::start(args, ctx).await }).catch_unwind().boxed_local();
        match until_killed(&self.ctx, &mut self.deferred, starting).await {
            None => Err(ExitReason::Killed),
            Some(Ok(Ok(state))) => Ok(state),
            Some(Ok(Err(error))) => Err(ExitReason::Failed(ErrorChain::from(error))),
            Some(Err(payload)) => {
                self.mailbox.system.counters().add(Count::Panics);
                Err(ExitReason::Panicked(panics::describe(payload)))
            }
        }
    }

    async fn goodbye(&mut self, state: &mut A, reason: &ExitReason) -> Result<(), Panic> {
        let stopping = AssertUnwindSafe(state.stopping(reason, &self.ctx)).catch_unwind();
        let bounded = tokio::time::timeout(STOP_TIMEOUT, stopping).boxed_local();
        match until_killed(&self.ctx, &mut self.deferred, bounded).await {
            Some(Ok(Err(payload))) => {
                self.mailbox.system.counters().add(Count::Panics);
                Err(panics::describe(payload))
            }
            Some(Err(_)) => {
                tracing::warn!(actor = %self.mailbox.id, "`stopping` took longer than {STOP_TIMEOUT:?} and was dropped");
                Ok(())
            }
            Some(Ok(Ok(()))) | None => Ok(()),
        }
    }

    /// Feeds the state until something ends it.
    async fn serve(&mut self, state: &mut A) -> Death {
        let mut slice = Slice::begin();
        loop {
            if (self.mailbox.lanes.has_control() || !self.deferred.is_empty())
                && let Some(death) = self.obey_waiting()
            {
                return death;
            }
            if slice.is_over() {
                yield_now().await;
                slice = Slice::begin();
            }
            let Some(mail) = self.notices.pop_front().or_else(|| self.batch.pop_front()) else {
                if self.is_leaving && self.mailbox.lanes.leave_if_empty() {
                    self.ctx.end_timers();
                    let asked = Some(Asked::Leave);
                    return Death { reason: Box::new(ExitReason::Moved), in_order: true, asked };
                }
                let (lanes, batch) = (&self.mailbox.lanes, &mut self.batch);
                if let Some(control) = poll_fn(|cx| lanes.poll_take(cx, batch)).await {
                    self.deferred.push_back(control);
                }
                continue;
            };
            let facts = mail.facts();
            if facts.is_stale(slice.now) {
                refuse_stale(&self.mailbox, mail, &facts);
                continue;
            }
            if facts.mode == Mode::Shared {
                if let Err(death) = Box::pin(self.serve_shared(state, mail)).await {
                    return death;
                }
                slice = Slice::begin();
                continue;
            }
            let Facts { cancel_drops: drops, deadline, deadline_explicit, call, .. } = facts;
            let awaited = if facts.mode == Mode::Async { call.clone() } else { None };
            current::serve(deadline, deadline_explicit, call);
            let died = match mail.handle(state, &self.ctx) {
                Handling::Done => None,
                Handling::Panicked(panic) => Some(ExitReason::Panicked(panic)),
                Handling::Pending(handler) => {
                    let handler = Cancellable { handler, call: awaited, drops };
                    let died = match until_killed(&self.ctx, &mut self.deferred, handler).await {
                        Some(Ok(())) => None,
                        Some(Err(panic)) => Some(ExitReason::Panicked(panic)),
                        None => Some(ExitReason::Killed),
                    };
                    slice.refresh();
                    died
                }
            };
            if let Some(reason) = died {
                if matches!(reason, ExitReason::Panicked(_)) {
                    self.mailbox.system.counters().add(Count::Panics);
                }
                return Death::unasked(reason, false);
            }
            if let Some(reason) = self.ctx.take_stop() {
                return Death::unasked(reason, true);
            }
        }
    }

    /// Runs `&self` handlers beside one another, until mail that must run alone is next and all have ended.
    async fn serve_shared(&mut self, state: &A, first: Mail<A>) -> Result<(), Death> {
        let Self { mailbox, ctx, batch, deferred, .. } = self;
        let ctx = &*ctx;
        let frame = |mail: &Mail<A>| {
            let Facts { deadline, deadline_explicit, call, .. } = mail.facts();
            let system = Some(mailbox.system.clone());
            let (actor, sender) = (Some(mailbox.id), SenderId::fresh());
            Frame {
                system,
                actor,
                sender,
                deadline,
                deadline_explicit,
                call,
                holds_actor: A::CONCURRENCY == 1,
                run: None,
            }
        };
        let running = FuturesUnordered::new();
        let mut running = pin!(running);
        let begin = |mail: Mail<A>| Framed { frame: frame(&mail), future: mail.handle_shared(state, ctx) };
        running.push(begin(first));
        let mut alone_is_next = false;
        while !running.is_empty() {
            while !alone_is_next && running.len() < A::CONCURRENCY && deferred.is_empty() {
                match batch.pop_front() {
                    None => break,
                    Some(mail) => match mail.facts() {
                        facts if facts.is_stale(clock::now()) => refuse_stale(mailbox, mail, &facts),
                        Facts { mode: Mode::Shared, .. } => running.push(begin(mail)),
                        _ => {
                            batch.push_front(mail);
                            alone_is_next = true;
                        }
                    },
                }
            }
            let hungry = batch.is_empty() && running.len() < A::CONCURRENCY && deferred.is_empty();
            let event = poll_fn(|cx| {
                if let Poll::Ready(Some(result)) = running.as_mut().poll_next_unpin(cx) {
                    return Poll::Ready(Event::Handled(result));
                }
                if hungry {
                    return mailbox
                        .lanes
                        .poll_take(cx, batch)
                        .map(|control| control.map_or(Event::Mail, Event::Control));
                }
                mailbox.lanes.poll_control(cx).map(Event::Control)
            })
            .await;
            match event {
                Event::Handled(Ok(())) | Event::Mail => {}
                Event::Handled(Err(panic)) => {
                    mailbox.system.counters().add(Count::Panics);
                    let reason = ExitReason::Panicked(panic);
                    ctx.set_ending(Some(reason.clone()));
                    return Err(Death::unasked(reason, false));
                }
                Event::Control(Control::Kill) => {
                    ctx.set_ending(Some(ExitReason::Killed));
                    return Err(Death::unasked(ExitReason::Killed, false));
                }
                Event::Control(Control::End { reason }) => {
                    ctx.set_ending(Some(reason.clone()));
                    return Err(Death { reason: Box::new(reason), in_order: false, asked: Some(Asked::End) });
                }
                Event::Control(control) => deferred.extend(mailbox.note_audience(control)),
            }
            alone_is_next |= ctx.stop_is_asked();
        }
        match ctx.take_stop() {
            Some(reason) => Err(Death::unasked(reason, true)),
            None => Ok(()),
        }
    }

    /// Acts on every control message that waits; the first that ends this incarnation ends the loop.
    fn obey_waiting(&mut self) -> Option<Death> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        loop {
            let control = match self.deferred.pop_front() {
                Some(control) => control,
                None if self.mailbox.lanes.has_control() => match self.mailbox.lanes.poll_control(&mut cx) {
                    Poll::Ready(control) => control,
                    Poll::Pending => return None,
                },
                None => return None,
            };
            if let Some(death) = self.obey(control) {
                return Some(death);
            }
        }
    }

    fn obey(&mut self, control: Control) -> Option<Death> {
        match self.mailbox.note_audience(control)? {
            Control::Stop { reason, park } => {
                let asked = Some(if park { Asked::Park } else { Asked::End });
                Some(Death { reason: Box::new(reason), in_order: true, asked })
            }
            Control::Leave => {
                self.is_leaving = true;
                None
            }
            Control::Kill => Some(Death::unasked(ExitReason::Killed, false)),
            Control::End { reason } => {
                Some(Death { reason: Box::new(reason), in_order: false, asked: Some(Asked::End) })
            }
            Control::LinkDown(down) => {
                let cause = Box::new(down.reason);
                (!cause.is_normal()).then(|| Death::unasked(ExitReason::Linked { peer: down.actor, cause }, true))
            }
            Control::Down(down) => {
                if let Some(mail_of) = self.mailbox.hooks.down.get() {
                    self.notices.push_back(mail_of(down));
                }
                None
            }
            Control::Adopt { child } => {
                self.ctx.children.borrow_mut().push(child);
                None
            }
            Control::Child(event) => self.note_child(event),
            Control::Start | Control::Watch { .. } | Control::Unwatch { .. } | Control::Link { .. } => None,
        }
    }

    fn note_child(&mut self, event: ChildEvent) -> Option<Death> {
        let over = matches!(event.what, ChildState::Ended(_) | ChildState::GaveUp(_));
        if over {
            self.ctx.children.borrow_mut().retain(|child| *child != event.child);
        }
        if let Some(mail_of) = self.mailbox.hooks.child.get() {
            self.notices.push_back(mail_of(event));
            return None;
        }
        match event.what {
            ChildState::GaveUp(cause) => {
                let reason = ExitReason::Escalated { child: event.child, cause: Box::new(cause) };
                Some(Death::unasked(reason, true))
            }
            _ => None,
        }
    }

    /// Ends the children in reverse order of their start: asks, and kills what does not listen.
    async fn end_children(&mut self) {
        self.adopt_waiting();
        let children: Vec<ActorId> = self.ctx.children.borrow_mut().drain(..).collect();
        for child in children.into_iter().rev() {
            let system = self.mailbox.system.clone();
            system.control(child, Control::Stop { reason: ExitReason::Shutdown, park: false });
            if tokio::time::timeout(STOP_TIMEOUT, self.child_ended(child)).await.is_err() {
                tracing::warn!(actor = %child, "did not stop within {STOP_TIMEOUT:?} and is killed");
                system.control(child, Control::Kill);
                tokio::time::timeout(STOP_TIMEOUT, self.child_ended(child)).await.ok();
            }
        }
    }

    /// Children that were spawned just now are still on their way through the control lane.
    fn adopt_waiting(&mut self) {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(control) = self.mailbox.lanes.poll_control(&mut cx) {
            self.deferred.extend(self.mailbox.note_audience(control));
        }
        let children = &mut *self.ctx.children.borrow_mut();
        self.deferred.retain(|control| match control {
            Control::Adopt { child } => {
                children.push(*child);
                false
            }
            _ => true,
        });
    }

    async fn child_ended(&mut self, child: ActorId) {
        if !self.mailbox.system.is_alive(child) {
            return;
        }
        loop {
            match poll_fn(|cx| self.mailbox.lanes.poll_control(cx)).await {
                Control::Child(ChildEvent { child: ended, what: ChildState::Ended(_) | ChildState::GaveUp(_) })
                    if ended == child =>
                {
                    return;
                }
                // Deaths of the other children are of no more interest; they are asked one after another.
                Control::Child(_) => {}
                other => self.deferred.extend(self.mailbox.note_audience(other)),
            }
        }
    }

    /// Decides, or lets the supervisor decide, what follows a death.
    async fn after(&mut self, death: Death) -> Next {
        let Death { reason, asked, .. } = death;
        let reason = *reason;
        if let Some(Control::End { reason }) = self.deferred.front() {
            return Next::End(reason.clone(), false);
        }
        if asked == Some(Asked::Leave) {
            return Next::Leave;
        }
        if !self.has_run || asked == Some(Asked::End) {
            return Next::End(reason, false);
        }
        let at = match &mut self.supervised {
            Supervised::ByItself(policy) => {
                let policy = || policy.as_deref().copied().unwrap_or_else(A::restart_policy);
                let restarts = self.restarts.get_or_insert_with(|| Box::new(Restarts::new(policy())));
                match restarts.decide(clock::now(), &reason) {
                    Verdict::Restart { at } => at,
                    Verdict::End => return Next::End(reason, false),
                    Verdict::GiveUp => return Next::End(reason, true),
                }
            }
            Supervised::ByParent => {
                self.mailbox.enter(ActorState::Restarting);
                self.mailbox.announce_death(&reason, false);
                self.mailbox.tell_parent(ChildState::Parked(reason.clone()));
                return Box::pin(self.verdict(reason, None)).await;
            }
        };
        self.mailbox.enter(ActorState::Restarting);
        self.mailbox.announce_death(&reason, false);
        Box::pin(self.verdict(reason, Some(at))).await
    }

    /// Waits for the moment of the restart, or for the supervisor's word.
    async fn verdict(&mut self, reason: ExitReason, at: Option<Time>) -> Next {
        let alarm = async {
            match at {
                Some(at) => tokio::time::sleep(at.since(clock::now())).await,
                None => future::pending().await,
            }
        };
        if at.is_some_and(|at| at <= clock::now()) && !self.mailbox.lanes.has_control() {
            return Next::Again;
        }
        let mut alarm = pin!(alarm);
        let mut kept = VecDeque::new();
        loop {
            let control = match self.deferred.pop_front() {
                Some(control) => control,
                None => {
                    let next = poll_fn(|cx| match self.mailbox.lanes.poll_control(cx) {
                        Poll::Ready(control) => Poll::Ready(Some(control)),
                        Poll::Pending => alarm.as_mut().poll(cx).map(|()| None),
                    });
                    match next.await {
                        Some(control) => control,
                        None => break,
                    }
                }
            };
            match self.mailbox.note_audience(control) {
                Some(Control::Start) => break,
                Some(Control::Stop { park: false, reason: asked }) => return Next::End(asked, false),
                Some(Control::Leave) => self.is_leaving = true,
                Some(Control::Kill) => return Next::End(reason, false),
                Some(Control::End { reason }) => return Next::End(reason, false),
                Some(Control::Stop { park: true, .. }) => self.mailbox.tell_parent(ChildState::Parked(reason.clone())),
                Some(Control::Adopt { child }) => {
                    self.mailbox.system.answer_for_the_dead(self.mailbox.id, &Control::Adopt { child })
                }
                Some(down @ Control::Down(_)) => kept.push_back(down),
                _ => {}
            }
        }
        self.deferred = kept;
        Next::Again
    }

    /// Gone from here: its home starts its next life elsewhere, and what comes for it goes there.
    fn leave(&mut self) {
        let Mailbox { id, system, name, lanes, .. } = &*self.mailbox;
        self.mailbox.enter(ActorState::Ended);
        system.forget(*id, None);
        // Mail there is none, and none can come.
        let (_, control) = lanes.close(ExitReason::Moved);
        for control in control.into_iter().chain(std::mem::take(&mut self.deferred)) {
            if let Some(control) = self.mailbox.note_audience(control) {
                system.control(*id, control);
            }
        }
        self.mailbox.announce_death(&ExitReason::Moved, false);
        if let Some(deliver) = system.deliver() {
            // Its next life claims the name where that begins.
            if let Some(name) = name {
                deliver.leave_name(name, *id);
            }
            deliver.guest_ended(*id, self.mailbox.incarnation(), &ExitReason::Moved);
        }
    }

    /// Gone for good: whoever waits is told, whoever asks is told.
    fn end(&mut self, reason: ExitReason, gave_up: bool) {
        self.mailbox.enter(ActorState::Ended);
        self.mailbox.system.forget(self.mailbox.id, self.mailbox.name.as_ref());
        let (user, control) = self.mailbox.lanes.close(reason.clone());
        let notices = std::mem::take(&mut self.notices);
        for mail in notices.into_iter().chain(std::mem::take(&mut self.batch)).chain(user) {
            let (actor, reason) = (self.mailbox.id, reason.clone());
            if mail.is_tell() {
                self.mailbox.system.dead_letter(actor, mail.message_name(), &reason);
            }
            mail.refuse(CallError::NotStarted(NotStarted::ActorEnded { actor, reason }));
        }
        for control in control.into_iter().chain(std::mem::take(&mut self.deferred)) {
            self.mailbox.system.answer_for_the_dead(self.mailbox.id, &control);
            self.mailbox.note_audience(control);
        }
        self.mailbox.announce_death(&reason, true);
        if self.mailbox.is_guest
            && let Some(deliver) = self.mailbox.system.deliver()
        {
            deliver.guest_ended(self.mailbox.id, self.mailbox.incarnation(), &reason);
        }
        if let Some(spawner) = self.spawner.take() {
            spawner.send(Err(SpawnError::StartFailed(reason.clone()))).ok();
        }
        self.mailbox.tell_parent(if gave_up { ChildState::GaveUp(reason) } else { ChildState::Ended(reason) });
    }
}

enum Event {
    Handled(Result<(), Panic>),
    Mail,
    Control(Control),
}

/// Runs `work` to its end unless a kill comes; every other control message waits in `deferred`.
///
/// No `async fn`: that would keep `work` twice, as it came and as it is used, in every actor alive.
fn until_killed<A: Actor, T>(
    ctx: &Context<A>,
    deferred: &mut VecDeque<Control>,
    mut work: impl Future<Output = T> + Unpin,
) -> impl Future<Output = Option<T>> {
    let mailbox = &ctx.mailbox;
    poll_fn(move |cx| {
        if let Poll::Ready(done) = work.poll_unpin(cx) {
            return Poll::Ready(Some(done));
        }
        while let Poll::Ready(control) = mailbox.lanes.poll_control(cx) {
            match mailbox.note_audience(control) {
                Some(Control::Kill) => {
                    // Said before `work` is dropped: its caller is told why.
                    ctx.set_ending(Some(ExitReason::Killed));
                    return Poll::Ready(None);
                }
                Some(Control::End { reason }) => {
                    ctx.set_ending(Some(reason.clone()));
                    // What follows the death is decided by it.
                    deferred.push_front(Control::End { reason });
                    return Poll::Ready(None);
                }
                other => deferred.extend(other),
            }
        }
        Poll::Pending
    })
}

/// A handler that is polled again when its caller goes away, so that what it awaits can see it; and dropped then, if it
/// said so.
struct Cancellable<'a> {
    handler: future::LocalBoxFuture<'a, Result<(), Panic>>,
    call: Option<Arc<dyn crate::slot::CallState>>,
    drops: bool,
}

impl Future for Cancellable<'_> {
    type Output = Result<(), Panic>;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(done) = self.handler.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        let cancelled = self.call.as_ref().is_some_and(|call| call.poll_cancelled(cx).is_ready());
        if cancelled {
            self.call = None;
            if self.drops {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }
}

/// How long an actor has had its thread.
struct Slice {
    began: Time,
    now: Time,
    handled: usize,
}

impl Slice {
    fn begin() -> Self {
        let now = clock::now();
        Self { began: now, now, handled: 0 }
    }

    fn refresh(&mut self) {
        self.now = clock::now();
    }

    fn is_over(&mut self) -> bool {
        self.handled += 1;
        if self.handled.is_multiple_of(CLOCK_EVERY) {
            self.refresh();
        }
        self.handled > BATCH_MAX || self.now - self.began > SLICE || was_reported()
    }
}

fn refuse_stale<A: Actor>(mailbox: &Mailbox<A>, mail: Mail<A>, facts: &Facts) {
    let stale: CallError =
        if facts.cancelled { CallError::Cancelled } else { CallError::DeadlineExceeded { given: None } };
    if mail.is_tell() {
        let reason = ExitReason::Failed(ErrorChain::message(&stale));
        mailbox.system.dead_letter(mailbox.id, mail.message_name(), &reason);
    }
    mail.refuse(stale);
}

async fn yield_now() {
    let yielded = StdCell::new(false);
    poll_fn(|cx| {
        if yielded.replace(true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
