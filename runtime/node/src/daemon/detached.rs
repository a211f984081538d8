//! Actors that outlive their job. Their home is the head, which says when and what is started; this node finds the place
//! when it is the head's own, and starts and watches those that are to live on it.
//!
//! ```text
//! spawner ──► its node ──claim──► head: keeps it ──Restart──► the head's node: which node? ──► that node
//!                                   ▲                                                           │ a place in a worker
//!                                   │◄─────────────────── claim ────────────────────────────────┤
//!                                   │◄─ started, stopped, ended ──── spawn, in the worker ◄─────┘
//! ```
//!
//! The workers belong to a job of their own ([`JobId::of_detached`]), which has the spawner's program and variables and
//! runs while there are such actors. To a worker this node is who spawned the actor.

use std::collections::BTreeMap;

use bytes::Bytes;
use mobula_logic::directory::RESTART_AGAIN;
use mobula_logic::scheduler::{self, RequestKey, Wanted};
use mobula_types::state::Listed;
use mobula_types::{
    ActorId, DeathCause, ErrorChain, ExitReason, Fencing, Held, Incarnation, JobId, LeaseId, NameKey, NameOwner,
    NodeId, PlacementSpec, PlacementStrategy, ProcessId, StateMachine, Time,
};
use mobula_wire::cluster::{ClusterTalk, Detached, DetachedFrame, JobSetup, ToHead};
use mobula_wire::local::{DetachedSpawn, FromNode, RequestId};
use mobula_wire::parcel::{MailboxWire, NotBegun};
use mobula_wire::{Parcel, Talk};

use super::arrivals::secret;
use super::state::{END_GRACE, Purpose, State};

/// A node that was told so often to start an actor and has not claimed its name is left: others may have room.
const TELLS_MAX: u32 = 2;

/// What is to be started.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) key: NameKey,
    pub(crate) actor: ActorId,
    pub(crate) incarnation: Incarnation,
    pub(crate) job: JobId,
    /// A [`DetachedFrame`].
    pub(crate) frame: Bytes,
    /// In a process of its own.
    pub(crate) isolated: bool,
}

/// The detached actors of a node.
#[derive(Default)]
pub(crate) struct DetachedActors {
    here: BTreeMap<ActorId, Here>,
    /// Whose request for a place has which number.
    requests: BTreeMap<u64, ActorId>,
    last: u64,
    /// On the head's node: where those are to start that have not claimed their names.
    placing: BTreeMap<ActorId, Placing>,
}

struct Here {
    key: NameKey,
    incarnation: Incarnation,
    job: JobId,
    spawn: DetachedSpawn,
    stage: Stage,
}

enum Stage {
    /// Waits for a place.
    Placing { number: u64 },
    /// Has one, and claims its name.
    Claiming { lease: LeaseId, process: ProcessId },
    /// Starts, or takes mail.
    Acting { lease: LeaseId, process: ProcessId, fencing: Fencing, is_started: bool },
}

struct Placing {
    key: NameKey,
    job: JobId,
    incarnation: Incarnation,
    node: Option<NodeId>,
    tells: u32,
    /// When the head said so last.
    told: Time,
    spec: PlacementSpec,
}

impl DetachedActors {
    pub(crate) fn clear(&mut self) {
        self.here.clear();
        self.requests.clear();
    }
}

impl State {
    /// A process of this node spawns one.
    pub(crate) fn spawn_detached(&mut self, process: ProcessId, job: JobId, request: RequestId, spawn: DetachedSpawn) {
        let refuse = |state: &Self, why: String| {
            state.routes.tell(process, &FromNode::NameClaimed { request, owner: Err(why) });
        };
        let Some(known) = self.roster.job(job) else { return refuse(self, format!("{job} is not known here")) };
        let Some(space) = spawn.name.namespace.clone() else {
            return refuse(self, "a detached actor's name has a namespace".to_owned());
        };
        let setup = JobSetup { driver: ProcessId::HEAD, peer_secret: secret(), ..known.setup.clone() };
        let (key, actor, interface) =
            (NameKey::shared(space, spawn.name.name.clone()), spawn.actor, spawn.interface.clone());
        let policy = spawn.options.policy.unwrap_or_default();
        let frame = DetachedFrame { setup, node: self.node, spawn };
        let frame = match mobula_wire::encode(&frame) {
            Ok(frame) => Bytes::from(frame),
            Err(error) => return refuse(self, error.to_string()),
        };
        let detached = Some(Detached { job: job.of_detached(), frame, policy });
        self.ask(Purpose::SpawnDetached(process, request), |ask| ToHead::Claim {
            ask,
            key,
            actor,
            incarnation: Incarnation(0),
            job: None,
            process,
            interface,
            detached,
        });
    }

    /// The head, which is in this process, wants one started: somewhere.
    pub(crate) fn place_detached(&mut self, start: Start, avoid: NodeId) {
        let Start { key, actor, incarnation, job, .. } = start.clone();
        let Some(frame) = self.readable(&start) else { return };
        // A copy of the program, should the spawner's node go.
        self.open_detached_job(job, &frame);
        let mut spec = frame.spawn.place;
        spec.isolated |= start.isolated;
        let now = self.clock.now();
        let before = self.detached.placing.get(&actor).filter(|placing| placing.incarnation == incarnation);
        let (told, tells) = before.map_or((None, 0), |placing| (placing.node, placing.tells));
        let is_there = |node: &NodeId| *node == self.node || self.cluster.view.member(*node).is_some();
        let node = match told.filter(is_there) {
            Some(node) if tells < TELLS_MAX => Some(node),
            told => {
                if let Some(node) = told {
                    self.tell_or_do(node, ClusterTalk::LeaveDetached { actor, incarnation });
                }
                // Here it would fall with the head, and wait for the end of this node's lease.
                let avoid: Vec<NodeId> = told.into_iter().chain([avoid, self.node]).collect();
                self.scheduler.find_node(now, job, &spec, &avoid)
            }
        };
        let tells = if node.is_some() && node == told { tells + 1 } else { 1 };
        self.detached
            .placing
            .insert(actor, Placing { key: key.clone(), job, incarnation, node, tells, spec, told: now });
        if let Some(node) = node {
            let Start { frame, isolated, .. } = start;
            self.tell_or_do(node, ClusterTalk::StartDetached { key, actor, incarnation, job, frame, isolated });
        }
    }

    fn tell_or_do(&mut self, node: NodeId, talk: ClusterTalk) {
        match talk {
            ClusterTalk::StartDetached { key, actor, incarnation, job, frame, isolated } if node == self.node => {
                self.start_detached(Start { key, actor, incarnation, job, frame, isolated });
            }
            ClusterTalk::LeaveDetached { actor, incarnation } if node == self.node => {
                self.leave_detached(actor, incarnation);
            }
            talk => self.tell_node(node, &talk),
        }
    }

    fn readable(&self, start: &Start) -> Option<DetachedFrame> {
        match mobula_wire::decode::<DetachedFrame>(&start.frame) {
            Ok(frame) => Some(frame),
            Err(error) => {
                tracing::error!(key = %start.key, %error, "how it is started cannot be read: stop it and spawn it anew");
                None
            }
        }
    }

    fn open_detached_job(&mut self, job: JobId, frame: &DetachedFrame) {
        self.open_job(job, frame.setup.clone(), frame.node);
        if self.roster.job(job).is_some_and(|job| job.program.is_none()) {
            self.fetch_program(job);
        }
    }

    /// One is to live on this node.
    pub(crate) fn start_detached(&mut self, start: Start) {
        let Start { key, actor, incarnation, job, .. } = start.clone();
        if self.detached.here.get(&actor).is_some_and(|here| here.incarnation >= incarnation)
            || self.leaves_at.is_some()
        {
            return;
        }
        let Some(frame) = self.readable(&start) else { return };
        self.open_detached_job(job, &frame);
        self.forget_detached(actor);
        self.detached.last += 1;
        let number = self.detached.last;
        self.detached.requests.insert(number, actor);
        let spawn = frame.spawn;
        let strategy = PlacementStrategy::Node { node: self.node };
        let isolated = spawn.place.isolated || start.isolated;
        let spec = PlacementSpec { strategy, isolated, ..spawn.place.clone() };
        let stage = Stage::Placing { number };
        self.detached.here.insert(actor, Here { key, incarnation, job, spawn, stage });
        let request = RequestKey { holder: self.node.into(), number };
        let wanted = Wanted { request, job, spec, avoid: Vec::new(), lives_on: true, waits: false };
        self.scheduler.handle(self.clock.now(), scheduler::Input::Asked(wanted));
    }

    /// Another node is to start it, unless its name is this one's already.
    pub(crate) fn leave_detached(&mut self, actor: ActorId, incarnation: Incarnation) {
        let waits = |here: &Here| here.incarnation == incarnation && matches!(here.stage, Stage::Placing { .. });
        if self.detached.here.get(&actor).is_some_and(waits) {
            self.forget_detached(actor);
        }
    }

    /// There is a place: its name is claimed from here.
    pub(crate) fn detached_granted(&mut self, number: u64, lease: LeaseId, process: ProcessId) {
        let actor = self.detached.requests.remove(&number);
        let Some((actor, here)) = actor.and_then(|actor| Some((actor, self.detached.here.get_mut(&actor)?))) else {
            return self.returned(lease);
        };
        here.stage = Stage::Claiming { lease, process };
        let (key, incarnation, interface) = (here.key.clone(), here.incarnation, here.spawn.interface.clone());
        self.ask(Purpose::ClaimDetached(actor), |ask| ToHead::Claim {
            ask,
            key,
            actor,
            incarnation,
            job: None,
            process,
            interface,
            detached: None,
        });
    }

    /// There is none; the head will say it again.
    pub(crate) fn detached_refused(&mut self, number: u64) {
        if let Some(actor) = self.detached.requests.remove(&number) {
            self.forget_detached(actor);
        }
    }

    /// It may act here, or another has its name, or it has ended meanwhile.
    pub(crate) fn detached_claimed(&mut self, actor: ActorId, result: Result<(NameOwner, Fencing, u64), String>) {
        let claiming = self.detached.here.get(&actor).and_then(|here| match here.stage {
            Stage::Claiming { lease, process } => Some((here.key.clone(), lease, process)),
            _ => None,
        });
        let granted = result.ok().filter(|(owner, ..)| owner.actor == actor);
        let Some((key, lease, process)) = claiming else { return };
        let is_held = granted
            .as_ref()
            .is_some_and(|(_, fencing, term)| self.hold_name(Held { key, actor, fencing: *fencing }, process, *term));
        let Some((_, fencing, _)) = granted.filter(|_| is_held) else {
            self.forget_detached(actor);
            return;
        };
        let Some(here) = self.detached.here.get_mut(&actor) else { return };
        here.stage = Stage::Acting { lease, process, fencing, is_started: false };
        let DetachedSpawn { type_name, schema, options, args, .. } = here.spawn.clone();
        let (incarnation, refs) = (here.incarnation, Vec::new());
        let talk = Talk::Spawn { actor, incarnation, lease, type_name, schema, options, refs };
        self.routes.send(&Parcel { to: process, from: self.node.into(), talk, payload: args });
    }

    /// A parcel for this node, or for the home of detached actors.
    pub(crate) fn parcel(&mut self, body: &Bytes) {
        let Ok(Parcel { from, talk, .. }) = Parcel::decode(body) else { return };
        match talk {
            Talk::Started { actor, incarnation, result } => self.detached_started(from, actor, incarnation, result),
            Talk::ActorEnded { actor, reason, .. } => self.detached_ended(from, actor, reason),
            Talk::Fetch { exchange, object } => self.keeper_asked(from, exchange, object),
            Talk::Locate { actor } => {
                self.ask(Purpose::Locate(from, actor), |ask| ToHead::Locate { ask, actor });
            }
            _ => tracing::debug!(%from, "a process says to its node what only processes understand"),
        }
    }

    /// Which of them act in a process, under which grant.
    fn acting(&self, process: ProcessId, actor: ActorId) -> Option<(&Here, Fencing)> {
        let here = self.detached.here.get(&actor)?;
        match here.stage {
            Stage::Acting { process: at, fencing, .. } if at == process => Some((here, fencing)),
            _ => None,
        }
    }

    fn detached_started(
        &mut self,
        from: ProcessId,
        actor: ActorId,
        incarnation: Incarnation,
        result: Result<(), NotBegun>,
    ) {
        let Some((here, fencing)) = self.acting(from, actor).filter(|(here, _)| here.incarnation == incarnation) else {
            return;
        };
        let key = here.key.clone();
        let reason = match result {
            Ok(()) => {
                if let Some(Here { stage: Stage::Acting { is_started, .. }, .. }) = self.detached.here.get_mut(&actor) {
                    *is_started = true;
                }
                return self.tell_head(ToHead::Started { key, fencing });
            }
            Err(NotBegun::Failed(reason)) => reason,
            Err(NotBegun::Refused(cause)) => ExitReason::Failed(ErrorChain::message(&cause)),
            Err(NotBegun::NameTaken { by }) => ExitReason::Failed(ErrorChain::message(format!("{by} has its name"))),
            Err(NotBegun::NameRefused { why }) => ExitReason::Failed(ErrorChain::message(why)),
        };
        self.detached_ended(from, actor, reason);
    }

    /// It has ended for good. One that was told to stop may live on elsewhere, and is not here any more.
    fn detached_ended(&mut self, from: ProcessId, actor: ActorId, reason: ExitReason) {
        let Some((here, fencing)) = self.acting(from, actor) else { return };
        let key = here.key.clone();
        self.forget_detached(actor);
        self.cluster.held.remove(&key);
        self.part(fencing, ToHead::Ended { key, actor, reason });
    }

    /// It is not here any more, or was not to be; its place is free.
    pub(crate) fn forget_detached(&mut self, actor: ActorId) {
        match self.detached.here.remove(&actor).map(|here| here.stage) {
            Some(Stage::Placing { number }) => {
                self.detached.requests.remove(&number);
                let request = RequestKey { holder: self.node.into(), number };
                self.scheduler.handle(self.clock.now(), scheduler::Input::TakenBack { request });
            }
            Some(Stage::Claiming { lease, .. } | Stage::Acting { lease, .. }) => self.returned(lease),
            None => {}
        }
    }

    /// A process has ended, and those that were in it; the head has been told by their names.
    pub(crate) fn detached_died(&mut self, process: ProcessId) {
        let is_there = |here: &Here| match here.stage {
            Stage::Claiming { process: at, .. } | Stage::Acting { process: at, .. } => at == process,
            Stage::Placing { .. } => false,
        };
        let dead: Vec<ActorId> =
            self.detached.here.iter().filter(|(_, here)| is_there(here)).map(|(actor, _)| *actor).collect();
        dead.into_iter().for_each(|actor| self.forget_detached(actor));
    }

    /// The job of some has ended.
    pub(crate) fn detached_job_ended(&mut self, job: JobId) {
        let of_job: Vec<ActorId> =
            self.detached.here.iter().filter(|(_, here)| here.job == job).map(|(actor, _)| *actor).collect();
        of_job.into_iter().for_each(|actor| self.forget_detached(actor));
        self.detached.placing.retain(|_, placing| placing.job != job);
    }

    /// This node is to leave: those that live here go elsewhere.
    pub(crate) fn move_detached(&mut self) {
        let idle: Vec<ActorId> = self
            .detached
            .here
            .iter()
            .filter(|(_, here)| !self.cluster.held.contains_key(&here.key))
            .map(|(actor, _)| *actor)
            .collect();
        idle.into_iter().for_each(|actor| self.forget_detached(actor));
        self.end_hosts_of_detached(&DeathCause::Drained, END_GRACE);
    }

    /// The head knows this node again: which of its detached actors take mail is no record of it.
    pub(crate) fn tell_detached(&mut self) {
        let started = self.detached.here.values().filter_map(|here| match here.stage {
            Stage::Acting { fencing, is_started: true, .. } => Some((here.key.clone(), fencing)),
            _ => None,
        });
        for (key, fencing) in started.collect::<Vec<_>>() {
            self.tell_head(ToHead::Started { key, fencing });
        }
    }

    /// Where one is, for a process that has asked its home.
    pub(crate) fn detached_located(
        &mut self,
        to: ProcessId,
        actor: ActorId,
        at: Result<(ProcessId, Incarnation), ExitReason>,
    ) {
        let (at, reason) = match at {
            Ok(at) => (Some(at), None),
            Err(reason) => (None, Some(reason)),
        };
        let mailbox = MailboxWire { items_max: u64::MAX, bytes_max: u64::MAX };
        let talk = Talk::Located { actor, at, reason, mailbox };
        self.routes.send(&Parcel { to, from: ProcessId::HEAD, talk, payload: Bytes::new() });
    }

    /// Those that wait for a place, for lists: what the head's node has found no room for, and what waits here.
    pub(crate) fn waiting_detached(&self) -> Vec<Listed> {
        let line = |actor: &ActorId, key: &NameKey, job: JobId, life: Incarnation, why: String| Listed {
            id: actor.to_string(),
            kind: "actor".to_owned(),
            name: key.to_string(),
            job_id: Some(job.to_string()),
            state: "waiting".to_owned(),
            incarnation: Some(life.0),
            why: Some(why),
            ..Listed::default()
        };
        let now = self.clock.now();
        // The head says so again and again, until it is claimed or has ended.
        let waits = |placing: &Placing| placing.node.is_none() && now.since(placing.told) < 2 * RESTART_AGAIN;
        let nowhere = self.detached.placing.iter().filter(|(_, placing)| waits(placing));
        let nowhere = nowhere.map(|(actor, placing)| {
            let why = format!("no node has room now for what it asks for: {}", asked(&placing.spec));
            line(actor, &placing.key, placing.job, placing.incarnation, why)
        });
        let here = self.detached.here.iter().filter_map(|(actor, here)| {
            let Stage::Placing { number } = here.stage else { return None };
            let request = RequestKey { holder: self.node.into(), number };
            let why = self.scheduler.why(now, request).unwrap_or_else(|| "its worker starts".to_owned());
            Some(line(actor, &here.key, here.job, here.incarnation, why))
        });
        nowhere.chain(here).collect()
    }
}

/// What a place must have, in words.
fn asked(spec: &PlacementSpec) -> String {
    let amounts = spec.request.amounts().map(|(name, amount)| format!("{name} = {amount}"));
    let rules = (!spec.labels.is_empty()).then(|| {
        let fallbacks: String = spec.fallbacks.iter().map(|fallback| format!(", or {fallback}")).collect();
        format!("labels: {}{fallbacks}", spec.labels)
    });
    let node = match spec.strategy {
        PlacementStrategy::Node { node } | PlacementStrategy::NodeSoft { node } => Some(node.to_string()),
        _ => None,
    };
    let words: Vec<String> = amounts.chain(rules).chain(node).collect();
    if words.is_empty() { "a node that is not about to leave".to_owned() } else { words.join(", ") }
}
