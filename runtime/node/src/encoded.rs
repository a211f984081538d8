//! Tasks through the codec: arguments to bytes, the function found by name and schema hash, the result back to a value.
//!
//! Where a frame goes is the host's [`Road`]: to another system of this process, or to another process.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use mobula_actor::current::within;
use mobula_actor::deliver::{Fetched, Payload};
use mobula_actor::object::{Cancellable, GetError, Pins, pinning};
use mobula_actor::{
    Arg, Arguments, CallState, Count, Departing, ObjectRef, Party, System, arbiters, arrive, clock, registry, stream,
};
use mobula_types::{Attempt, CallError, Deadline, NotCancellable, NotStarted, ObjectId, Outcome, TaskId, Unknown};
use mobula_wire::{INLINE_BYTES_MAX, name_hash, plain};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admission::{Room, WhenFull};
use crate::function::{Body, FunctionEntry, Known, RemoteFn, RemoteStream};
use crate::host::{Host, Road};
use crate::linked::{Linked, Returnable};
use crate::options::TaskOptions;
use crate::retry::Failed;
use crate::stream::Owed;
use crate::task::{Inherited, Sink, Task, departing, drop_quietly};

/// A task on its way to where it runs.
pub(crate) struct TaskFrame {
    /// Its id over all its runs and which of them this is, once it has one.
    pub(crate) run: Option<(TaskId, Attempt)>,
    /// The function's registered name, as it travels.
    pub(crate) function: u64,
    /// The hash of the types it takes and gives.
    pub(crate) schema: u64,
    pub(crate) options: Arc<TaskOptions>,
    /// Whether it takes a CPU unless it says otherwise.
    pub(crate) is_sync: bool,
    /// When its outcome is of no use any more, and how that was given.
    pub(crate) deadline: Deadline,
    pub(crate) given: Option<Duration>,
    pub(crate) args: Bytes,
    /// The arguments come one by one, and some of them as references.
    pub(crate) is_apart: bool,
    /// References in the arguments, held until it has arrived.
    pub(crate) pins: Pins,
    /// Its room in the queue of its submitter, until it has its outcome or begins.
    pub(crate) room: Option<Room>,
}

/// Where the answer to a task goes, encoded.
pub(crate) struct TaskReply {
    pub(crate) answer: Box<dyn FnOnce(Result<Payload, Failed>) + Send>,
    /// Lets the task see that its submitter has given up.
    pub(crate) call: Arc<Linked>,
    /// The bytes that the answer may have.
    pub(crate) value_bytes_max: usize,
    /// The object that its value is to be.
    pub(crate) object: Option<ObjectId>,
    /// It was made before, and is made again: the node knows how, and whoever runs the task tells it where.
    pub(crate) is_again: bool,
}

impl TaskReply {
    pub(crate) fn send<T: Serialize + 'static>(self, outcome: Result<T, Failed>) {
        (self.answer)(outcome.and_then(|value| {
            let (bytes, pins) = pinning(|| plain::encode(&value, self.value_bytes_max));
            drop_quietly(value);
            match bytes {
                Ok(bytes) => Ok(Payload::Value(bytes.into(), pins)),
                Err(error) => Err(CallError::MayHaveRun(error.into()).into()),
            }
        }));
    }

    pub(crate) fn refuse(self, cause: NotStarted) {
        (self.answer)(Err(CallError::NotStarted(cause).into()));
    }
}

/// The way to another system of this process.
pub(crate) fn beside(worker: &Arc<System>) -> Road {
    let worker = Arc::downgrade(worker);
    Box::new(move |frame, reply| match worker.upgrade() {
        Some(worker) => receive(&worker, frame, reply),
        None => reply.refuse(NotStarted::NoSession),
    })
}

/// Encodes a task and sends it on the host's road.
#[track_caller]
pub(crate) fn submit<F: RemoteFn>(
    system: &Arc<System>,
    host: &Arc<Host>,
    options: &TaskOptions,
    inherited: Inherited,
    args: Arg<F::Args>,
) -> ObjectRef<F::Reply> {
    let room = host.door().submit(system, options.when_full, &inherited, size_of::<F::Args>());
    let Inherited { deadline, given, parent } = inherited;
    let call = Linked::to(parent);
    let is_alone = options.is_isolated() && host.seat.get().is_some();
    let owing = Arc::new(Owing { object: Mutex::new(None), call: call.clone(), system: system.clone(), is_alone });
    let object = ObjectRef::pending_bytes(system, Some(owing.clone() as Arc<dyn Cancellable>));
    *owing.object.lock() = Some(object.clone());
    let id = object.id();
    let owed = OwedValue(owing);
    let room = match room {
        Ok(room) => room,
        Err(error) => {
            owed.0.settle(Err(error.widen()));
            return object;
        }
    };
    let options = options.clone();
    let waiting = call.clone();
    let gone = async move { waiting.cancelled().await };
    let max = system.value_bytes_max();
    resolve((system, host, room), args, options.when_full, (deadline, given), gone, move |args| {
        let is_sync = matches!(F::BODY, Body::Sync(_));
        let framed = args.and_then(|args| {
            frame(&owed.0.system, (F::NAME, is_sync), options, (deadline, given), args).map_err(CallError::NotStarted)
        });
        let frame = match framed {
            Ok(frame) => frame,
            Err(error) => {
                owed.0.settle(Err(error.widen()));
                return None;
            }
        };
        let answer = move |answer: Result<Payload, Failed>| {
            let answer = match answer {
                // It is read where it lies, if nobody wants more of it.
                Ok(Payload::Value(bytes, pins)) if is_long_array::<F::Reply>(&bytes) => {
                    return owed.0.settle_bytes(Fetched { bytes, pins });
                }
                Ok(Payload::Stored(_)) => return owed.0.settle_stored(),
                answer => answer.map_err(|failed| failed.error),
            };
            owed.0.settle(answer.and_then(|payload| match payload {
                Payload::Value(bytes, _pins) => within(&owed.0.system, || plain::decode(&bytes)).map_err(unreadable),
                Payload::Stream(_) | Payload::Stored(_) => Err(CallError::MayHaveRun(Unknown::NoReply)),
            }));
        };
        Some((
            frame,
            TaskReply { answer: Box::new(answer), call, value_bytes_max: max, object: Some(id), is_again: false },
        ))
    });
    object
}

/// Encodes a task that streams and sends it on the host's road.
pub(crate) fn submit_stream<F: RemoteStream>(
    system: &Arc<System>,
    host: &Arc<Host>,
    options: &TaskOptions,
    call: Arc<Linked>,
    owed: Owed<F::Item>,
    args: Arg<F::Args>,
) {
    let inherited = Inherited { deadline: Deadline::NEVER, given: None, parent: Some(call.clone()) };
    let room = match host.door().submit(system, options.when_full, &inherited, size_of::<F::Args>()) {
        Ok(room) => room,
        Err(error) => return owed.fail(error),
    };
    let (options, home, waiting) = (options.clone(), system.clone(), call.clone());
    let reader_gone = owed.gone();
    let max = system.value_bytes_max();
    let gone = async move {
        tokio::select! {
            () = waiting.cancelled() => {}
            () = reader_gone => {}
        }
    };
    resolve((system, host, room), args, options.when_full, (Deadline::NEVER, None), gone, move |args| {
        let framed = args.and_then(|args| {
            let deadline = (Deadline::NEVER, None);
            frame(&home, (F::NAME, false), options, deadline, args).map_err(CallError::NotStarted)
        });
        let frame = match framed {
            Ok(frame) => frame,
            Err(error) => {
                owed.fail(error);
                return None;
            }
        };
        let cancelled = call.clone();
        let answer = move |answer: Result<Payload, Failed>| match answer {
            Ok(Payload::Stream(items)) => {
                let items = within(&home, || registry::decoded_stream::<F::Item>(items));
                arbiters::runtime().spawn(owed.forward(items, cancelled));
            }
            Ok(Payload::Value(..) | Payload::Stored(_)) => owed.fail(CallError::MayHaveRun(Unknown::NoReply)),
            Err(failed) => owed.fail(CallError::NotStarted(NotStarted::Argument { cause: Box::new(failed.error) })),
        };
        Some((frame, TaskReply { answer: Box::new(answer), call, value_bytes_max: max, object: None, is_again: false }))
    });
}

/// Waits until the arguments can leave, as long as anybody wants the task; `make` makes of them what is sent, which takes room
/// for its bytes before.
fn resolve<T: Send + 'static>(
    (system, host, room): (&Arc<System>, &Arc<Host>, Room),
    args: Arg<T>,
    when_full: WhenFull,
    (deadline, given): (Deadline, Option<Duration>),
    gone: impl Future<Output = ()> + Send + 'static,
    make: impl FnOnce(Result<Departing<T>, CallError>) -> Option<(TaskFrame, TaskReply)> + Send + 'static,
) {
    let send = |host: &Host, mut frame: TaskFrame, reply: TaskReply, room: Result<Room, CallError>| match room {
        Ok(room) => {
            frame.room = Some(room);
            host.send(frame, reply);
        }
        Err(error) => (reply.answer)(Err(error.widen().into())),
    };
    let later = match args {
        Arg::Value(args) => {
            if let Some((frame, reply)) = make(Ok(Departing::Value(args))) {
                let room = room.fit(system, when_full, (deadline, given), frame.args.len());
                send(host, frame, reply, room);
            }
            return;
        }
        later => later,
    };
    let (system, host) = (system.clone(), host.clone());
    arbiters::runtime().spawn(async move {
        let passed = async {
            match deadline.left(clock::now()) {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        let made = make(tokio::select! {
            args = departing(later) => args.map_err(CallError::NotStarted),
            () = gone => Err(CallError::Cancelled),
            () = passed => Err(CallError::DeadlineExceeded { given }),
        });
        if let Some((frame, reply)) = made {
            let room = room.fit_later(&system, when_full, (deadline, given), frame.args.len()).await;
            send(&host, frame, reply, room);
        }
    });
}

fn frame<T: Arguments + Serialize>(
    system: &Arc<System>,
    (name, is_sync): (&'static str, bool),
    options: TaskOptions,
    (deadline, given): (Deadline, Option<Duration>),
    args: Departing<T>,
) -> Result<TaskFrame, NotStarted> {
    let function = name_hash(name);
    let known = Known::by_key(function).ok_or(NotStarted::LocalOnly { type_name: name.to_owned() })?;
    let args = match args {
        Departing::Value(values) => values.leave(system),
        slots => slots,
    };
    let (is_apart, (encoded, pins)) = (args.is_apart(), pinning(|| args.encode(system.value_bytes_max())));
    drop_quietly(args);
    let args = encoded?;
    Ok(TaskFrame {
        run: None,
        function,
        schema: known.schema(),
        options: known.shared(options),
        is_sync,
        deadline,
        given,
        // Without the room that they were encoded in: they may wait among a million others.
        args: args.into_boxed_slice().into(),
        is_apart,
        pins,
        room: None,
    })
}

/// Takes a task from outside: finds its function and starts it.
pub(crate) fn receive(system: &Arc<System>, frame: TaskFrame, reply: TaskReply) {
    match FunctionEntry::by_key(frame.function) {
        Some(entry) if entry.schema() == frame.schema => entry.receive(system, frame, reply),
        Some(entry) => reply.refuse(NotStarted::Unknown { name: entry.name().to_owned() }),
        None => reply.refuse(NotStarted::Unknown { name: format!("function {:016x}", frame.function) }),
    }
}

pub(crate) fn receive_value<F: RemoteFn>(system: &Arc<System>, mut frame: TaskFrame, reply: TaskReply) {
    let Some(host) = Host::of(system) else { return reply.refuse(NotStarted::NoSession) };
    let args = match within(system, || arrive::<F::Args>(system, frame.is_apart, &frame.args)) {
        Ok(args) => args,
        Err(error) => return reply.refuse(NotStarted::Codec { message: error.to_string() }),
    };
    let call = reply.call.clone();
    let parent = Some(call.clone() as Arc<dyn CallState>);
    let inherited = Inherited { deadline: frame.deadline, given: frame.given, parent };
    let task = Task::<F>::new(system, inherited, &frame.options, Some(Sink::Encoded(reply)), frame.run);
    if frame.run.is_some() {
        call.does(Arc::downgrade(&task) as Weak<dyn Returnable>);
    }
    let room = room(system, &host, &mut frame, size_of::<Task<F>>());
    task.start(&host, &frame.options, room, args);
}

pub(crate) fn receive_stream<F: RemoteStream>(system: &Arc<System>, mut frame: TaskFrame, reply: TaskReply) {
    let Some(host) = Host::of(system) else { return reply.refuse(NotStarted::NoSession) };
    let args = match within(system, || arrive::<F::Args>(system, frame.is_apart, &frame.args)) {
        Ok(args) => args,
        Err(error) => return reply.refuse(NotStarted::Codec { message: error.to_string() }),
    };
    let (source, reader) = stream::channel();
    let owed = Owed { source: Some(source), counted: None };
    let call = Linked::to(Some(reply.call.clone() as Arc<dyn CallState>));
    let room = room(system, &host, &mut frame, size_of::<F::Args>());
    crate::stream::start::<F>(system, &host, &frame.options, call, owed, (room, args));
    (reply.answer)(Ok(registry::encoded_stream(reader, system.value_bytes_max())));
}

/// The room of a task that has come: what it took at its submission, where that is the same queue.
fn room(system: &System, host: &Host, frame: &mut TaskFrame, bytes: usize) -> Result<Room, CallError> {
    frame.room.take().map_or_else(|| host.admit(bytes + frame.args.len()), Ok).map_err(|full| {
        system.counters().add(Count::Refused);
        CallError::NotStarted(full)
    })
}

/// An object whose value comes from the other side; given up, it does not wait for that side to say so.
struct Owing<T: Send + Sync + 'static> {
    /// There until it has its value or a reason.
    object: Mutex<Option<ObjectRef<T>>>,
    call: Arc<Linked>,
    system: Arc<System>,
    /// It gets a process of its own, which can be ended.
    is_alone: bool,
}

impl<T: Send + Sync + 'static> Owing<T> {
    fn settle(&self, value: Result<T, GetError>) {
        let object = self.object.lock().take();
        match object {
            Some(object) => {
                let outcome = value.as_ref().map_or_else(CallError::outcome, |_| Outcome::Ok);
                self.system.counters().add_outcome(outcome);
                object.fill(value);
            }
            None => drop_quietly(value),
        }
    }
}

impl<T: Send + Sync + 'static> Owing<T> {
    fn settle_bytes(&self, bytes: Fetched)
    where
        T: Serialize,
    {
        if let Some(object) = self.object.lock().take() {
            self.system.counters().add_outcome(Outcome::Ok);
            object.fill_bytes(bytes);
        }
    }

    fn settle_stored(&self)
    where
        T: Serialize + DeserializeOwned,
    {
        if let Some(object) = self.object.lock().take() {
            self.system.counters().add_outcome(Outcome::Ok);
            object.fill_stored();
        }
    }
}

impl<T: Send + Sync + 'static> Cancellable for Owing<T> {
    fn cancel(&self) {
        self.settle(Err(CallError::Cancelled));
        self.call.cancel();
    }

    fn cancel_forced(&self) -> Result<(), NotCancellable> {
        if !self.is_alone {
            return Err(NotCancellable::NotIsolated);
        }
        self.settle(Err(CallError::Cancelled));
        self.call.force();
        Ok(())
    }

    fn maker(&self) -> Option<Party> {
        self.call.task().map(Party::Task)
    }
}

/// The way of the answer: whatever becomes of the frame, the object gets a value or a reason.
struct OwedValue<T: Send + Sync + 'static>(Arc<Owing<T>>);

impl<T: Send + Sync + 'static> Drop for OwedValue<T> {
    fn drop(&mut self) {
        self.0.settle(Err(CallError::MayHaveRun(Unknown::NoReply)));
    }
}

fn is_long_array<T: 'static>(bytes: &[u8]) -> bool {
    bytes.len() > INLINE_BYTES_MAX && plain::is_array::<T>(bytes)
}

fn unreadable(error: mobula_wire::DecodeError) -> GetError {
    CallError::MayHaveRun(Unknown::Codec { message: error.to_string() })
}
