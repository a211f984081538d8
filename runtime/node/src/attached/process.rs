//! One attached process from its first word to its end: what its node and other processes say, and who acts on it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use mobula_actor::deliver::NameClaim;
use mobula_actor::object::Pins;
use mobula_actor::{Count, System, arbiters, wakes};
use mobula_logic::home::{self, Input as HomeInput};
use mobula_net::unix::{self, Listener, UnixError};
use mobula_net::{Connection, Frame, Incoming, Line};
use mobula_store::Client;
use mobula_types::state::OutcomeCounters;
use mobula_types::{
    ActorId, ActorName, CallError, Death, DeathCause, ErrorChain, ExitReason, Loss as ObjectLoss, NameOwner, NodeId,
    NotStarted, Outcome, ProcessId, Unknown,
};
use mobula_wire::frame::CONTROL_BYTES_MAX;
use mobula_wire::local::{DetachedSpawn, FromNode, Hello, ToNode, ToolQuestion, Welcome};
use mobula_wire::{FrameKind, Parcel, Talk};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use crate::groups::Waiters;
use crate::losses::{Loss, Losses};

use super::calls::Targets;
use super::exchanges::{SharedExchanges, Waiting};
use super::far::{self, FarError, FarNode, Session};
use super::homes::Homes;
use super::large::Large;
use super::link::{Link, NameAnswer, Wanted, ask_node};
use super::objects::Objects;
use super::outboxes::Outboxes;
use super::post::Serving;
use super::roads::Roads;
use super::tasks::Tasks;

/// The node answers in this time, or the process does not attach.
const WELCOME_MAX: Duration = Duration::from_secs(10);

/// How often a node is told what was submitted, while that changes.
const COUNTERS_EVERY: Duration = Duration::from_millis(200);

/// Why the lines of a process that leaves are closed.
const LEFT: &str = "the session has ended";

/// Between two looks whether an actor that was told to stop has, or what was said has left.
const STOPPED_LOOK: Duration = Duration::from_millis(2);

/// A name or value is asked for no longer than this.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// An attached process.
pub(crate) struct Process {
    pub(crate) me: ProcessId,
    system: OnceLock<Weak<System>>,
    pub(crate) link: Link,
    pub(crate) roads: Arc<Roads>,
    pub(crate) exchanges: SharedExchanges,
    pub(crate) targets: Targets,
    pub(crate) homes: Homes,
    pub(crate) outboxes: Outboxes,
    pub(crate) tasks: Tasks,
    pub(crate) serving: Serving,
    pub(crate) large: Large,
    /// Its part of the memory that the processes of its host share; none where its node is on another one.
    pub(crate) store: Option<Client>,
    /// Somebody is about to give back what of it is not in use.
    pub(crate) is_sweeping: AtomicBool,
    pub(crate) objects: Objects,
    pub(crate) groups: Waiters,
    graves: Mutex<Graves>,
    readers: Readers,
    /// Where its node listens, on this host.
    socket: Option<PathBuf>,
    /// Why the process is to end, once its node says so or is gone.
    ended: watch::Sender<Option<DeathCause>>,
    hooks: OnceLock<Hooks>,
    /// What it said and went nowhere.
    losses: Arc<Losses>,
}

/// What differs between drivers and workers.
pub(crate) struct Hooks {
    /// What may run at once here changed.
    pub(crate) capacity: Box<dyn Fn(mobula_types::resources::Resources) + Send + Sync>,
    /// A worker wrote something.
    pub(crate) output: Box<dyn Fn(ProcessId, bool, Vec<String>) + Send + Sync>,
}

/// Why a process could not attach to a node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum JoinError {
    #[error(transparent)]
    Unix(#[from] UnixError),
    /// There is no way to a node on another host.
    #[error(transparent)]
    Far(#[from] FarError),
    /// The node said no.
    #[error("{message}")]
    Refused { message: String },
    /// The node said nothing, or nonsense.
    #[error("the node at {path} does not answer as one: {message}", path = path.display())]
    Silent { path: PathBuf, message: String },
}

/// What is made when a node has taken a process in.
pub(crate) struct Joined {
    pub(crate) process: Arc<Process>,
    pub(crate) welcome: Welcome,
    ears: Ears,
    listener: Option<Listener>,
}

/// By what a process hears its node.
enum Ears {
    Socket(Incoming),
    Session(Box<Session>),
}

/// Attaches to the node that listens at `socket`.
pub(crate) async fn join(socket: &Path, hello: &Hello) -> Result<Joined, JoinError> {
    let silent = |message: String| JoinError::Silent { path: socket.to_owned(), message };
    let (connection, mut incoming) = unix::connect(socket, WELCOME_MAX).await?;
    let words = mobula_wire::encode(hello).map_err(|error| silent(error.to_string()))?;
    connection.send(FrameKind::Greeting, words.into()).map_err(|error| silent(error.to_string()))?;
    let answer = match tokio::time::timeout(WELCOME_MAX, incoming.next()).await {
        Ok(Ok(frame)) => frame,
        Ok(Err(closed)) => return Err(silent(closed.to_string())),
        Err(_) => return Err(silent(format!("nothing came within {WELCOME_MAX:?}"))),
    };
    let welcome = match mobula_wire::decode_limited::<FromNode, CONTROL_BYTES_MAX>(&answer.body) {
        Ok(FromNode::Welcome(welcome)) => welcome,
        Ok(FromNode::Refused { message }) => return Err(JoinError::Refused { message }),
        Ok(_) => return Err(silent("its first word is no welcome".into())),
        Err(error) => return Err(silent(error.to_string())),
    };
    joined(connection.into(), welcome, Some(socket.to_owned()), Ears::Socket(incoming)).await
}

/// Attaches to a node on another host.
pub(crate) async fn join_far(
    node: &FarNode,
    name: String,
    env: BTreeMap<String, String>,
    namespace: Option<String>,
) -> Result<Joined, JoinError> {
    let (session, welcome) = far::attach(node, name, env, namespace).await?;
    joined(session.line(), welcome, None, Ears::Session(Box::new(session))).await
}

async fn joined(line: Line, welcome: Welcome, socket: Option<PathBuf>, ears: Ears) -> Result<Joined, JoinError> {
    let me = welcome.process;
    let folder = (!welcome.folder.is_empty()).then(|| Path::new(&welcome.folder));
    let store = folder.map(|folder| Client::new(me, folder, welcome.peer_secret.clone()));
    let losses = Arc::new(Losses::default());
    let roads = Roads::new(me, line.clone(), &welcome.folder, welcome.peer_secret.clone(), losses.clone());
    let listener = roads.listen().await?;
    let process = Arc::new(Process {
        me,
        system: OnceLock::new(),
        link: Link::new(line, losses.clone()),
        roads: Arc::new(roads),
        exchanges: Arc::default(),
        targets: Targets::default(),
        homes: Homes::default(),
        outboxes: Outboxes::default(),
        tasks: Tasks::default(),
        serving: Serving::default(),
        large: Large::new(me),
        store,
        is_sweeping: AtomicBool::new(false),
        objects: Objects::default(),
        groups: Waiters::default(),
        graves: Mutex::default(),
        readers: Readers::default(),
        socket,
        ended: watch::Sender::new(None),
        hooks: OnceLock::new(),
        losses,
    });
    Ok(Joined { process, welcome, ears, listener })
}

impl Joined {
    /// Begins to listen, in the name of `system`: what comes needs all that the system is made of.
    pub(crate) fn begin(self, system: &Arc<System>, hooks: Hooks) {
        let Self { process, ears, listener, welcome } = self;
        process.system.set(Arc::downgrade(system)).ok();
        if let Some(namespace) = welcome.namespace {
            system.set_namespace(namespace);
        }
        process.hooks.set(hooks).ok();
        let runtime = arbiters::runtime();
        match ears {
            Ears::Socket(incoming) => runtime.spawn(process.clone().read_node(incoming)),
            Ears::Session(session) => runtime.spawn(process.clone().read_session(session)),
        };
        if let Some(listener) = listener {
            runtime.spawn(process.clone().take_peers(listener));
        }
        runtime.spawn(process.count());
    }
}

impl Process {
    /// The system of actors of this process, while its session lasts.
    pub(crate) fn system(&self) -> Option<Arc<System>> {
        self.system.get().and_then(Weak::upgrade)
    }

    /// Whether this process is to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Why this process is to end, if it is.
    pub(crate) fn ending(&self) -> Option<DeathCause> {
        self.ended.borrow().clone()
    }

    /// Waits until this process is to end.
    pub(crate) async fn ended(&self) -> DeathCause {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|cause| cause.clone()) {
            Ok(Some(cause)) => cause,
            _ => DeathCause::Disconnected,
        }
    }

    /// Says something that has no payload and no answer.
    pub(crate) fn say(self: &Arc<Self>, to: ProcessId, talk: Talk) {
        self.send(Parcel { to, from: self.me, talk, payload: bytes::Bytes::new() });
    }

    /// Sends a parcel whose loss is found out by its receiver or at its receiver's death. A parcel for this process itself
    /// is acted on at once.
    pub(crate) fn send(self: &Arc<Self>, parcel: Parcel) {
        let to = parcel.to;
        if let Err(cause) = self.post(parcel, Pins::default()) {
            tracing::debug!(%to, %cause, "a word was not sent");
            self.losses.count(Loss::of_parcel(&cause));
            if let Some(system) = self.system() {
                system.counters().add(Count::Refused);
            }
        }
    }

    async fn read_node(self: Arc<Self>, mut incoming: Incoming) {
        while let Ok(frame) = incoming.next().await {
            wakes::together(|| {
                self.heard(&frame);
                while let Ok(Some(frame)) = incoming.try_next() {
                    self.heard(&frame);
                }
            });
        }
        self.node_gone(DeathCause::NodeKilled);
    }

    async fn read_session(self: Arc<Self>, mut session: Box<Session>) {
        let cause = loop {
            match session.next().await {
                Ok(frame) => self.heard(&frame),
                Err(cause) => break cause,
            }
        };
        self.node_gone(cause);
    }

    fn heard(self: &Arc<Self>, frame: &Frame) {
        let Frame { kind, body } = frame;
        match kind {
            FrameKind::Parcel => self.take_parcel(body),
            FrameKind::Part => self.part_came(body, None),
            FrameKind::Local => match mobula_wire::decode_limited::<FromNode, CONTROL_BYTES_MAX>(body) {
                Ok(said) => self.node_said(said),
                Err(error) => self.cannot_read(self.me.node().into(), &error),
            },
            _ => {}
        }
    }

    async fn take_peers(self: Arc<Self>, listener: Listener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = self.ended() => return,
            };
            match accepted {
                Ok((connection, incoming, _)) => {
                    let process = self.clone();
                    tokio::spawn(async move { process.read_peer(connection, incoming).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection of another process can be taken");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn read_peer(self: Arc<Self>, connection: Connection, mut incoming: Incoming) {
        let Some(from) = self.roads.greeted(&connection, &mut incoming).await else { return };
        let _reading = self.readers.enter(&self, from);
        while let Ok(frame) = incoming.next().await {
            let is_over = wakes::together(|| {
                let mut next = Some(frame);
                while let Some(frame) = next {
                    if !self.heard_of_peer(from, &frame) {
                        return true;
                    }
                    next = incoming.try_next().ok().flatten();
                }
                false
            });
            if is_over {
                break;
            }
        }
        drop(connection);
    }

    /// Whether it is what that peer may say.
    fn heard_of_peer(self: &Arc<Self>, from: ProcessId, Frame { kind, body }: &Frame) -> bool {
        if *kind == FrameKind::Part {
            self.part_came(body, Some(from));
            return true;
        }
        match Parcel::decode(body) {
            Ok(parcel) if *kind == FrameKind::Parcel && parcel.from == from => self.received(parcel),
            Ok(_) => return false,
            Err(error) => self.cannot_read(from, &error),
        }
        true
    }

    fn take_parcel(self: &Arc<Self>, body: &bytes::Bytes) {
        match Parcel::decode(body) {
            Ok(parcel) => self.received(parcel),
            Err(error) => self.cannot_read(self.me.node().into(), &error),
        }
    }

    fn cannot_read(&self, from: ProcessId, error: &dyn std::error::Error) {
        tracing::warn!(%from, %error, "what has come cannot be read");
        self.losses.count(Loss::Unreadable);
    }

    fn node_said(self: &Arc<Self>, said: FromNode) {
        match said {
            FromNode::Granted { request, lease, process } => match self.link.answered(request) {
                Some(Wanted::Home(actor)) => {
                    self.drive_home(actor, Some(HomeInput::Granted { lease, process }));
                }
                Some(Wanted::Tasks(request)) => {
                    self.drive_tasks(Some(mobula_logic::dispatch::Input::Granted { request, lease, process }));
                }
                _ => self.link.tell(&ToNode::Return { lease }),
            },
            FromNode::NoPlace { request, missing, for_ever } => match self.link.answered(request) {
                Some(Wanted::Home(actor)) => {
                    let reason = ExitReason::Failed(ErrorChain::message(format!("no place: {missing}")));
                    self.drive_home(actor, Some(HomeInput::NoPlace { reason }));
                }
                Some(Wanted::Tasks(request)) => self.task_place_refused(request, &missing, for_ever),
                _ => {}
            },
            FromNode::NameClaimed { request, owner } => {
                if let Some(Wanted::Claim(sender)) = self.link.answered(request) {
                    sender.send(owner).ok();
                }
            }
            FromNode::NameFound { request, owner } => {
                if let Some(Wanted::LookUp(sender)) = self.link.answered(request) {
                    sender.send(owner).ok();
                }
            }
            FromNode::KvValue { request, value } => {
                if let Some(Wanted::Value(sender)) = self.link.answered(request) {
                    sender.send(value).ok();
                }
            }
            FromNode::GroupReady { group, nodes } => self.groups.heard(group, &Ok(nodes)),
            FromNode::GroupEnded { group, why } => self.groups.heard(group, &Err(why)),
            FromNode::Recalled { lease } => {
                if !self.home_recalled(lease) {
                    self.drive_tasks(Some(mobula_logic::dispatch::Input::Recalled { lease }));
                }
            }
            FromNode::Draining => self.withdraw_tasks(),
            FromNode::Answer { request, answer } => {
                if let Some(Wanted::Answer(sender)) = self.link.answered(request) {
                    sender.send(answer).ok();
                }
            }
            FromNode::Object(answer) => self.object_answered(answer),
            FromNode::Died(death) => self.heard_of_death(death),
            FromNode::Capacity(resources) => {
                if let Some(hooks) = self.hooks.get() {
                    (hooks.capacity)(resources);
                }
            }
            FromNode::List { request, only } => {
                let (items, requests) = self.listed(only.as_deref());
                self.link.tell(&ToNode::Listing { request, items, requests });
            }
            FromNode::Output { process, is_stderr, lines } => {
                if let Some(hooks) = self.hooks.get() {
                    (hooks.output)(process, is_stderr, lines);
                }
            }
            FromNode::LendEnded { transfer } => self.large.lend_ended(transfer),
            FromNode::Hauled { from, transfer, is_whole } => self.hauled(from, transfer, is_whole),
            FromNode::NameLost { namespace, name, actor } => {
                let process = self.clone();
                arbiters::runtime()
                    .spawn(async move { process.stop_named(ActorName { namespace, name }, actor).await });
            }
            FromNode::Stop { cause } => {
                self.ended.send_replace(Some(cause));
            }
            _ => tracing::debug!("the node says what this process does not know"),
        }
    }

    /// A process has ended. What it had written before is read first: an answer that came is no loss.
    fn heard_of_death(self: &Arc<Self>, death: Death) {
        let process = death.process;
        if !self.readers.reads(process) {
            return self.died(&death);
        }
        let this = self.clone();
        arbiters::runtime().spawn(async move {
            tokio::time::timeout(LAST_WORDS_MAX, this.readers.done(process)).await.ok();
            this.died(&death);
        });
    }

    /// Whether the end of a process, or of its node, is known.
    pub(crate) fn is_dead(&self, process: ProcessId) -> bool {
        let graves = self.graves.lock();
        graves.dead.contains(&process) || graves.dead.contains(&process.node().into())
    }

    /// A process that was taken for dead lives, and with it its node.
    pub(crate) fn exhume(&self, process: ProcessId) {
        let mut graves = self.graves.lock();
        for risen in [process, process.node().into()] {
            graves.dead.remove(&risen);
            graves.order.retain(|buried| *buried != risen);
        }
    }

    /// A process or a whole node has ended: all that was with it is over, or goes on elsewhere.
    pub(crate) fn died(self: &Arc<Self>, death: &Death) {
        let is_gone = |process: ProcessId| home::concerns(death, process);
        self.graves.lock().bury(death.process);
        self.roads.forget(is_gone);
        let boxed = || Box::new(death.clone());
        let mut lost_tasks = Vec::new();
        for waiting in self.exchanges.gone(is_gone) {
            match waiting {
                Waiting::Call { reply, entered } => {
                    if let Some(entered) = entered {
                        entered.send(Err(NotStarted::ProcessDied { death: boxed() })).ok();
                    }
                    if let Some(reply) = reply {
                        (reply.answer)(Err(CallError::MayHaveRun(Unknown::ProcessDied { death: boxed() })));
                    }
                }
                Waiting::Task { key, attempt } => lost_tasks.push((key, attempt)),
                Waiting::Fetch { object, sender } => {
                    let cause = Box::new(ObjectLoss::MakerDied { death: boxed() });
                    sender.send(Err(CallError::ObjectLost { object, cause })).ok();
                }
                Waiting::Keeper { .. } => {}
                Waiting::Stream { items } => {
                    let error = CallError::MayHaveRun(Unknown::ProcessDied { death: boxed() });
                    items.send(mobula_actor::deliver::EncodedItem::Failed(error)).ok();
                }
            }
        }
        self.tasks_died(death, &lost_tasks);
        self.targets_died(death, is_gone);
        self.homes_died(death);
        self.serving_died(is_gone);
        self.large_died(death.process, is_gone);
        if let Some(system) = self.system() {
            let reason = ExitReason::SupervisorDied(boxed());
            for guest in system.guests().into_iter().filter(|guest| is_gone(guest.process)) {
                let control = mobula_actor::Control::Stop { reason: reason.clone(), park: false };
                system.control_local(guest, control);
            }
        }
    }

    /// The node is gone, or cannot be reached any more, and with it everything that is not in this process.
    fn node_gone(self: &Arc<Self>, cause: DeathCause) {
        self.link.cut();
        self.groups.cut();
        let node: NodeId = self.me.node();
        // It may have said why it goes, or that the job ends.
        let cause = self.ended.borrow().clone().unwrap_or(cause);
        let death = Death::of(node.into(), cause.clone());
        // Other nodes cannot be reached any more either.
        let everybody = |process: ProcessId| process != self.me;
        let mut nodes: Vec<NodeId> = self.exchanges.nodes();
        nodes.push(node);
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            self.died(&Death { process: node.into(), ..death.clone() });
        }
        self.targets_died(&death, everybody);
        self.tasks_over(&death);
        self.homes_over(&death);
        self.objects_over();
        self.ended.send_if_modified(|ended| {
            let is_new = ended.is_none();
            ended.get_or_insert(cause);
            is_new
        });
    }

    /// Tells the node what was submitted here and how it ended, while that changes; gives back memory that is not in use.
    async fn count(self: Arc<Self>) {
        let mut told = OutcomeCounters::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(COUNTERS_EVERY) => {}
                _ = self.ended() => return,
            }
            self.sweep().await;
            let Some(now) = self.counted() else { return };
            if now != told {
                self.link.tell(&ToNode::Counters(now.clone()));
                told = now;
            }
        }
    }

    /// What was submitted here, how it ended, and what went nowhere.
    fn counted(&self) -> Option<OutcomeCounters> {
        let system = self.system()?;
        let counters = system.counters();
        let outcomes = Outcome::ALL.map(|outcome| (outcome.name().to_owned(), counters.outcomes(outcome)));
        let outcomes = outcomes.into_iter().filter(|(_, count)| *count > 0).collect();
        let mut losses = self.losses.listed();
        let dead_letters = counters.of(Count::DeadLetters);
        if dead_letters > 0 {
            losses.insert("dead_letter".to_owned(), dead_letters);
        }
        let submitted = counters.of(Count::Submitted);
        Some(OutcomeCounters { submitted, outcomes, losses, ..OutcomeCounters::default() })
    }

    /// Leaves as soon as what was said before is on its way, or cannot be for too long.
    pub(crate) async fn leave_in_order(&self, within: Duration) {
        let sent = async {
            while self.roads.holds_parcels() || self.targets.hold_mail() {
                tokio::time::sleep(STOPPED_LOOK).await;
            }
        };
        tokio::time::timeout(within, sent).await.ok();
        self.leave();
    }

    /// Leaves the node, which learns first what was submitted since it was told.
    pub(crate) fn leave(&self) {
        if let Some(counted) = self.counted() {
            self.link.tell(&ToNode::Counters(counted));
        }
        self.link.line.close(LEFT);
    }

    /// Waits until what was said last has left this process, which may end with this.
    pub(crate) async fn left(&self) {
        let mut lines = self.roads.close(LEFT);
        if let Line::Socket(connection) = &self.link.line {
            lines.push(connection.clone());
        }
        for connection in lines {
            connection.closed().await;
        }
    }

    /// G7: another one may act under the name soon. Only the end of this one is answered: a node that hears nothing ends
    /// the process.
    async fn stop_named(self: Arc<Self>, name: ActorName, actor: ActorId) {
        let Some(system) = self.system() else { return };
        let reason = ExitReason::Failed(ErrorChain::message(format!("it lost its name `{name}`")));
        if system.hosts(actor) {
            system.control_local(actor, mobula_actor::Control::End { reason });
        }
        while system.hosts(actor) {
            if self.is_ending() {
                return;
            }
            tokio::time::sleep(STOPPED_LOOK).await;
        }
        let ActorName { namespace, name } = name;
        self.link.tell(&ToNode::NameStopped { namespace, name, actor });
    }

    /// Takes a name for an actor that is about to begin a life here.
    pub(crate) async fn claim(&self, claim: NameClaim) -> NameAnswer {
        let NameClaim { name: ActorName { namespace, name }, actor, incarnation, interface } = claim;
        let (sender, owner) = oneshot::channel();
        let ask = |request| ToNode::ClaimName { request, namespace, name, actor, incarnation, interface };
        self.link.ask(Wanted::Claim(sender), ask);
        self.name_answer(owner).await
    }

    /// Has a detached actor kept and started by the head; says who has its name.
    pub(crate) async fn keep_detached(&self, spawn: DetachedSpawn) -> NameAnswer {
        let (sender, owner) = oneshot::channel();
        let ask = |request| ToNode::SpawnDetached { request, spawn: Box::new(spawn) };
        self.link.ask(Wanted::Claim(sender), ask);
        self.name_answer(owner).await
    }

    async fn name_answer(&self, owner: oneshot::Receiver<NameAnswer>) -> NameAnswer {
        answer(owner).await.unwrap_or_else(|| Err("the node does not answer".into()))
    }

    /// Who has a name.
    pub(crate) async fn look_up(&self, name: ActorName) -> Option<NameOwner> {
        let (sender, owner) = oneshot::channel();
        let ActorName { namespace, name } = name;
        self.link.ask(Wanted::LookUp(sender), |request| ToNode::LookUpName { request, namespace, name });
        answer(owner).await.flatten()
    }

    /// Asks the node what the command line asks.
    pub(crate) async fn ask_tool(&self, question: ToolQuestion) -> Result<String, String> {
        if let Some(socket) = &self.socket {
            return ask_node(socket, question).await;
        }
        let (sender, said) = oneshot::channel();
        self.link.ask(Wanted::Answer(sender), |request| ToNode::Tool { request, question });
        answer(said).await.unwrap_or_else(|| Err("the node does not answer".into()))
    }

    /// Reads, stores or removes a value of the job.
    pub(crate) async fn value(&self, said: impl FnOnce(u64) -> ToNode) -> Result<Option<Vec<u8>>, String> {
        let (sender, value) = oneshot::channel();
        self.link.ask(Wanted::Value(sender), said);
        answer(value).await.unwrap_or_else(|| Err("the node does not answer".into()))
    }
}

/// The ends of processes that are remembered: as many as their nodes remember.
const GRAVES_MAX: usize = 4_096;

/// What a process has written before its end is read within this time.
const LAST_WORDS_MAX: Duration = Duration::from_millis(100);

/// Which processes have ended.
#[derive(Default)]
struct Graves {
    dead: HashSet<ProcessId>,
    order: VecDeque<ProcessId>,
}

impl Graves {
    fn bury(&mut self, process: ProcessId) {
        if self.dead.insert(process) {
            self.order.push_back(process);
            if self.order.len() > GRAVES_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.dead.remove(&oldest);
            }
        }
    }
}

/// Which processes of this host are being read from directly.
#[derive(Default)]
struct Readers {
    counts: Mutex<HashMap<ProcessId, usize>>,
    changed: Notify,
}

impl Readers {
    fn enter(&self, process: &Arc<Process>, from: ProcessId) -> Reading {
        *self.counts.lock().entry(from).or_default() += 1;
        Reading { process: process.clone(), from }
    }

    fn reads(&self, from: ProcessId) -> bool {
        self.counts.lock().contains_key(&from)
    }

    async fn done(&self, from: ProcessId) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Before the look: a change in between would wake nobody.
            changed.as_mut().enable();
            if !self.reads(from) {
                return;
            }
            changed.await;
        }
    }
}

/// One connection that is read; dropped when it has come to its end.
struct Reading {
    process: Arc<Process>,
    from: ProcessId,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let readers = &self.process.readers;
        {
            let mut counts = readers.counts.lock();
            if let Some(count) = counts.get_mut(&self.from) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&self.from);
                }
            }
        }
        readers.changed.notify_waiters();
    }
}

async fn answer<T>(receiver: oneshot::Receiver<T>) -> Option<T> {
    tokio::time::timeout(ANSWER_MAX, receiver).await.ok()?.ok()
}
