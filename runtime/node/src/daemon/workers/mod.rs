//! The worker processes of a node: how they start, what they print, why they died.
//!
//! Knows nothing of calls, leases or other nodes: the daemon says when a worker starts and ends, and is told what became
//! of it. Nobody is left behind (design.md §2), and this is who cares for it:
//!
//! ```text
//! node ──socket──▶ warden ──▶ worker (a process group of its own) ──▶ what the user's code started
//!   ▲                │ the parent of all workers, and of all orphans below them
//!   └── pipes ───────┴─── what workers write
//! ```
//!
//! | who is killed | who ends the rest |
//! |---|---|
//! | a worker | the warden: its process group, and its orphans that left the group |
//! | the node | the warden: the socket has closed, it kills all that is below it and ends |
//! | the warden | the kernel: workers asked for it (`guard`); the node: what workers had started, when it is a process of its own ([`WorkersConfig::is_own_process`]) |
//!
//! | module | holds |
//! |---|---|
//! | [`programs`] | executables by their hash, on disk |
//! | [`folder`] | the folder that a program starts in, as one file |
//! | [`platform`] | which programs this host can run |
//! | [`warden`] | the small process that is the parent of workers |
//! | [`guard`] | the worker's side: how it begins, and how it dies with its parent |
//! | [`logs`] | what workers wrote, in files that rotate |
//! | `keeper` | the node's side: one task that knows all workers |
//! | `link`, `letter` | what node and warden say, and the socket between them |
//! | `output` | reads what a worker writes |
//! | [`memory`] | how much memory the host has left |
//! | `logic` | the cause of a death, who ends when memory is short, lines out of bytes, how much of them a terminal gets |
//! | `descent` | who is whose child, as `/proc` tells it |

pub(crate) mod descent;
pub mod folder;
pub mod guard;
mod keeper;
mod letter;
mod link;
mod logic;
pub mod logs;
pub mod memory;
mod output;
pub mod platform;
pub mod programs;
pub mod warden;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mobula_types::{Death, DeathCause, JobId, ProcessId};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};

pub(super) use logic::pressure::Memory;
pub use logic::pressure::THRESHOLD as MEMORY_THRESHOLD;
pub use logs::{LogChunk, LogError, LogId, Logs, Stream};
pub use memory::MemoryFiles;
pub use programs::{ProgramHash, Programs};

/// Workers that a node may have at once: each takes a process, three descriptors and two log files.
pub const WORKERS_MAX: usize = 4_096;

/// Orders that wait for the keeper: as many as there can be workers, and their ends.
const ORDERS_MAX: usize = 2 * WORKERS_MAX;

/// Events that wait for the daemon, of 20 KiB at most: what one read of a pipe gives. Above it, lines for terminals are left out (they stay in the logs); starts and
/// deaths wait.
const EVENTS_MAX: usize = 1_024;

/// How a node keeps its workers.
#[derive(Clone, Debug)]
pub struct WorkersConfig {
    /// The node's folder: `programs` and `logs` are made in it, and workers whose folder is gone start there.
    pub folder: PathBuf,
    /// The socket at which workers find their node.
    pub socket: PathBuf,
    /// The program that becomes the warden: one whose `main` calls [`warden::run_if_warden`] first.
    pub warden_program: PathBuf,
    /// The warden's arguments.
    pub warden_args: Vec<OsString>,
    /// Whether this process is nothing but a node: then it also adopts, and kills, what a killed warden leaves behind.
    /// A user's program is not: it may have children of its own.
    pub is_own_process: bool,
    /// The part of the host's memory, from 0 to 1, above which workers end, one after another; 1 lets the kernel choose.
    pub memory_threshold: f64,
    /// Where it is said how much is used.
    pub memory_files: MemoryFiles,
}

impl WorkersConfig {
    /// The node in `folder` that listens at `socket`, and is a process of its own; its own executable is the warden.
    pub fn new(folder: impl Into<PathBuf>, socket: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            socket: socket.into(),
            warden_program: "/proc/self/exe".into(),
            warden_args: Vec::new(),
            is_own_process: true,
            memory_threshold: MEMORY_THRESHOLD,
            memory_files: MemoryFiles::of_this_host(),
        }
    }
}

/// A worker to be started.
#[derive(Clone, Debug)]
pub struct SpawnSpec {
    /// Its name; never used before on this node.
    pub process: ProcessId,
    /// Its job.
    pub job: JobId,
    /// The executable: a path of [`Programs`].
    pub program: PathBuf,
    /// Its arguments, after its name.
    pub args: Vec<OsString>,
    /// Variables beside what it inherits from the node (all but `MOBULA_*`).
    pub env: BTreeMap<String, String>,
    /// Where it starts, when that folder exists; else it starts in the node's.
    pub working_dir: Option<PathBuf>,
    /// The secret by which its node knows it ([`guard::Role::token`]).
    pub token: String,
    /// Whether it is a user's program that the node runs as a driver: it has no slots, and [`guard::enter`] does not take
    /// it for a worker. All else is the same.
    pub is_driver: bool,
    /// Whether it runs for one actor or task only ([`guard::Role::isolated`]).
    pub isolated: bool,
    /// The GPUs it sees; none when empty, unless `env` sets `CUDA_VISIBLE_DEVICES`.
    pub gpus: Vec<u32>,
    /// The memory at which the kernel ends it, where memory groups can be made.
    pub memory_max: Option<u64>,
}

/// What became of a worker.
#[derive(Debug)]
pub enum WorkerEvent {
    /// It runs. It is no answer from it yet: that comes over its socket.
    Started {
        /// Which.
        process: ProcessId,
        /// Its number on this host.
        pid: u32,
    },
    /// Lines it wrote, for terminals: bounded, repeats said once.
    Output {
        /// Which.
        process: ProcessId,
        /// Its job.
        job: JobId,
        /// Whether it wrote them to standard error.
        is_stderr: bool,
        /// The lines, without their ends.
        lines: Vec<String>,
    },
    /// It has ended, or could not be started. Comes once for each spawn that was taken, and last.
    Died {
        /// Its job.
        job: JobId,
        /// How.
        death: Death,
    },
}

/// Why a spawn was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The node has all the workers it may have.
    #[error("this node has {WORKERS_MAX} workers, as many as it may have: start another node")]
    Full,
    /// Arguments and variables are too long.
    #[error("arguments and variables of the worker take {bytes} bytes, at most {max} fit: pass less through them")]
    TooLarge {
        /// Their length, encoded.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// An argument or variable cannot be passed to a process.
    #[error("{what} cannot be passed to a process: it holds a zero byte, or a name is empty or holds `=`")]
    NotPassable {
        /// Which.
        what: String,
    },
    /// Orders are not carried out as fast as they come.
    #[error("{ORDERS_MAX} orders about workers wait at this node: try again later")]
    Busy,
    /// The workers were stopped.
    #[error("this node starts no more workers: it is stopping")]
    Stopped,
}

/// The workers of a node. Clones are the same workers; when the last is dropped, all workers are killed.
#[derive(Clone, Debug)]
pub struct Workers {
    orders: mpsc::Sender<keeper::Order>,
    alive: Arc<AtomicUsize>,
    memory_groups: watch::Receiver<Option<Result<String, String>>>,
    logs: Logs,
    socket: PathBuf,
    folder: PathBuf,
}

/// What becomes of the workers, in order for each of them.
#[derive(Debug)]
pub struct WorkerEvents(mpsc::Receiver<WorkerEvent>);

impl WorkerEvents {
    /// The next event; `None` after [`Workers::stop`], when every death has been told.
    pub async fn next(&mut self) -> Option<WorkerEvent> {
        self.0.recv().await
    }
}

impl Workers {
    /// Begins to keep workers, on the tokio runtime this is called in. No process is started yet.
    ///
    /// # Errors
    ///
    /// The folder of the logs cannot be made.
    pub fn start(config: WorkersConfig) -> Result<(Self, WorkerEvents), LogError> {
        let logs = Logs::open(&config.folder.join("logs"))?;
        let (orders, orders_in) = mpsc::channel(ORDERS_MAX);
        let (events, events_in) = mpsc::channel(EVENTS_MAX);
        let (groups, memory_groups) = watch::channel(None);
        let alive = Arc::new(AtomicUsize::new(0));
        let (socket, folder) = (config.socket.clone(), config.folder.clone());
        let keeper = keeper::Keeper::new(config, events, logs.clone(), alive.clone(), groups);
        tokio::spawn(keeper.run(orders_in));
        Ok((Self { orders, alive, memory_groups, logs, socket, folder }, WorkerEvents(events_in)))
    }

    /// Starts a worker. What goes wrong later is told as its death, with the cause `NotStarted`.
    ///
    /// # Errors
    ///
    /// [`SpawnError`]: then no event will name this process.
    pub fn spawn(&self, spec: SpawnSpec) -> Result<(), SpawnError> {
        let letter = letter::birth(&spec, &self.socket, &self.folder)?;
        let full = self.alive.fetch_add(1, Ordering::AcqRel) >= WORKERS_MAX;
        let (process, job, is_driver) = (spec.process, spec.job, spec.is_driver);
        let order = keeper::Order::Spawn { process, job, is_driver, letter };
        let sent = if full { Err(SpawnError::Full) } else { self.order(order) };
        if sent.is_err() {
            self.alive.fetch_sub(1, Ordering::AcqRel);
        }
        sent
    }

    /// Kills a worker and all that it started. `cause` is what its death will say, unless it died of something else
    /// before.
    pub fn kill(&self, process: ProcessId, cause: DeathCause) {
        self.order(keeper::Order::End { who: keeper::Who::Process(process), cause, grace: Duration::ZERO }).ok();
    }

    /// Says that a worker was asked to end, and why: it is killed if it has not after `grace`.
    pub fn expect_end(&self, process: ProcessId, cause: DeathCause, grace: Duration) {
        self.order(keeper::Order::End { who: keeper::Who::Process(process), cause, grace }).ok();
    }

    /// The same for all workers of a job.
    pub fn end_job(&self, job: JobId, cause: DeathCause, grace: Duration) {
        self.order(keeper::Order::End { who: keeper::Who::Job(job), cause, grace }).ok();
    }

    /// Kills all workers and takes no more. Returns when they and the warden are gone and their deaths were told (or
    /// nobody listens to them).
    pub async fn stop(&self, cause: DeathCause) {
        let (done, gone) = oneshot::channel();
        if self.orders.send(keeper::Order::Stop { cause, done }).await.is_ok() {
            gone.await.ok();
        }
    }

    /// What workers wrote.
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Workers that run, or start.
    pub fn alive(&self) -> usize {
        self.alive.load(Ordering::Acquire)
    }

    /// How memory is bounded and its end is seen here: which kind of memory group, or why there is none. `None` before the
    /// first worker.
    pub fn memory_groups(&self) -> Option<Result<String, String>> {
        self.memory_groups.borrow().clone()
    }

    fn order(&self, order: keeper::Order) -> Result<(), SpawnError> {
        self.orders.try_send(order).map_err(|refused| match refused {
            TrySendError::Closed(_) => SpawnError::Stopped,
            TrySendError::Full(order) => {
                tracing::error!(?order, "{}", SpawnError::Busy);
                SpawnError::Busy
            }
        })
    }
}
