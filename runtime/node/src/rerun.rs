//! Tasks that run again after errors of their own, where no cluster runs them: drives [`mobula_logic::task`], one machine
//! for each. On a cluster they are tasks like others (`attached::tasks`).
//!
//! ```text
//! came ─► runs ─── a value, or an error that ends it ──► answered
//!          ▲ └──── an error, and a run is left ─► waits
//!          └───────── due ────────────────────────┘ └── cancelled, deadline passed, the session ends ──► answered
//! ```
//!
//! Its arguments are kept as bytes and read anew for each run. While it waits for its next run it has a place in the session's
//! queue, as it has while a run waits for a thread; where none is left, it ends as its last run did.

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use mobula_actor::deliver::Payload;
use mobula_actor::{CallState, Count, System, arbiters, clock};
use mobula_logic::task::{End, Input, Output, Task, TaskSpec};
use mobula_types::{Attempt, CallError, NotStarted, Outcome, StateMachine, TaskId};
use parking_lot::Mutex;

use crate::admission::Room;
use crate::encoded::{TaskFrame, TaskReply};
use crate::host::{Host, Road};
use crate::linked::Linked;
use crate::retry::{self, Failed};

/// The tasks of one session that may run again.
pub(crate) struct Reruns {
    /// The program's own system, which submits them.
    system: Weak<System>,
    /// To where they run.
    road: Road,
    open: Mutex<HashMap<TaskId, Arc<Rerun>>>,
    /// The session ends: nothing runs again.
    is_over: AtomicBool,
}

/// One task.
struct Rerun {
    all: Arc<Reruns>,
    id: TaskId,
    frame: TaskFrame,
    call: Arc<Linked>,
    value_bytes_max: usize,
    state: Mutex<State>,
}

struct State {
    machine: Task,
    /// There until it is answered.
    answer: Option<Answer>,
    /// What came of the last run.
    last: Option<Result<Payload, Failed>>,
    /// Neither runs nor is about to: it waits for its next run.
    waits: bool,
    /// Its place in the queue, while it waits; the run that follows takes it over.
    room: Option<Room>,
}

type Answer = Box<dyn FnOnce(Result<Payload, Failed>) + Send>;

impl Reruns {
    pub(crate) fn new(system: &Arc<System>, road: Road) -> Arc<Self> {
        let (open, is_over) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { system: Arc::downgrade(system), road, open, is_over })
    }

    /// Takes a task on its way; one that does not run again just passes.
    pub(crate) fn take(self: &Arc<Self>, mut frame: TaskFrame, reply: TaskReply) {
        if frame.options.error_retries.count == 0 {
            return (self.road)(frame, reply);
        }
        let Some(system) = self.system.upgrade() else { return reply.refuse(NotStarted::NoSession) };
        let id = system.next_task_id();
        // No system fails here: what is turned away is told so.
        let spec = TaskSpec {
            system_max: 0,
            application_max: frame.options.error_retries.count,
            at_most_once: frame.options.at_most_once,
            deadline: frame.deadline,
            priority: frame.options.priority,
            seed: id.seq,
        };
        let TaskReply { answer, call, value_bytes_max, .. } = reply;
        let (machine, room) = (Task::new(spec), frame.room.take());
        let state = State { machine, answer: Some(answer), last: None, waits: false, room };
        let (all, state) = (self.clone(), Mutex::new(state));
        let task = Arc::new(Rerun { all, id, frame, call: call.clone(), value_bytes_max, state });
        self.open.lock().insert(id, task.clone());
        task.drive(Input::Ready);
        let waker = Waker::from(Arc::new(GivenUp(Arc::downgrade(&task))));
        if let Poll::Ready(()) = call.poll_cancelled(&mut Context::from_waker(&waker)) {
            waker.wake();
        }
    }

    /// The session ends: what waits for its next run ends as its last one did, and what runs does not run again.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        let open: Vec<Arc<Rerun>> = self.open.lock().values().cloned().collect();
        open.iter().for_each(|task| task.give_up_waiting());
    }
}

impl Rerun {
    fn drive(self: &Arc<Self>, input: Input) {
        self.change(|_| Some(input));
    }

    /// Changes the state, gives the machine the input that comes of it, and does what it says.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut State) -> Option<Input>) {
        let (mut run, mut resolved, mut due, mut room) = (None, None, None, None);
        {
            let mut state = self.state.lock();
            if state.answer.is_none() {
                // It was given up: its machine is not asked any more.
                return;
            }
            let Some(input) = change(&mut state) else { return };
            state.machine.handle(clock::now(), input);
            while let Some(output) = state.machine.poll_output() {
                match output {
                    Output::Run { attempt } => run = Some(attempt),
                    // It sees that by itself: its call is the task's own, and so is its deadline.
                    Output::CancelAttempt { .. } => {}
                    Output::Resolve { outcome, .. } => resolved = Some(outcome),
                }
            }
            if run.is_some() || resolved.is_some() {
                state.waits = false;
                room = state.room.take();
            } else if state.machine.outcome().is_none() && (state.waits || matches!(input, Input::Finished { .. })) {
                state.waits = true;
                due = state.machine.next_timeout();
            }
        }
        if let Some(outcome) = resolved {
            return self.resolve(outcome);
        }
        if let Some(attempt) = run {
            self.run(attempt, room);
        }
        if let Some(due) = due {
            let task = self.clone();
            arbiters::runtime().spawn(async move {
                tokio::time::sleep(due.since(clock::now())).await;
                task.drive(Input::Tick);
            });
            // It may have begun to wait while the others were given up.
            if !self.find_room() || self.all.is_over.load(Ordering::SeqCst) {
                self.give_up_waiting();
            }
        }
    }

    /// Takes a place in the queue, if it has none.
    fn find_room(&self) -> bool {
        let Some(system) = self.all.system.upgrade() else { return false };
        let Some(host) = Host::of(&system) else { return false };
        let mut state = self.state.lock();
        if state.waits && state.room.is_none() {
            state.room = host.admit(size_of::<Self>() + self.frame.args.len()).ok();
            if state.room.is_none() {
                system.counters().add(Count::Refused);
                return false;
            }
        }
        true
    }

    fn run(self: &Arc<Self>, attempt: Attempt, room: Option<Room>) {
        if let Some(system) = self.all.system.upgrade().filter(|_| attempt != Attempt::FIRST) {
            system.counters().add(Count::ErrorRetries);
        }
        let TaskFrame { function, schema, options, is_sync, deadline, given, args, is_apart, pins, .. } = &self.frame;
        let frame = TaskFrame {
            run: Some((self.id, attempt)),
            function: *function,
            schema: *schema,
            options: options.clone(),
            is_sync: *is_sync,
            deadline: *deadline,
            given: *given,
            args: args.clone(),
            is_apart: *is_apart,
            pins: pins.clone(),
            room,
        };
        let task = self.clone();
        let answer = Box::new(move |answer| task.answered(attempt, answer));
        let reply = TaskReply {
            answer,
            call: self.call.clone(),
            value_bytes_max: self.value_bytes_max,
            object: None,
            is_again: false,
        };
        (self.all.road)(frame, reply);
    }

    fn answered(self: &Arc<Self>, attempt: Attempt, answer: Result<Payload, Failed>) {
        let system = self.all.system.upgrade().filter(|_| !self.all.is_over.load(Ordering::SeqCst));
        let end = match system {
            Some(system) => retry::end(&system, &self.frame.options.error_retries, &answer),
            None if answer.is_ok() => End::Ok,
            None => End::Final,
        };
        self.change(|state| {
            // TASK-3: what another run says is not heard.
            if state.machine.attempt() != Some(attempt) {
                return None;
            }
            retry::note(&mut state.last, answer);
            Some(Input::Finished { attempt, end })
        });
    }

    fn give_up_waiting(self: &Arc<Self>) {
        if mem::take(&mut self.state.lock().waits) {
            self.tell(|_, last| Some(last.unwrap_or(Err(CallError::NotStarted(NotStarted::NoSession).into()))));
        }
    }

    fn resolve(&self, outcome: Outcome) {
        self.tell(|given, last| retry::answer(outcome, last, given));
    }

    fn tell(
        &self,
        say: impl FnOnce(Option<Duration>, Option<Result<Payload, Failed>>) -> Option<Result<Payload, Failed>>,
    ) {
        self.all.open.lock().remove(&self.id);
        let (answer, last) = {
            let mut state = self.state.lock();
            state.room = None;
            (state.answer.take(), state.last.take())
        };
        if let Some(answer) = answer {
            let said = say(self.frame.given, last);
            answer(said.unwrap_or_else(|| Err(CallError::NotStarted(NotStarted::NoSession).into())));
        }
    }
}

/// Gives a task up when its submitter does.
struct GivenUp(Weak<Rerun>);

impl Wake for GivenUp {
    fn wake(self: Arc<Self>) {
        if let Some(task) = self.0.upgrade() {
            task.drive(Input::Cancel);
        }
    }
}
