//! The homes of actors that were spawned by this process and live in others: drives [`mobula_logic::home`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use mobula_actor::deliver::Spawned;
use mobula_actor::object::Pins;
use mobula_actor::registry;
use mobula_actor::{ChildEvent, ChildState, Control, Placement, SpawnError, SpawnFrame, SpawnOptions, clock};
use mobula_logic::credit::Window;
use mobula_logic::home::{self, Decides, Home, Input, Output};
use mobula_types::state::Listed;
use mobula_types::{
    ActorId, ActorName, Culprit, Death, ErrorChain, ExitReason, Incarnation, LeaseId, NodeId, NotStarted, ProcessId,
    StateMachine, Time,
};
use mobula_wire::local::{RequestId, ToNode};
use mobula_wire::parcel::{MailboxWire, NotBegun, SpawnWire};
use mobula_wire::{Parcel, Talk};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::link::Wanted;
use super::listing::due;
use super::post::mailbox_wire;
use super::process::Process;

/// The actors whose home this process is and that live elsewhere.
#[derive(Default)]
pub(crate) struct Homes {
    table: Mutex<HashMap<ActorId, Entry>>,
}

struct Entry {
    machine: Home,
    /// When it was spawned.
    since: Time,
    type_name: u64,
    schema: u64,
    args: Bytes,
    /// References in the arguments, held as long as it may be started again.
    pins: Pins,
    options: SpawnOptions,
    started: Option<oneshot::Sender<Result<(), SpawnError>>>,
    /// The request for a place that is not answered.
    request: Option<RequestId>,
    /// Where it died last.
    avoid: Vec<NodeId>,
    /// Who asked where it is while it was nowhere, or not yet there.
    asking: Vec<ProcessId>,
    /// Who was told where it is, and may send it mail there.
    told: BTreeSet<ProcessId>,
    /// Those of them who have to settle what they have sent before it may leave its place; none while it need not.
    settling: Option<BTreeSet<ProcessId>>,
}

/// Names of nodes that an actor would rather not go back to.
const AVOIDED_MAX: usize = 4;

impl Homes {
    /// Whether this process is the home of any actor that has not ended.
    pub(super) fn keep_any(&self) -> bool {
        !self.table.lock().is_empty()
    }

    /// The actors that are nowhere now, and the requests for places of those that wait for one.
    pub(super) fn waiting(&self) -> Vec<(Listed, Option<RequestId>)> {
        let now = clock::now();
        let homes = self.table.lock();
        let nowhere = homes.iter().filter(|(_, entry)| entry.machine.host().is_none());
        let item = |(id, entry): (&ActorId, &Entry)| {
            let of_type = || registry::actor_name(entry.type_name).map(str::to_owned);
            let item = Listed {
                id: id.to_string(),
                kind: "actor".into(),
                name: entry.options.name.clone().or_else(of_type).unwrap_or_default(),
                state: "waiting".into(),
                since_s: now.since(entry.since).as_secs_f64(),
                incarnation: Some(entry.machine.incarnation().0),
                ..Listed::default()
            };
            let why = match entry.machine.next_timeout() {
                Some(at) => due("its restart", at, now),
                None if entry.machine.is_parked() => "its supervisor decides whether it is started again".into(),
                // Its node knows what is missing.
                None if entry.request.is_some() => return (item, entry.request),
                None => "its name is being claimed".into(),
            };
            (Listed { why: Some(why), ..item }, None)
        };
        nowhere.map(item).collect()
    }
}

impl Process {
    /// Starts an actor elsewhere; its id is good at once.
    pub(crate) fn spawn_away(self: &Arc<Self>, frame: SpawnFrame) -> Result<Spawned, SpawnError> {
        let no_session = || SpawnError::NotStarted(NotStarted::NoSession);
        let system = self.system().filter(|_| !self.link.is_cut()).ok_or_else(no_session)?;
        if frame.options.detached {
            return self.spawn_detached(frame, system.namespace());
        }
        let SpawnFrame { actor: type_name, schema, args, pins, options, .. } = frame;
        let id = system.reserve();
        if let Some(parent) = options.parent {
            system.control(parent, Control::Adopt { child: id });
        }
        let decides = match options.supervised_by_parent {
            true => Decides::Supervisor,
            // After panics its own cell restarts it, where it lives; here it is decided after the death of that process.
            false => Decides::Policy(options.policy.unwrap_or_default()),
        };
        let (sender, started) = oneshot::channel();
        let name = said_name(&options);
        let entry = Entry {
            machine: Home::new(decides),
            since: clock::now(),
            type_name,
            schema,
            args,
            pins,
            options,
            started: Some(sender),
            request: None,
            avoid: Vec::new(),
            asking: Vec::new(),
            told: BTreeSet::new(),
            settling: None,
        };
        self.homes.table.lock().insert(id, entry);
        match name {
            None => self.drive_home(id, None),
            Some(name) => {
                let process = self.clone();
                mobula_actor::arbiters::runtime().spawn(async move { process.look_then_start(id, name).await });
            }
        }
        if self.link.is_cut() {
            // Between the first look and now; what came before that is ended with all others.
            self.drive_home(id, Some(Input::Stop { reason: ExitReason::Shutdown }));
        }
        let ended = || Err(SpawnError::StartFailed(ExitReason::Shutdown));
        Ok(Spawned { id, started: Box::pin(async move { started.await.unwrap_or_else(|_| ended()) }) })
    }

    /// A name is claimed where its actor begins; one that is taken already needs no place to find that out.
    async fn look_then_start(self: Arc<Self>, id: ActorId, name: ActorName) {
        let Some(by) = self.look_up(name.clone()).await else { return self.drive_home(id, None) };
        let started = self.homes.table.lock().get_mut(&id).and_then(|entry| entry.started.take());
        if let Some(started) = started {
            started.send(Err(SpawnError::NameTaken { name: name.to_string(), by: by.actor })).ok();
        }
        let reason = ExitReason::Failed(ErrorChain::message(format!("its name `{name}` is taken by {}", by.actor)));
        self.drive_home(id, Some(Input::Stop { reason }));
    }

    /// Gives a home's machine an input, and does what it says.
    pub(crate) fn drive_home(self: &Arc<Self>, id: ActorId, input: Option<Input>) {
        let mut after = After::default();
        {
            let mut homes = self.homes.table.lock();
            let Some(entry) = homes.get_mut(&id) else {
                if let Some(Input::Granted { lease, .. }) = input {
                    self.link.tell(&ToNode::Return { lease });
                }
                return;
            };
            if let Some(input) = input {
                entry.machine.handle(clock::now(), input);
            }
            while let Some(output) = entry.machine.poll_output() {
                self.perform_home(id, entry, output, &mut after);
            }
            if entry.machine.is_running() {
                self.tell_askers(id, entry);
            }
            if let Some(at) = entry.machine.next_timeout() {
                self.wake_home(id, at);
            }
            if entry.machine.has_ended() {
                let gone = homes.remove(&id);
                after.gone = gone;
            }
        }
        self.follow_up(id, after);
    }

    fn perform_home(self: &Arc<Self>, id: ActorId, entry: &mut Entry, output: Output, after: &mut After) {
        match output {
            Output::AskPlace => {
                let (spec, avoid) = (entry.options.place.clone(), entry.avoid.clone());
                let ask = move |request| ToNode::Lease { request, spec, avoid, lives_on: true };
                entry.request = Some(self.link.ask(Wanted::Home(id), ask));
            }
            Output::TakeBackPlace => {
                if let Some(request) = entry.request.take() {
                    self.link.answered(request);
                    self.link.tell(&ToNode::TakeBack { request });
                }
            }
            Output::ReturnLease { lease } => self.link.tell(&ToNode::Return { lease }),
            Output::Spawn { lease, process, incarnation } => {
                entry.request = None;
                self.send_spawn(id, entry, lease, process, incarnation);
                after.placed = Some((process, incarnation));
                after.mailbox = mailbox_wire(entry.options.mailbox);
                entry.settling = None;
                entry.told.clear();
            }
            Output::Leave { .. } => {
                let mut senders = std::mem::take(&mut entry.told);
                senders.remove(&self.me);
                for sender in &senders {
                    self.say(*sender, Talk::Moving { actor: id });
                }
                senders.insert(self.me);
                entry.settling = Some(senders);
                after.moves = true;
            }
            Output::Hold { reason, asks_supervisor, .. } => {
                if asks_supervisor && let Some(parent) = entry.options.parent {
                    after.parent = Some((parent, ChildState::Parked(reason)));
                }
            }
            Output::End { reason, gave_up } => {
                if let Some(parent) = entry.options.parent {
                    let what = if gave_up { ChildState::GaveUp } else { ChildState::Ended };
                    after.parent = Some((parent, what(reason.clone())));
                }
                after.told.append(&mut entry.asking);
                after.ended = Some(reason);
            }
        }
    }

    fn send_spawn(
        self: &Arc<Self>,
        id: ActorId,
        entry: &Entry,
        lease: LeaseId,
        process: ProcessId,
        incarnation: Incarnation,
    ) {
        let options = &entry.options;
        let wire = spawn_wire(options);
        let (refs, pins) = (entry.pins.ids(), entry.pins.clone());
        let talk = Talk::Spawn {
            actor: id,
            incarnation,
            lease,
            type_name: entry.type_name,
            schema: entry.schema,
            options: wire,
            refs,
        };
        let parcel = Parcel { to: process, from: self.me, talk, payload: entry.args.clone() };
        if let Err(cause) = self.post(parcel, pins) {
            tracing::warn!(%id, %cause, "the start of an actor was not sent");
            self.not_begun(id, incarnation, cause);
        }
    }

    /// A start could not be sent. Its home's table is taken: it hears of that as if the place had said so.
    fn not_begun(self: &Arc<Self>, id: ActorId, incarnation: Incarnation, cause: NotStarted) {
        let process = self.clone();
        mobula_actor::arbiters::runtime()
            .spawn(async move { process.home_started(id, incarnation, Err(NotBegun::Refused(cause))) });
    }

    /// What is done without the table: others' tables are taken meanwhile.
    fn follow_up(self: &Arc<Self>, id: ActorId, after: After) {
        let After { placed, mailbox, told, moves, parent, ended, gone } = after;
        if moves {
            self.actor_moves(id);
        }
        if let Some((process, life)) = placed {
            self.located(id, process, life, Window::of_mailbox(mailbox.items_max, mailbox.bytes_max));
        }
        let place = self.homes.table.lock().get(&id).and_then(|entry| entry.machine.place());
        for asker in told {
            self.say(asker, Talk::Located { actor: id, at: place, reason: ended.clone(), mailbox });
        }
        let Some(system) = self.system() else { return };
        if let Some((parent, what)) = parent {
            system.control(parent, Control::Child(ChildEvent { child: id, what }));
        }
        if let Some(reason) = ended {
            self.actor_ended(id, Incarnation::default(), &reason, true);
            if let Some(Entry { started, options, .. }) = gone {
                if let Some(started) = started {
                    started.send(Err(SpawnError::StartFailed(reason))).ok();
                }
                if let Some(ActorName { namespace, name }) = said_name(&options) {
                    self.link.tell(&ToNode::ReleaseName { namespace, name, actor: id });
                }
            }
            system.release(id);
        }
    }

    fn wake_home(self: &Arc<Self>, id: ActorId, at: Time) {
        let process = self.clone();
        mobula_actor::arbiters::runtime().spawn(async move {
            tokio::time::sleep(at.since(clock::now())).await;
            process.drive_home(id, Some(Input::Tick));
        });
    }

    /// How a start went, as the process says where it was to begin.
    pub(crate) fn home_started(self: &Arc<Self>, id: ActorId, incarnation: Incarnation, result: Result<(), NotBegun>) {
        let started = || self.homes.table.lock().get_mut(&id).and_then(|entry| entry.started.take());
        let input = match result {
            Ok(()) => {
                if let Some(started) = started() {
                    started.send(Ok(())).ok();
                }
                Input::Started { incarnation }
            }
            Err(NotBegun::Failed(reason)) => {
                if let Some(started) = started() {
                    started.send(Err(SpawnError::StartFailed(reason.clone()))).ok();
                }
                Input::Ended { incarnation, reason }
            }
            Err(wrong @ (NotBegun::NameTaken { .. } | NotBegun::NameRefused { .. })) => {
                let name = self.homes.table.lock().get(&id).and_then(|entry| said_name(&entry.options));
                let name = name.map(|name| name.to_string()).unwrap_or_default();
                let error = match wrong {
                    NotBegun::NameTaken { by } => SpawnError::NameTaken { name, by },
                    NotBegun::NameRefused { why } => SpawnError::NameRefused { name, why },
                    _ => return,
                };
                let reason = ExitReason::Failed(ErrorChain::message(&error));
                if let Some(started) = started() {
                    started.send(Err(error)).ok();
                }
                Input::Ended { incarnation, reason }
            }
            Err(NotBegun::Refused(cause)) => {
                let reason = ExitReason::Failed(ErrorChain::message(&cause));
                if let Some(started) = started() {
                    started.send(Err(SpawnError::NotStarted(cause))).ok();
                }
                Input::Ended { incarnation, reason }
            }
        };
        self.drive_home(id, Some(input));
    }

    /// Who asks where an actor is whose home this is.
    pub(crate) fn home_asked(self: &Arc<Self>, actor: ActorId, from: ProcessId) {
        let mut homes = self.homes.table.lock();
        if let Some(entry) = homes.get_mut(&actor) {
            if !entry.asking.contains(&from) {
                entry.asking.push(from);
            }
            if entry.machine.is_running() {
                return self.tell_askers(actor, entry);
            }
            drop(homes);
            // Whoever asks has nothing on its way to where the actor was.
            return self.home_settled(actor, from);
        }
        drop(homes);
        let system = self.system();
        let life = system.as_ref().and_then(|system| system.incarnation(actor));
        let mailbox = system.and_then(|system| system.mailbox_bounds(actor));
        let at = life.map(|life| (self.me, life));
        let reason = at.is_none().then_some(ExitReason::Gone);
        let mailbox = mailbox.map(mailbox_wire).unwrap_or_default();
        self.say(from, Talk::Located { actor, at, reason, mailbox });
    }

    /// Tells those that have asked where an actor is. Not while it starts: what others send could be there before it.
    /// Called with the table locked: the word that it moves must not overtake this one.
    fn tell_askers(self: &Arc<Self>, actor: ActorId, entry: &mut Entry) {
        let (at, mailbox) = (entry.machine.place(), mailbox_wire(entry.options.mailbox));
        for asker in entry.asking.drain(..) {
            entry.told.insert(asker);
            self.say(asker, Talk::Located { actor, at, reason: None, mailbox });
        }
    }

    /// Where an actor is whose home this is, as far as there is a place, and what its mailbox holds; `None` when it has
    /// ended.
    pub(crate) fn home_place(&self, actor: ActorId) -> Option<(Option<ProcessId>, Window)> {
        let homes = self.homes.table.lock();
        let entry = homes.get(&actor)?;
        let MailboxWire { items_max, bytes_max } = mailbox_wire(entry.options.mailbox);
        let process = entry.machine.place().map(|(process, _)| process);
        Some((process, Window::of_mailbox(items_max, bytes_max)))
    }

    /// The holder of a lease is to give it back; false when it is of no actor of ours.
    pub(crate) fn home_recalled(self: &Arc<Self>, lease: LeaseId) -> bool {
        let has_it = |entry: &Entry| entry.machine.host().is_some_and(|(held, _)| held == lease);
        let found = self.homes.table.lock().iter().find(|(_, entry)| has_it(entry)).map(|(id, _)| *id);
        if let Some(id) = found {
            self.drive_home(id, Some(Input::Recalled { lease }));
        }
        found.is_some()
    }

    /// A process has nothing on its way to an actor that is to move. When nobody has, the actor is told to leave.
    pub(crate) fn home_settled(self: &Arc<Self>, actor: ActorId, from: ProcessId) {
        self.settle_homes(Some(actor), |process| process == from);
    }

    fn settle_homes(self: &Arc<Self>, only: Option<ActorId>, has_settled: impl Fn(ProcessId) -> bool) {
        let mut homes = self.homes.table.lock();
        let settle = |id: ActorId, entry: &mut Entry| {
            let Some(settling) = &mut entry.settling else { return };
            settling.retain(|process| !has_settled(*process));
            if settling.is_empty() {
                entry.settling = None;
                if let (None, Some((_, process))) = (entry.machine.place(), entry.machine.host()) {
                    self.send_control(process, id, &Control::Leave);
                }
            }
        };
        match only {
            Some(id) => homes.get_mut(&id).into_iter().for_each(|entry| settle(id, entry)),
            None => homes.iter_mut().for_each(|(id, entry)| settle(*id, entry)),
        }
    }

    /// Processes have ended that may have been where actors of ours lived.
    pub(crate) fn homes_died(self: &Arc<Self>, death: &Death) {
        let there: Vec<ActorId> = {
            let mut homes = self.homes.table.lock();
            let there = |entry: &Entry| entry.machine.host().is_some_and(|(_, process)| home::concerns(death, process));
            let dead = homes.iter_mut().filter(|(_, entry)| there(entry));
            dead.map(|(id, entry)| {
                // What has taken a process down with it starts again in one of its own (design.md §2).
                entry.options.place.isolated |= death.culprits.contains(&Culprit::Actor(*id));
                if death.process.number() == 0 && entry.avoid.len() < AVOIDED_MAX {
                    entry.avoid.push(death.process.node());
                }
                *id
            })
            .collect()
        };
        for id in there {
            let culprit = death.culprits.contains(&Culprit::Actor(id));
            self.drive_home(id, Some(Input::ProcessDied { death: Box::new(death.clone()), culprit }));
        }
        self.settle_homes(None, |process| home::concerns(death, process));
    }

    /// The node is gone, and with it every place: all actors whose home this is have ended, or cannot be reached.
    pub(crate) fn homes_over(self: &Arc<Self>, death: &Death) {
        let all: Vec<_> = {
            let homes = self.homes.table.lock();
            homes.iter().map(|(id, entry)| (*id, entry.machine.host())).collect()
        };
        for (id, place) in all {
            if let Some((_, process)) = place {
                let death = Box::new(Death { process, ..death.clone() });
                self.drive_home(id, Some(Input::ProcessDied { death, culprit: false }));
            }
            let reason = ExitReason::ProcessDied(Box::new(death.clone()));
            self.drive_home(id, Some(Input::Stop { reason }));
        }
    }

    /// A verdict or an end for an actor that is nowhere now is for its home; true when it was.
    pub(crate) fn home_control(self: &Arc<Self>, actor: ActorId, control: &Control) -> bool {
        let (parent, is_parked) = {
            let homes = self.homes.table.lock();
            match homes.get(&actor) {
                Some(entry) if entry.machine.place().is_none() => {
                    if let (Control::Kill, Some((_, process))) = (control, entry.machine.host()) {
                        // It is about to move, and is killed where it still is.
                        self.send_control(process, actor, control);
                    }
                    (entry.options.parent, entry.machine.is_parked())
                }
                _ => return false,
            }
        };
        let input = match control {
            Control::Start => Input::Start,
            Control::Stop { reason, park: false } => Input::Stop { reason: reason.clone() },
            // It died with its process and waits already: its supervisor may start it again.
            Control::Stop { reason, park: true } if is_parked => {
                if let (Some(parent), Some(system)) = (parent, self.system()) {
                    let what = ChildState::Parked(reason.clone());
                    system.control(parent, Control::Child(ChildEvent { child: actor, what }));
                }
                return true;
            }
            // Nothing of it runs.
            Control::Kill => return true,
            // On its way to a place: it is told there.
            _ => return false,
        };
        self.drive_home(actor, Some(input));
        true
    }
}

/// The name that was chosen at a spawn.
pub(crate) fn said_name(options: &SpawnOptions) -> Option<ActorName> {
    let name = options.name.clone()?;
    Some(ActorName { namespace: options.namespace.clone(), name })
}

/// What was chosen at a spawn, for the place where it begins.
pub(crate) fn spawn_wire(options: &SpawnOptions) -> SpawnWire {
    SpawnWire {
        name: said_name(options),
        parent: options.parent,
        supervised_by_parent: options.supervised_by_parent,
        policy: options.policy,
        mailbox: mailbox_wire(options.mailbox),
        dedicated: options.placement == Placement::Dedicated,
    }
}

#[derive(Default)]
struct After {
    placed: Option<(ProcessId, Incarnation)>,
    mailbox: MailboxWire,
    told: Vec<ProcessId>,
    moves: bool,
    parent: Option<(ActorId, ChildState)>,
    ended: Option<ExitReason>,
    gone: Option<Entry>,
}
