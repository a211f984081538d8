//! A node's scheduler: it gives processes places where their tasks and actors run.
//!
//! ```text
//!              room here                      worker runs
//!  waiting ──────────────► starting a worker ─────────────► granted ──► returned, or its holder
//!     │ ▲ ▲                      │ did not start, or died                or worker has died
//!     │ │ └──────────────────────┘
//!     │ └── refused, called back, or that node died
//!     ▼
//!  asked of another node, or waiting there ──► granted there
//! ```
//!
//! A *request* is one process's wish for a place; a *lease* is a place given: so much of this node's resources, in one
//! worker. A request of a process of this node waits here until there is room here or on another node that the view of
//! the cluster shows. Where there is none, some of the youngest wait on other nodes (the module `away`), so that a job has
//! its share of nodes on which none of its processes asks. Any other request that comes from another node is granted or
//! refused at once, so every request waits in one place only, and its holder's node knows why ([`Scheduler::why`]).
//!
//! Requests of one job that want the same have one *shape* and are served first in, first out. Other shapes may pass one
//! that does not fit, but not for ever: after [`PASSED_MAX`] of them what comes free is kept for it, for [`KEPT_MAX`].
//! What no node of the cluster has waits too: such a node may join. Only a request for a dead node is refused for good,
//! and one whose worker has failed to start [`STARTS_MAX`] times.
//!
//! Jobs share a node: a poorer one comes first, and what it waits for is recalled of the richest (the module `share`).
//!
//! A node that is to leave grants nothing more and recalls the leases it has given; whoever holds one gives it back as
//! soon as what runs there has ended or moved.
//!
//! A worker whose tasks wait lends their CPUs. While others use them it is told that it has less, so that what waits behind
//! those tasks does not take them, too; when the tasks go on, more may run than there are CPUs, for a while.
//!
//! Starting processes, sending and knowing who has died are the driver's.

mod away;
mod bundles;
mod devices;
mod invariants;
mod io;
mod lease;
mod place;
mod program;
mod share;
#[cfg(test)]
mod tests;
mod why;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mobula_types::program::{Platform, Target};
use mobula_types::resources::{Amount, Resources};
use mobula_types::{BundleLoad, JobId, LeaseId, NodeId, NodeLoad, PlacementSpec, ProcessId, StateMachine, Time};
use slab::Slab;

use crate::invariant::Pace;
use crate::ledger::Ledger;
use crate::mutant::{Mutant, Planted};
use away::ENOUGH_AWAY;
use bundles::{Bundles, Pool};
use devices::{Devices, Share};
use place::{Choice, Lack};
use share::{Holding, Turns};

pub use bundles::{BUNDLES_OF_NODE_MAX, Held};
pub use invariants::check;
pub use io::{Input, Output, Refusal, RequestKey, StartId, Wanted};
pub use share::TURN;

/// G14: requests that wait on a node; the next is refused with [`Refusal::QueueFull`].
pub const QUEUE_MAX: usize = 1_000_000;

/// After so many younger requests have been served before one that fits nowhere now, what comes free is kept for it.
pub const PASSED_MAX: u32 = 16;

/// For so long: what it waits for may be held by an actor that never ends, and the rest shall not stand idle for it.
pub const KEPT_MAX: Duration = Duration::from_secs(10);

/// After that nothing is kept for the same request for so long.
pub const KEPT_AGAIN: Duration = Duration::from_secs(60);

/// A request is refused when so many workers in a row did not start for it.
pub const STARTS_MAX: u32 = 3;

/// Workers that may be starting at once for leases of their own: more would only slow each other down.
pub const STARTING_MAX: usize = 64;

/// After a worker did not start, the next start for its job waits so long, twice as long each time.
const START_WAIT_MIN: Duration = Duration::from_millis(100);
const START_WAIT_MAX: Duration = Duration::from_secs(5);

/// A node that refused is not asked again for the same for so long: the view is corrected meanwhile.
const REFUSED_WAIT: Duration = Duration::from_millis(200);

/// What another node has granted or refused counts until it says what it has, or for so long: five beats.
const GRANTED_COUNTS: Duration = Duration::from_secs(1);

/// Shapes looked at when something came free. Those beyond have their turn the next times.
const LOOKS_MAX: usize = 256;

/// Jobs that are over whose names are kept; what is on its way when more have ended since is granted in vain, and taken
/// back when its holder's death is heard.
const ENDED_MAX: usize = 4096;

/// Dead nodes whose names are kept, so that a request for one is refused and not left to wait.
const DEAD_MAX: usize = 4096;

/// The scheduler of one node.
///
/// ```
/// use mobula_logic::scheduler::{Input, Output, RequestKey, Scheduler, Wanted};
/// use mobula_types::resources::{Amount, Request, Resources};
/// use mobula_types::{JobId, NodeId, PlacementSpec, ProcessId, StateMachine, Time};
/// let two_cpus = Resources { cpus: Amount::whole(2), ..Resources::default() };
/// let mut scheduler = Scheduler::new(NodeId(1), &two_cpus, Default::default());
/// let request = RequestKey { holder: ProcessId::new(NodeId(1), 1), number: 7 };
/// let spec = PlacementSpec { request: Request::ONE_CPU, ..PlacementSpec::default() };
/// let (job, avoid) = (JobId(1), vec![]);
/// scheduler.handle(Time::ZERO, Input::Asked(Wanted { request, job, spec, avoid, lives_on: false, waits: false }));
/// let Some(Output::StartWorker { start, .. }) = scheduler.poll_output() else { panic!("it needs a worker") };
/// scheduler.handle(Time::ZERO, Input::WorkerStarted { start, process: ProcessId::new(NodeId(1), 2) });
/// assert!(matches!(scheduler.poll_output(), Some(Output::Capacity { .. })));
/// assert!(matches!(scheduler.poll_output(), Some(Output::Grant { .. })));
/// ```
#[derive(Debug)]
pub struct Scheduler {
    node: NodeId,
    labels: BTreeMap<String, String>,
    platform: Platform,
    /// What the programs of jobs were built for, where that is known.
    targets: BTreeMap<JobId, Target>,
    is_draining: bool,
    ledger: Ledger,
    devices: Devices,
    bundles: Bundles,
    /// [`QUEUE_MAX`], unless it was told otherwise.
    queue_max: usize,
    /// Requests that have not been answered.
    asks: BTreeMap<RequestKey, Ask>,
    shapes: Slab<Shape>,
    shape_of: BTreeMap<(JobId, Arc<PlacementSpec>, Whose), usize>,
    /// Shapes with requests that wait, here or elsewhere, by the age of the first one.
    order: BTreeSet<(u64, usize)>,
    /// Where in `order` the next look goes on.
    looked_until: u64,
    asked: u64,
    leases: BTreeMap<LeaseId, Lease>,
    by_holder: BTreeSet<(ProcessId, LeaseId)>,
    granted: u64,
    workers: BTreeMap<StartId, Worker>,
    by_process: BTreeMap<ProcessId, StartId>,
    shared: BTreeMap<(JobId, Pool), StartId>,
    started: u64,
    /// CPUs that all leases outside bundles add up to: more than there are while some are lent.
    held_cpus: Amount,
    /// Workers in which something waits, or did when their capacity was told last.
    lenders: BTreeSet<StartId>,
    /// Workers with a lease of their own that are starting.
    starting: usize,
    failures: BTreeMap<JobId, Failures>,
    peers: BTreeMap<NodeId, Peer>,
    dead: BTreeSet<NodeId>,
    /// Jobs that are over: a request of theirs may still be on its way, and must start no worker.
    ended: BTreeSet<JobId>,
    /// The first that waits for something that others use, and how many have been served before it.
    eldest: Option<(RequestKey, u32)>,
    kept: Option<(RequestKey, Time)>,
    /// What each job holds here.
    holdings: BTreeMap<JobId, Holding>,
    /// Since when each job has what it has, and when it was given or lost something last.
    turns: BTreeMap<JobId, Turns>,
    /// Leases that were recalled for a poorer job, and when.
    recalled: BTreeMap<LeaseId, Time>,
    /// When a job that waits may have what another has had for long enough.
    turn_at: Option<Time>,
    /// Something that would fit waits behind a poorer job.
    is_held_back: bool,
    /// Something has left its queue since who is held back was looked at.
    has_moved: bool,
    /// When the last input came.
    now: Time,
    /// When a shape may be looked at again although nothing came free.
    alarms: BTreeSet<Time>,
    outputs: VecDeque<Output>,
    planted: Planted,
    pace: Pace,
}

/// A request that has not been answered.
#[derive(Clone, Debug)]
struct Ask {
    shape: usize,
    /// Its age: smaller is older.
    number: u64,
    avoid: Vec<NodeId>,
    lives_on: bool,
    at: At,
    /// Since when it has been there.
    since: Time,
    /// Workers that did not start for it.
    failures: u32,
    /// Nothing is kept for it before this.
    kept_again: Time,
}

/// SCHED-4: where a request is; never in two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Queue,
    /// Its lease's worker is starting.
    Here(LeaseId),
    Peer(NodeId),
    /// It stands in a queue there.
    Away(NodeId),
}

impl At {
    /// The other node that is to answer it.
    fn peer(self) -> Option<NodeId> {
        match self {
            Self::Peer(node) | Self::Away(node) => Some(node),
            Self::Queue | Self::Here(_) => None,
        }
    }
}

/// Whose process asks: only for its own does a node ask others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Own,
    Others,
}

#[derive(Debug)]
struct Shape {
    job: JobId,
    spec: Arc<PlacementSpec>,
    whose: Whose,
    queue: BTreeMap<u64, RequestKey>,
    /// Those that wait on other nodes.
    away: BTreeMap<(NodeId, u64), RequestKey>,
    /// When the last went to wait on which node.
    went: BTreeMap<NodeId, Time>,
    /// Nodes that refused, and until when they are left alone.
    refused: BTreeMap<NodeId, Time>,
    /// Requests of this shape, wherever they are.
    asks: usize,
}

impl Shape {
    fn new(job: JobId, spec: Arc<PlacementSpec>, whose: Whose) -> Self {
        let (queue, away) = (BTreeMap::new(), BTreeMap::new());
        Self { job, spec, whose, queue, away, went: BTreeMap::new(), refused: BTreeMap::new(), asks: 0 }
    }

    /// The next to be served: the oldest that waits here, else the oldest that waits elsewhere.
    fn first(&self) -> Option<(u64, RequestKey)> {
        let here = self.queue.first_key_value().map(|(number, request)| (*number, *request));
        here.or_else(|| self.away.iter().map(|((_, number), request)| (*number, *request)).min())
    }

    fn away_on(&self, node: NodeId) -> usize {
        self.away.range((node, 0)..=(node, u64::MAX)).count()
    }
}

#[derive(Debug)]
struct Lease {
    request: RequestKey,
    job: JobId,
    spec: Arc<PlacementSpec>,
    /// Of what it takes what it needs.
    pool: Pool,
    worker: StartId,
    devices: Vec<Share>,
    /// What runs there does not end by itself: it is recalled for the node's sake only.
    lives_on: bool,
}

#[derive(Debug)]
struct Worker {
    job: JobId,
    /// In which its leases are.
    pool: Pool,
    isolated: bool,
    state: State,
    leases: BTreeSet<LeaseId>,
    /// CPUs of its leases that others may use, because what holds them waits.
    waiting: Amount,
    /// What its leases add up to.
    held: Resources,
    /// CPUs of those that wait and that others use now: it is told that it has so much less.
    lent: Amount,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Running(ProcessId),
    /// It is to end: it has no lease, and gets none.
    Ending(Option<ProcessId>),
}

#[derive(Debug)]
struct Failures {
    in_a_row: u32,
    again_at: Time,
    why: String,
}

#[derive(Debug)]
struct Peer {
    /// As it said last.
    load: NodeLoad,
    /// What of it is free, less what it is being asked for and what it has granted since.
    free: Resources,
    /// The same of its bundles.
    bundles: Vec<BundleLoad>,
    /// Requests that are with it.
    asked: BTreeSet<RequestKey>,
    /// Granted since it said what it has, and until when that counts: it may come free again before it says anything.
    granted: VecDeque<(Time, Arc<PlacementSpec>)>,
    /// What was free there when it refused last, and until when that counts: it may come free, and be as it was when the
    /// view last changed.
    refused: Option<(Time, NodeLoad)>,
    /// Requests it was asked to serve: among equals, the one with the fewest is next.
    served: u64,
}

/// The node that granted a lease, and takes it back.
pub fn granting_node(lease: LeaseId) -> NodeId {
    NodeId(lease.0 >> LEASE_BITS)
}

/// A node counts its leases in so many bits; its own number is above them.
const LEASE_BITS: u32 = 40;

impl Scheduler {
    /// The scheduler of `node`, which has `total`.
    pub fn new(node: NodeId, total: &Resources, labels: BTreeMap<String, String>) -> Self {
        Self {
            node,
            labels,
            platform: Platform::default(),
            targets: BTreeMap::new(),
            is_draining: false,
            ledger: Ledger::new(total),
            devices: Devices::new(total.gpus),
            bundles: Bundles::default(),
            queue_max: QUEUE_MAX,
            asks: BTreeMap::new(),
            shapes: Slab::new(),
            shape_of: BTreeMap::new(),
            order: BTreeSet::new(),
            looked_until: 0,
            asked: 0,
            leases: BTreeMap::new(),
            by_holder: BTreeSet::new(),
            granted: 0,
            workers: BTreeMap::new(),
            by_process: BTreeMap::new(),
            shared: BTreeMap::new(),
            started: 0,
            held_cpus: Amount::ZERO,
            lenders: BTreeSet::new(),
            starting: 0,
            failures: BTreeMap::new(),
            peers: BTreeMap::new(),
            dead: BTreeSet::new(),
            ended: BTreeSet::new(),
            eldest: None,
            kept: None,
            holdings: BTreeMap::new(),
            turns: BTreeMap::new(),
            recalled: BTreeMap::new(),
            turn_at: None,
            is_held_back: false,
            has_moved: false,
            now: Time::ZERO,
            alarms: BTreeSet::new(),
            outputs: VecDeque::new(),
            planted: Planted::default(),
            pace: Pace::default(),
        }
    }

    /// The same with a fault in it, for the simulator to find.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_mutant(mut self, mutant: Mutant) -> Self {
        self.planted = Planted::new(mutant);
        self
    }

    /// The same where no more than `queue_max` requests may wait.
    #[must_use]
    pub fn with_queue_max(mut self, queue_max: usize) -> Self {
        self.queue_max = queue_max;
        self
    }

    /// What this node tells the others of itself, with every heartbeat.
    pub fn load(&self) -> NodeLoad {
        NodeLoad {
            total: self.ledger.total(),
            free: self.ledger.free(),
            labels: self.labels.clone(),
            is_draining: self.is_draining,
            bundles: self.bundle_loads(),
            platform: self.platform.clone(),
        }
    }

    /// Requests that have no answer yet.
    pub fn waiting(&self) -> usize {
        self.asks.len()
    }

    /// Leases of this node that are held.
    pub fn leases(&self) -> usize {
        self.leases.len()
    }

    /// Who holds each lease of this node, in which worker.
    pub fn held(&self) -> impl Iterator<Item = (LeaseId, ProcessId, Option<ProcessId>)> {
        self.leases.iter().map(|(id, lease)| {
            let process = self.workers.get(&lease.worker).and_then(Worker::process);
            (*id, lease.request.holder, process)
        })
    }

    fn handle_asked(&mut self, now: Time, wanted: Wanted) {
        let Wanted { request, job, spec, avoid, lives_on, waits } = wanted;
        let whose = if request.holder.node() == self.node { Whose::Own } else { Whose::Others };
        match self.asks.get(&request).map(|ask| ask.at) {
            // Its node has heard an answer from here to what it had called back, and begins anew.
            Some(At::Queue) if whose == Whose::Others => drop(self.forget(request)),
            // Said twice: it is being served.
            Some(_) => return,
            None => {}
        }
        if self.ended.contains(&job) {
            return self.refuse(request, Refusal::JobEnded { job });
        }
        if let Some(group) = spec.within.map(|within| within.group).filter(|group| self.bundles.has_ended(*group)) {
            return self.refuse(request, Refusal::GroupEnded { group });
        }
        let max = self.queue_max;
        if self.asks.len() >= max {
            return self.refuse(request, Refusal::QueueFull { max });
        }
        let shape = self.shape(job, spec, whose);
        self.asked += 1;
        let (number, at, kept_again) = (self.asked, At::Queue, Time::ZERO);
        let ask = Ask { shape, number, avoid, lives_on, at, since: now, failures: 0, kept_again };
        self.shapes[shape].asks += 1;
        self.asks.insert(request, ask);
        if whose == Whose::Own {
            self.enqueue(request);
            match self.shapes[shape].queue.len() {
                1 => self.serve(now, shape),
                // Behind others of its shape it waits for them; but now there may be enough of them to wait elsewhere, too.
                2..=ENOUGH_AWAY => self.send_away(now, shape),
                _ => {}
            }
            return;
        }
        match self.fits_here(now, &self.shapes[shape]) {
            Ok(devices) => {
                self.note_passed(now, request);
                self.lease(request, devices);
            }
            Err(lack) if waits && lack.may_pass() => self.enqueue(request),
            Err(lack) => self.refuse_other(now, request, &lack),
        }
    }

    fn shape(&mut self, job: JobId, spec: PlacementSpec, whose: Whose) -> usize {
        let spec = Arc::new(spec);
        let new = || self.shapes.insert(Shape::new(job, spec.clone(), whose));
        *self.shape_of.entry((job, spec.clone(), whose)).or_insert_with(new)
    }

    /// Puts a request where it stood by its age.
    fn enqueue(&mut self, request: RequestKey) {
        let Some(ask) = self.asks.get_mut(&request) else { return };
        let (id, number) = (ask.shape, ask.number);
        let before = std::mem::replace(&mut ask.at, At::Queue);
        ask.since = self.now;
        self.change_shape(id, |shape| {
            before.peer().map(|node| shape.away.remove(&(node, number)));
            shape.queue.insert(number, request);
        });
    }

    /// Changes who waits, and keeps the order.
    fn change_shape<T>(&mut self, id: usize, change: impl FnOnce(&mut Shape) -> T) -> T {
        let shape = &mut self.shapes[id];
        let before = shape.first();
        let changed = change(shape);
        let after = shape.first();
        if before != after {
            before.map(|(number, _)| self.order.remove(&(number, id)));
            after.map(|(number, _)| self.order.insert((number, id)));
        }
        changed
    }

    fn dequeue(&mut self, id: usize, number: u64) {
        let removed = self.change_shape(id, |shape| shape.queue.remove(&number));
        self.has_moved |= removed.is_some();
        if let Some(request) = removed {
            self.eldest.take_if(|(eldest, _)| *eldest == request);
            self.kept.take_if(|(kept, _)| *kept == request);
        }
    }

    /// Takes a request out of the books, wherever it was; what follows from that is the caller's.
    fn forget(&mut self, request: RequestKey) -> Option<Ask> {
        let ask = self.asks.get(&request)?;
        if ask.at == At::Queue {
            self.dequeue(ask.shape, ask.number);
        }
        let ask = self.asks.remove(&request)?;
        if let Some(node) = ask.at.peer() {
            self.change_shape(ask.shape, |shape| shape.away.remove(&(node, ask.number)));
            let takes_any = ask.at == At::Peer(node) && !self.shapes[ask.shape].spec.request.is_nothing();
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.asked.remove(&request);
                if takes_any {
                    self.count_free(node);
                }
            }
        }
        let shape = &mut self.shapes[ask.shape];
        shape.asks -= 1;
        if shape.asks == 0 {
            let shape = self.shapes.remove(ask.shape);
            self.shape_of.remove(&(shape.job, shape.spec, shape.whose));
        }
        Some(ask)
    }

    fn refuse(&mut self, request: RequestKey, why: Refusal) {
        self.outputs.push_back(Output::Refuse { request, why });
    }

    /// Serves the requests of one shape while there is room.
    fn serve(&mut self, now: Time, id: usize) {
        while let Some((_, request)) = self.shapes.get(id).and_then(Shape::first) {
            let choice = self.choose(now, request);
            if !matches!(choice, Choice::Wait(_)) {
                self.call_back(request);
            }
            match choice {
                Choice::Here(devices) => {
                    self.note_passed(now, request);
                    self.lease(request, devices);
                }
                Choice::Peer(node) => self.ask_peer(request, node, false),
                Choice::Never(why) => {
                    self.forget(request);
                    self.refuse(request, why);
                }
                Choice::Wait(Some(lack)) if self.shapes[id].whose == Whose::Others && !lack.may_pass() => {
                    self.refuse_other(now, request, &lack);
                }
                Choice::Wait(lack) => {
                    let is_in_use = lack.as_ref().is_some_and(Lack::is_in_use);
                    self.is_held_back |= matches!(lack, Some(Lack::Share { .. }));
                    let may_be_kept_for = |ask: &Ask| ask.at == At::Queue && ask.kept_again <= now;
                    let may_be_kept_for = self.asks.get(&request).is_some_and(may_be_kept_for);
                    if is_in_use && may_be_kept_for && self.eldest.is_none() {
                        self.eldest = Some((request, 0));
                    }
                    return self.send_away(now, id);
                }
            }
        }
    }

    /// Something came free, or became known: who waits is looked at again, the oldest first.
    fn serve_all(&mut self, now: Time) {
        self.is_held_back = false;
        let oldest = self.order.iter().take(LOOKS_MAX / 2);
        let further = self.order.range((self.looked_until, usize::MAX)..).take(LOOKS_MAX / 2);
        let mut looks: Vec<(u64, usize)> = oldest.chain(further).copied().collect();
        self.looked_until = match looks.last() {
            Some((last, _)) if self.order.last().is_some_and(|(end, _)| last < end) => *last,
            _ => 0,
        };
        looks.sort_unstable();
        looks.dedup();
        for (_, id) in looks {
            self.serve(now, id);
        }
    }

    /// A request is served here: who has waited longer for the same has been passed.
    fn note_passed(&mut self, now: Time, request: RequestKey) {
        let Some((eldest, passed)) = self.eldest else { return };
        let (Some(old), Some(young)) = (self.asks.get(&eldest), self.asks.get(&request)) else { return };
        let spec = |ask: &Ask| &self.shapes[ask.shape].spec.request;
        let job = |ask: &Ask| self.shapes[ask.shape].job;
        let is_apart = self.shapes[young.shape].spec.within.is_some();
        if old.number >= young.number
            || is_apart
            || !place::share_a_name(spec(old), spec(young))
            || self.is_poorer(job(young), job(old))
        {
            return;
        }
        self.eldest = Some((eldest, passed + 1));
        if passed + 1 >= PASSED_MAX && self.kept.is_none() {
            self.kept = Some((eldest, now + KEPT_MAX));
            self.alarms.insert(now + KEPT_MAX);
        }
    }

    /// Asks another node; where the request `waits` there, it takes nothing of what is free.
    fn ask_peer(&mut self, request: RequestKey, node: NodeId, waits: bool) {
        let Some(ask) = self.asks.get_mut(&request) else { return };
        (ask.at, ask.since) = (if waits { At::Away(node) } else { At::Peer(node) }, self.now);
        let (id, number, avoid, lives_on) = (ask.shape, ask.number, ask.avoid.clone(), ask.lives_on);
        self.dequeue(id, number);
        if waits {
            self.change_shape(id, |shape| shape.away.insert((node, number), request));
            self.shapes[id].went.insert(node, self.now);
            self.alarms.insert(self.now + TURN);
        }
        let shape = &self.shapes[id];
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.asked.insert(request);
            peer.served += 1;
            if !waits {
                peer.count_taken(shape.spec.within, &shape.spec.request);
            }
        }
        let wanted = Wanted { request, job: shape.job, spec: shape.spec.as_ref().clone(), avoid, lives_on, waits };
        self.outputs.push_back(Output::AskPeer { node, wanted });
    }

    /// SCHED-5: only the node that was asked last answers.
    fn is_asked(&self, request: RequestKey, node: NodeId) -> bool {
        let is_any = self.planted.is(Mutant::AnyPeerGrants);
        self.asks.get(&request).is_some_and(|ask| ask.at.peer() == Some(node) || is_any)
    }

    fn handle_peer_granted(
        &mut self,
        now: Time,
        node: NodeId,
        request: RequestKey,
        lease: LeaseId,
        process: ProcessId,
    ) {
        if !self.is_asked(request, node) {
            return self.outputs.push_back(Output::ReturnToPeer { node, lease });
        }
        if let (Some(ask), Some(peer)) = (self.asks.get(&request), self.peers.get_mut(&node)) {
            let until = now + GRANTED_COUNTS;
            peer.granted.push_back((until, self.shapes[ask.shape].spec.clone()));
            self.alarms.insert(until);
        }
        let ask = self.forget(request);
        self.outputs.push_back(Output::Grant { request, lease, process });
        if let Some(ask) = ask.filter(|ask| matches!(ask.at, At::Away(_))) {
            // Another may wait there in its stead.
            self.serve(now, ask.shape);
        }
    }

    fn handle_peer_refused(&mut self, now: Time, node: NodeId, request: RequestKey, why: String, worker_failed: bool) {
        if !self.is_asked(request, node) {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.asked.remove(&request);
            self.count_free(node);
        }
        let Some(ask) = self.asks.get_mut(&request) else { return };
        ask.failures += u32::from(worker_failed);
        if ask.failures >= STARTS_MAX {
            self.forget(request);
            return self.refuse(request, Refusal::WorkerFailed { node, why });
        }
        let id = ask.shape;
        self.shapes[id].refused.insert(node, now + REFUSED_WAIT);
        self.alarms.insert(now + REFUSED_WAIT);
        self.enqueue(request);
        self.serve(now, id);
    }

    fn handle_seen(&mut self, now: Time, node: NodeId, load: NodeLoad) {
        if node == self.node || self.dead.contains(&node) {
            return;
        }
        let peer = self.peers.entry(node).or_insert_with(|| Peer {
            load: NodeLoad::default(),
            free: Resources::default(),
            bundles: Vec::new(),
            asked: BTreeSet::new(),
            granted: VecDeque::new(),
            refused: None,
            served: 0,
        });
        peer.load = load;
        peer.granted.clear();
        peer.refused = None;
        self.count_free(node);
        self.serve_all(now);
    }

    /// Counts anew what of another node is free, as far as can be known here.
    fn count_free(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let load = peer.refused.as_ref().map_or(&peer.load, |(_, load)| load);
        peer.free.clone_from(&load.free);
        peer.bundles.clone_from(&load.bundles);
        let granted = peer.granted.iter().map(|(_, spec)| spec);
        let asked = peer.asked.iter().filter_map(|request| self.asks.get(request));
        let asked = asked.filter(|ask| ask.at == At::Peer(node)).map(|ask| &self.shapes[ask.shape].spec);
        for spec in granted.chain(asked).cloned().collect::<Vec<_>>() {
            peer.count_taken(spec.within, &spec.request);
        }
    }

    fn handle_node_died(&mut self, now: Time, node: NodeId) {
        if self.dead.len() >= DEAD_MAX {
            self.dead.pop_first();
        }
        self.dead.insert(node);
        let Some(peer) = self.peers.remove(&node) else { return self.serve_all(now) };
        for request in peer.asked {
            // SCHED-4: nobody else answers for it now.
            if !self.planted.is(Mutant::ForgetAskedOfDead) {
                self.enqueue(request);
            }
        }
        self.serve_all(now);
    }

    fn handle_taken_back(&mut self, now: Time, request: RequestKey) {
        let Some(ask) = self.forget(request) else { return };
        self.leave(request, ask.at);
        self.serve_all(now);
    }

    /// Nobody wants what a forgotten request was about to get.
    fn leave(&mut self, request: RequestKey, at: At) {
        match at {
            At::Queue => {}
            At::Here(lease) => self.release(lease),
            At::Peer(node) | At::Away(node) => self.outputs.push_back(Output::TakeBackFromPeer { node, request }),
        }
    }

    fn handle_died(&mut self, now: Time, process: ProcessId) {
        if process == ProcessId::from(self.node) {
            return;
        }
        if process.number() == 0 {
            self.drop_holders(process, ProcessId::new(process.node(), ProcessId::NUMBERS - 1));
            return self.handle_node_died(now, process.node());
        }
        self.drop_holders(process, process);
        self.drop_worker(process);
        self.serve_all(now);
    }

    /// What the processes from `first` to `last` wanted and held is free again (SCHED-3).
    fn drop_holders(&mut self, first: ProcessId, last: ProcessId) {
        let key = |holder, number| RequestKey { holder, number };
        let asks: Vec<RequestKey> =
            self.asks.range(key(first, 0)..=key(last, u64::MAX)).map(|(request, _)| *request).collect();
        for request in asks {
            if let Some(ask) = self.forget(request) {
                self.leave(request, ask.at);
            }
        }
        if self.planted.is(Mutant::KeepLeasesOfDead) {
            return;
        }
        let leases: Vec<LeaseId> =
            self.by_holder.range((first, LeaseId(0))..=(last, LeaseId(u64::MAX))).map(|(_, lease)| *lease).collect();
        leases.into_iter().for_each(|lease| self.release(lease));
    }

    fn handle_job_ended(&mut self, now: Time, job: JobId) {
        let of_job = |ask: &Ask| self.shapes[ask.shape].job == job;
        let asks: Vec<RequestKey> =
            self.asks.iter().filter(|(_, ask)| of_job(ask)).map(|(request, _)| *request).collect();
        for request in asks {
            if let Some(ask) = self.forget(request) {
                self.leave(request, ask.at);
            }
            self.refuse(request, Refusal::JobEnded { job });
        }
        if self.ended.len() >= ENDED_MAX {
            self.ended.pop_first();
        }
        // A job of detached actors may come again.
        if !job.hosts_detached() {
            self.ended.insert(job);
        }
        self.end_workers_of(job);
        self.end_groups_of(job);
        self.failures.remove(&job);
        self.targets.remove(&job);
        self.turns.remove(&job);
        self.serve_all(now);
    }

    fn handle_time(&mut self, now: Time) {
        self.drop_prepared(now);
        self.turn_at.take_if(|at| *at <= now);
        let mut is_due = false;
        while let Some(at) = self.alarms.first().copied().filter(|at| *at <= now) {
            self.alarms.remove(&at);
            is_due = true;
        }
        if let Some((request, _)) = self.kept.take_if(|(_, until)| *until <= now) {
            self.eldest = None;
            if let Some(ask) = self.asks.get_mut(&request) {
                ask.kept_again = now + KEPT_AGAIN;
            }
        }
        if is_due {
            let is_over = |peer: &Peer| {
                let granted = peer.granted.front().map(|(until, _)| *until);
                let refused = peer.refused.as_ref().map(|(until, _)| *until);
                granted.into_iter().chain(refused).any(|until| until <= now)
            };
            let over: Vec<NodeId> =
                self.peers.iter().filter(|(_, peer)| is_over(peer)).map(|(node, _)| *node).collect();
            for node in over {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.granted.retain(|(until, _)| *until > now);
                    peer.refused.take_if(|(until, _)| *until <= now);
                }
                self.count_free(node);
            }
            self.serve_all(now);
        }
    }

    fn debug_check(&mut self) {
        let size = self.asks.len() + self.leases.len() + self.workers.len();
        if self.pace.is_due(size, &self.planted) {
            check(self).expect("a scheduler keeps its invariants");
        }
    }
}

impl StateMachine for Scheduler {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Time, input: Input) {
        self.now = now;
        self.handle_time(now);
        match input {
            Input::Asked(wanted) => self.handle_asked(now, wanted),
            Input::TakenBack { request } => self.handle_taken_back(now, request),
            Input::Returned { lease } => {
                self.release(lease);
                self.serve_all(now);
            }
            Input::Died { process } => self.handle_died(now, process),
            Input::WorkerStarted { start, process } => self.handle_started(now, start, process),
            Input::WorkerFailed { start, why } => self.handle_failed(now, start, &why),
            Input::Waiting { process, cpus } => self.handle_waiting(now, process, cpus),
            Input::PeerGranted { node, request, lease, process } => {
                self.handle_peer_granted(now, node, request, lease, process);
            }
            Input::PeerRefused { node, request, load, why, worker_failed } => {
                if let Some((load, peer)) = load.zip(self.peers.get_mut(&node)) {
                    peer.refused = Some((now + GRANTED_COUNTS, load));
                    self.alarms.insert(now + GRANTED_COUNTS);
                    self.count_free(node);
                }
                self.handle_peer_refused(now, node, request, why, worker_failed);
            }
            Input::Seen { node, load } => self.handle_seen(now, node, load),
            Input::NodeDied { node } => self.handle_died(now, ProcessId::from(node)),
            Input::Program { job, target } => self.handle_program(job, target),
            Input::Bundles(order) => self.handle_bundles(now, order),
            Input::JobEnded { job } => self.handle_job_ended(now, job),
            Input::Drain => {
                if !std::mem::replace(&mut self.is_draining, true) {
                    self.recall_all(now);
                }
                self.serve_all(now);
            }
            Input::Tick => {}
        }
        self.settle_shares(now);
        self.settle_lent();
        self.debug_check();
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Time> {
        let alarm = self.alarms.first().copied();
        alarm.into_iter().chain(self.turn_at).chain(self.bundles.next_timeout()).min()
    }
}
