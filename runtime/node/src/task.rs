//! One task from submission to its one outcome.
//!
//! ```text
//! submit ─► resolving ─► queued ─► running ─► over
//!               └───────────┴─────────┴── cancelled, deadline passed, refused ──► over
//! ```
//!
//! Whoever comes first takes the [`Sink`] out of the task and fills it: that is the outcome, and there is no second. A
//! function that is not async goes on after its caller has given up and keeps its resources until it returns; its value
//! is dropped.

mod on_arbiter;

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use mobula_actor::current::{self, Frame, SenderId};
use mobula_actor::object::{Cancellable, GetError};
use mobula_actor::patrol::{Ticket, patrol};
use mobula_actor::{Arg, CallState, Count, Departing, ObjectRef, Placement, System, arbiters, clock, describe_panic};
use mobula_types::{Attempt, CallError, Deadline, NotCancellable, NotStarted, Outcome, TaskId, Unknown};
use parking_lot::Mutex;

use crate::admission::Room;
use crate::compute::{Job, Permit};
use crate::encoded::{self, TaskReply};
use crate::function::{Body, RemoteFn, Returned};
use crate::host::{Host, Plan};
use crate::linked::Returnable;
use crate::options::TaskOptions;
use crate::retry::Failed;
use crate::running;

/// Runs a remote function: gives a reference to its result at once.
///
/// Whatever happens, the reference gets a value or the reason why there is none.
#[track_caller]
pub fn submit<F: RemoteFn>(options: &TaskOptions, args: Arg<F::Args>) -> ObjectRef<F::Reply> {
    let Some((system, host)) = Host::here() else {
        let object = ObjectRef::pending(System::absent(), None);
        object.fill(Err(CallError::NotStarted(NotStarted::NoSession)));
        return object;
    };
    let inherited = Inherited::now(options.timeout);
    system.counters().add_submitted();
    if host.goes_away(options) {
        return encoded::submit::<F>(&system, &host, options, inherited, args);
    }
    let room = host.door().submit(&system, options.when_full, &inherited, size_of::<Task<F>>());
    let task = Task::<F>::new(&system, inherited, options, None, None);
    let object = ObjectRef::pending(&system, Some(task.clone() as Arc<dyn Cancellable>));
    task.stage.lock().sink = Some(Sink::Object(object.clone()));
    task.start(&host, options, room, args);
    object
}

/// What a task inherits of the code that submits it.
#[derive(Clone)]
pub(crate) struct Inherited {
    /// The task's own deadline or an explicit one of its submitter (G3), whichever is earlier.
    pub(crate) deadline: Deadline,
    /// What was given, for the error.
    pub(crate) given: Option<Duration>,
    /// The call inside which it is submitted: cancelled with it.
    pub(crate) parent: Option<Arc<dyn CallState>>,
}

impl Inherited {
    pub(crate) fn now(timeout: Option<Duration>) -> Self {
        let (inherited, parent) = current::with(|frame| {
            let deadline = if frame.deadline_explicit { frame.deadline } else { Deadline::NEVER };
            (deadline, frame.call.clone())
        });
        let own = timeout.map_or(Deadline::NEVER, |timeout| Deadline::at(clock::now() + timeout));
        let deadline = own.earlier(inherited);
        let given = match timeout {
            Some(timeout) if own <= inherited => Some(timeout),
            _ if deadline.is_set() => deadline.left(clock::now()),
            _ => None,
        };
        Self { deadline, given, parent }
    }
}

/// Where the outcome goes.
pub(crate) enum Sink<T: Send + Sync + 'static> {
    /// A reference of this process, counted here.
    Object(ObjectRef<T>),
    /// A submitter on the other side of the codec, who counts it there.
    Encoded(TaskReply),
}

/// A task, shared by the queue, its reference and its clock.
pub(crate) struct Task<F: RemoteFn> {
    system: Arc<System>,
    inherited: Inherited,
    /// What its submitter calls it.
    name: Option<Box<str>>,
    /// Its id over all its runs and which of them this is, where it came from elsewhere.
    run: Option<(TaskId, Attempt)>,
    /// Whether it runs again elsewhere if it is lost here.
    may_run_again: bool,
    /// Whether its submitter wants to see an error of its own as it is.
    wants_error: bool,
    /// Set when the caller has given up, by itself or by its deadline.
    given_up: AtomicBool,
    stage: Mutex<Stage<F>>,
}

struct Stage<F: RemoteFn> {
    /// There until the task begins.
    args: Option<(F::Args, Room)>,
    /// Its function has been called, or is about to be.
    has_begun: bool,
    /// There until the task is over.
    sink: Option<Sink<F::Reply>>,
    /// Who is told when the caller gives up.
    waiting: Vec<Waker>,
    /// Its place with the patrol, which ends it when its deadline passes or its parent is cancelled.
    ticket: Option<Ticket>,
}

impl<F: RemoteFn> Task<F> {
    pub(crate) fn new(
        system: &Arc<System>,
        inherited: Inherited,
        options: &TaskOptions,
        sink: Option<Sink<F::Reply>>,
        run: Option<(TaskId, Attempt)>,
    ) -> Arc<Self> {
        let stage = Stage { args: None, has_begun: false, sink, waiting: Vec::new(), ticket: None };
        Arc::new(Self {
            system: system.clone(),
            inherited,
            name: options.name.as_deref().map(Box::from),
            run,
            may_run_again: options.max_retries > 0,
            wants_error: options.wants_error,
            given_up: AtomicBool::new(false),
            stage: Mutex::new(stage),
        })
    }

    /// Has the patrol look after a deadline or a parent, if there is one.
    fn watch(self: &Arc<Self>) {
        let Inherited { deadline, parent, .. } = &self.inherited;
        if deadline.is_set() || parent.is_some() {
            let ticket = patrol().enter(deadline.time(), Waker::from(self.clone()), parent.clone());
            let is_over = {
                let mut stage = self.stage.lock();
                let is_over = stage.sink.is_none();
                if !is_over {
                    stage.ticket = Some(ticket);
                }
                is_over
            };
            if is_over {
                // The patrol was quicker than we.
                patrol().leave(ticket);
            } else if self.is_given_up() {
                // Cancelled before the patrol knew of us: it looks again only at the next cancellation.
                self.look();
            }
        }
    }

    /// Takes the task on its way, if it has room in the queue.
    pub(crate) fn start(
        self: &Arc<Self>,
        host: &Arc<Host>,
        options: &TaskOptions,
        room: Result<Room, CallError>,
        args: Arg<F::Args>,
    ) {
        let room = match room {
            Ok(room) => room,
            Err(error) => return self.finish(Err(error.widen())),
        };
        let plan = match host.plan(options, matches!(F::BODY, Body::Sync(_))) {
            Ok(plan) => plan,
            Err(cause) => {
                drop(room);
                self.system.counters().add(Count::Refused);
                return self.finish(Err(CallError::NotStarted(cause)));
            }
        };
        self.watch();
        match (F::BODY, args) {
            (Body::Sync(_), Arg::Value(args)) => self.enqueue(host, plan, room, args),
            (Body::Sync(_), later) => {
                let (task, host) = (self.clone(), host.clone());
                // Not on the submitter's thread: taking a value out of its reference may copy a gigabyte.
                arbiters::runtime().spawn(async move {
                    let args = tokio::select! {
                        args = host.resolved(&plan, later) => args,
                        () = task.given_up() => return,
                    };
                    match args {
                        Ok(args) => task.enqueue(&host, plan, room, args),
                        Err(cause) => task.refuse(cause),
                    }
                });
            }
            (Body::Async(body), args) => {
                let (owed, host) = (on_arbiter::Owed(self.clone()), host.clone());
                // Not placed, the job is dropped, and what it owes with it.
                self.system.run_on_arbiter(Placement::Spread, move || {
                    actix_rt::spawn(on_arbiter::run(owed, host, plan, room, body, args));
                });
            }
        }
    }

    /// The arguments are here: waits for a thread.
    fn enqueue(self: &Arc<Self>, host: &Host, plan: Plan, room: Room, args: F::Args) {
        {
            let mut stage = self.stage.lock();
            if stage.sink.is_none() {
                drop(stage);
                return drop_quietly(args);
            }
            stage.args = Some((args, room));
        }
        host.push(self.clone(), plan);
    }

    /// Ends the task with `outcome` unless it is over.
    pub(crate) fn finish(&self, outcome: Result<F::Reply, GetError>) {
        self.end(outcome.map_err(Failed::from), false);
    }

    /// Ends the task as its function has ended.
    fn finish_run(&self, result: std::thread::Result<Returned<F>>) {
        self.end(self.outcome(result), false);
    }

    fn end(&self, outcome: Result<F::Reply, Failed>, given_up: bool) -> bool {
        self.end_if(|_| true, outcome, given_up)
    }

    fn outcome(&self, result: std::thread::Result<Returned<F>>) -> Result<F::Reply, Failed> {
        let error = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(panic) => return Err(CallError::Panicked(describe_panic(panic)).into()),
        };
        let said = catch_unwind(AssertUnwindSafe(|| {
            let max = self.system.value_bytes_max();
            let own = if self.wants_error { F::encode_error(&error, max) } else { None };
            Failed { own: own.map(|own| Box::new(own.into())), error: CallError::Returned(F::chain(error)) }
        }));
        Err(said.unwrap_or_else(|panic| CallError::Panicked(describe_panic(panic)).into()))
    }

    /// Ends the task unless it is over, if it `may` end so: nothing comes in between.
    fn end_if(&self, may: impl FnOnce(&Stage<F>) -> bool, outcome: Result<F::Reply, Failed>, given_up: bool) -> bool {
        let (sink, args, waiting, ticket) = {
            let mut stage = self.stage.lock();
            let Some(sink) = may(&stage).then(|| stage.sink.take()).flatten() else {
                drop(stage);
                drop_quietly(outcome);
                return false;
            };
            // Said together with the outcome: a function that sees it cannot bring another one.
            self.given_up.store(given_up, Ordering::Release);
            (sink, stage.args.take(), std::mem::take(&mut stage.waiting), stage.ticket.take())
        };
        if let Some(ticket) = ticket {
            patrol().leave(ticket);
        }
        waiting.into_iter().for_each(Waker::wake);
        drop_quietly(args);
        match sink {
            Sink::Object(object) => {
                let outcome = outcome.map_err(|failed| failed.error);
                self.system.counters().add_outcome(outcome.as_ref().map_or_else(CallError::outcome, |_| Outcome::Ok));
                object.fill(outcome);
            }
            Sink::Encoded(reply) => reply.send(outcome),
        }
        true
    }

    /// Ends the task when its deadline has passed or its caller has given up.
    fn look(&self) {
        if self.is_given_up() {
            self.give_up(CallError::Cancelled);
        } else if self.inherited.deadline.is_set() && self.inherited.deadline.has_passed(clock::now()) {
            self.give_up(CallError::DeadlineExceeded { given: self.inherited.given });
        }
    }

    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire) || self.inherited.parent.as_ref().is_some_and(|call| call.is_cancelled())
    }

    /// Ends the task for its caller; what runs of it sees that.
    fn give_up(&self, error: GetError) {
        if self.end(Err(error.into()), true) {
            patrol().call_cancelled();
        }
    }

    /// Notes that its function is about to be called; false when it is over already.
    fn begin(&self) -> bool {
        let mut stage = self.stage.lock();
        stage.has_begun = stage.sink.is_some();
        stage.has_begun
    }

    async fn given_up(&self) {
        poll_fn(|cx| self.poll_cancelled(cx)).await;
    }

    /// What its node knows of this run, where it came from elsewhere.
    fn known(&self) -> Option<running::Known> {
        self.run.map(|(task, _)| running::Known { task, may_run_again: self.may_run_again })
    }

    /// What runs inside belongs to the task.
    fn frame(self: &Arc<Self>) -> Frame {
        Frame {
            system: Some(self.system.clone()),
            actor: None,
            sender: SenderId::fresh(),
            deadline: self.inherited.deadline,
            deadline_explicit: self.inherited.deadline.is_set(),
            call: Some(self.clone() as Arc<dyn CallState>),
            holds_actor: false,
            run: self.run,
        }
    }
}

/// Functions that are not async run on a thread of the pool.
impl<F: RemoteFn> Job for Task<F> {
    fn run(self: Arc<Self>, permit: Permit) {
        let Some((args, room)) = self.stage.lock().args.take() else { return };
        drop(room);
        self.look();
        let Body::Sync(body) = F::BODY else { return };
        if !self.begin() {
            return drop_quietly(args);
        }
        let mut frame = self.frame();
        let body = || frame.enter(|| catch_unwind(AssertUnwindSafe(|| body(args))));
        let result = running::task(self.known(), body);
        drop(permit);
        self.finish_run(result);
    }

    fn is_elsewhere(&self) -> bool {
        false
    }

    fn is_over(&self) -> bool {
        self.stage.lock().sink.is_none()
    }

    fn is_sent(&self) -> bool {
        self.run.is_some()
    }

    fn refuse(self: Arc<Self>, cause: NotStarted) {
        self.finish(Err(CallError::NotStarted(cause)));
    }

    fn abandon(&self, why: Unknown) {
        self.give_up(CallError::MayHaveRun(why));
    }

    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(F::NAME)
    }
}

/// Waits for arguments that are references. Taking a value out of its reference may copy it, and that may panic.
pub(crate) async fn resolved<T: Send + 'static>(args: Arg<T>) -> Result<T, NotStarted> {
    arguments(args.resolve()).await
}

/// Waits until arguments can leave the process.
pub(crate) async fn departing<T: Send + 'static>(args: Arg<T>) -> Result<Departing<T>, NotStarted> {
    arguments(args.depart()).await
}

async fn arguments<T>(come: impl Future<Output = Result<T, GetError>>) -> Result<T, NotStarted> {
    let args = match AssertUnwindSafe(come).catch_unwind().await {
        Ok(args) => args,
        Err(panic) => Err(CallError::Panicked(describe_panic(panic))),
    };
    args.map_err(|cause| NotStarted::Argument { cause: Box::new(cause) })
}

/// Drops the user's value, whose `Drop` may panic; there is nobody left to tell but the panic hook, which has.
pub(crate) fn drop_quietly<T>(value: T) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        describe_panic(panic);
    }
}

impl<F: RemoteFn> CallState for Task<F> {
    fn is_cancelled(&self) -> bool {
        self.is_given_up()
    }

    fn poll_cancelled(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut stage = self.stage.lock();
        if stage.sink.is_none() || self.is_given_up() {
            return Poll::Ready(());
        }
        if !stage.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            stage.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl<F: RemoteFn> Returnable for Task<F> {
    fn hand_back(&self) {
        self.end_if(|stage| !stage.has_begun, Err(CallError::NotStarted(NotStarted::HandedBack).into()), false);
    }
}

impl<F: RemoteFn> Cancellable for Task<F> {
    fn cancel(&self) {
        self.give_up(CallError::Cancelled);
    }

    fn cancel_forced(&self) -> Result<(), NotCancellable> {
        Err(NotCancellable::NotIsolated)
    }
}

/// Woken by the patrol.
impl<F: RemoteFn> Wake for Task<F> {
    fn wake(self: Arc<Self>) {
        self.look();
    }
}

impl<F: RemoteFn> Drop for Task<F> {
    fn drop(&mut self) {
        self.finish(Err(CallError::MayHaveRun(Unknown::NoReply)));
    }
}
