//! Who has a name and when it may be granted again (G7); the jobs, their values, and the tokens with which one may join.
//!
//! A name's life:
//!
//! ```text
//!             claim                  its node's lease has run out: 1 s after its end
//!   free ─────────────► Held ───────────────────────────────────────────────► Over ── claim by the same actor ──► Held
//!    ▲                   │   its actor is started elsewhere,                   ▲  │
//!    │                   │   its job or its home has ended                     │  └─ detached: Restart, then claim
//!    │                   └────────────► Stopping ── its node says stopped ─────┘
//!    └── released: its actor has ended for good; or Over, when its job or home has ended
//! ```
//!
//! A name belongs to an *actor* for life and is granted to one *node* at a time, under that node's lease: `Held` and
//! `Stopping` are the states in which somebody may act under it. Leases are held per node, renewed by its beats and never
//! written; a restarted head takes every lease for renewed at its start. Every grant has a greater [`Fencing`] than all
//! before it.
//!
//! An actor's *home* is the process that spawned it, which starts it again elsewhere and claims again; of a detached
//! actor it is the head: [`Output::Restart`] asks the driver to find a place and to claim from there, for its first life
//! too. A claim with [`Detached`] begins at `Over`, and its name is kept for it from then on. Where a detached actor is
//! the head tells those who ask ([`Input::Locate`]).
//!
//! Whether a node lives is [`membership`](crate::membership)'s; how names are stopped on a node is the node's, by its
//! [`lease`](crate::lease).

mod bounds;
mod detached;
mod invariants;
mod jobs;
mod names;
#[cfg(test)]
mod tests;
mod tokens;
mod values;

use std::collections::VecDeque;
use std::time::Duration;

use mobula_types::{
    ActorId, Death, DeathCause, ExitReason, Fencing, HeadId, Held, Incarnation, Interface, JobId, NameKey, NameOwner,
    NodeId, ProcessId, Role, StateMachine, Time,
};

use crate::calendar::Calendar;
use crate::invariant::Pace;
use crate::mutant::{Mutant, Planted};
use crate::record::{Change, Detached, JobRecord, JobSpec, Record, RecordKey, TokenId, TokenRecord};

use jobs::Jobs;
use names::Names;
use tokens::Tokens;
use values::Values;

pub use bounds::Bounds;
pub use detached::{LOCATES_WAITING_MAX, RESTART_AGAIN};
pub use invariants::check;
pub use jobs::{JOBS_ENDED_MAX, JOBS_MAX, JobRefusal, SETUP_BYTES_MAX};
pub use names::{
    CLAIM_WAIT_MAX, CLAIMS_WAITING_MAX, DETACHED_BYTES_MAX, FRAME_BYTES_MAX, INTERFACE_BYTES_MAX, NAME_BYTES_MAX,
    NAMES_MAX, NameRefusal, REVOKE_AGAIN,
};
pub use tokens::{EXPIRED_KEPT, FAILURES_MAX, TOKEN_TTL, TOKEN_TTL_MAX, TOKENS_MAX, TokenRefusal};
pub use values::{KEY_BYTES_MAX, VALUE_BYTES_MAX, VALUES_BYTES_MAX, VALUES_OF_JOB_BYTES_MAX, ValueRefusal};

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A node has registered, as new or again; its lease is renewed.
    NodeUp {
        /// Which.
        node: NodeId,
        /// The names under which actors act there now.
        held: Vec<Held>,
        /// The processes that are attached to it.
        processes: Vec<ProcessId>,
    },
    /// A node's beat was heard.
    Renew {
        /// Whose.
        node: NodeId,
    },
    /// Nothing is left of what ran on a node: it has drained, or stopped all because it was fenced.
    NodeStopped {
        /// Which.
        node: NodeId,
    },
    /// A node was declared dead. Its lease runs on.
    NodeDied {
        /// Which.
        node: NodeId,
        /// Why.
        cause: DeathCause,
    },
    /// A process has ended, as its node says.
    ProcessDied {
        /// Which.
        process: ProcessId,
        /// Why.
        cause: DeathCause,
    },
    /// A node wants a name for an actor that is to act there.
    Claim {
        /// The request, for the answer.
        ask: u64,
        /// Which node.
        node: NodeId,
        /// What it wants.
        claim: Claim,
    },
    /// An actor has ended for good, says its home or the place where it lived. Its name is free, or is as soon as
    /// nobody acts under it elsewhere.
    Release {
        /// Which node says so.
        node: NodeId,
        /// The name.
        key: NameKey,
        /// Who had it.
        actor: ActorId,
    },
    /// Nobody acts any more under a grant, which may be followed by another one for the same actor.
    Stopped {
        /// Where it was granted to.
        node: NodeId,
        /// The name.
        key: NameKey,
        /// Which grant.
        fencing: Fencing,
        /// The death of its process, when the actor itself is to blame: only then it counts against a detached actor's
        /// restarts.
        culprit: Option<Box<Death>>,
    },
    /// A detached actor has begun to take mail where its name was granted to.
    Started {
        /// Where.
        node: NodeId,
        /// The name.
        key: NameKey,
        /// Under which grant.
        fencing: Fencing,
    },
    /// A detached actor has ended for good where it acted, or did not begin.
    Ended {
        /// Where.
        node: NodeId,
        /// The name.
        key: NameKey,
        /// The actor.
        actor: ActorId,
        /// Why.
        reason: ExitReason,
    },
    /// A person wants a named actor to end for good.
    End {
        /// The name.
        key: NameKey,
    },
    /// Somebody asks where a detached actor takes mail. It is answered as soon as it does, or has ended.
    Locate {
        /// The request, for the answer.
        ask: u64,
        /// Which actor.
        actor: ActorId,
    },
    /// Somebody asks who has a name.
    LookUp {
        /// The request, for the answer.
        ask: u64,
        /// The name.
        key: NameKey,
    },
    /// A driver wants to run a job.
    JobStart {
        /// The request, for the answer.
        ask: u64,
        /// What it is to be. The same driver gets the same job.
        spec: JobSpec,
    },
    /// A job is over.
    JobEnd {
        /// Which.
        job: JobId,
        /// Why.
        cause: DeathCause,
    },
    /// Stores or removes a value of a job.
    Put {
        /// The request, for the answer.
        ask: u64,
        /// Whose.
        job: JobId,
        /// Under which key.
        key: String,
        /// The value; none removes it.
        value: Option<Vec<u8>>,
    },
    /// Reads a value of a job.
    Get {
        /// The request, for the answer.
        ask: u64,
        /// Whose.
        job: JobId,
        /// Under which key.
        key: String,
    },
    /// Makes a token.
    TokenCreate {
        /// The request, for the answer.
        ask: u64,
        /// Its id, made at random by the asker.
        id: TokenId,
        /// The hash of its secret.
        hash: [u8; 32],
        /// What its user may be.
        role: Role,
        /// How long it is good for; none for [`TOKEN_TTL`].
        ttl: Option<Duration>,
    },
    /// Somebody shows a token.
    TokenUse {
        /// The request, for the answer.
        ask: u64,
        /// Its id.
        id: TokenId,
        /// The hash of the secret that was shown.
        hash: [u8; 32],
        /// The key that is to be certified: it may ask again when the answer was lost.
        by: [u8; 32],
    },
    /// Takes a token back.
    TokenRevoke {
        /// The request, for the answer.
        ask: u64,
        /// Its id.
        id: TokenId,
    },
    /// Nothing but time has passed.
    Tick,
}

/// What is wanted of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The name.
    pub key: NameKey,
    /// Who is to have it.
    pub actor: ActorId,
    /// Which life of it. A claim for a later one, or from another node, takes the name from where it was before.
    pub incarnation: Incarnation,
    /// The job with which it ends; none for a detached actor.
    pub job: Option<JobId>,
    /// How it is started by the head, in its first life too; none in the claims that follow from there.
    pub detached: Option<Detached>,
    /// The process in which it acts, or is about to.
    pub process: ProcessId,
    /// What it can be asked.
    pub interface: Interface,
}

/// A name that is somebody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whose: another one than the asker's when the name was taken.
    pub owner: ActorId,
    /// Where it was granted to last.
    pub node: NodeId,
    /// Which grant.
    pub fencing: Fencing,
    /// The term of the lease under which it was granted; the node checks that it is in that term still.
    pub term: u64,
}

/// What the machine asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write this. What is said afterwards of the same record leaves when it is durable: see [`Output::rests`].
    Keep(Change),
    /// The answer to a claim, at once or when the name is free.
    Claimed {
        /// The request.
        ask: u64,
        /// The name.
        key: NameKey,
        /// Who has it now.
        result: Result<Grant, NameRefusal>,
    },
    /// The answer to a look-up.
    Found {
        /// The request.
        ask: u64,
        /// The name.
        key: NameKey,
        /// Who has it.
        grant: Option<Grant>,
    },
    /// Tell a node to stop what acts there under a grant, and to say [`Input::Stopped`].
    Revoke {
        /// Which node.
        node: NodeId,
        /// The name.
        key: NameKey,
        /// Which grant.
        fencing: Fencing,
    },
    /// Find a place for a detached actor, claim its name from there, and start it. Said again until it is claimed.
    Restart {
        /// The name.
        key: NameKey,
        /// The actor.
        actor: ActorId,
        /// The life that follows.
        incarnation: Incarnation,
        /// The job whose workers host it.
        job: JobId,
        /// What a node needs to start it.
        frame: Vec<u8>,
        /// Where it would rather not be.
        avoid: NodeId,
        /// In a process of its own: it has taken one down already.
        isolated: bool,
    },
    /// The answer to [`Input::Locate`].
    Located {
        /// The request.
        ask: u64,
        /// Its name, unless it has none.
        key: Option<NameKey>,
        /// Its process and which life it is in; or why it has ended.
        at: Result<(ProcessId, Incarnation), ExitReason>,
    },
    /// The answer to a driver.
    JobStarted {
        /// The request.
        ask: u64,
        /// Its job.
        result: Result<JobId, JobRefusal>,
    },
    /// Tell all nodes that a job is over.
    JobEnded {
        /// Which.
        job: JobId,
        /// Why.
        cause: DeathCause,
    },
    /// The answer to [`Input::Put`] and [`Input::Get`]: the value that is there now.
    Value {
        /// The request.
        ask: u64,
        /// Whose.
        job: JobId,
        /// Under which key.
        key: String,
        /// The value, or why nothing was done.
        result: Result<Option<Vec<u8>>, ValueRefusal>,
    },
    /// The answer to everything about a token.
    Token {
        /// The request.
        ask: u64,
        /// Its id.
        id: TokenId,
        /// What its user may be, or why it is not good.
        result: Result<Role, TokenRefusal>,
    },
}

/// What must have happened before something is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rests {
    /// This record is durable.
    On(RecordKey),
    /// What was said of this record before has been said. It makes something end, so it need not be durable: a restarted
    /// head finds out again.
    Behind(RecordKey),
    /// Nothing.
    Nowhere,
}

impl Output {
    /// What must have happened before this is said.
    pub fn rests(&self) -> Rests {
        match self {
            Self::Claimed { key, .. } | Self::Found { key, .. } | Self::Restart { key, .. } => {
                Rests::On(RecordKey::Name(key.clone()))
            }
            Self::Located { key: Some(key), .. } => Rests::On(RecordKey::Name(key.clone())),
            Self::Located { key: None, .. } => Rests::Nowhere,
            Self::Revoke { key, .. } => Rests::Behind(RecordKey::Name(key.clone())),
            Self::JobStarted { result: Ok(job), .. } => Rests::On(RecordKey::Job(*job)),
            Self::JobEnded { job, .. } => Rests::Behind(RecordKey::Job(*job)),
            Self::Value { job, key, .. } => Rests::On(RecordKey::Value(*job, key.clone())),
            Self::Token { id, .. } => Rests::On(RecordKey::Token(*id)),
            Self::Keep(_) | Self::JobStarted { result: Err(_), .. } => Rests::Nowhere,
        }
    }
}

/// Names, jobs, values and tokens of a cluster.
///
/// ```
/// use mobula_logic::directory::{Claim, Directory, Input, Output};
/// use mobula_logic::Calendar;
/// use mobula_types::{ActorId, HeadId, Incarnation, NameKey, NodeId, ProcessId, StateMachine, Time};
/// let mut directory = Directory::new(HeadId::default(), Calendar::default(), Time::ZERO);
/// let node = NodeId(1);
/// directory.handle(Time::ZERO, Input::NodeUp { node, held: vec![], processes: vec![] });
/// let actor = ActorId { process: ProcessId::new(node, 1), slot: 0, generation: 0 };
/// let key = NameKey::shared("default", "counter");
/// let (process, interface) = (actor.process, Default::default());
/// let claim = Claim { key, actor, incarnation: Incarnation(1), job: None, detached: None, process, interface };
/// directory.handle(Time::ZERO, Input::Claim { ask: 1, node, claim });
/// assert!(matches!(directory.poll_output(), Some(Output::Keep(_))));
/// assert!(matches!(directory.poll_output(), Some(Output::Claimed { ask: 1, result: Ok(grant), .. }) if grant.owner == actor));
/// ```
#[derive(Debug)]
pub struct Directory {
    calendar: Calendar,
    names: Names,
    jobs: Jobs,
    values: Values,
    tokens: Tokens,
    looked: Time,
    outputs: VecDeque<Output>,
    bounds: Bounds,
    planted: Planted,
    pace: Pace,
}

impl StateMachine for Directory {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Time, input: Input) {
        self.looked = now;
        self.names.handle_time(now, &mut self.outputs);
        self.tokens.handle_time(now, &mut self.outputs);
        match input {
            Input::NodeUp { node, held, processes } => self.handle_node_up(now, node, &held, &processes),
            Input::Renew { node } => {
                self.names.renew(now, node);
            }
            Input::NodeStopped { node } => self.names.handle_node_stopped(now, node, &mut self.outputs),
            Input::NodeDied { node, cause } => self.handle_ended(now, &cause, |process| process.node() == node),
            Input::ProcessDied { process, cause } => self.handle_ended(now, &cause, |other| other == process),
            Input::Claim { ask, node, claim } => self.handle_claim(now, ask, node, claim),
            Input::Release { node, key, actor } => self.names.release(now, node, &key, actor, &mut self.outputs),
            Input::Stopped { node, key, fencing, culprit } => {
                self.names.handle_stopped(now, node, &key, fencing, culprit, &mut self.outputs);
            }
            Input::Started { node, key, fencing } => {
                self.names.handle_started(node, &key, fencing, &mut self.outputs);
            }
            Input::Ended { node, key, actor, reason } => {
                self.names.handle_ended(now, node, &key, actor, reason, &mut self.outputs);
            }
            Input::End { key } => self.names.end_one(now, &key, &mut self.outputs),
            Input::Locate { ask, actor } => self.names.locate(ask, actor, &mut self.outputs),
            Input::LookUp { ask, key } => {
                let grant = self.names.look_up(&key);
                self.outputs.push_back(Output::Found { ask, key, grant });
            }
            Input::JobStart { ask, spec } => {
                let started_unix_ms = self.calendar.unix_ms(now);
                let result = self.jobs.start(spec, started_unix_ms, &mut self.outputs);
                self.outputs.push_back(Output::JobStarted { ask, result });
            }
            Input::JobEnd { job, cause } => self.end_job(now, job, cause),
            Input::Put { ask, job, key, value } => {
                let is_running = self.runs(job);
                let result = self.values.put(job, is_running, &key, value, &mut self.outputs);
                self.outputs.push_back(Output::Value { ask, job, key, result });
            }
            Input::Get { ask, job, key } => {
                let result = Ok(self.values.get(job, &key));
                self.outputs.push_back(Output::Value { ask, job, key, result });
            }
            Input::TokenCreate { ask, id, hash, role, ttl } => {
                let result = self.tokens.create(now, self.calendar, id, hash, role, ttl, &mut self.outputs);
                self.outputs.push_back(Output::Token { ask, id, result });
            }
            Input::TokenUse { ask, id, hash, by } => {
                let result = self.tokens.use_once(id, hash, by, &mut self.outputs);
                self.outputs.push_back(Output::Token { ask, id, result });
            }
            Input::TokenRevoke { ask, id } => {
                let result = self.tokens.revoke(id, &mut self.outputs);
                self.outputs.push_back(Output::Token { ask, id, result });
            }
            Input::Tick => {}
        }
        self.end_empty_jobs(now);
        if self.pace.is_due(self.names.entries.len(), &self.planted) {
            check(self).expect("the directory keeps its invariants");
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Time> {
        self.names.next_timeout().into_iter().chain(self.tokens.next_timeout()).min()
    }
}

impl Directory {
    /// A new cluster's.
    pub fn new(head: HeadId, calendar: Calendar, now: Time) -> Self {
        Self {
            calendar,
            names: Names::new(head.epoch, now),
            jobs: Jobs::default(),
            values: Values::default(),
            tokens: Tokens::default(),
            looked: now,
            outputs: VecDeque::new(),
            bounds: Bounds::default(),
            planted: Planted::default(),
            pace: Pace::default(),
        }
    }

    /// What an earlier head has kept, within the same bounds; every lease is taken for renewed at `now`, which is this head's start. A process
    /// whose node is not among those that `lives` knows has ended meanwhile.
    ///
    /// `mutant` is a fault to be planted from the start on; without the feature there is none.
    pub fn restore(
        head: HeadId,
        calendar: Calendar,
        now: Time,
        records: impl IntoIterator<Item = (RecordKey, Record)>,
        lives: impl Fn(NodeId) -> bool,
        mutant: Option<Mutant>,
        bounds: Bounds,
    ) -> Self {
        let mut directory = Self::new(head, calendar, now).with_bounds(bounds);
        directory.plant(mutant);
        let mut frames = Vec::new();
        for (key, record) in records {
            match (key, record) {
                (_, Record::Counters(counters)) => directory.jobs.restore_last(counters.job),
                (_, Record::Job(record)) => directory.jobs.restore(record),
                (_, Record::Name(record)) => directory.names.restore(now, record),
                (RecordKey::Detached(key), Record::Detached(detached)) => frames.push((key, detached)),
                (_, Record::Token(record)) => directory.tokens.restore(now, calendar, record),
                (RecordKey::Value(job, key), Record::Value(value)) => directory.values.restore(job, key, value),
                // Nodes are the membership's.
                _ => {}
            }
        }
        for (key, detached) in frames {
            directory.names.restore_detached(&key, detached);
        }
        let is_gone = |process: ProcessId| !lives(process.node());
        directory.handle_ended(now, &DeathCause::Disconnected, is_gone);
        directory
    }

    fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self.names.bounds = bounds;
        self.jobs.bounds = bounds;
        self.values.bounds = bounds;
        self.tokens.bounds = bounds;
        self
    }

    fn plant(&mut self, mutant: Option<Mutant>) {
        #[cfg(feature = "mutants")]
        if let Some(mutant) = mutant {
            self.planted = Planted::new(mutant);
            self.names.planted = self.planted;
            self.tokens.planted = self.planted;
        }
        let _ = mutant;
    }

    /// The same with a fault in it, for the simulator to find.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_mutant(mut self, mutant: Mutant) -> Self {
        self.plant(Some(mutant));
        self
    }

    /// The term of a node's lease; none when it has none.
    pub fn term(&self, node: NodeId) -> Option<u64> {
        self.names.term(node)
    }

    /// What was to be said and had to wait, as it is by now: a name may have ended meanwhile, and then nobody is told that
    /// it is his.
    pub fn as_it_stands(&self, said: Output) -> Output {
        match said {
            Output::Claimed { ask, key, result: Ok(grant) } if !self.names.stands(&key, grant.fencing) => {
                Output::Claimed { ask, key, result: Err(NameRefusal::Ended) }
            }
            Output::Found { ask, key, .. } => {
                let grant = self.names.look_up(&key);
                Output::Found { ask, key, grant }
            }
            other => other,
        }
    }

    /// Who has a name, and what it can be asked.
    pub fn owner(&self, key: &NameKey) -> Option<NameOwner> {
        self.names.owner(key)
    }

    /// The jobs that host detached actors, and how many.
    pub fn detached_jobs(&self) -> impl Iterator<Item = (JobId, usize)> {
        self.names.hosts.iter().map(|(job, count)| (*job, *count))
    }

    /// Whether a job runs: its driver does, or the detached actors that its workers host.
    pub fn runs(&self, job: JobId) -> bool {
        self.jobs.is_running(job) || self.names.hosts_detached(job)
    }

    /// Every job that is known, those that have ended among them.
    pub fn jobs(&self) -> impl Iterator<Item = &JobRecord> {
        self.jobs.all()
    }

    /// One job.
    pub fn job(&self, job: JobId) -> Option<&JobRecord> {
        self.jobs.get(job)
    }

    /// The greatest id given to a job.
    pub fn last_job(&self) -> JobId {
        self.jobs.last()
    }

    /// Every token that is good.
    pub fn tokens(&self) -> impl Iterator<Item = &TokenRecord> {
        self.tokens.all()
    }

    /// Every name and who has it.
    pub fn names(&self) -> impl Iterator<Item = (&NameKey, Grant)> {
        self.names.all()
    }

    fn handle_claim(&mut self, now: Time, ask: u64, node: NodeId, claim: Claim) {
        let ended = claim.job.filter(|job| !self.runs(*job));
        match ended {
            Some(job) => {
                let result = Err(NameRefusal::JobEnded { job });
                self.outputs.push_back(Output::Claimed { ask, key: claim.key, result });
            }
            None => self.names.claim(now, ask, node, claim, &mut self.outputs),
        }
    }

    fn handle_node_up(&mut self, now: Time, node: NodeId, held: &[Held], processes: &[ProcessId]) {
        self.names.handle_node_up(now, node, held, &mut self.outputs);
        // Of what an earlier head knew, the node may have told only that one how it ended.
        let has_ended = |process: ProcessId| process.node() == node && !processes.contains(&process);
        let names = self.names.homes_of_earlier().filter(|home| has_ended(*home));
        let drivers = self.jobs.drivers_of_earlier().filter(|driver| has_ended(*driver));
        let ended: std::collections::BTreeSet<ProcessId> = names.chain(drivers).collect();
        if !ended.is_empty() {
            self.handle_ended(now, &DeathCause::Disconnected, |process| ended.contains(&process));
        }
    }

    /// Processes have ended: with them the jobs that they drove, and the names of which they were the home.
    fn handle_ended(&mut self, now: Time, cause: &DeathCause, has_ended: impl Fn(ProcessId) -> bool) {
        for job in self.jobs.driven_by(&has_ended) {
            self.end_job(now, job, cause.clone());
        }
        self.names.end_of_homes(now, has_ended, &mut self.outputs);
    }

    fn end_job(&mut self, now: Time, job: JobId, cause: DeathCause) {
        if self.jobs.end(job, self.calendar.unix_ms(now), cause.clone(), &mut self.outputs) {
            self.values.remove_job(job, &mut self.outputs);
            self.names.end_of_job(now, job, &mut self.outputs);
            self.outputs.push_back(Output::JobEnded { job, cause });
        } else if self.names.hosts_detached(job) {
            self.names.end_detached_of(now, job, &mut self.outputs);
        }
    }

    /// The last detached actor of a job is gone: nothing of it runs any more.
    fn end_empty_jobs(&mut self, now: Time) {
        while let Some(job) = self.names.take_empty_job() {
            self.values.remove_job(job, &mut self.outputs);
            self.names.end_of_job(now, job, &mut self.outputs);
            self.outputs.push_back(Output::JobEnded { job, cause: DeathCause::JobStopped });
        }
    }
}
