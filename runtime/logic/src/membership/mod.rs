//! The head's view of the nodes: who comes, who lives, who has died, and what the others are told of it.
//!
//! ```text
//!            kept            killed, silent, drained             kept             an hour
//!  Joining ───────► Alive ──────────────────────────────► Dying ──────► Dead ──────────────► forgotten
//!     │               ▲                                     ▲
//!     │               └── registers again ── Returning ─────┤ not within the grace
//!     └── its member has started again ─────────────────────┘
//! ```
//!
//! A node gets an id at each start. `Joining` and `Dying` last while the record is written: nobody is told of a node, or
//! of its death, before a restarted head would know it too. `Returning` are those that an earlier head knew. A node that
//! was declared dead and comes back is refused with [`Refusal::Fenced`]: it stops what it runs and registers anew.
//!
//! *Killed* means that its port refused twice while it was silent; *silent*, that no beat came for [`SILENT_MAX`]. Time
//! in which the head itself did not run is not counted: beats that wait in its sockets were sent.
//!
//! The probe is the transport's, the record the store's, and what ran on a dead node others' to decide.

mod invariants;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mobula_types::{
    Beat, Death, DeathCause, HeadId, Incarnation, Member, MemberId, NodeId, NodeLoad, ProcessId, Registration,
    StateMachine, StoreUse, Time, ViewChange,
};

use crate::calendar::Calendar;
use crate::invariant::Pace;
use crate::mutant::{Mutant, Planted};
use crate::record::{Change, NodeRecord, RecordKey};

pub use invariants::check;
pub use view::{Seen, View};

/// No beat for so long: the node is silent for good (G11: known within 5 s). A node that is stopped for 4 s, just after a
/// beat was lost, is back in time.
pub const SILENT_MAX: Duration = Duration::from_millis(4_500);

/// A refusal means something only after so much silence: anybody can forge one (design.md §8).
pub const PROBE_AFTER: Duration = Duration::from_millis(300);

/// Refusals in a row that mean killed.
pub const REFUSALS: u32 = 2;

/// How long after its start a head waits for the nodes that an earlier one knew: they try at least once a second.
pub const GRACE: Duration = Duration::from_secs(5);

/// Between two looks at the time while there are nodes; what is longer than [`STALL`] was not the nodes' silence.
pub const PULSE: Duration = Duration::from_millis(250);

/// A look that comes later than this after the one before shows that the head itself did not run.
pub const STALL: Duration = Duration::from_secs(1);

/// Dead nodes are kept so long, for `status`, and so that all are told.
pub const DEAD_KEPT: Duration = Duration::from_secs(3_600);

/// Dead nodes kept at once; beyond it the oldest is forgotten: nodes that start and fall for an hour, once a second.
pub const DEAD_MAX: usize = 4_096;

/// Nodes that live at once; beyond it [`Refusal::Full`]. Each beat may tell of all of them.
pub const NODES_MAX: usize = 1_024;

/// A registration that is sent again while the record is written is answered with the others; more than these are not.
pub const ASKS_MAX: usize = 16;

/// How much a membership keeps; [`Default`] says what holds unless it is told otherwise. Heads of one cluster have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Nodes that live at once.
    pub nodes_max: usize,
    /// Dead nodes that are remembered.
    pub dead_max: usize,
    /// Registrations of one start that are answered when its record is written.
    pub asks_max: usize,
    /// For how long a node is remembered that has died.
    pub dead_kept: Duration,
    /// What the change in an admission may take.
    pub admission_bytes_max: usize,
    /// What the change in the answer to a beat may take, unless it is one that takes more alone.
    pub change_bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            nodes_max: NODES_MAX,
            dead_max: DEAD_MAX,
            asks_max: ASKS_MAX,
            dead_kept: DEAD_KEPT,
            admission_bytes_max: view::ADMISSION_BYTES_MAX,
            change_bytes_max: view::CHANGE_BYTES_MAX,
        }
    }
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A node comes, or comes again.
    Register {
        /// The request, for the answer.
        ask: u64,
        /// What it says of itself.
        registration: Registration,
    },
    /// A node's beat.
    Heartbeat {
        /// Whose.
        node: NodeId,
        /// What it says.
        beat: Beat,
    },
    /// The transport has not heard of a node, and has probed it.
    Silent {
        /// Which node.
        node: NodeId,
        /// For how long.
        silent: Duration,
        /// The probe was refused; else it was not answered.
        refused: bool,
    },
    /// A node says that it takes nothing more and will leave.
    Leaving {
        /// Which.
        node: NodeId,
    },
    /// A node says that nothing is left there and that it ends.
    Drained {
        /// Which.
        node: NodeId,
    },
    /// Somebody wants a node to leave.
    Drain {
        /// The request, for the answer.
        ask: u64,
        /// Which node.
        node: NodeId,
    },
    /// A node's newest record has been written.
    Kept {
        /// Whose.
        node: NodeId,
        /// Whether it says how the node ended.
        is_dead: bool,
    },
    /// Nothing but time has passed.
    Tick,
}

/// What the machine asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write this, and say [`Input::Kept`] when a node's record with it is durable.
    Keep(Change),
    /// Tell a node that it belongs to the cluster.
    Admit {
        /// The request.
        ask: u64,
        /// Its id.
        node: NodeId,
        /// Which start of its member it is.
        incarnation: Incarnation,
        /// It was fenced under this id and has stopped all that ran under it.
        stopped: Option<NodeId>,
        /// What it must know of the others.
        view: ViewChange,
    },
    /// Tell a node that it does not.
    Refuse {
        /// The request.
        ask: u64,
        /// Why.
        why: Refusal,
    },
    /// Tell a node what has changed; the answer to its beat.
    Spread {
        /// Which node.
        node: NodeId,
        /// Which beat of it.
        beat: u64,
        /// What has changed.
        change: ViewChange,
    },
    /// Tell whoever speaks under this id that it was declared dead.
    Fence {
        /// Which.
        node: NodeId,
    },
    /// Tell all that a node has died.
    DeclareDead {
        /// Its death.
        death: Death,
    },
    /// Tell a node to finish what it does and to leave.
    Drain {
        /// Which.
        node: NodeId,
    },
    /// Whether the node that was to leave is there.
    DrainAnswered {
        /// The request.
        ask: u64,
        /// It is, and has been told.
        is_known: bool,
    },
}

/// Why a node is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It was declared dead, or never admitted.
    #[error("{node} was declared dead: stop all that runs under it, then register as a new node")]
    Fenced {
        /// The id it came with.
        node: NodeId,
    },
    /// Another process runs with the same certificate, and started later.
    #[error("{by} has started since with the same identity: give each node a folder of its own")]
    Replaced {
        /// Which node.
        by: NodeId,
    },
    /// The same was asked many times since, and will be answered there.
    #[error("the registration was sent again meanwhile: wait for the answer to that one")]
    AskedAgain,
    /// There are as many nodes as one head takes.
    #[error("{max} nodes belong to the cluster already, which is as many as one head takes")]
    Full {
        /// How many.
        max: usize,
    },
}

/// The nodes of a cluster, as its head sees them.
///
/// ```
/// use mobula_logic::membership::{Input, Membership, Output};
/// use mobula_logic::Calendar;
/// use mobula_types::{HeadId, NodeId, Registration, StateMachine, Time};
/// let mut membership = Membership::new(HeadId::default(), Calendar::default());
/// membership.handle(Time::ZERO, Input::Register { ask: 1, registration: Registration::default() });
/// assert!(matches!(membership.poll_output(), Some(Output::Keep(_))));
/// membership.handle(Time::ZERO, Input::Kept { node: NodeId(1), is_dead: false });
/// assert!(matches!(membership.poll_output(), Some(Output::Admit { ask: 1, node: NodeId(1), .. })));
/// ```
#[derive(Debug)]
pub struct Membership {
    calendar: Calendar,
    nodes: BTreeMap<NodeId, Node>,
    /// The greatest id ever given.
    last: NodeId,
    /// The newest version of the view; those of one head are above those of every earlier one.
    version: u64,
    /// Which node changed to which version: each node's last change.
    changed: BTreeMap<u64, NodeId>,
    /// Who has seen less than this must be told everything: a death that it has not seen is forgotten.
    floor: u64,
    /// When the machine last looked.
    looked: Time,
    outputs: VecDeque<Output>,
    bounds: Bounds,
    planted: Planted,
    pace: Pace,
}

#[derive(Clone, Debug)]
struct Node {
    member: MemberId,
    start: u64,
    incarnation: Incarnation,
    addr: String,
    load: NodeLoad,
    pid: u32,
    rss_bytes: u64,
    store: StoreUse,
    state: State,
    /// The last beat or registration, moved on by the time that the head did not run.
    heard: Time,
    /// Refusals since then.
    refusals: u32,
    /// The version with its last change; 0 while nobody is told of it.
    version: u64,
    /// It is being told everything.
    telling: Option<Telling>,
}

/// A full view that is told in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Telling {
    /// The version with which it began.
    begun: u64,
    /// What has been told of it.
    upto: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Admitted, but not yet in the store. Who asked is answered then.
    Joining {
        asks: Vec<u64>,
        stopped: Option<NodeId>,
    },
    Alive,
    Returning {
        until: Time,
    },
    /// Declared dead, but not yet in the store.
    Dying {
        death: Death,
        seen: Evidence,
    },
    Dead {
        death: Death,
        until: Time,
    },
}

/// What was seen when a node was declared dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Evidence {
    silent: Duration,
    refusals: u32,
    /// Its member had started again, and was about to be admitted.
    is_replaced: bool,
}

impl State {
    fn lives(&self) -> bool {
        matches!(self, Self::Joining { .. } | Self::Alive | Self::Returning { .. })
    }
}

impl StateMachine for Membership {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Time, input: Input) {
        self.handle_time(now);
        match input {
            Input::Register { ask, registration } => self.handle_register(now, ask, registration),
            Input::Heartbeat { node, beat } => self.handle_beat(now, node, beat),
            Input::Silent { node, silent, refused } => self.handle_silent(now, node, silent, refused),
            Input::Leaving { node } => self.handle_leaving(node),
            Input::Drained { node } if self.lives(node) => self.declare_dead(now, node, DeathCause::Drained),
            Input::Drain { ask, node } => self.handle_drain(ask, node),
            Input::Kept { node, is_dead: false } => self.handle_admitted(now, node),
            Input::Kept { node, is_dead: true } => self.handle_buried(now, node),
            Input::Drained { .. } | Input::Tick => {}
        }
        if self.pace.is_due(self.nodes.len(), &self.planted) {
            check(self).expect("the membership keeps its invariants");
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Time> {
        let pulse = self.nodes.values().any(|node| node.state.lives()).then(|| self.looked + PULSE);
        let forgets = self.nodes.values().filter_map(|node| match node.state {
            State::Dead { until, .. } => Some(until),
            _ => None,
        });
        pulse.into_iter().chain(forgets).min()
    }
}

impl Membership {
    /// A new cluster's.
    pub fn new(head: HeadId, calendar: Calendar) -> Self {
        // A head starts its versions above those of every earlier one: 2^32 changes are 27 years at 5 a second.
        let version = head.epoch.0 << 32;
        Self {
            calendar,
            nodes: BTreeMap::new(),
            last: NodeId(0),
            version,
            changed: BTreeMap::new(),
            floor: version,
            looked: Time::ZERO,
            outputs: VecDeque::new(),
            bounds: Bounds::default(),
            planted: Planted::default(),
            pace: Pace::default(),
        }
    }

    /// What an earlier head has kept, within the same bounds: its nodes have [`GRACE`] to register again.
    pub fn restore(
        head: HeadId,
        calendar: Calendar,
        now: Time,
        last: NodeId,
        records: impl IntoIterator<Item = NodeRecord>,
        bounds: Bounds,
    ) -> Self {
        let mut membership = Self { last, looked: now, bounds, ..Self::new(head, calendar) };
        for record in records {
            let state = match record.death {
                None => State::Returning { until: now + GRACE },
                Some(death) => {
                    let ends = death.seen_unix_ms.saturating_add(bounds.dead_kept.as_millis() as u64);
                    State::Dead { until: now + calendar.left(now, ends, bounds.dead_kept), death }
                }
            };
            membership.last = membership.last.max(record.node);
            let node = Node {
                member: record.member,
                start: record.start,
                incarnation: record.incarnation,
                addr: record.addr,
                load: NodeLoad::default(),
                pid: 0,
                rss_bytes: 0,
                store: StoreUse::default(),
                heard: now,
                refusals: 0,
                version: 0,
                telling: None,
                state,
            };
            let is_dead = !node.state.lives();
            membership.nodes.insert(record.node, node);
            if is_dead {
                membership.touch(record.node);
            }
        }
        membership.forget_oldest();
        membership
    }

    /// The same with a fault in it, for the simulator to find.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_mutant(mut self, mutant: Mutant) -> Self {
        self.planted = Planted::new(mutant);
        self
    }

    /// Whether a node belongs to the cluster and may act.
    pub fn lives(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.state.lives())
    }

    /// Nodes whose death is not in the store yet.
    pub fn dying(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().filter(|(_, node)| matches!(node.state, State::Dying { .. })).map(|(id, _)| *id)
    }

    /// The greatest id that was given.
    pub fn last_id(&self) -> NodeId {
        self.last
    }

    /// Every node that is known, for `status`.
    pub fn nodes(&self) -> impl Iterator<Item = Known<'_>> {
        self.nodes.iter().map(|(id, node)| Known {
            node: *id,
            member: node.member,
            incarnation: node.incarnation,
            addr: &node.addr,
            load: &node.load,
            pid: node.pid,
            rss_bytes: node.rss_bytes,
            store: node.store,
            standing: match &node.state {
                State::Alive if node.load.is_draining => Standing::Draining,
                State::Alive => Standing::Alive,
                State::Joining { .. } | State::Returning { .. } => Standing::Coming,
                State::Dying { death, .. } | State::Dead { death, .. } => Standing::Dead(death),
            },
        })
    }

    fn handle_time(&mut self, now: Time) {
        let gap = now.since(self.looked);
        self.looked = now;
        // MEM-3: nobody was silent while the head itself did not listen.
        if gap > STALL && !self.planted.is(Mutant::CountHeadStall) {
            for node in self.nodes.values_mut().filter(|node| node.state.lives()) {
                node.heard = (node.heard + gap).min(now);
                if let State::Returning { until } = &mut node.state {
                    *until = *until + gap;
                }
            }
        }
        let is_over = |node: &Node| match node.state {
            // MEM-4: whoever is silent too long is dead.
            State::Alive => now.since(node.heard) >= SILENT_MAX && !self.planted.is(Mutant::ForgetSilence),
            State::Returning { until } => until <= now,
            State::Dead { until, .. } => until <= now,
            _ => false,
        };
        let over: Vec<NodeId> = self.nodes.iter().filter(|(_, node)| is_over(node)).map(|(id, _)| *id).collect();
        for id in over {
            match self.nodes[&id].state {
                State::Dead { .. } => self.forget(id),
                _ => {
                    let silent_ms = now.since(self.nodes[&id].heard).as_millis() as u64;
                    self.declare_dead(now, id, DeathCause::NodeSilent { silent_ms });
                }
            }
        }
    }

    fn handle_register(&mut self, now: Time, ask: u64, registration: Registration) {
        let Registration { member, start, node, .. } = registration;
        let living = self.nodes.iter().find(|(_, node)| node.member == member && node.state.lives());
        let living = living.map(|(id, node)| (*id, node.start));
        let has_ended = self.nodes.values().any(|node| (node.member, node.start) == (member, start));
        match (node, living) {
            // What is said twice is answered twice.
            (None, Some((id, started))) if started == start => self.welcome_back(now, ask, id, registration),
            (Some(known), Some((id, started))) if (known, start) == (id, started) => {
                self.welcome_back(now, ask, id, registration);
            }
            // Two processes with one certificate would push one another out for ever: the older one stops.
            (_, Some((by, started))) if has_ended && started != start => self.refuse(ask, Refusal::Replaced { by }),
            (Some(node), _) if self.planted.is(Mutant::AdmitFenced) && self.is_dead(node) => {
                self.nodes.get_mut(&node).expect("it is dead, so it is known").state = State::Alive;
                self.welcome_back(now, ask, node, registration);
            }
            // MEM-1: an id that was declared dead never lives again.
            (Some(node), _) => self.refuse(ask, Refusal::Fenced { node }),
            (None, living) => {
                // MEM-2: the one before has ended, or it would still hold the folder.
                if let Some((before, _)) = living {
                    self.bury(now, before, DeathCause::NodeKilled, true);
                }
                self.admit(now, ask, registration);
            }
        }
    }

    fn admit(&mut self, now: Time, ask: u64, registration: Registration) {
        let max = self.bounds.nodes_max;
        if self.nodes.values().filter(|node| node.state.lives()).count() >= max {
            return self.refuse(ask, Refusal::Full { max });
        }
        let Registration { member, start, addr, load, pid, .. } = registration;
        let of_member = || self.nodes.iter().filter(|(_, node)| node.member == member);
        let incarnation = of_member().map(|(_, node)| node.incarnation).max().unwrap_or_default().next();
        let stopped = of_member().filter(|(_, node)| node.start == start).map(|(id, _)| *id).next_back();
        self.last.0 += 1;
        let id = self.last;
        let state = State::Joining { asks: vec![ask], stopped };
        let (heard, refusals, version) = (now, 0, 0);
        let node = Node {
            member,
            start,
            incarnation,
            addr,
            load,
            pid,
            rss_bytes: 0,
            store: StoreUse::default(),
            state,
            heard,
            refusals,
            version,
            telling: None,
        };
        self.nodes.insert(id, node);
        self.keep(id);
        if self.planted.is(Mutant::AdmitBeforeKept) {
            self.handle_admitted(now, id);
        }
    }

    /// MEM-5: a node is told that it is admitted, and the others of it, when a restarted head would know it too.
    fn handle_admitted(&mut self, now: Time, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if !matches!(node.state, State::Joining { .. }) {
            return;
        }
        let State::Joining { asks, stopped } = std::mem::replace(&mut node.state, State::Alive) else { return };
        node.heard = now;
        self.touch(id);
        for ask in asks {
            self.say_admitted(ask, id, stopped);
        }
    }

    fn welcome_back(&mut self, now: Time, ask: u64, id: NodeId, registration: Registration) {
        let node = self.nodes.get_mut(&id).expect("the caller has found it");
        let has_moved = node.addr != registration.addr;
        let was_draining = node.load.is_draining;
        node.addr = registration.addr;
        node.load = NodeLoad { is_draining: registration.load.is_draining || was_draining, ..registration.load };
        node.pid = registration.pid;
        node.heard = now;
        node.refusals = 0;
        match &mut node.state {
            State::Joining { asks, .. } => {
                asks.push(ask);
                if asks.len() > self.bounds.asks_max {
                    let oldest = asks.remove(0);
                    self.refuse(oldest, Refusal::AskedAgain);
                }
                return;
            }
            state => *state = State::Alive,
        }
        self.touch(id);
        if has_moved {
            self.keep(id);
        }
        self.say_admitted(ask, id, None);
        if was_draining {
            self.outputs.push_back(Output::Drain { node: id });
        }
    }

    fn say_admitted(&mut self, ask: u64, id: NodeId, stopped: Option<NodeId>) {
        let view = self.change_since(id, None);
        let incarnation = self.nodes[&id].incarnation;
        self.outputs.push_back(Output::Admit { ask, node: id, incarnation, stopped, view });
    }

    fn refuse(&mut self, ask: u64, why: Refusal) {
        self.outputs.push_back(Output::Refuse { ask, why });
    }

    fn handle_beat(&mut self, now: Time, id: NodeId, beat: Beat) {
        let node = match self.nodes.get_mut(&id) {
            Some(node) if node.state == State::Alive => node,
            // It has not been told yet that it is admitted: this is an echo of another head's time.
            Some(node) if node.state.lives() => return,
            _ => return self.outputs.push_back(Output::Fence { node: id }),
        };
        node.heard = now;
        node.refusals = 0;
        (node.rss_bytes, node.store) = (beat.rss_bytes, beat.store);
        if let Some(mut load) = beat.load {
            load.is_draining |= node.load.is_draining;
            if load != node.load {
                node.load = load;
                self.touch(id);
            }
        }
        let change = self.change_since(id, Some(beat.view));
        self.outputs.push_back(Output::Spread { node: id, beat: beat.number, change });
    }

    fn handle_silent(&mut self, now: Time, id: NodeId, silent: Duration, refused: bool) {
        let refusals_max = if self.planted.is(Mutant::OneRefusal) { 1 } else { REFUSALS };
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.state == State::Alive) else { return };
        if !refused {
            node.refusals = 0;
        } else if silent >= PROBE_AFTER && now.since(node.heard) >= PROBE_AFTER {
            // MEM-3: one refusal can be forged, or be of a port that is about to be opened.
            node.refusals += 1;
            if node.refusals >= refusals_max {
                self.declare_dead(now, id, DeathCause::NodeKilled);
            }
        }
    }

    fn handle_leaving(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| node.state.lives() && !node.load.is_draining) {
            node.load.is_draining = true;
            if node.version != 0 {
                self.touch(id);
            }
        }
    }

    fn handle_drain(&mut self, ask: u64, id: NodeId) {
        let is_known = self.lives(id);
        if is_known {
            self.handle_leaving(id);
            self.outputs.push_back(Output::Drain { node: id });
        }
        self.outputs.push_back(Output::DrainAnswered { ask, is_known });
    }

    fn is_dead(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| !node.state.lives())
    }

    fn declare_dead(&mut self, now: Time, id: NodeId, cause: DeathCause) {
        self.bury(now, id, cause, false);
    }

    fn bury(&mut self, now: Time, id: NodeId, cause: DeathCause, is_replaced: bool) {
        let seen_unix_ms = self.calendar.unix_ms(now);
        let node = self.nodes.get_mut(&id).expect("the caller has found it");
        let seen = Evidence { silent: now.since(node.heard), refusals: node.refusals, is_replaced };
        let death = Death { seen_unix_ms, ..Death::of(ProcessId::from(id), cause) };
        let asks = match std::mem::replace(&mut node.state, State::Dying { death, seen }) {
            State::Joining { asks, .. } => asks,
            _ => Vec::new(),
        };
        for ask in asks {
            self.refuse(ask, Refusal::Fenced { node: id });
        }
        self.keep(id);
    }

    /// MEM-5: a death is told when a restarted head would not take the node back.
    fn handle_buried(&mut self, now: Time, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let State::Dying { death, .. } = &node.state else { return };
        let death = death.clone();
        node.state = State::Dead { death: death.clone(), until: now + self.bounds.dead_kept };
        self.touch(id);
        self.outputs.push_back(Output::DeclareDead { death });
        self.forget_oldest();
    }

    /// MEM-7: also of what an earlier head has kept, which may have crashed between a death and what it forgot for it.
    fn forget_oldest(&mut self) {
        loop {
            let dead = || self.nodes.iter().filter(|(_, node)| matches!(node.state, State::Dead { .. }));
            let oldest = dead().min_by_key(|(_, node)| node.version).map(|(id, _)| *id);
            match oldest.filter(|_| dead().count() > self.bounds.dead_max) {
                Some(id) => self.forget(id),
                None => break,
            }
        }
    }

    fn forget(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.remove(&id) {
            self.changed.remove(&node.version);
            // MEM-6: who has not seen this death cannot be told of it any more but by its absence.
            self.floor = self.floor.max(node.version);
            self.outputs.push_back(Output::Keep(Change::gone(RecordKey::Node(id))));
        }
    }

    fn keep(&mut self, id: NodeId) {
        let node = &self.nodes[&id];
        let death = match &node.state {
            State::Dying { death, .. } => Some(death.clone()),
            _ => None,
        };
        let (member, start, incarnation, addr) = (node.member, node.start, node.incarnation, node.addr.clone());
        let record = NodeRecord { node: id, member, start, incarnation, addr, death };
        self.outputs.push_back(Output::Keep(Change::node(record)));
    }

    /// Gives a node's change a version of its own.
    fn touch(&mut self, id: NodeId) {
        self.version += 1;
        let node = self.nodes.get_mut(&id).expect("the caller has found it");
        self.changed.remove(&node.version);
        node.version = self.version;
        self.changed.insert(self.version, id);
    }

    /// What `to` must be told that has seen `since`; all when that is nothing, as at an admission, or too old to say what has
    /// changed.
    fn change_since(&mut self, to: NodeId, since: Option<u64>) -> ViewChange {
        let Bounds { admission_bytes_max, change_bytes_max, .. } = self.bounds;
        let bytes_max = if since.is_some() { change_bytes_max } else { admission_bytes_max };
        let telling = self.nodes.get(&to).and_then(|node| node.telling);
        // MEM-6: the rest of a full view may be below the floor. But who has died since it began and is forgotten may have
        // been told of in it as alive.
        let telling = telling.filter(|telling| since == Some(telling.upto) && self.floor <= telling.begun);
        let known = since.filter(|since| telling.is_some() || self.floor <= *since && *since <= self.version);
        let from = known.unwrap_or(0);
        let mut change = ViewChange { from, to: from, is_full: known.is_none(), ..ViewChange::default() };
        if change.is_full {
            // MEM-5: who is in no part of a full view has died, and a head that has begun just now has not heard of most yet.
            change.unheard = self.nodes.iter().filter(|(_, node)| node.is_unheard()).map(|(id, _)| *id).collect();
        }
        let mut room = bytes_max.saturating_sub(change.unheard.len() * view::ID_BYTES);
        for (version, id) in self.changed.range(from + 1..) {
            let node = &self.nodes[id];
            let bytes = view::bytes_of(&node.addr, &node.load);
            // An answer to a beat brings something, whatever it takes.
            let is_first = change.to == from && since.is_some();
            if bytes > room && !is_first {
                change.has_more = true;
                break;
            }
            room = room.saturating_sub(bytes);
            change.to = *version;
            match &node.state {
                State::Dead { death, .. } => change.dead.push(death.clone()),
                _ => change.alive.push(node.member(*id)),
            }
        }
        if !change.has_more {
            change.to = self.version;
        }
        if let Some(node) = self.nodes.get_mut(&to) {
            let begun = telling.map(|telling| telling.begun).or(change.is_full.then_some(self.version));
            node.telling = begun.filter(|_| change.has_more).map(|begun| Telling { begun, upto: change.to });
        }
        change
    }
}

impl Node {
    /// Whether an earlier head knew it, and nothing has been told of it since: neither that it is back, nor its death.
    fn is_unheard(&self) -> bool {
        self.version == 0 && matches!(self.state, State::Returning { .. } | State::Dying { .. })
    }

    fn member(&self, node: NodeId) -> Member {
        let (member, incarnation) = (self.member, self.incarnation);
        Member { node, member, incarnation, addr: self.addr.clone(), load: self.load.clone() }
    }
}

/// A node that the head knows, for `status`.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its id.
    pub node: NodeId,
    /// Whose certificate it has.
    pub member: MemberId,
    /// Which start of its member it is.
    pub incarnation: Incarnation,
    /// Where the others reach it.
    pub addr: &'a str,
    /// What it has, and what of it is free.
    pub load: &'a NodeLoad,
    /// Its process on its host.
    pub pid: u32,
    /// Its own resident memory.
    pub rss_bytes: u64,
    /// The memory that its processes share.
    pub store: StoreUse,
    /// How it stands.
    pub standing: Standing<'a>,
}

/// How a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// It is being admitted, or an earlier head knew it and it has not come back yet.
    Coming,
    /// It belongs to the cluster.
    Alive,
    /// It takes nothing new and will leave.
    Draining,
    /// It has ended.
    Dead(&'a Death),
}
