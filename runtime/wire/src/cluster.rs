//! What nodes say to one another, and to the head.
//!
//! The first words on a connection are [`Greeting`], in the hello of the mesh; its welcome is [`Admission`] for a node
//! at its head. All that follows is [`ClusterTalk`]. Requests carry a number of the asker's, repeated in the answer, and
//! may be said twice: after a lost connection, or after a restart of the head.

use std::collections::BTreeMap;

use bytes::Bytes;
use mobula_types::state::{ClusterStatus, Listed, OutcomeCounters};
use mobula_types::{
    ActorId, Beat, BeatAnswer, Death, DeathCause, ExitReason, Fencing, HeadId, Incarnation, Interface, JobId, LeaseId,
    NameKey, NameOwner, NodeId, NodeLoad, ObjectId, PlacementSpec, ProcessId, Registration, RestartPolicy, Role,
    ViewChange,
};
use serde::{Deserialize, Serialize};

use crate::groups::{GroupAsk, GroupOrder};
use crate::local::DetachedSpawn;
use crate::objects::{Copied, Kept, Letter};

/// Names a request of a node: unique while it lives.
pub type AskId = u64;

/// Bytes of a program in one [`ClusterTalk::ProgramPart`]: a control frame with room for its head.
pub const PROGRAM_PART_BYTES: usize = crate::frame::CONTROL_BYTES_MAX - 4096;

/// The first words to a node or head, in the mesh's hello.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Greeting {
    /// A node comes to its head.
    Register(Registration),
    /// A node comes to another node.
    Node {
        /// Which.
        node: NodeId,
        /// The head it belongs to.
        head: HeadId,
    },
    /// A program on another host comes to a node, to run a job.
    Driver {
        /// How it was called, for lists.
        name: String,
        /// Variables for the job's workers.
        env: BTreeMap<String, String>,
        /// Where the job's names are unique; none for a namespace that nobody else has.
        namespace: Option<String>,
        /// The BLAKE3 hash of its program.
        program: [u8; 32],
        /// The length of its program.
        program_bytes: u64,
    },
    /// The command line on another host.
    Tool,
}

/// The answer to [`Greeting::Register`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Admission {
    /// Which head admits.
    pub head: HeadId,
    /// The head's own node, to which the others speak as the head.
    pub head_node: NodeId,
    /// The node's id.
    pub node: NodeId,
    /// Which start of its member it is.
    pub incarnation: Incarnation,
    /// The term of its lease.
    pub term: u64,
    /// What there is beside it.
    pub view: ViewChange,
    /// Jobs that have ended lately: what a node still runs of them it ends.
    pub ended_jobs: Vec<JobId>,
    /// The jobs that host detached actors: of others of that kind a node runs nothing any more.
    pub detached_jobs: Vec<JobId>,
}

/// The answer to [`Greeting::Driver`] and [`Greeting::Tool`]. What follows is what a process on the node's host hears:
/// [`FromNode::Welcome`](crate::local::FromNode::Welcome) as soon as the node has the program, for which it asks by
/// [`ClusterTalk::ProgramAsk`] if it lacks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverWelcome {
    /// Which process of the node it is.
    pub process: ProcessId,
    /// For how long a lost connection may be resumed, in milliseconds.
    pub resume_ms: u64,
}

/// What a node must know to run a job's workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSetup {
    /// How its program was called.
    pub name: String,
    /// The BLAKE3 hash of its program.
    pub program: [u8; 32],
    /// What its program was built for; none when its file does not say.
    pub target: Option<mobula_types::program::Target>,
    /// The process that runs it.
    pub driver: ProcessId,
    /// Where its names are unique; none for a namespace that nobody else has.
    pub namespace: Option<String>,
    /// Variables for its workers.
    pub env: BTreeMap<String, String>,
    /// Where its workers start, when there is such a folder.
    pub working_dir: Option<String>,
    /// What proves to one process of the job that another belongs to it.
    pub peer_secret: String,
}

/// Between two nodes. The head is a node too: what it says as the head comes as [`FromHead`](Self::FromHead).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ClusterTalk {
    /// Of objects, in the order that its numbers say.
    Objects(Letter),
    /// Small bytes of an object, of which the next letter says that they are there.
    ObjectBytes {
        /// Which object.
        object: ObjectId,
        /// Its bytes.
        kept: Kept,
        /// What they name.
        inner: Vec<ObjectId>,
    },
    /// Has the receiver a copy of an object of which the sender may ask for ranges?
    CopyAsked {
        /// Which object.
        object: ObjectId,
    },
    /// The answer.
    CopyIs {
        /// Which object.
        object: ObjectId,
        /// What it has, or is getting; `None` when it has nothing that a node can read.
        copy: Option<Copied>,
    },
    /// A message that names objects is on its way from a process of the sender's to one of the receiver's.
    ObjectsSent {
        /// Who sent it.
        by: ProcessId,
        /// Its number there.
        number: u64,
        /// Its number among those of the sender's node.
        message: u64,
        /// Whom it is for.
        to: ProcessId,
        /// What it names.
        objects: Vec<ObjectId>,
    },
    /// It did not leave after all.
    ObjectsDropped {
        /// Who was to send it.
        by: ProcessId,
        /// Its number there.
        number: u64,
    },
    /// To the head.
    ToHead(ToHead),
    /// From the head. Which one says so every time: nobody listens to an earlier one, or to a copy.
    FromHead {
        /// Which head.
        head: HeadId,
        /// What it says.
        said: FromHead,
    },
    /// What a job is; said before the first [`Lease`](Self::Lease) of it.
    Job {
        /// Which.
        job: JobId,
        /// What it is.
        setup: JobSetup,
    },
    /// Wants a place for a process of the sender's.
    Lease {
        /// The process.
        holder: ProcessId,
        /// Its number for the request.
        number: u64,
        /// Its job.
        job: JobId,
        /// What the place must have.
        spec: PlacementSpec,
        /// Where it would rather not be.
        avoid: Vec<NodeId>,
        /// What is to run there lives on: the place is not wanted back because another job has less.
        lives_on: bool,
        /// It waits there for room, until it is taken back; else the answer comes at once.
        waits: bool,
    },
    /// The place.
    Granted {
        /// Who wanted it.
        holder: ProcessId,
        /// The request.
        number: u64,
        /// The lease.
        lease: LeaseId,
        /// Where.
        process: ProcessId,
    },
    /// There is none now.
    NoPlace {
        /// Who wanted it.
        holder: ProcessId,
        /// The request.
        number: u64,
        /// What the sender has.
        load: NodeLoad,
        /// Why.
        why: String,
        /// Its worker did not start.
        worker_failed: bool,
    },
    /// Is not wanted any more.
    TakeBack {
        /// Who wanted it.
        holder: ProcessId,
        /// The request.
        number: u64,
    },
    /// A place is given back.
    Return {
        /// Which.
        lease: LeaseId,
    },
    /// The sender wants a place back that a process of the receiver's holds.
    Recalled {
        /// The process.
        holder: ProcessId,
        /// The place.
        lease: LeaseId,
    },
    /// A process of the sender's has ended.
    Died {
        /// Its job.
        job: JobId,
        /// How.
        death: Death,
    },
    /// What a process of the receiver's sent to a process that is dead.
    Undelivered {
        /// Who sent it.
        from: ProcessId,
        /// How the other one ended.
        death: Death,
    },
    /// Wants a part of a program.
    ProgramAsk {
        /// The program's hash.
        program: [u8; 32],
        /// From which byte on.
        offset: u64,
    },
    /// A part of a program.
    ProgramPart {
        /// The program's hash.
        program: [u8; 32],
        /// The length of all of it; 0 when the sender does not have it.
        total_bytes: u64,
        /// From which byte on.
        offset: u64,
        /// At most [`PROGRAM_PART_BYTES`].
        bytes: Bytes,
    },
    /// Start a detached actor; from the head's node.
    StartDetached {
        /// Its name.
        key: NameKey,
        /// The actor.
        actor: ActorId,
        /// Which life of it this is.
        incarnation: Incarnation,
        /// The job whose workers host it.
        job: JobId,
        /// A [`DetachedFrame`].
        frame: Bytes,
        /// In a process of its own.
        isolated: bool,
    },
    /// Do not start it, unless its name is claimed already: another node does.
    LeaveDetached {
        /// The actor.
        actor: ActorId,
        /// Which life of it.
        incarnation: Incarnation,
    },
    /// What do you hold?
    ListAsk {
        /// The request.
        ask: AskId,
        /// Only what has this id.
        only: Option<String>,
        /// The receiver's objects, and nothing else.
        objects: bool,
    },
    /// What the sender's processes hold.
    Listing {
        /// The request.
        ask: AskId,
        /// Its workers, actors and tasks.
        items: Vec<Listed>,
        /// More of it follows.
        has_more: bool,
        /// What its processes have submitted, and how that ended.
        counters: OutcomeCounters,
    },
    /// From a process of another host to the node that it is attached to: it wants its next certificate.
    RenewAsk(RenewalWish),
    /// The answer to [`RenewAsk`](Self::RenewAsk).
    RenewIs {
        /// The key for which it was wanted.
        key: [u8; 32],
        /// The certificate, or why there is none.
        certificate: Result<Vec<u8>, String>,
    },
    /// Lines of a worker, for a driver of the receiver's.
    Output {
        /// The job.
        job: JobId,
        /// The worker.
        process: ProcessId,
        /// Whether it wrote them to standard error.
        is_stderr: bool,
        /// The lines.
        lines: Vec<String>,
    },
    /// Why does this wait?
    WhyAsk {
        /// The request.
        ask: AskId,
        /// What.
        id: String,
    },
    /// Why it waits; none when nothing is known of it here.
    WhyIs {
        /// The request.
        ask: AskId,
        /// In words.
        why: Option<String>,
    },
    /// A part of a log.
    LogsAsk {
        /// The request.
        ask: AskId,
        /// Whose.
        id: String,
        /// From which byte on.
        offset: u64,
    },
    /// The part, as the command line gets it.
    LogsAre {
        /// The request.
        ask: AskId,
        /// JSON, or what is wrong.
        answer: Result<String, String>,
    },
}

/// What a node says to its head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ToHead {
    /// It lives.
    Beat(Beat),
    /// It takes nothing new and will leave.
    Leaving,
    /// Nothing is left on it; it ends.
    Drained,
    /// A driver begins.
    JobStart {
        /// The request.
        ask: AskId,
        /// What its job is.
        setup: JobSetup,
    },
    /// End a job.
    JobEnd {
        /// Which.
        job: JobId,
        /// Why.
        cause: DeathCause,
    },
    /// A process of the sender's has ended.
    ProcessDied {
        /// Which.
        process: ProcessId,
        /// Why.
        cause: DeathCause,
    },
    /// Wants a name for an actor.
    Claim {
        /// The request.
        ask: AskId,
        /// The name.
        key: NameKey,
        /// The actor.
        actor: ActorId,
        /// Which life of it.
        incarnation: Incarnation,
        /// The job with which it ends.
        job: Option<JobId>,
        /// Where it acts, or the process that spawns it.
        process: ProcessId,
        /// What it can be asked.
        interface: Interface,
        /// How the head starts it, when it outlives its job.
        detached: Option<Detached>,
    },
    /// Gives a name back.
    Release {
        /// The name.
        key: NameKey,
        /// Who had it.
        actor: ActorId,
    },
    /// What acted under a name has stopped.
    Stopped {
        /// The name.
        key: NameKey,
        /// Under which grant.
        fencing: Fencing,
        /// The death of its process, when the actor is to blame.
        culprit: Option<Box<Death>>,
    },
    /// A detached actor takes mail on the sender's node.
    Started {
        /// Its name.
        key: NameKey,
        /// Under which grant.
        fencing: Fencing,
    },
    /// A detached actor has ended for good on the sender's node, or did not begin.
    Ended {
        /// Its name.
        key: NameKey,
        /// Which.
        actor: ActorId,
        /// Why.
        reason: ExitReason,
    },
    /// Where does a detached actor take mail?
    Locate {
        /// The request.
        ask: AskId,
        /// Which.
        actor: ActorId,
    },
    /// Who has a name?
    LookUp {
        /// The request.
        ask: AskId,
        /// The name.
        key: NameKey,
    },
    /// Stores or removes a value.
    Put {
        /// The request.
        ask: AskId,
        /// Whose.
        job: JobId,
        /// Under which key.
        key: String,
        /// The value; none removes it.
        value: Option<Vec<u8>>,
    },
    /// Reads a value.
    Get {
        /// The request.
        ask: AskId,
        /// Whose.
        job: JobId,
        /// Under which key.
        key: String,
    },
    /// A question of the command line that the head answers.
    Tool {
        /// The request.
        ask: AskId,
        /// What is asked.
        question: HeadQuestion,
    },
    /// Wants a new certificate for the key.
    Renew {
        /// The request.
        ask: AskId,
        /// The public key.
        key: [u8; 32],
    },
    /// A process of another host that is attached to the sender wants its next certificate.
    RenewFar {
        /// The request.
        ask: AskId,
        /// What it wants, signed by itself.
        wish: RenewalWish,
    },
    /// Of placement groups.
    Group(GroupAsk),
    /// Somebody has shown the sender a join token.
    Redeem {
        /// The request.
        ask: AskId,
        /// The token's id.
        id: [u8; 8],
        /// The hash of the secret that was shown.
        hash: [u8; 32],
        /// As what its user wants to come.
        role: Role,
        /// The public key of its user.
        key: [u8; 32],
    },
}

/// The wish of a member that is no node for its next certificate. The head believes it by its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalWish {
    /// The certificate that it has.
    pub certificate: Vec<u8>,
    /// The public key for the new one.
    pub key: [u8; 32],
    /// Over the new key, by the key of the old one.
    pub signature: Vec<u8>,
}

/// How the head starts an actor that outlives its job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detached {
    /// The job whose workers host it.
    pub job: JobId,
    /// A [`DetachedFrame`], encoded: kept as it is.
    pub frame: Bytes,
    /// When and how often it is started again.
    pub policy: RestartPolicy,
}

/// What a node needs to start a detached actor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetachedFrame {
    /// What the workers that host it run. Its driver is the head.
    pub setup: JobSetup,
    /// The node on which it was spawned, which has the program.
    pub node: NodeId,
    /// The actor.
    pub spawn: DetachedSpawn,
}

/// What only the head can answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum HeadQuestion {
    /// The cluster's state, without counters.
    Status,
    /// Every job.
    Jobs,
    /// Every placement group.
    Groups,
    /// Make a token.
    TokenCreate {
        /// For how long, in seconds; none for the usual time.
        ttl_s: Option<u64>,
        /// As what its user may come.
        role: Role,
    },
    /// The tokens there are.
    TokenList,
    /// Take one back.
    TokenRevoke {
        /// Its id.
        id: String,
    },
    /// Let a node leave.
    Drain {
        /// Which.
        node: NodeId,
    },
    /// End a job.
    StopJob {
        /// Which.
        job: JobId,
    },
    /// End a named actor for good.
    StopActor {
        /// Its name.
        key: NameKey,
    },
}

/// What a head says to a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FromHead {
    /// The answer to a beat.
    Beat(BeatAnswer),
    /// Nodes have died; said at once, and again in the view.
    Died(Death),
    /// The receiver was declared dead: it stops what it runs and registers anew.
    Fenced,
    /// Finish and leave.
    Drain,
    /// Stop what acts under a name.
    Revoke {
        /// The name.
        key: NameKey,
        /// Under which grant.
        fencing: Fencing,
    },
    /// Find a place for a detached actor and have it started there; said to the head's own node, which sees all others.
    Restart {
        /// Its name.
        key: NameKey,
        /// The actor.
        actor: ActorId,
        /// The life that follows.
        incarnation: Incarnation,
        /// The job whose workers host it.
        job: JobId,
        /// A [`DetachedFrame`].
        frame: Bytes,
        /// Where it would rather not be.
        avoid: NodeId,
        /// In a process of its own: it has taken one down already.
        isolated: bool,
    },
    /// The answer to [`ToHead::Locate`].
    Located {
        /// The request.
        ask: AskId,
        /// Its process and which life it is in, or why it has ended.
        at: Result<(ProcessId, Incarnation), ExitReason>,
    },
    /// A job has ended.
    JobEnded {
        /// Which.
        job: JobId,
        /// Why.
        cause: DeathCause,
    },
    /// The answer to [`ToHead::JobStart`].
    JobStarted {
        /// The request.
        ask: AskId,
        /// The job.
        result: Result<JobId, String>,
    },
    /// The answer to [`ToHead::Claim`].
    Claimed {
        /// The request.
        ask: AskId,
        /// Who has the name, under which grant and which term of the asker's lease.
        result: Result<(NameOwner, Fencing, u64), String>,
    },
    /// The answer to [`ToHead::LookUp`].
    Found {
        /// The request.
        ask: AskId,
        /// Who has it.
        owner: Option<NameOwner>,
    },
    /// The answer to [`ToHead::Put`] and [`ToHead::Get`].
    Value {
        /// The request.
        ask: AskId,
        /// The value, or why nothing was done.
        result: Result<Option<Vec<u8>>, String>,
    },
    /// Of placement groups.
    Group(GroupOrder),
    /// The answer to [`HeadQuestion::Status`].
    Status {
        /// The request.
        ask: AskId,
        /// The state.
        status: ClusterStatus,
    },
    /// The answer to other questions.
    Answer {
        /// The request.
        ask: AskId,
        /// Records, or what is wrong.
        answer: Result<HeadAnswer, String>,
    },
    /// The answer to [`ToHead::Renew`].
    Renewed {
        /// The request.
        ask: AskId,
        /// The certificate.
        certificate: Result<Vec<u8>, String>,
    },
    /// The answer to [`ToHead::RenewFar`].
    FarRenewed {
        /// The request.
        ask: AskId,
        /// The certificate, or why there is none.
        certificate: Result<Vec<u8>, String>,
    },
    /// The answer to [`ToHead::Redeem`].
    Redeemed {
        /// The request.
        ask: AskId,
        /// The certificate and that of the CA; or the number of the cause for which the token is refused, and what to do.
        result: Result<(Vec<u8>, Vec<u8>), (u32, String)>,
    },
}

/// What a head answers to the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum HeadAnswer {
    /// It is done.
    Done,
    /// The jobs.
    Jobs(Vec<Listed>),
    /// The placement groups.
    Groups(Vec<Listed>),
    /// The token, whole: shown this once.
    Token(String),
    /// The tokens, without their secrets.
    Tokens(Vec<mobula_types::state::TokenStatus>),
}
