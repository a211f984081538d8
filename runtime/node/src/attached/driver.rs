//! A user's program that is attached to a node: its actors and functions run in the cluster's workers.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mobula_actor::{System, SystemConfig, arbiters};
use mobula_net::Line;
use mobula_types::resources::Resources;
use mobula_types::{DeathCause, JobId, ProcessId};
use mobula_wire::local::Hello;
use mobula_wire::{PAYLOAD_BYTES_MAX, PROTOCOL};

use crate::admission::QueueBounds;
use crate::compute::Pool;
use crate::host::Host;

use super::deliver::Attached;
use super::far::FarNode;
use super::process::{self, Hooks, JoinError, Process};

/// The variable that tells a job's workers how large a value may be, where its driver has said so.
pub(crate) const VALUE_BYTES_MAX: &str = "MOBULA_VALUE_BYTES_MAX";

/// The variable that tells them how many tasks one may have submitted.
pub(crate) const QUEUE: &str = "MOBULA_QUEUE";

/// How to attach a program.
#[derive(Clone, Debug)]
pub struct DriverConfig {
    /// Where the node is.
    pub node: NodeAddress,
    /// How the program is called in lists.
    pub name: String,
    /// Variables for the job's workers.
    pub env: BTreeMap<String, String>,
    /// Where the job's names are unique that say no namespace; none for one that no other job can say.
    pub namespace: Option<String>,
    /// Threads that the program's own actors share.
    pub arbiters: usize,
    /// How long what is here may take to end with the session.
    pub patience: Duration,
    /// The bytes of one value that leaves a process of the job.
    pub value_bytes_max: usize,
    /// Tasks that a process of the job has submitted and that have no outcome.
    pub queue: QueueBounds,
}

/// Where a node is, for who attaches to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAddress {
    /// On this host: its socket.
    Socket(PathBuf),
    /// On another one.
    Far(FarNode),
}

impl std::fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(socket) => write!(f, "{}", socket.display()),
            Self::Far(node) => f.write_str(&node.address),
        }
    }
}

/// Why a program is not attached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot attach to the node at {node}: {message}")]
pub struct AttachError {
    /// Where the node is.
    pub node: String,
    /// What went wrong.
    pub message: String,
}

/// A program that is attached. Dropping it ends its job.
pub struct Driver {
    system: Arc<System>,
    process: Arc<Process>,
    pool: Arc<Pool>,
    job: JobId,
    patience: Duration,
}

impl Driver {
    /// Attaches this program to a node.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub async fn attach(config: &DriverConfig) -> Result<Self, AttachError> {
        let DriverConfig { node, name, mut env, namespace, arbiters, patience, value_bytes_max, queue } =
            config.clone();
        let at = node.to_string();
        if value_bytes_max != PAYLOAD_BYTES_MAX {
            env.insert(VALUE_BYTES_MAX.to_owned(), value_bytes_max.to_string());
        }
        if queue != QueueBounds::default() {
            env.insert(QUEUE.to_owned(), queue.to_string());
        }
        // On our own runtime: what is read and written for the session must not wait for the program's.
        let joining = arbiters::runtime().spawn(async move {
            match node {
                NodeAddress::Socket(socket) => {
                    process::join(&socket, &Hello::Driver { protocol: PROTOCOL, name, env, namespace }).await
                }
                NodeAddress::Far(far) => process::join_far(&far, name, env, namespace).await,
            }
        });
        let joined = joining.await.expect("joining does not panic").map_err(|error| refused(at, &error))?;
        let (me, job) = (joined.welcome.process, joined.welcome.job);
        let system = System::start(&SystemConfig { process: me, arbiters, value_bytes_max });
        // Nothing of the job runs here: the pool serves code that waits.
        let pool = Pool::new(1, &Resources { cpus: mobula_types::resources::Amount::ONE, ..Resources::default() });
        let host = Host::new(pool.clone(), queue);
        assert!(system.set_extension(host.clone()), "a new system has no extension");
        let hooks = Hooks { capacity: Box::new(|_| {}), output: Box::new(print_lines) };
        let process = joined.process.clone();
        let attached = Attached { process: process.clone(), spawns_roots_away: true };
        assert!(system.set_deliver(Arc::new(attached)).is_ok(), "a new system delivers nothing");
        host.seat.set(process.clone()).ok();
        let road = process.clone();
        host.run_tasks_at(Box::new(move |frame, reply| road.submit_task(frame, reply, None)));
        joined.begin(&system, hooks);
        Ok(Self { system, process, pool, job, patience })
    }

    /// The system of the program's own code.
    pub fn system(&self) -> &Arc<System> {
        &self.system
    }

    /// Which process of the cluster this is.
    pub fn process(&self) -> ProcessId {
        self.process.me
    }

    /// The program's job.
    pub fn job(&self) -> JobId {
        self.job
    }

    /// Waits until the node says that the job is over, or is gone itself.
    pub async fn ended(&self) -> DeathCause {
        self.process.ended().await
    }

    /// Ends the session, and with it the job.
    pub async fn stop(&self) {
        let (pool, patience) = (self.pool.clone(), self.patience);
        self.system.stop(patience).await;
        tokio::task::spawn_blocking(move || pool.close(patience)).await.ok();
        self.process.leave_in_order(LAST_WORDS_MAX).await;
        close(&self.process).await;
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The process may end with this, and what was said last with it.
        let (closed, is_closed) = std::sync::mpsc::channel();
        let process = self.process.clone();
        arbiters::runtime().spawn(async move {
            process.leave_in_order(LAST_WORDS_MAX).await;
            close(&process).await;
            closed.send(()).ok();
        });
        is_closed.recv_timeout(3 * LAST_WORDS_MAX).ok();
    }
}

/// What is said last has so long to leave, and to arrive at a node on another host: several round trips of a network.
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);

/// Waits for the end of what a process that leaves has said, but not for long.
async fn close(process: &Process) {
    match &process.link.line {
        Line::Socket(_) => drop(tokio::time::timeout(LAST_WORDS_MAX, process.left()).await),
        Line::Session { mesh, peer } => {
            tokio::time::timeout(LAST_WORDS_MAX, mesh.ended(*peer)).await.ok();
            mesh.close().await;
        }
    }
}

fn refused(node: String, error: &JoinError) -> AttachError {
    AttachError { node, message: error.to_string() }
}

/// Lines of workers on the program's terminal, each with who wrote it.
fn print_lines(process: ProcessId, is_stderr: bool, lines: Vec<String>) {
    let text: String = lines.iter().map(|line| format!("({process}) {line}\n")).collect();
    // A terminal that is gone hears nothing.
    if is_stderr {
        std::io::stderr().write_all(text.as_bytes()).ok();
    } else {
        std::io::stdout().write_all(text.as_bytes()).ok();
    }
}
