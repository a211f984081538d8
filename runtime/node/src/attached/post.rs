//! What other processes ask of this one: calls, tasks, actors to start, values of objects.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use mobula_actor::deliver::{EncodedItem, EncodedReply, Fetched, Left, Payload, Stored};
use mobula_actor::object::{GetError, Pins};
use mobula_actor::{CallState, Control, MailboxBounds, Placement, SpawnError, SpawnFrame, SpawnOptions, System, clock};
use mobula_logic::credit::{Owed, Window};
use mobula_logic::outbox::{Reception, Taking};
use mobula_types::{
    ActorId, CallError, Deadline, ExitReason, Interface, MessageId, NotStarted, ObjectId, ProcessId, Unknown,
};
use mobula_wire::call::CallHeader;
use mobula_wire::local::ToNode;
use mobula_wire::parcel::{MailboxWire, NotBegun, ReplyHead, SpawnWire};
use mobula_wire::{CallFrame, CodecId, ExchangeId, Parcel, Talk};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::encoded::{self, TaskFrame, TaskReply};
use crate::host::Host;
use crate::linked::Linked;
use crate::options::TaskOptions;
use crate::retry::Failed;

use super::exchanges::Waiting;
use super::large::ours;
use super::process::Process;

/// Items of a stream on their way, as in one process.
const STREAM_ITEMS_MAX: usize = mobula_actor::stream::ITEMS_MAX;
/// Credit is given back in pieces of this many items.
const STREAM_CREDIT_ITEMS: u32 = STREAM_ITEMS_MAX as u32 / 4;

/// Between two looks whether something is still owed to others, on a node that is to leave.
const OWES_LOOK: Duration = Duration::from_millis(5);

/// What this process does for others now.
#[derive(Default)]
pub(crate) struct Serving {
    /// Calls, tasks and streams under way: who gives them up is heard.
    open: Mutex<HashMap<(ProcessId, ExchangeId), Served>>,
    /// Whether nothing else was under way when the last of them came.
    came_alone: AtomicBool,
    /// What has left mailboxes and is not credited yet, and the windows of its senders.
    credit: Mutex<HashMap<(ProcessId, ActorId), (Owed, Window)>>,
    /// The node is to leave: no task begins here any more.
    is_draining: AtomicBool,
    /// Messages that are sent until they are acknowledged, by actor.
    receptions: Mutex<HashMap<ActorId, Reception<(ProcessId, u64)>>>,
}

impl Serving {
    /// Whether nothing is under way for others.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.lock().is_empty()
    }

    /// Whether an answer is the only one: nothing else is under way, nor came while it was made.
    pub(crate) fn is_lone(&self) -> bool {
        self.came_alone.load(Ordering::Relaxed) && self.is_idle()
    }
}

/// Actors whose receptions are kept before those are looked through that live here no more.
const RECEPTIONS_MAX: usize = 4_096;

struct Served {
    call: Arc<Linked>,
    /// Room for items, of a stream.
    room: Option<Arc<Room>>,
}

/// Room for the items of a stream at its reader.
struct Room {
    items: Semaphore,
    /// The reader has gone.
    gone: Notify,
}

impl Room {
    fn new() -> Self {
        Self { items: Semaphore::new(STREAM_ITEMS_MAX), gone: Notify::new() }
    }

    fn close(&self) {
        self.items.close();
        self.gone.notify_one();
    }
}

impl Process {
    /// Acts on a parcel of another process, whose payload is there.
    pub(crate) fn act(self: &Arc<Self>, parcel: Parcel) {
        let Parcel { to: _, from, talk, payload } = parcel;
        match talk {
            Talk::Call { exchange, wants_reply, wants_entered, header, refs } => {
                let wants = Wants { exchange, reply: wants_reply, entered: wants_entered };
                let refs = self.received_pins(&refs);
                self.serve_call(from, &wants, header, refs, payload);
            }
            Talk::Entered { exchange, result } => {
                if let Some(entered) = self.exchanges.entered(exchange, from) {
                    entered.send(result).ok();
                }
            }
            Talk::Credit { actor, calls, bytes } => self.credited(actor, from, calls, bytes),
            Talk::Task {
                exchange,
                task,
                attempt,
                function,
                schema,
                options,
                left,
                given,
                object,
                is_apart,
                refs,
                ..
            } => {
                let frame = TaskFrame {
                    run: Some((task, attempt)),
                    function,
                    schema,
                    options: Arc::new(TaskOptions::received(options)),
                    is_sync: false,
                    deadline: left.map_or(Deadline::NEVER, |left| Deadline::at(clock::now() + left)),
                    given,
                    args: payload,
                    is_apart,
                    pins: self.received_pins(&refs),
                    room: None,
                };
                self.serve_task(from, exchange, object, frame);
            }
            Talk::Spawn { actor, incarnation, type_name, schema, options, refs, .. } => {
                let frame = SpawnFrame {
                    interface: Interface::default(),
                    actor: type_name,
                    schema,
                    args: payload,
                    pins: self.received_pins(&refs),
                    options: spawn_options(options),
                    guest: Some((actor, incarnation)),
                };
                self.serve_spawn(from, frame);
            }
            Talk::Started { actor, incarnation, result } if actor.process == self.me => {
                self.home_started(actor, incarnation, result);
            }
            Talk::Reply { exchange, result } => self.replied(from, exchange, result, payload),
            Talk::Item { exchange, refs } => {
                if let Some(items) = self.exchanges.items(exchange, from) {
                    items.send(EncodedItem::Item(payload, self.received_pins(&refs))).ok();
                }
            }
            Talk::StreamEnd { exchange, error } => {
                if let Some(Waiting::Stream { items }) = self.exchanges.close(exchange, from) {
                    let end = error.map_or(EncodedItem::End, |error| EncodedItem::Failed(narrow(error)));
                    items.send(end).ok();
                }
            }
            Talk::StreamCredit { exchange, items } => {
                let room = self.serving.open.lock().get(&(from, exchange)).and_then(|served| served.room.clone());
                if let Some(room) = room {
                    room.items.add_permits((items as usize).min(STREAM_ITEMS_MAX));
                }
            }
            Talk::Cancel { exchange } => {
                let served = self.serving.open.lock().remove(&(from, exchange));
                if let Some(Served { call, room }) = served {
                    mobula_actor::object::Cancellable::cancel(&*call);
                    if let Some(room) = room {
                        room.close();
                    }
                }
            }
            Talk::AskBack { exchanges } => self.hand_back(from, &exchanges),
            Talk::Control { to } => match mobula_wire::decode::<Control>(&payload) {
                Ok(control) => self.controlled(to, control),
                Err(error) => tracing::warn!(%from, %error, "a control message cannot be read"),
            },
            Talk::Locate { actor } => self.home_asked(actor, from),
            Talk::Located { actor, at, reason, mailbox } => match (at, reason) {
                (Some((process, life)), _) => {
                    self.located(actor, process, life, Window::of_mailbox(mailbox.items_max, mailbox.bytes_max));
                }
                (None, reason) => {
                    self.actor_ended(actor, Default::default(), &reason.unwrap_or(ExitReason::Gone), true);
                }
            },
            Talk::Moving { actor } => self.actor_moves(actor),
            // What came before it has its place: it was read, pulled if it was large, and entered, before this.
            Talk::Settle { actor } => self.say(from, Talk::Settled { actor }),
            Talk::Settled { actor } => self.settled(actor, from),
            Talk::ActorEnded { actor, incarnation, reason } => {
                let input = mobula_logic::home::Input::Ended { incarnation, reason };
                self.drive_home(actor, Some(input));
            }
            Talk::Fetch { exchange, object } => self.serve_fetch(from, exchange, object),
            Talk::KeptBy { exchange, keeper } => self.keeper_said(from, exchange, keeper),
            _ => tracing::warn!(%from, "a process says what this one does not know"),
        }
    }

    fn serve_call(self: &Arc<Self>, from: ProcessId, wants: &Wants, header: CallHeader, pins: Pins, payload: Bytes) {
        let Some(system) = self.system() else { return };
        let (actor, bytes) = (header.target, payload.len() as u64);
        let exchange = wants.exchange;
        let again = (header.seq > 0 && wants.reply).then_some((header.sender, header.seq));
        if let Some((sender, seq)) = again {
            match self.takes(&system, actor, (from, sender), (seq, header.after), exchange) {
                Taking::Handle => {}
                Taking::Wait => return self.credit(from, actor, bytes),
                Taking::Acknowledge => {
                    self.credit(from, actor, bytes);
                    return self.answer(from, exchange, Ok(Payload::Value(Bytes::new(), Pins::default())));
                }
                Taking::Later => {
                    self.credit(from, actor, bytes);
                    let cause = NotStarted::NoPlace { why: "one before it was dropped on its way".into() };
                    return self.answer(from, exchange, Err(CallError::NotStarted(cause)));
                }
            }
        }
        let reply = wants.reply.then(|| {
            let call = self.serve(from, exchange);
            let process = self.clone();
            let answer = Box::new(move |answer: Result<Payload, CallError>| match again {
                Some((sender, seq)) => process.acknowledge(actor, (from, sender), seq, exchange, answer),
                None => process.answer(from, exchange, answer.map_err(CallError::widen)),
            });
            EncodedReply { answer, call: Some(call as Arc<dyn CallState>) }
        });
        let frame = CallFrame { header, codec: CodecId::BINCODE_LEGACY, refs: Vec::new(), payload };
        let process = self.clone();
        let message = again.map(|(sender, seq)| MessageId { from, sender, seq });
        let left = Left::new(message, move || process.credit(from, actor, bytes));
        let entering = system.receive(&frame, reply).map(|incoming| incoming.enter(Some(left)));
        // What was decoded holds its references by itself.
        drop(pins);
        let (process, wants_entered) = (self.clone(), wants.entered);
        let entered = move |result: Result<(), NotStarted>| {
            if wants_entered {
                process.say(from, Talk::Entered { exchange, result });
            }
        };
        match entering {
            Err(cause) => entered(Err(cause)),
            Ok(mut entering) => match (&mut entering).now_or_never() {
                Some(result) => entered(result),
                None => drop(mobula_actor::arbiters::runtime().spawn(async move { entered(entering.await) })),
            },
        }
    }

    /// What is done with a message that may have come before.
    fn takes(
        &self,
        system: &System,
        actor: ActorId,
        sender: (ProcessId, u64),
        (seq, after): (u64, u64),
        exchange: ExchangeId,
    ) -> Taking {
        let mut receptions = self.serving.receptions.lock();
        if receptions.len() >= RECEPTIONS_MAX && !receptions.contains_key(&actor) {
            receptions.retain(|known, _| system.hosts(*known));
        }
        receptions.entry(actor).or_default().take(sender, seq, after, exchange)
    }

    /// Answers a message that is sent until it is acknowledged, to all who have asked; nobody wants the value.
    fn acknowledge(
        self: &Arc<Self>,
        actor: ActorId,
        sender: (ProcessId, u64),
        seq: u64,
        exchange: ExchangeId,
        answer: Result<Payload, CallError>,
    ) {
        let is_done = matches!(answer, Ok(_) | Err(CallError::Panicked(_)));
        let reception = self.serving.receptions.lock().get_mut(&actor).map(|known| known.finish(sender, seq, is_done));
        let error = answer.err();
        for exchange in std::iter::once(exchange).chain(reception.unwrap_or_default()) {
            let answer = match error.clone() {
                None => Ok(Payload::Value(Bytes::new(), Pins::default())),
                Some(error) => Err(error.widen()),
            };
            self.answer(sender.0, exchange, answer);
        }
    }

    /// Notes that a call has left its mailbox, and tells its sender of many at once.
    pub(crate) fn credit(self: &Arc<Self>, to: ProcessId, actor: ActorId, bytes: u64) {
        let due = {
            let mut credit = self.serving.credit.lock();
            let (owed, window) = credit.entry((to, actor)).or_insert_with(|| (Owed::default(), self.window_of(actor)));
            let due = owed.taken(*window, bytes);
            if due.is_some() {
                credit.remove(&(to, actor));
            }
            due
        };
        if let Some((calls, bytes)) = due {
            self.say(to, Talk::Credit { actor, calls, bytes });
        }
    }

    /// What each sender may have on its way to an actor that lives here; of one that does not, all is credited at once.
    fn window_of(&self, actor: ActorId) -> Window {
        let bounds = self.system().and_then(|system| system.mailbox_bounds(actor));
        let MailboxWire { items_max, bytes_max } = bounds.map(mailbox_wire).unwrap_or_default();
        Window::of_mailbox(items_max, bytes_max)
    }

    fn serve(&self, from: ProcessId, exchange: ExchangeId) -> Arc<Linked> {
        let call = Linked::to(None);
        let mut open = self.serving.open.lock();
        self.serving.came_alone.store(open.is_empty(), Ordering::Relaxed);
        open.insert((from, exchange), Served { call: call.clone(), room: None });
        drop(open);
        call
    }

    fn serve_task(self: &Arc<Self>, from: ProcessId, exchange: ExchangeId, object: Option<ObjectId>, frame: TaskFrame) {
        let call = self.serve(from, exchange);
        let process = self.clone();
        let answer = Box::new(move |answer: Result<Payload, Failed>| {
            let answer = answer.map(|value| process.stored(from, object, value));
            process.answer_failed(from, exchange, answer);
        });
        let system = self.system();
        let value_bytes_max = system.as_ref().map_or(0, |system| system.value_bytes_max());
        let reply = TaskReply { answer, call, value_bytes_max, object, is_again: false };
        if self.serving.is_draining.load(Ordering::Acquire) {
            return reply.refuse(NotStarted::Drained);
        }
        match system {
            Some(system) => encoded::receive(&system, frame, reply),
            None => reply.refuse(NotStarted::NoSession),
        }
    }

    /// Answers those of its tasks that have not begun: whoever sent them has a better place for them.
    pub(crate) fn hand_back(&self, from: ProcessId, exchanges: &[ExchangeId]) {
        let calls: Vec<Arc<Linked>> = {
            let open = self.serving.open.lock();
            exchanges
                .iter()
                .filter_map(|exchange| open.get(&(from, *exchange)))
                .map(|served| served.call.clone())
                .collect()
        };
        calls.iter().for_each(|call| call.hand_back());
    }

    /// The node is to leave: tasks of others that have not begun go back to them, and none begins any more.
    pub(crate) fn withdraw_tasks(self: &Arc<Self>) {
        self.serving.is_draining.store(true, Ordering::Release);
        if let Some(host) = self.system().and_then(|system| Host::of(&system)) {
            host.pool().withdraw(&NotStarted::Drained);
        }
        let process = self.clone();
        mobula_actor::arbiters::runtime().spawn(async move {
            process.owes_no_more().await;
            process.link.tell(&ToNode::Quiet);
        });
    }

    /// Waits until no actor lives here any more, nor elsewhere with its home here, and no task or stream for others runs, or
    /// this process is to end.
    ///
    /// Guests move by their homes, and their children end before they do. What was spawned by a task, or by a handler
    /// without a parent, lives as long as its job, and its home cannot move: it would end with this process, so those that
    /// use it have as long as the node waits.
    async fn owes_no_more(&self) {
        let owes = || {
            let hosts = self.system().is_some_and(|system| system.hosts_any());
            hosts || self.homes.keep_any() || !self.serving.is_idle()
        };
        while !self.is_ending() && owes() {
            tokio::time::sleep(OWES_LOOK).await;
        }
    }

    fn serve_spawn(self: &Arc<Self>, from: ProcessId, frame: SpawnFrame) {
        let Some((actor, incarnation)) = frame.guest else { return };
        // What an earlier life elsewhere has taken is nothing to this one.
        self.serving.receptions.lock().remove(&actor);
        let spawned = match self.system() {
            Some(system) => system.receive_spawn(frame),
            None => Err(SpawnError::NotStarted(NotStarted::NoSession)),
        };
        let started = match spawned {
            Ok(spawned) => spawned.started,
            Err(error) => Box::pin(async { Err(error) }),
        };
        let process = self.clone();
        mobula_actor::arbiters::runtime().spawn(async move {
            let result = started.await.map_err(|error| match error {
                SpawnError::StartFailed(reason) => NotBegun::Failed(reason),
                SpawnError::NotStarted(cause) => NotBegun::Refused(cause),
                SpawnError::NameTaken { by, .. } => NotBegun::NameTaken { by },
                SpawnError::NameRefused { why, .. } => NotBegun::NameRefused { why },
                other => NotBegun::Refused(NotStarted::NoPlace { why: other.to_string() }),
            });
            process.say(from, Talk::Started { actor, incarnation, result });
        });
    }

    fn controlled(self: &Arc<Self>, to: ActorId, control: Control) {
        let Some(system) = self.system() else { return };
        if let Control::Down(down) | Control::LinkDown(down) = &control {
            self.note_down(down);
        }
        if self.has_told(to, &control) {
            return;
        }
        if !system.hosts(to) && to.process == self.me && self.home_control(to, &control) {
            return;
        }
        system.control(to, control);
    }

    /// Sends what came of something that another process asked for.
    pub(super) fn answer(self: &Arc<Self>, to: ProcessId, exchange: ExchangeId, answer: Result<Payload, GetError>) {
        self.answer_failed(to, exchange, answer.map_err(Failed::from));
    }

    /// The same where an error goes along as it is.
    fn answer_failed(self: &Arc<Self>, to: ProcessId, exchange: ExchangeId, answer: Result<Payload, Failed>) {
        if self.is_ending() && matches!(answer, Err(Failed { error: CallError::Cancelled, .. })) {
            // Nobody has cancelled it: it ends with this process, whose death tells the caller why.
            return;
        }
        let (result, payload, pins) = match answer {
            Ok(Payload::Value(bytes, pins)) => (Ok(ReplyHead::Value { refs: pins.ids() }), bytes, pins),
            Ok(Payload::Stored(Stored { bytes, digest, pins, .. })) => {
                (Ok(ReplyHead::Stored { bytes, digest, refs: pins.ids() }), Bytes::new(), pins)
            }
            Ok(Payload::Stream(items)) => {
                let room = Arc::new(Room::new());
                if let Some(served) = self.serving.open.lock().get_mut(&(to, exchange)) {
                    served.room = Some(room.clone());
                }
                self.say(to, Talk::Reply { exchange, result: Ok(ReplyHead::Stream) });
                let process = self.clone();
                mobula_actor::arbiters::runtime().spawn(async move {
                    process.send_items(to, exchange, items, &room).await;
                });
                return;
            }
            Err(Failed { error, own }) => (Err(error), own.map(|own| *own).unwrap_or_default(), Pins::default()),
        };
        self.serving.open.lock().remove(&(to, exchange));
        let reply = Parcel { to, from: self.me, talk: Talk::Reply { exchange, result }, payload };
        if to == self.me {
            return self.received(self.naming(reply, &pins));
        }
        if let Err(cause) = self.post(reply, pins) {
            // Whoever waits is told so instead.
            let result = Err(CallError::MayHaveRun(match cause {
                mobula_types::NotStarted::TooLarge { bytes, max } => Unknown::TooLarge { bytes, max },
                cause => Unknown::Codec { message: cause.to_string() },
            }));
            self.say(to, Talk::Reply { exchange, result });
        }
    }

    async fn send_items(
        self: Arc<Self>,
        to: ProcessId,
        exchange: ExchangeId,
        mut items: mpsc::Receiver<EncodedItem>,
        room: &Room,
    ) {
        let error = loop {
            // Closed when the reader has gone; dropping `items` ends the source.
            let Ok(permit) = room.items.acquire().await else { return };
            permit.forget();
            let item = tokio::select! {
                item = items.recv() => item,
                () = room.gone.notified() => return,
            };
            match item {
                Some(EncodedItem::Item(payload, pins)) => {
                    let talk = Talk::Item { exchange, refs: pins.ids() };
                    if let Err(cause) = self.post(Parcel { to, from: self.me, talk, payload }, pins) {
                        // Without it the reader would see a hole.
                        break Some(CallError::MayHaveRun(Unknown::Codec { message: cause.to_string() }));
                    }
                }
                Some(EncodedItem::Failed(error)) => break Some(error.widen()),
                Some(EncodedItem::End) => break None,
                None => break Some(CallError::MayHaveRun(Unknown::NoReply)),
            }
        };
        self.serving.open.lock().remove(&(to, exchange));
        self.say(to, Talk::StreamEnd { exchange, error });
    }

    pub(crate) fn replied(
        self: &Arc<Self>,
        from: ProcessId,
        exchange: ExchangeId,
        result: Result<ReplyHead, GetError>,
        payload: Bytes,
    ) {
        let Some(waiting) = self.exchanges.close(exchange, from) else {
            // Given up meanwhile; what it names is released.
            if let Ok(ReplyHead::Value { refs } | ReplyHead::Stored { refs, .. }) = result {
                drop(self.received_pins(&refs));
            }
            return;
        };
        if let (Waiting::Call { .. }, Err(CallError::NotStarted(NotStarted::ActorEnded { actor, reason }))) =
            (&waiting, &result)
        {
            self.refused(*actor, from, reason);
        }
        let answer = match result {
            Ok(ReplyHead::Value { refs }) => Ok(Payload::Value(payload, self.received_pins(&refs))),
            Ok(ReplyHead::Stored { bytes, digest, refs }) => {
                Ok(Payload::Stored(Stored { at: from.node(), bytes, digest, pins: self.received_pins(&refs) }))
            }
            Ok(ReplyHead::Stream) => Ok(Payload::Stream(self.read_items(from, exchange))),
            Err(error) => Err(Failed { error, own: Some(Box::new(payload)) }),
        };
        if let Waiting::Task { key, attempt } = waiting {
            return self.task_answered(key, attempt, answer);
        }
        let answer = answer.map_err(|failed| failed.error);
        match waiting {
            Waiting::Call { reply, entered } => {
                if let Some(entered) = entered {
                    entered.send(Ok(())).ok();
                }
                if let Some(reply) = reply {
                    (reply.answer)(answer.map_err(narrow));
                }
            }
            Waiting::Fetch { sender, .. } => {
                let fetched = answer.and_then(|payload| match payload {
                    Payload::Value(bytes, pins) => Ok(Fetched { bytes, pins }),
                    Payload::Stream(_) | Payload::Stored(_) => Err(CallError::MayHaveRun(Unknown::NoReply)),
                });
                sender.send(fetched).ok();
            }
            Waiting::Stream { .. } | Waiting::Task { .. } | Waiting::Keeper { .. } => {}
        }
    }

    /// The end at which the items of a stream from another process are read; room is given back as they are taken.
    fn read_items(self: &Arc<Self>, from: ProcessId, exchange: ExchangeId) -> mpsc::Receiver<EncodedItem> {
        // The sender keeps to its credit, so this holds no more than that.
        let (items, mut come) = mpsc::unbounded_channel();
        self.exchanges.stream(exchange, from, items);
        let (sender, receiver) = mpsc::channel(1);
        let process = self.clone();
        mobula_actor::arbiters::runtime().spawn(async move {
            let mut taken = 0;
            loop {
                let item = tokio::select! {
                    item = come.recv() => item,
                    () = sender.closed() => None,
                };
                let Some(item) = item else { break };
                if sender.send(item).await.is_err() {
                    break;
                }
                taken += 1;
                if taken == STREAM_CREDIT_ITEMS {
                    process.say(from, Talk::StreamCredit { exchange, items: taken });
                    taken = 0;
                }
            }
            if process.exchanges.close(exchange, from).is_some() {
                process.not_wanted(from, ours(exchange));
                process.say(from, Talk::Cancel { exchange });
            }
        });
        receiver
    }

    /// An item of a stream is lost: what follows it is not read either.
    pub(crate) fn stream_broke(self: &Arc<Self>, from: ProcessId, exchange: ExchangeId) {
        if let Some(Waiting::Stream { items }) = self.exchanges.close(exchange, from) {
            items.send(EncodedItem::Failed(CallError::MayHaveRun(Unknown::NoReply))).ok();
            self.say(from, Talk::Cancel { exchange });
        }
    }

    /// Processes have ended: nobody wants what they asked for.
    pub(crate) fn serving_died(&self, is_gone: impl Fn(ProcessId) -> bool) {
        let gone: Vec<Served> = {
            let mut open = self.serving.open.lock();
            let keys: Vec<_> = open.keys().filter(|(from, _)| is_gone(*from)).copied().collect();
            keys.iter().filter_map(|key| open.remove(key)).collect()
        };
        for Served { call, room } in gone {
            mobula_actor::object::Cancellable::cancel(&*call);
            if let Some(room) = room {
                room.close();
            }
        }
        self.serving.credit.lock().retain(|(to, _), _| !is_gone(*to));
    }
}

struct Wants {
    exchange: ExchangeId,
    reply: bool,
    entered: bool,
}

pub(crate) fn mailbox_wire(MailboxBounds { items_max, bytes_max }: MailboxBounds) -> MailboxWire {
    MailboxWire { items_max: items_max as u64, bytes_max: bytes_max as u64 }
}

fn spawn_options(wire: SpawnWire) -> SpawnOptions {
    let bounded = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let (name, namespace) = wire.name.map(|name| (name.name, name.namespace)).unzip();
    SpawnOptions {
        name,
        namespace: namespace.flatten(),
        parent: wire.parent,
        supervised_by_parent: wire.supervised_by_parent,
        policy: wire.policy,
        mailbox: MailboxBounds {
            items_max: bounded(wire.mailbox.items_max),
            bytes_max: bounded(wire.mailbox.bytes_max),
        },
        placement: if wire.dedicated { Placement::Dedicated } else { Placement::Spread },
        ..SpawnOptions::default()
    }
}

/// The error of a call, whose own errors travel as values.
fn narrow(error: GetError) -> CallError {
    match error {
        CallError::Returned(chain) => CallError::MayHaveRun(Unknown::Codec { message: chain.to_string() }),
        other => other.map_returned(|_| unreachable!("what is returned was taken above")),
    }
}
