//! What happens in a cluster, and what its parts say to one another.

use std::rc::Rc;

use mobula_logic::scheduler::{RequestKey, StartId, Wanted};
use mobula_logic::session::{Lane, Link, Offer, Received};
use mobula_logic::task::End;
use mobula_types::{
    Attempt, Death, DeathCause, ExitReason, Incarnation, JobId, LeaseId, NodeId, NodeLoad, PlacementSpec, ProcessId,
    TaskId,
};

/// Which host, by its place in the list; 0 is the head's.
pub(super) type HostIndex = usize;

/// A connection between two nodes.
pub(super) type ConnectionId = u64;

/// An actor: its home process, and which of that process's actors it is.
pub(super) type ActorKey = (ProcessId, usize);

#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The next frame of a connection comes out at its other end.
    Pump {
        connection: ConnectionId,
        way: usize,
        lane: usize,
    },
    /// A dial arrives.
    Offered {
        connection: ConnectionId,
        from: NodeId,
        to: NodeId,
        offer: Offer,
    },
    /// Its answer arrives.
    Answered {
        connection: ConnectionId,
        from: NodeId,
        to: NodeId,
        offer: Offer,
    },
    /// A dial came to nothing.
    DialFails {
        node: NodeId,
        peer: NodeId,
        link: Link,
        number: u64,
        refused: Option<Refused>,
    },
    /// A node notices that a connection is over.
    Lost {
        node: NodeId,
        peer: NodeId,
        connection: ConnectionId,
    },
    /// A probe is over.
    Probed {
        node: NodeId,
        peer: NodeId,
    },
    SessionTick {
        node: NodeId,
        peer: NodeId,
    },
    /// A node learns where another is.
    MayDial {
        node: NodeId,
        peer: NodeId,
    },
    SchedulerTick {
        node: NodeId,
    },
    ProcessTick {
        process: ProcessId,
    },
    ActorTick {
        actor: ActorKey,
    },
    /// A word arrives inside a host; `to` with number 0 is the node.
    Word {
        from: ProcessId,
        to: ProcessId,
        word: Word,
    },
    WorkerStarts {
        node: NodeId,
        start: StartId,
        job: JobId,
    },
    WorkerFails {
        node: NodeId,
        start: StartId,
    },
    /// A process ends.
    Dies {
        process: ProcessId,
        cause: DeathCause,
    },
    RunEnds {
        process: ProcessId,
        task: TaskId,
        attempt: Attempt,
    },
    RunBegins {
        process: ProcessId,
        task: TaskId,
        attempt: Attempt,
    },
    ActorEnds {
        process: ProcessId,
        actor: ActorKey,
        incarnation: Incarnation,
    },
    Beat {
        node: NodeId,
    },
    Act {
        process: ProcessId,
    },
    Restart {
        actor: ActorKey,
    },
    /// A placement group is made.
    Group,
    /// A program does not want an actor any more.
    StopActor {
        actor: ActorKey,
    },
    StartNode {
        host: HostIndex,
    },
    StartDriver {
        host: HostIndex,
    },
    Fault,
    Quiet,
    Stop,
    Judge,
}

/// Why a living node refuses a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It does not know the dialer yet.
    Unknown,
    /// The dialer was declared dead.
    Dead,
}

/// Between two nodes, over their session.
#[derive(Clone, Debug)]
pub(super) enum Talk {
    Beat(NodeLoad),
    View(Rc<View>),
    Lease(Wanted),
    TakeBack(RequestKey),
    Granted { request: RequestKey, lease: LeaseId, process: ProcessId },
    Refused { request: RequestKey, load: NodeLoad, why: String, worker_failed: bool },
    Return(LeaseId),
    Recalled { holder: ProcessId, lease: LeaseId },
    Died(Death),
    JobEnded(JobId),
    Parcel(Parcel),
}

impl Talk {
    pub(super) fn lane(&self) -> Lane {
        match self {
            Self::Beat(_) | Self::View(_) | Self::Died(_) | Self::JobEnded(_) => Lane::Control,
            Self::Parcel(Parcel { body: Body::Done { is_large: true, .. }, .. }) => Lane::Bulk,
            _ => Lane::Calls,
        }
    }

    /// Whether hearing it twice is nothing to the one that hears it.
    pub(super) fn may_repeat(&self) -> bool {
        let is_spawn = matches!(
            self,
            Self::Parcel(Parcel { body: Body::Spawn { .. } | Body::Run { .. } | Body::Tell { .. }, .. })
        );
        !is_spawn && !matches!(self, Self::Granted { .. } | Self::Lease(_))
    }
}

/// The head's view of the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) loads: Vec<(NodeId, NodeLoad)>,
    pub(super) dead: Vec<NodeId>,
}

/// On a connection.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "most frames are letters")]
pub(super) enum Frame {
    Begin { lane: Lane, number: u64 },
    Letter { lane: Lane, letter: super::mesh::Letter },
    Heartbeat { received: Received },
}

/// Inside a host, between a node and its processes and among those.
#[derive(Clone, Debug)]
pub(super) enum Word {
    Lease { number: u64, spec: PlacementSpec, avoid: Vec<NodeId>, lives_on: bool },
    TakeBack { number: u64 },
    Return { lease: LeaseId },
    Waiting { halves: u64 },
    Granted { number: u64, lease: LeaseId, process: ProcessId },
    NoPlace { number: u64, for_ever: bool },
    Recalled { lease: LeaseId },
    Died(Death),
    Parcel(Parcel),
}

/// Between two processes.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub(super) from: ProcessId,
    pub(super) to: ProcessId,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    Run { key: usize, task: TaskId, attempt: Attempt },
    Done { key: usize, task: TaskId, attempt: Attempt, end: End, is_large: bool },
    TurnedAway { key: usize, task: TaskId, attempt: Attempt },
    Withdrawn { key: usize, task: TaskId, attempt: Attempt },
    Cancel { task: TaskId, attempt: Attempt },
    AskBack { key: usize, task: TaskId, attempt: Attempt },
    HandedBack { key: usize, task: TaskId, attempt: Attempt },
    Spawn { actor: ActorKey, incarnation: Incarnation },
    Started { actor: ActorKey, incarnation: Incarnation },
    Ended { actor: ActorKey, incarnation: Incarnation, reason: ExitReason },
    Tell { actor: ActorKey, incarnation: Incarnation, number: u64 },
    Stop { actor: ActorKey },
    Leave { actor: ActorKey },
}
