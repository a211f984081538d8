//! What a process and its node say to one another, over the socket between them.
//!
//! The process speaks first ([`Hello`]), the node answers with [`FromNode::Welcome`] or [`FromNode::Refused`]. Requests
//! carry a number of the asker's; an answer repeats it.

use std::collections::BTreeMap;

use bytes::Bytes;
use mobula_types::resources::Resources;
use mobula_types::{
    ActorName, Death, GroupEnd, GroupId, GroupSpec, Interface, JobId, LeaseId, NameOwner, NodeId, PlacementSpec,
    ProcessId,
};
use serde::{Deserialize, Serialize};

use crate::objects::{ObjectAnswer, ObjectWord};
use crate::{Extent, TransferId};

/// Names a request of a process to its node: unique while the process lives.
pub type RequestId = u64;

/// Who a process is, in its first words to its node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Hello {
    /// A user's program that wants to run a job. The node reads the program's file by the socket's peer process.
    Driver {
        /// The version of the language it speaks.
        protocol: u32,
        /// How the program was called, for lists.
        name: String,
        /// Variables for the job's workers, beside what the node gives them.
        env: BTreeMap<String, String>,
        /// Where the job's names are unique; none for a namespace that nobody else has.
        namespace: Option<String>,
    },
    /// A process that the node started, with the secret the node gave it.
    Worker {
        /// The version of the language it speaks.
        protocol: u32,
        /// The secret.
        token: String,
    },
    /// The command line: asks for state, or that something be done.
    Tool {
        /// The version of the language it speaks.
        protocol: u32,
    },
}

/// From a process to its node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ToNode {
    /// Wants a place. It is answered by [`FromNode::Granted`] as soon as there is one, or [`FromNode::NoPlace`] when
    /// there can be none; until then it may be taken back.
    Lease {
        /// The request.
        request: RequestId,
        /// What the place must have.
        spec: PlacementSpec,
        /// Where it would rather not be: what ran there was lost.
        avoid: Vec<NodeId>,
        /// What is to run there lives on: the place is not wanted back because another job has less.
        lives_on: bool,
    },
    /// Does not want the place any more that it asked for.
    TakeBack {
        /// The request.
        request: RequestId,
    },
    /// Gives a place back.
    Return {
        /// Which.
        lease: LeaseId,
    },
    /// So many CPUs of the places in this worker are held by tasks that wait for something: others may use them meanwhile.
    /// The newest word counts, not the sum of all.
    Waiting {
        /// How many.
        cpus: mobula_types::resources::Amount,
    },
    /// No task or stream for others runs here any more, no actor of others is left, and nothing begins: the answer to
    /// [`FromNode::Draining`].
    Quiet,
    /// Takes a name for one of its actors.
    ClaimName {
        /// The request.
        request: RequestId,
        /// Where the name is unique; none for the job's own.
        namespace: Option<String>,
        /// The name.
        name: String,
        /// Who is to have it.
        actor: mobula_types::ActorId,
        /// Which life of it.
        incarnation: mobula_types::Incarnation,
        /// What it can be asked.
        interface: Interface,
    },
    /// Starts an actor that outlives its job. It is answered by [`FromNode::NameClaimed`] when the head has taken it on.
    SpawnDetached {
        /// The request.
        request: RequestId,
        /// What the head keeps to start it.
        spawn: Box<DetachedSpawn>,
    },
    /// The actor that had a name acts no more in the sender: as [`FromNode::NameLost`] asked for, or because it goes on
    /// elsewhere.
    NameStopped {
        /// Where the name is unique; none for the job's own.
        namespace: Option<String>,
        /// The name.
        name: String,
        /// Who had it.
        actor: mobula_types::ActorId,
    },
    /// Gives a name back.
    ReleaseName {
        /// Where the name is unique; none for the job's own.
        namespace: Option<String>,
        /// The name.
        name: String,
        /// Who had it.
        actor: mobula_types::ActorId,
    },
    /// Asks who has a name.
    LookUpName {
        /// The request.
        request: RequestId,
        /// Where the name is unique; none for the job's own.
        namespace: Option<String>,
        /// The name.
        name: String,
    },
    /// Stores (`Some`) or removes (`None`) a value of the job.
    KvPut {
        /// The request.
        request: RequestId,
        /// Under which key.
        key: String,
        /// The value.
        value: Option<Vec<u8>>,
    },
    /// Reads a value of the job.
    KvGet {
        /// The request.
        request: RequestId,
        /// Under which key.
        key: String,
    },
    /// Makes a placement group of its job; [`FromNode::GroupReady`] or [`FromNode::GroupEnded`] answers.
    CreateGroup {
        /// Which: of the sender's.
        group: GroupId,
        /// What it asks for.
        spec: GroupSpec,
    },
    /// Does not want a placement group any more; [`FromNode::GroupEnded`] answers.
    RemoveGroup {
        /// Which.
        group: GroupId,
    },
    /// What it says of objects, in this order.
    Objects(Vec<ObjectWord>),
    /// What it has submitted and how that ended, since it began.
    Counters(mobula_types::state::OutcomeCounters),
    /// What it holds now, for lists: told when asked.
    Listing {
        /// The node's request.
        request: RequestId,
        /// Its actors and tasks.
        items: Vec<mobula_types::state::Listed>,
        /// Which of them wait for a place, by their number in `items`, and with which request of this process.
        requests: Vec<(u32, RequestId)>,
    },
    /// A payload of its lies in the memory of this host, and the node of its receiver, on another one, may read it there.
    /// Said before the message that announces the transfer.
    Lend {
        /// Which transfer, of the sender's.
        transfer: TransferId,
        /// Who may have it.
        to: ProcessId,
        /// Where it lies.
        at: Extent,
        /// How long it is.
        bytes: u64,
    },
    /// Nobody may read it any more; [`FromNode::LendEnded`] answers when nobody does.
    EndLend {
        /// Which transfer, of the sender's.
        transfer: TransferId,
    },
    /// Wants a payload that a process of another host lends moved into its room; [`FromNode::Hauled`] answers. The room is
    /// the node's until then.
    Haul {
        /// Who lends it.
        from: ProcessId,
        /// Which transfer, of the lender's.
        transfer: TransferId,
        /// Where its room is, in a segment that is leased to the process.
        room: Extent,
        /// How long it is.
        bytes: u64,
    },
    /// Does not want it any more; [`FromNode::Hauled`] answers as soon as nothing of it is written.
    StopHaul {
        /// Who lends it.
        from: ProcessId,
        /// Which transfer, of the lender's.
        transfer: TransferId,
    },
    /// A question of the command line, answered by [`FromNode::Answer`].
    Tool {
        /// The request.
        request: RequestId,
        /// The question.
        question: ToolQuestion,
    },
}

/// An actor that outlives its job, as it is spawned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetachedSpawn {
    /// Its id, which no other has: its spawner makes it at random.
    pub actor: mobula_types::ActorId,
    /// Its name, with a namespace.
    pub name: ActorName,
    /// What it can be asked.
    pub interface: Interface,
    /// The actor type's name, as it travels.
    pub type_name: u64,
    /// The hash of its argument types.
    pub schema: u64,
    /// What was chosen at the spawn.
    pub options: crate::parcel::SpawnWire,
    /// What its place must have.
    pub place: PlacementSpec,
    /// Its arguments, without references.
    pub args: Bytes,
}

/// What the command line asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ToolQuestion {
    /// The cluster's state.
    Status,
    /// Everything of one kind.
    List {
        /// `nodes`, `jobs`, `workers`, `actors`, `tasks`, `objects` or `placement-groups`.
        kind: String,
    },
    /// Why something waits.
    Why {
        /// Its id.
        id: String,
    },
    /// Make a token with which a node may join.
    TokenCreate {
        /// How long it is good for, in seconds.
        ttl_s: u64,
        /// As what its user may come: `node`, `driver`, `admin` or `viewer`.
        role: String,
    },
    /// The tokens there are, without their secrets.
    TokenList,
    /// Take a token back.
    TokenRevoke {
        /// Its id.
        id: String,
    },
    /// Let a node finish what it does and leave.
    Drain {
        /// Which.
        node: NodeId,
    },
    /// End a job and all it started.
    StopJob {
        /// Which.
        job: JobId,
    },
    /// The last lines of a worker or job.
    Logs {
        /// Its id.
        id: String,
        /// From which byte on.
        offset: u64,
    },
    /// End a named actor for good.
    StopActor {
        /// Its name, with its namespace.
        name: ActorName,
    },
    /// End this node.
    Stop,
    /// Run a program on this node as the driver of a job.
    Submit {
        /// The path of its file.
        program: String,
        /// Its arguments, after its name.
        args: Vec<String>,
        /// Where it starts.
        working_dir: String,
        /// Variables beside those that it inherits from the node.
        env: BTreeMap<String, String>,
    },
    /// The same from another host: what is needed is asked of the asker as a driver's program is, unless it is here.
    SubmitFar {
        /// How the program was called.
        name: String,
        /// Its file.
        program: Sent,
        /// The folder where it starts, packed; none for an empty one.
        folder: Option<Sent>,
        /// Its arguments, after its name.
        args: Vec<String>,
        /// Variables beside those that it inherits from the node.
        env: BTreeMap<String, String>,
    },
    /// What has become of a program that was submitted to this node.
    Submission {
        /// The process, as it was answered to `Submit`.
        process: String,
    },
}

/// A file that can be asked for by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The BLAKE3 hash of its content.
    pub hash: [u8; 32],
    /// Its length.
    pub bytes: u64,
}

/// From a node to one of its processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FromNode {
    /// The process is known now.
    Welcome(Welcome),
    /// It is not, and why.
    Refused {
        /// What would be right.
        message: String,
    },
    /// The place that was asked for.
    Granted {
        /// The request.
        request: RequestId,
        /// The lease, to be named in what is sent there and given back at the end.
        lease: LeaseId,
        /// The process.
        process: ProcessId,
    },
    /// There is and will be no such place.
    NoPlace {
        /// The request.
        request: RequestId,
        /// What is missing.
        missing: String,
        /// Whether it is so for ever: else the cause was of the moment, such as a worker that did not start.
        for_ever: bool,
    },
    /// The answer to `ClaimName`: who has the name now.
    NameClaimed {
        /// The request.
        request: RequestId,
        /// The owner: another one than the asker's when the name was taken.
        owner: Result<NameOwner, String>,
    },
    /// The answer to `LookUpName`.
    NameFound {
        /// The request.
        request: RequestId,
        /// Who has it.
        owner: Option<NameOwner>,
    },
    /// The answer to `KvPut` and `KvGet`: the value that is there now.
    KvValue {
        /// The request.
        request: RequestId,
        /// The value, or why nothing was done.
        value: Result<Option<Vec<u8>>, String>,
    },
    /// Every bundle of a placement group that the process makes has its node.
    GroupReady {
        /// Which.
        group: GroupId,
        /// The nodes of its bundles, in their order.
        nodes: Vec<NodeId>,
    },
    /// A placement group that the process waits for, or wanted to be removed, is no more.
    GroupEnded {
        /// Which.
        group: GroupId,
        /// Why.
        why: GroupEnd,
    },
    /// About an object.
    Object(ObjectAnswer),
    /// A process that this one has spoken with, or has a lease on, has ended. With number 0: a whole node.
    Died(Death),
    /// A place that this process holds is wanted back, because its node is to leave: nothing more is to be sent there, and
    /// the place is to be given back when what is there has ended or moved.
    Recalled {
        /// Which.
        lease: LeaseId,
    },
    /// The node is to leave: tasks that were sent here and have not begun go back, and none begins any more. When all
    /// that is here has ended or moved, and all streams have been sent to their ends, [`ToNode::Quiet`] says so.
    Draining,
    /// What may run at once in this worker changed: the sum of the leases on it.
    Capacity(Resources),
    /// What do you hold now?
    List {
        /// The request.
        request: RequestId,
        /// Only what has this id.
        only: Option<String>,
    },
    /// Lines that a worker of the job wrote, for the driver's terminal.
    Output {
        /// Which worker.
        process: ProcessId,
        /// Whether it wrote them to standard error.
        is_stderr: bool,
        /// The lines.
        lines: Vec<String>,
    },
    /// Nobody reads what the process lent: the bytes may change.
    LendEnded {
        /// Which transfer, of the process'.
        transfer: TransferId,
    },
    /// The node writes no more in the room of a payload.
    Hauled {
        /// Who lends it.
        from: ProcessId,
        /// Which transfer, of the lender's.
        transfer: TransferId,
        /// Whether all of it is there.
        is_whole: bool,
    },
    /// The answer to a question of the command line.
    Answer {
        /// The request.
        request: RequestId,
        /// JSON as the verb prints it with `--json`, or what is wrong.
        answer: Result<String, String>,
    },
    /// End now.
    Stop {
        /// Why.
        cause: mobula_types::DeathCause,
    },
    /// A name that an actor in it had is not its any more (G7): the actor must stop at once and the process say so by
    /// [`ToNode::NameStopped`], another one may act under the name soon.
    NameLost {
        /// Where the name is unique; none for the job's own.
        namespace: Option<String>,
        /// The name.
        name: String,
        /// Who had it.
        actor: mobula_types::ActorId,
    },
}

/// What a process must know to begin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// Which process it is.
    pub process: ProcessId,
    /// Its job.
    pub job: JobId,
    /// Where its job's names are unique; none for a namespace that nobody else has.
    pub namespace: Option<String>,
    /// What its node has.
    pub resources: Resources,
    /// How many nodes there are.
    pub nodes: u32,
    /// The folder of the sockets by which processes of this host reach one another directly: [`peer_socket`] names them.
    pub folder: String,
    /// What proves to another process of the job that this one belongs to it.
    pub peer_secret: String,
}

/// The first words on a connection between two processes of one job on one host; all that follows are
/// [`Parcel`](crate::Parcel)s.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerHello {
    /// The version of the language it speaks.
    pub protocol: u32,
    /// Who it is.
    pub from: ProcessId,
    /// [`Welcome::peer_secret`].
    pub secret: String,
}

/// The file name, in [`Welcome::folder`], of the socket at which a process takes connections of others on its host.
pub fn peer_socket(process: ProcessId) -> String {
    format!("p{}", process.number())
}
