//! What a scheduler is told and what it asks for.

use mobula_types::program::Target;
use mobula_types::resources::Resources;
use mobula_types::{GroupId, JobId, LeaseId, NodeId, NodeLoad, PlacementSpec, ProcessId};
use mobula_wire::groups::GroupOrder;

/// Names a request for a place, in the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey {
    /// The process that wants the place.
    pub holder: ProcessId,
    /// That process's number for it.
    pub number: u64,
}

/// A request for a place, as it travels between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which request.
    pub request: RequestKey,
    /// The job whose worker it must be.
    pub job: JobId,
    /// What the place must have.
    pub spec: PlacementSpec,
    /// Where it would rather not be.
    pub avoid: Vec<NodeId>,
    /// What is to run there lives on, as an actor does: it is not asked to make room for a job that has less.
    pub lives_on: bool,
    /// Where another node asks: it waits for room there, and is refused only if none can come up.
    pub waits: bool,
}

/// Names a start of a worker, before it has a process id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StartId(pub u64);

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A process of this node wants a place, or another node asks on behalf of one of its own: the holder says which.
    /// The other node is answered at once, with a grant on its way or a refusal, unless it says that the request waits.
    Asked(Wanted),
    /// A request is not wanted any more. The holder's own node hears it first; it may cross a grant.
    TakenBack {
        /// Which.
        request: RequestKey,
    },
    /// A lease of this node is given back.
    Returned {
        /// Which.
        lease: LeaseId,
    },
    /// A process has ended; with number 0, a whole node. Its requests and leases end with it, and so does the worker if
    /// it was one of ours.
    Died {
        /// Which.
        process: ProcessId,
    },
    /// A worker runs.
    WorkerStarted {
        /// Which start it was.
        start: StartId,
        /// Its id.
        process: ProcessId,
    },
    /// A worker did not come to run.
    WorkerFailed {
        /// Which start it was.
        start: StartId,
        /// Why.
        why: String,
    },
    /// So many CPUs of a worker's leases are waiting for something: others may use them meanwhile. The newest word
    /// counts, not the sum.
    Waiting {
        /// The worker.
        process: ProcessId,
        /// How many.
        cpus: mobula_types::resources::Amount,
    },
    /// Another node has granted what it was asked for.
    PeerGranted {
        /// Which node.
        node: NodeId,
        /// Which request.
        request: RequestKey,
        /// Its lease there.
        lease: LeaseId,
        /// The place.
        process: ProcessId,
    },
    /// Another node has refused what it was asked for.
    PeerRefused {
        /// Which node.
        node: NodeId,
        /// Which request.
        request: RequestKey,
        /// What the other node has, as it says with its refusal.
        load: Option<NodeLoad>,
        /// Why, in words.
        why: String,
        /// It was [`Refusal::WorkerFailed`], which counts against the request.
        worker_failed: bool,
    },
    /// What another living node has, as the head or that node says.
    Seen {
        /// Which.
        node: NodeId,
        /// What it has.
        load: NodeLoad,
    },
    /// Another node is declared dead.
    NodeDied {
        /// Which.
        node: NodeId,
    },
    /// What the program of a job was built for, if its file says; said before the first request of the job.
    Program {
        /// Of which job.
        job: JobId,
        /// For what.
        target: Option<Target>,
    },
    /// The head says what becomes of bundles; [`Output::Prepared`] or [`Output::NotPrepared`] answers where it asks.
    Bundles(GroupOrder),
    /// A job is over.
    JobEnded {
        /// Which.
        job: JobId,
    },
    /// This node grants nothing new from now on, and wants back what it has granted.
    Drain,
    /// Nothing but time has passed.
    Tick,
}

/// What the scheduler asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Start a worker; [`Input::WorkerStarted`] or [`Input::WorkerFailed`] answers.
    StartWorker {
        /// Which start this is.
        start: StartId,
        /// Of which job.
        job: JobId,
        /// It is for one lease only.
        isolated: bool,
        /// The devices that it may see, by their number on this host; none unless the lease has GPUs.
        gpus: Vec<u32>,
    },
    /// End a worker that is not needed any more; its [`Input::Died`] follows.
    EndWorker {
        /// Which.
        process: ProcessId,
    },
    /// End a worker because of the placement group in which it had its place; its [`Input::Died`] follows.
    EndInGroup {
        /// Which worker.
        process: ProcessId,
        /// Which group.
        group: GroupId,
        /// The group is no more; else the bundle is kept on another node.
        is_over: bool,
    },
    /// Tell the head that what it asked for is kept apart here.
    Prepared {
        /// Of which group.
        group: GroupId,
        /// In which round.
        round: u64,
    },
    /// Tell the head that it is not: there is too little, or nothing was prepared that could be kept.
    NotPrepared {
        /// Of which group.
        group: GroupId,
        /// In which round.
        round: u64,
    },
    /// Tell a worker what may run in it at once. Said before the grant that makes it more.
    Capacity {
        /// Which worker.
        process: ProcessId,
        /// The sum of its leases.
        resources: Resources,
    },
    /// Tell the holder, by way of its node, which place it has.
    Grant {
        /// Its request.
        request: RequestKey,
        /// The lease: given back to the node of [`granting_node`](super::granting_node).
        lease: LeaseId,
        /// The place.
        process: ProcessId,
    },
    /// Tell the holder, or the node that asked for it, that there is no place.
    Refuse {
        /// The request.
        request: RequestKey,
        /// Why.
        why: Refusal,
    },
    /// Tell the holder, by way of its node, that a lease is wanted back, because this node is to leave or a poorer job waits;
    /// it gives it back when it can.
    Recall {
        /// The holder.
        holder: ProcessId,
        /// The lease.
        lease: LeaseId,
    },
    /// Ask another node; [`Input::PeerGranted`] or [`Input::PeerRefused`] answers.
    AskPeer {
        /// Which node.
        node: NodeId,
        /// For what.
        wanted: Wanted,
    },
    /// Tell another node that a request is not wanted any more.
    TakeBackFromPeer {
        /// Which node.
        node: NodeId,
        /// Which request.
        request: RequestKey,
    },
    /// Give a lease back that another node granted after nobody wanted it any more.
    ReturnToPeer {
        /// Which node.
        node: NodeId,
        /// Which lease.
        lease: LeaseId,
    },
}

/// Why there is no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A node's answer to another node: not now.
    #[error("{node} has no room now: {missing}")]
    NoRoom {
        /// Who refuses.
        node: NodeId,
        /// What is missing.
        missing: String,
    },
    /// The node's queue is full (G14).
    #[error("{max} requests for places wait already on this node: submit less at once, or add nodes")]
    QueueFull {
        /// How many may wait.
        max: usize,
    },
    /// Only one node would do, and that one is dead.
    #[error("{node} was asked for, and it is dead: ask for a node that lives, or for none")]
    NodeIsDead {
        /// Which.
        node: NodeId,
    },
    /// Its workers do not start.
    #[error("no worker of its job could be started on {node}: {why}")]
    WorkerFailed {
        /// Where it was tried last.
        node: NodeId,
        /// What the last start said.
        why: String,
    },
    /// The placement group in which it was to be is no more.
    #[error("its placement group {group} is no more")]
    GroupEnded {
        /// Which.
        group: GroupId,
    },
    /// Its job is over.
    #[error("its {job} has ended")]
    JobEnded {
        /// Which.
        job: JobId,
    },
}

impl Refusal {
    /// Whether asking again is of no use.
    pub fn is_for_ever(&self) -> bool {
        !matches!(self, Self::NoRoom { .. } | Self::QueueFull { .. })
    }
}
