//! One process's world of actors: who lives in it, by which names, on which threads, and what was counted.
//!
//! A process has one system per session (tests have several at once). It knows nothing of networks: what is not here
//! leaves through [`Deliver`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use mobula_types::{ActorId, ActorName, ExitReason, Incarnation, Interface, ObjectId, ProcessId, TaskId};
use mobula_wire::PAYLOAD_BYTES_MAX;
use parking_lot::{Mutex, RwLock};
use slab::Slab;

use crate::arbiters::{Arbiters, Placement};
use crate::control::{ChildEvent, ChildState, Control, Down};
use crate::counters::{Count, Counters};
use crate::deliver::Deliver;
use crate::held::Held;
use crate::lanes::MailboxBounds;
use crate::mailbox::{ActorStatus, AnyMailbox};
use crate::object::Exports;
use crate::panics;
use crate::places::Places;
use crate::progress::{self, HANG_LIMIT, Hang};

/// Names kept at once; a name is as long as its actor lives.
const NAMES_MAX: usize = 65_536;

/// How to make a [`System`].
#[derive(Clone, Debug)]
pub struct SystemConfig {
    /// The process, unique among the systems that talk to one another.
    pub process: ProcessId,
    /// Threads that actors share.
    pub arbiters: usize,
    /// The bytes of one value that leaves the process: at most [`PAYLOAD_BYTES_MAX`](mobula_wire::PAYLOAD_BYTES_MAX).
    pub value_bytes_max: usize,
}

/// A tell that reached nobody.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Whom it was for.
    pub to: ActorId,
    /// The message's Rust type.
    pub message: &'static str,
    /// Why that one has ended.
    pub reason: ExitReason,
}

/// What is done about handlers that keep their thread.
struct Hangs {
    limit: Duration,
    hook: Option<HangHook>,
}

type HangHook = Arc<dyn Fn(&Hang) + Send + Sync>;

impl Default for Hangs {
    fn default() -> Self {
        Self { limit: HANG_LIMIT, hook: None }
    }
}

type DeadLetterHook = Arc<dyn Fn(&DeadLetter) + Send + Sync>;

/// One process's actors, names, threads and counters.
pub struct System {
    process: ProcessId,
    arbiters: Arbiters,
    value_bytes_max: usize,
    directory: Mutex<Directory>,
    names: RwLock<HashMap<ActorName, ActorId>>,
    /// Where names without a namespace are unique, when others may say that namespace too.
    namespace: OnceLock<String>,
    counters: Counters,
    dead_letters: RwLock<Option<DeadLetterHook>>,
    hangs: RwLock<Hangs>,
    deliver: OnceLock<Arc<dyn Deliver>>,
    places: OnceLock<Arc<dyn Places>>,
    pub(crate) exports: Exports,
    pub(crate) held: Arc<Held>,
    objects_made: AtomicU64,
    tasks_made: AtomicU64,
    ending: AtomicBool,
    /// What the crates above keep with the system, such as the pool that runs tasks.
    extension: OnceLock<Arc<dyn std::any::Any + Send + Sync>>,
}

#[derive(Default)]
struct Directory {
    actors: Slab<Entry>,
    /// Actors that live here because their homes, mostly other processes, found a place for them here.
    guests: HashMap<ActorId, Arc<dyn AnyMailbox>>,
    /// Counts every id ever given, so that a reused slot makes another id.
    generation: u32,
}

/// An actor that was spawned here.
enum Entry {
    /// It lives here.
    Here(Arc<dyn AnyMailbox>),
    /// It lives in another process; its id is kept for it.
    Away(ActorId),
}

impl Directory {
    /// The mailbox of an actor that lives here.
    fn here(&self, process: ProcessId, id: ActorId) -> Option<&Arc<dyn AnyMailbox>> {
        let slot = (id.process == process).then(|| self.actors.get(id.slot as usize)).flatten();
        match slot {
            Some(Entry::Here(mailbox)) if mailbox.id() == id => Some(mailbox),
            // One that was spawned here may have got a place here too.
            _ => self.guests.get(&id),
        }
    }

    /// All that live here, in no order.
    fn living(&self) -> impl Iterator<Item = &Arc<dyn AnyMailbox>> {
        let own = self.actors.iter().filter_map(|(_, entry)| match entry {
            Entry::Here(mailbox) => Some(mailbox),
            Entry::Away(_) => None,
        });
        own.chain(self.guests.values())
    }

    fn next_id(&mut self, process: ProcessId) -> ActorId {
        self.generation = self.generation.wrapping_add(1);
        let slot = u32::try_from(self.actors.vacant_key()).expect("fewer than 4 billion actors live at once");
        ActorId { process, slot, generation: self.generation }
    }
}

static PROCESS_DEFAULT: RwLock<Weak<System>> = RwLock::new(Weak::new());

impl System {
    /// Starts the threads of a new system.
    pub fn start(config: &SystemConfig) -> Arc<Self> {
        panics::install_hook();
        Self::with(config.process, Arbiters::start(config.arbiters), config.value_bytes_max)
    }

    fn with(process: ProcessId, arbiters: Arbiters, value_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            process,
            arbiters,
            value_bytes_max: value_bytes_max.min(PAYLOAD_BYTES_MAX),
            directory: Mutex::default(),
            names: RwLock::default(),
            namespace: OnceLock::new(),
            counters: Counters::default(),
            dead_letters: RwLock::default(),
            hangs: RwLock::default(),
            deliver: OnceLock::new(),
            places: OnceLock::new(),
            exports: Exports::default(),
            held: Arc::default(),
            objects_made: AtomicU64::new(0),
            tasks_made: AtomicU64::new(0),
            ending: AtomicBool::new(false),
            extension: OnceLock::new(),
        })
    }

    /// The bytes that one value may have which leaves the process.
    pub fn value_bytes_max(&self) -> usize {
        self.value_bytes_max
    }

    /// The system of code that has none: nothing runs in it, and all it is asked says so.
    pub fn absent() -> &'static Arc<Self> {
        static ABSENT: OnceLock<Arc<System>> = OnceLock::new();
        ABSENT.get_or_init(|| {
            let absent = Self::with(ProcessId::default(), Arbiters::none(), PAYLOAD_BYTES_MAX);
            absent.ending.store(true, Ordering::Release);
            absent
        })
    }

    /// Makes this the system of code that runs on threads of no system, unless there is one already.
    pub fn make_process_default(self: &Arc<Self>) -> bool {
        let mut default = PROCESS_DEFAULT.write();
        let free = default.upgrade().is_none_or(|old| old.is_ending());
        if free {
            *default = Arc::downgrade(self);
        }
        free
    }

    pub(crate) fn process_default() -> Option<Arc<Self>> {
        PROCESS_DEFAULT.read().upgrade().filter(|system| !system.is_ending())
    }

    /// Which process of the cluster this is.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sends every call, reply and spawn through `deliver` from now on, even to actors of this very process.
    ///
    /// # Errors
    ///
    /// Gives `deliver` back when there is one already.
    pub fn set_deliver(&self, deliver: Arc<dyn Deliver>) -> Result<(), Arc<dyn Deliver>> {
        self.deliver.set(deliver)
    }

    /// Where mail for other processes leaves; `None` when all actors are here and nothing is encoded.
    pub fn deliver(&self) -> Option<&Arc<dyn Deliver>> {
        self.deliver.get()
    }

    /// Actors that are started here and are said to run in a placement group take their places of `places` from now on; said
    /// once, where no cluster gives them out.
    pub fn set_places(&self, places: Arc<dyn Places>) {
        self.places.set(places).ok();
    }

    pub(crate) fn places(&self) -> Option<&Arc<dyn Places>> {
        self.places.get()
    }

    /// Keeps `extension` for the crates above, once.
    pub fn set_extension(&self, extension: Arc<dyn std::any::Any + Send + Sync>) -> bool {
        self.extension.set(extension).is_ok()
    }

    /// What [`set_extension`](Self::set_extension) kept.
    pub fn extension(&self) -> Option<Arc<dyn std::any::Any + Send + Sync>> {
        self.extension.get().cloned()
    }

    /// Calls `hook` for every tell that reaches nobody. The counter counts them with and without a hook.
    pub fn on_dead_letter(&self, hook: impl Fn(&DeadLetter) + Send + Sync + 'static) {
        *self.dead_letters.write() = Some(Arc::new(hook));
    }

    /// Calls `hook` for every handler that keeps its thread longer than `limit`, once for each; it must not block. What
    /// holds [`protect`](crate::Context::protect) is not reported. With and without a hook such handlers are logged and
    /// counted, from 1 s on unless `limit` is another.
    pub fn on_hang(&self, limit: Duration, hook: impl Fn(&Hang) + Send + Sync + 'static) {
        progress::watch_for(limit);
        *self.hangs.write() = Hangs { limit, hook: Some(Arc::new(hook)) };
    }

    pub(crate) fn hang_limit(&self) -> Duration {
        self.hangs.read().limit
    }

    pub(crate) fn tell_hang(&self, hang: &Hang) {
        let hook = self.hangs.read().hook.clone();
        if let Some(hook) = hook {
            hook(hang);
        }
    }

    /// Every actor that lives here, in no order.
    pub fn actors(&self) -> Vec<ActorStatus> {
        let mailboxes: Vec<_> = self.directory.lock().living().cloned().collect();
        mailboxes.iter().map(|mailbox| mailbox.status()).collect()
    }

    /// Whether any actor lives here.
    pub fn hosts_any(&self) -> bool {
        self.directory.lock().living().next().is_some()
    }

    /// Threads that actors share.
    pub fn arbiters(&self) -> usize {
        self.arbiters.count()
    }

    /// Runs `job` on an arbiter; false when the system has stopped.
    pub fn run_on_arbiter(self: &Arc<Self>, placement: Placement, job: impl FnOnce() + Send + 'static) -> bool {
        self.arbiters.run(self, placement, job)
    }

    /// The id of a new object.
    pub fn next_object_id(&self) -> ObjectId {
        ObjectId { owner: self.process, seq: self.objects_made.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// The id of a new task.
    pub fn next_task_id(&self) -> TaskId {
        TaskId { process: self.process, seq: self.tasks_made.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// Whether the session is over or about to be: nothing new is started.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Stops every root actor and with it its children, waits at most `patience` for them, then ends the threads.
    pub async fn stop(&self, patience: Duration) {
        if self.ending.swap(true, Ordering::AcqRel) {
            return;
        }
        let reason = ExitReason::Shutdown;
        for root in self.roots() {
            root.control(Control::Stop { reason: reason.clone(), park: false });
        }
        let deadline = tokio::time::Instant::now() + patience;
        while self.hosts_any() {
            if tokio::time::Instant::now() >= deadline {
                let left = self.actors();
                tracing::warn!(count = left.len(), "actors did not stop in time and are dropped");
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.arbiters.stop();
        // Mail of actors that were dropped with their thread still has callers.
        let left = std::mem::take(&mut *self.directory.lock());
        drop(left);
    }

    fn roots(&self) -> Vec<Arc<dyn AnyMailbox>> {
        let directory = self.directory.lock();
        let mut roots: Vec<_> = directory.living().filter(|actor| actor.parent().is_none()).cloned().collect();
        roots.sort_by_key(|root| std::cmp::Reverse(root.id().generation));
        roots
    }

    /// Gives a new actor its id and its place in the directory.
    pub(crate) fn admit<M: AnyMailbox + 'static>(&self, make: impl FnOnce(ActorId) -> Arc<M>) -> Arc<M> {
        let mut directory = self.directory.lock();
        let id = directory.next_id(self.process);
        let mailbox = make(id);
        directory.actors.insert(Entry::Here(mailbox.clone()));
        mailbox
    }

    /// Gives an actor that was spawned elsewhere its place here; `None` when it lives here already.
    pub(crate) fn admit_guest<M: AnyMailbox + 'static>(&self, mailbox: Arc<M>) -> Option<Arc<M>> {
        let mut directory = self.directory.lock();
        match directory.guests.entry(mailbox.id()) {
            std::collections::hash_map::Entry::Occupied(_) => None,
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(mailbox.clone());
                Some(mailbox)
            }
        }
    }

    /// An id for an actor that is to live in another process; [`release`](Self::release) gives it back.
    pub fn reserve(&self) -> ActorId {
        let mut directory = self.directory.lock();
        let id = directory.next_id(self.process);
        directory.actors.insert(Entry::Away(id));
        id
    }

    /// The actor that lived elsewhere under a reserved id has ended for good.
    pub fn release(&self, id: ActorId) {
        let mut directory = self.directory.lock();
        if matches!(directory.actors.get(id.slot as usize), Some(Entry::Away(known)) if *known == id) {
            directory.actors.remove(id.slot as usize);
        }
    }

    /// Names without a namespace are in this one from now on; said once, before there are any.
    pub fn set_namespace(&self, namespace: String) {
        self.namespace.set(namespace).ok();
    }

    /// The namespace of names that say none; `None` when no other job can say it.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.get().map(String::as_str)
    }

    /// A name in the one way in which this system knows it: its own namespace goes without saying.
    fn said_here(&self, name: &ActorName) -> ActorName {
        let namespace = name.namespace.clone().filter(|namespace| self.namespace() != Some(namespace.as_str()));
        ActorName { namespace, name: name.name.clone() }
    }

    pub(crate) fn forget(&self, id: ActorId, name: Option<&ActorName>) {
        let (guest, own) = {
            let mut directory = self.directory.lock();
            let guest = directory.guests.remove(&id);
            let is_own = guest.is_none() && id.process == self.process && directory.here(self.process, id).is_some();
            let own = is_own.then(|| directory.actors.remove(id.slot as usize));
            (guest, own)
        };
        let is_guest = guest.is_some();
        drop((guest, own));
        let Some(name) = name else { return };
        let had_it = {
            let (mut names, said) = (self.names.write(), self.said_here(name));
            names.get(&said) == Some(&id) && names.remove(&said).is_some()
        };
        // Of a detached actor the name is its home's to give back.
        if (had_it || is_guest && id.process != ProcessId::HEAD)
            && let Some(deliver) = self.deliver()
        {
            deliver.release_name(name, id);
        }
    }

    /// Whether the actor lives here.
    pub fn hosts(&self, id: ActorId) -> bool {
        self.local(id).is_some()
    }

    /// Which life an actor that lives here is in.
    pub fn incarnation(&self, id: ActorId) -> Option<Incarnation> {
        self.local(id).map(|mailbox| mailbox.status().incarnation)
    }

    /// How much mail may wait for an actor that lives here.
    pub fn mailbox_bounds(&self, id: ActorId) -> Option<MailboxBounds> {
        self.local(id).map(|mailbox| mailbox.bounds())
    }

    /// The actors that live here because their homes found a place for them here.
    pub fn guests(&self) -> Vec<ActorId> {
        self.directory.lock().guests.keys().copied().collect()
    }

    /// The mailbox of an actor that lives here.
    pub(crate) fn local(&self, id: ActorId) -> Option<Arc<dyn AnyMailbox>> {
        self.directory.lock().here(self.process, id).cloned()
    }

    /// Whether an actor that does not live here may live elsewhere: it was spawned by another process, or sent there.
    fn may_be_away(&self, id: ActorId) -> bool {
        let kept = |directory: &Directory| matches!(directory.actors.get(id.slot as usize), Some(Entry::Away(known)) if *known == id);
        id.process != self.process || kept(&self.directory.lock())
    }

    /// Whether the actor lives, as far as is known here.
    pub fn is_alive(&self, id: ActorId) -> bool {
        if self.local(id).is_some() {
            return true;
        }
        self.may_be_away(id) && self.deliver().is_some_and(|deliver| deliver.is_alive(id))
    }

    /// Reserves `name` for `id`, or says who has it.
    pub(crate) fn claim_name(&self, name: &ActorName, id: ActorId) -> Result<(), NameRefused> {
        let (mut names, name) = (self.names.write(), self.said_here(name));
        if let Some(owner) = names.get(&name) {
            return Err(NameRefused::Taken(*owner));
        }
        if names.len() >= NAMES_MAX {
            return Err(NameRefused::TooMany);
        }
        names.insert(name, id);
        Ok(())
    }

    /// Whose name this is, among those that were spawned here.
    pub fn named(&self, name: &ActorName) -> Option<ActorId> {
        self.names.read().get(&self.said_here(name)).copied()
    }

    /// What an actor that lives here can be asked from outside.
    pub fn interface(&self, id: ActorId) -> Option<Interface> {
        self.local(id).map(|mailbox| mailbox.interface())
    }

    /// Sends a control message to wherever the actor is.
    pub fn control(&self, to: ActorId, control: Control) {
        if self.may_be_away(to) && self.local(to).is_none() {
            if let Some(deliver) = self.deliver() {
                deliver.control(to, control);
            }
            return;
        }
        self.control_local(to, control);
    }

    /// Gives a control message to an actor of this system, or answers in its place when it has ended.
    pub fn control_local(&self, to: ActorId, control: Control) {
        let mailbox = self.local(to);
        if mailbox.as_ref().is_some_and(|mailbox| mailbox.control(control.clone())) {
            return;
        }
        match self.deliver().filter(|_| mailbox.is_some_and(|mailbox| mailbox.has_moved())) {
            Some(deliver) => deliver.control(to, control),
            None => self.answer_for_the_dead(to, &control),
        }
    }

    /// Who watches, links or stops an actor that has ended is told so.
    pub(crate) fn answer_for_the_dead(&self, dead: ActorId, control: &Control) {
        let down = Down { actor: dead, incarnation: Incarnation::default(), reason: ExitReason::Gone, ended: true };
        match control {
            Control::Watch { by } => self.control(*by, Control::Down(down)),
            Control::Link { peer } => self.control(*peer, Control::LinkDown(down)),
            Control::Adopt { child }
            | Control::Child(ChildEvent { child, what: ChildState::Started | ChildState::Parked(_) }) => {
                // A child without its parent does not live on.
                self.control(*child, Control::Stop { reason: ExitReason::Shutdown, park: false });
            }
            _ => {}
        }
    }

    /// Counts a tell that reached nobody, and tells the hook.
    pub fn dead_letter(&self, to: ActorId, message: &'static str, reason: &ExitReason) {
        self.counters.add(Count::DeadLetters);
        let hook = self.dead_letters.read().clone();
        if let Some(hook) = hook {
            hook(&DeadLetter { to, message, reason: reason.clone() });
        }
    }
}

pub(crate) enum NameRefused {
    Taken(ActorId),
    TooMany,
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("System").field("process", &self.process).finish_non_exhaustive()
    }
}
