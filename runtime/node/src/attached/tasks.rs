//! Functions that run elsewhere: drives [`mobula_logic::dispatch`] for all tasks of this process.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use mobula_actor::deliver::Payload;
use mobula_actor::{CallState, Count, clock};
use mobula_logic::dispatch::{Dispatch, Input, Key, Output, Shape};
use mobula_logic::task::{End, TaskSpec};
use mobula_types::{
    Attempt, CallError, Culprit, Death, DeathCause, LeaseId, NodeId, NotStarted, Outcome, PlacementSpec,
    PlacementStrategy, ProcessId, StateMachine, TaskId, Time, Unknown,
};
use mobula_wire::local::{RequestId, ToNode};
use mobula_wire::parcel::TaskSpecWire;
use mobula_wire::{ExchangeId, Parcel, Talk};
use parking_lot::Mutex;

use crate::encoded::{TaskFrame, TaskReply};
use crate::function::FunctionEntry;
use crate::retry::{self, Failed};

use super::exchanges::Waiting;
use super::large::ours;
use super::link::Wanted;
use super::process::Process;

/// The tasks that this process has sent elsewhere, or is about to.
#[derive(Default)]
pub(crate) struct Tasks {
    table: Mutex<Table>,
}

#[derive(Default)]
pub(super) struct Table {
    pub(super) dispatch: Dispatch,
    pub(super) entries: Entries,
    shapes: HashMap<(PlacementSpec, Option<Retired>), Shape>,
    specs: Vec<PlacementSpec>,
    /// The requests of the dispatch that are not answered, as the node knows them.
    pub(super) requests: HashMap<u64, RequestId>,
    /// Nodes where tasks were lost: others are preferred.
    avoid: Vec<NodeId>,
    /// The time for which a wake-up is under way.
    alarm: Option<Time>,
    /// How the node ended; no task has a place any more.
    over: Option<Death>,
}

/// By their keys, which are dense: the dispatch gives them out again. In boxes: a table that grows would hold the room of two
/// or three tasks for each.
#[derive(Default)]
pub(super) struct Entries(Vec<Option<Box<Entry>>>);

impl Entries {
    pub(super) fn get(&self, key: Key) -> Option<&Entry> {
        self.0.get(key)?.as_deref()
    }

    fn get_mut(&mut self, key: Key) -> Option<&mut Entry> {
        self.0.get_mut(key)?.as_deref_mut()
    }

    fn insert(&mut self, key: Key, entry: Entry) {
        if self.0.len() <= key {
            self.0.resize_with(key + 1, || None);
        }
        self.0[key] = Some(Box::new(entry));
    }

    fn remove(&mut self, key: Key) -> Option<Box<Entry>> {
        self.0.get_mut(key)?.take()
    }

    fn keys(&self) -> impl Iterator<Item = Key> {
        self.0.iter().enumerate().filter_map(|(key, entry)| entry.is_some().then_some(key))
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.0.iter_mut().filter_map(Option::as_deref_mut)
    }
}

pub(super) struct Entry {
    pub(super) id: TaskId,
    /// When it was submitted.
    pub(super) since: Time,
    frame: TaskFrame,
    reply: TaskReply,
    /// What came of the last run.
    last: Option<Result<Payload, Failed>>,
    exchange: Option<ExchangeId>,
}

/// After how many runs of which function, by its travelling name, its process ends.
type Retired = (u64, u32);

/// Nodes that are avoided at once.
const AVOIDED_MAX: usize = 4;

impl Tasks {
    /// Lets `look` see the table.
    pub(super) fn each(&self, look: impl FnOnce(&Table)) {
        look(&self.table.lock());
    }
}

impl Entry {
    /// What it is called.
    pub(super) fn name(&self) -> String {
        let of_function = || FunctionEntry::by_key(self.frame.function).map(|entry| entry.name().to_owned());
        self.frame.options.name.clone().or_else(of_function).unwrap_or_default()
    }

    /// What its last run came to, if to nothing.
    pub(super) fn cause(&self) -> Option<String> {
        self.last.as_ref().and_then(|last| last.as_ref().err()).map(|failed| failed.error.to_string())
    }
}

impl Process {
    /// Takes a task whose arguments are encoded. If it does not say where, it runs where most of their bytes are, else `near`,
    /// if there is room.
    pub(crate) fn submit_task(self: &Arc<Self>, frame: TaskFrame, reply: TaskReply, near: Option<NodeId>) {
        let Some(system) = self.system().filter(|_| !self.link.is_cut()) else {
            return reply.refuse(NotStarted::NoSession);
        };
        let mut place = match frame.options.place(frame.is_sync) {
            Ok(place) => place,
            Err(cause) => return reply.refuse(cause),
        };
        let near = self.most_bytes(&frame.pins).or(near);
        if let (Some(node), PlacementStrategy::Hybrid) = (near, place.strategy) {
            place.strategy = PlacementStrategy::Prefer { node };
        }
        let id = system.next_task_id();
        let call = reply.call.clone();
        call.is_task(id);
        let (mut taken, mut refused) = (None, None);
        self.change_tasks(|table| {
            if table.over.is_some() {
                refused = Some(reply);
                return None;
            }
            let retired = frame.options.max_calls.map(|calls| (frame.function, calls));
            let shape = table.shape(place, retired);
            let spec = TaskSpec {
                system_max: frame.options.max_retries,
                application_max: frame.options.error_retries.count,
                at_most_once: frame.options.at_most_once,
                deadline: frame.deadline,
                priority: frame.options.priority,
                seed: id.seq,
            };
            let now = clock::now();
            let key = table.dispatch.submit(now, id, shape, spec);
            let entry = Entry { id, since: now, frame, reply, last: None, exchange: None };
            table.entries.insert(key, entry);
            taken = Some(key);
            None
        });
        if let Some(reply) = refused {
            return reply.refuse(NotStarted::NoSession);
        }
        let Some(key) = taken else { return };
        let waker = Waker::from(Arc::new(GivenUp { process: self.clone(), key, id }));
        if let Poll::Ready(()) = call.poll_cancelled(&mut Context::from_waker(&waker)) {
            waker.wake();
        }
    }

    /// Gives the dispatch an input, and does what it says.
    pub(crate) fn drive_tasks(self: &Arc<Self>, input: Option<Input>) {
        self.change_tasks(|_| input);
    }

    /// Changes the table, gives the dispatch the input that comes of it, and does what it says: nothing comes in between.
    fn change_tasks(self: &Arc<Self>, change: impl FnOnce(&mut Table) -> Option<Input>) {
        let mut after = After::default();
        let over = {
            let mut table = self.tasks.table.lock();
            let input = change(&mut table);
            if let Some(Input::Granted { request, .. }) = &input {
                // There is nothing to be taken back any more.
                table.requests.remove(request);
            }
            if let Some(input) = input {
                table.dispatch.handle(clock::now(), input);
            }
            while let Some(output) = table.dispatch.poll_output() {
                self.perform_task(&mut table, output, &mut after);
            }
            self.set_alarm(&mut table);
            if after.resolved.is_empty() { None } else { table.over.clone() }
        };
        let After { resolved, own, asked_back } = after;
        for (entry, outcome) in resolved {
            match &over {
                Some(death) => entry.give_up(death),
                None => self.resolve_task(entry, outcome),
            }
        }
        own.into_iter().for_each(|parcel| self.received(parcel));
        for (process, exchanges) in asked_back {
            if process == self.me {
                self.hand_back(process, &exchanges);
            } else {
                self.say(process, Talk::AskBack { exchanges });
            }
        }
    }

    fn perform_task(self: &Arc<Self>, table: &mut Table, output: Output, after: &mut After) {
        match output {
            Output::AskLease { request, shape } => {
                let (spec, avoid) = (table.specs[shape].clone(), table.avoid.clone());
                let asked = self.link.ask(Wanted::Tasks(request), |request| ToNode::Lease {
                    request,
                    spec,
                    avoid,
                    lives_on: false,
                });
                table.requests.insert(request, asked);
            }
            Output::TakeBack { request } => {
                if let Some(request) = table.requests.remove(&request) {
                    self.link.answered(request);
                    self.link.tell(&ToNode::TakeBack { request });
                }
            }
            Output::ReturnLease { lease } => self.link.tell(&ToNode::Return { lease }),
            Output::Send { key, attempt, lease, process } => {
                self.send_task(table, key, attempt, (lease, process), after);
            }
            Output::CancelAttempt { key, process, .. } => {
                let exchange = table.entries.get_mut(key).and_then(|entry| entry.exchange.take());
                if let Some(exchange) = exchange
                    && self.exchanges.close(exchange, process).is_some()
                {
                    self.not_wanted(process, ours(exchange));
                    self.say(process, Talk::Cancel { exchange });
                }
            }
            Output::AskBack { key, process, .. } => {
                if let Some(exchange) = table.entries.get(key).and_then(|entry| entry.exchange) {
                    after.asked_back.entry(process).or_default().push(exchange);
                }
            }
            Output::Resolve { key, outcome, .. } => {
                if let Some(entry) = table.entries.remove(key) {
                    after.resolved.push((entry, outcome));
                }
            }
        }
    }

    fn send_task(
        self: &Arc<Self>,
        table: &mut Table,
        key: Key,
        attempt: Attempt,
        (lease, process): (LeaseId, ProcessId),
        after: &mut After,
    ) {
        let survives_loss = table.dispatch.survives_loss(key);
        let Some(entry) = table.entries.get_mut(key) else { return };
        let exchange = self.exchanges.open(process, Waiting::Task { key, attempt });
        entry.exchange = Some(exchange);
        let frame = &entry.frame;
        let options = TaskSpecWire {
            request: frame.options.request(frame.is_sync).unwrap_or_default(),
            name: frame.options.name.clone(),
            is_last_run: !survives_loss,
            wants_error: frame.options.wants_error,
            priority: frame.options.priority,
        };
        let refs = frame.pins.ids();
        // Held once more for each run: the first may be lost.
        let pins = frame.pins.clone();
        let talk = Talk::Task {
            exchange,
            task: entry.id,
            attempt,
            lease,
            function: frame.function,
            schema: frame.schema,
            options,
            left: frame.deadline.left(clock::now()),
            given: frame.given,
            object: entry.reply.object,
            is_apart: frame.is_apart,
            refs,
        };
        let parcel = Parcel { to: process, from: self.me, talk, payload: frame.args.clone() };
        if process == self.me {
            return after.own.push(self.naming(parcel, &pins));
        }
        if let Err(cause) = self.post(parcel, pins) {
            self.exchanges.close(exchange, process);
            retry::note(&mut entry.last, Err(CallError::NotStarted(cause).into()));
            table.dispatch.handle(clock::now(), Input::TurnedAway { key, attempt });
        }
    }

    /// Tells whoever waits for a task how it ended.
    fn resolve_task(self: &Arc<Self>, entry: Box<Entry>, outcome: Outcome) {
        let Entry { id, mut frame, reply, last, .. } = *entry;
        // Whoever hears of it may submit the next at once.
        drop(frame.room.take());
        let answer = retry::answer(outcome, last, frame.given);
        let answer = answer.unwrap_or_else(|| {
            let missing = "no place for it came".to_owned();
            Err(CallError::NotStarted(NotStarted::Unschedulable { missing }).into())
        });
        let stored = match (&answer, reply.object) {
            (Ok(Payload::Stored(stored)), Some(object)) if !reply.is_again => {
                Some(self.made_elsewhere(object, stored.clone(), id, frame))
            }
            _ => None,
        };
        (reply.answer)(answer);
        // Its node has heard of the object now.
        if let Some((word, pins)) = stored {
            self.note_of_object(word);
            // From here on the node holds what the bytes and the recipe name.
            drop(pins);
        }
    }

    /// What a run came to, as the process says where it ran.
    pub(crate) fn task_answered(self: &Arc<Self>, key: Key, attempt: Attempt, answer: Result<Payload, Failed>) {
        let end = match answer.as_ref().map_err(|failed| &failed.error) {
            Err(CallError::NotStarted(NotStarted::HandedBack)) => Input::HandedBack { key, attempt },
            Err(CallError::NotStarted(NotStarted::Drained)) => Input::Withdrawn { key, attempt },
            // What its process could not even begin is not better elsewhere: types, bytes, arguments.
            Err(CallError::NotStarted(NotStarted::NoSession | NotStarted::QueueFull { .. })) => {
                Input::TurnedAway { key, attempt }
            }
            _ => Input::Finished { key, attempt, end: self.end_of_run(key, &answer) },
        };
        let failed = matches!(end, Input::Finished { end: End::ApplicationError | End::Panicked, .. });
        let mut task = None;
        self.change_tasks(|table| {
            // Its process was taken for dead while this was on its way: whatever answers now is not its run.
            if table.dispatch.attempt(key) != Some(attempt) {
                return None;
            }
            if let Some(entry) = table.entries.get_mut(key) {
                retry::note(&mut entry.last, answer);
                entry.exchange = None;
                task = Some(entry.id).filter(|_| failed);
            }
            Some(end)
        });
        let runs_again = |id| self.tasks.table.lock().entries.get(key).is_some_and(|entry| entry.id == id);
        if let Some(system) = self.system().filter(|_| task.is_some_and(runs_again)) {
            system.counters().add(Count::ErrorRetries);
        }
    }

    /// Whether a run may be followed by another, as far as its submitter says. Its test is the user's code, and is called
    /// without the table.
    fn end_of_run(&self, key: Key, answer: &Result<Payload, Failed>) -> End {
        if answer.is_ok() {
            return End::Ok;
        }
        let options = self.tasks.table.lock().entries.get(key).map(|entry| entry.frame.options.clone());
        match (self.system(), options) {
            (Some(system), Some(options)) => retry::end(&system, &options.error_retries, answer),
            _ => End::Final,
        }
    }

    /// Processes have ended, and with them what ran there.
    pub(crate) fn tasks_died(self: &Arc<Self>, death: &Death, lost: &[(Key, Attempt)]) {
        let mut culprits: Vec<TaskId> = death
            .culprits
            .iter()
            .filter_map(|culprit| match culprit {
                Culprit::Task(task) => Some(*task),
                Culprit::Actor(_) | Culprit::Message(..) => None,
            })
            .collect();
        // A whole node's death accuses nobody in particular: it is a failure of the system for all that ran there.
        let is_told = !death.culprits.is_empty() || death.process.number() != 0;
        // Whose memory it was that was too much, if no task was on a thread, nobody can tell.
        let are_all_to_blame = culprits.is_empty() && matches!(death.cause, DeathCause::MemoryPressure { .. });
        self.change_tasks(|table| {
            if are_all_to_blame {
                culprits = lost.iter().filter_map(|(key, _)| Some(table.entries.get(*key)?.id)).collect();
            }
            for (key, attempt) in lost {
                let is_current = table.dispatch.attempt(*key) == Some(*attempt);
                if let Some(entry) = table.entries.get_mut(*key).filter(|_| is_current) {
                    let death = Box::new(death.clone());
                    entry.last = Some(Err(CallError::MayHaveRun(Unknown::ProcessDied { death }).into()));
                    entry.exchange = None;
                }
            }
            if death.process.number() == 0 {
                let node = death.process.node();
                table.avoid.retain(|avoided| *avoided != node);
                table.avoid.push(node);
                let surplus = table.avoid.len().saturating_sub(AVOIDED_MAX);
                table.avoid.drain(..surplus);
            }
            Some(Input::ProcessDied { process: death.process, culprits: is_told.then_some(culprits) })
        });
    }

    pub(crate) fn task_place_refused(self: &Arc<Self>, request: u64, missing: &str, for_ever: bool) {
        let mut table = self.tasks.table.lock();
        table.requests.remove(&request);
        if for_ever {
            for entry in table.entries.values_mut().filter(|entry| entry.exchange.is_none()) {
                let cause = NotStarted::Unschedulable { missing: missing.to_owned() };
                entry.last.get_or_insert(Err(CallError::NotStarted(cause).into()));
            }
        }
        drop(table);
        self.drive_tasks(Some(Input::NoPlace { request, for_ever }));
    }

    /// The node is gone, and with it every place: no task runs once more, and none is left without an outcome.
    pub(crate) fn tasks_over(self: &Arc<Self>, death: &Death) {
        let keys: Vec<Key> = {
            let mut table = self.tasks.table.lock();
            table.over = Some(death.clone());
            table.entries.keys().collect()
        };
        for key in keys {
            self.drive_tasks(Some(Input::Cancel { key }));
        }
    }

    fn set_alarm(self: &Arc<Self>, table: &mut Table) {
        let Some(at) = table.dispatch.next_timeout() else { return };
        if table.alarm.is_some_and(|alarm| alarm <= at) {
            return;
        }
        table.alarm = Some(at);
        let process = Arc::downgrade(self);
        mobula_actor::arbiters::runtime().spawn(async move {
            tokio::time::sleep(at.since(clock::now())).await;
            let Some(process) = process.upgrade() else { return };
            {
                let mut table = process.tasks.table.lock();
                if table.alarm == Some(at) {
                    table.alarm = None;
                }
            }
            process.drive_tasks(Some(Input::Tick));
        });
    }
}

/// What is done without the table.
#[derive(Default)]
struct After {
    /// Tasks that have ended.
    resolved: Vec<(Box<Entry>, Outcome)>,
    /// Runs whose place is this process.
    own: Vec<Parcel>,
    /// What is asked back, and of whom.
    asked_back: HashMap<ProcessId, Vec<ExchangeId>>,
}

impl Table {
    fn add(&mut self, place: PlacementSpec, retired: Option<Retired>) -> Shape {
        let shape = self.specs.len();
        self.specs.push(place.clone());
        self.shapes.insert((place, retired), shape);
        if let Some((_, calls)) = retired {
            self.dispatch.retire_after(shape, calls);
        }
        shape
    }

    fn shape(&mut self, place: PlacementSpec, retired: Option<Retired>) -> Shape {
        let asked = (place, retired);
        if let Some(shape) = self.shapes.get(&asked) {
            return *shape;
        }
        let (place, _) = asked;
        let alone = (PlacementSpec { isolated: true, ..place.clone() }, retired);
        let shape = self.add(place, retired);
        let known = self.shapes.get(&alone).copied();
        let alone = known.unwrap_or_else(|| self.add(alone.0, retired));
        // What has taken a process down with it runs again in one of its own (design.md §2).
        self.dispatch.keep_apart(shape, alone);
        shape
    }
}

impl Entry {
    /// Ends the task as what is known of its last run, since there is none after it.
    fn give_up(mut self, death: &Death) {
        self.frame.room = None;
        let answer = match self.last {
            _ if self.exchange.is_some() => {
                Err(CallError::MayHaveRun(Unknown::ProcessDied { death: Box::new(death.clone()) }).into())
            }
            Some(answer) => answer,
            None => Err(CallError::NotStarted(NotStarted::NoSession).into()),
        };
        (self.reply.answer)(answer);
    }
}

/// Gives a task up when its submitter does.
struct GivenUp {
    process: Arc<Process>,
    key: Key,
    id: TaskId,
}

impl Wake for GivenUp {
    fn wake(self: Arc<Self>) {
        let Self { process, key, id } = &*self;
        // Keys are given out again: it may be another task's by now.
        let is_forced = {
            let table = process.tasks.table.lock();
            let entry = table.entries.get(*key).filter(|entry| entry.id == *id);
            entry.map(|entry| entry.reply.call.is_forced())
        };
        match is_forced {
            Some(true) => process.drive_tasks(Some(Input::Force { key: *key })),
            Some(false) => process.drive_tasks(Some(Input::Cancel { key: *key })),
            None => {}
        }
    }
}
