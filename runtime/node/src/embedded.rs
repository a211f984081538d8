//! A session in one process, from start to stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use mobula_actor::{System, SystemConfig};
use mobula_types::{NodeId, ProcessId};
use mobula_wire::PAYLOAD_BYTES_MAX;

use crate::admission::QueueBounds;
use crate::bundles::Bundles;
use crate::compute::Pool;
use crate::encoded;
use crate::host::{Host, Road};
use crate::logic::{Amount, Resources};
use crate::loopback;
use crate::rerun::Reruns;

/// How long actors and functions may take to end with their session.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was refused by the stop is told and counted on other threads: so long they may take.
const OUTCOMES_GRACE: Duration = Duration::from_millis(500);

/// Beyond its patience a stop may take this long to end threads that do not answer.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// How to make an [`Embedded`] session.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Whether every call, reply, spawn and task passes through the codec.
    pub encode_all: bool,
    /// Threads that actors share.
    pub arbiters: usize,
    /// Functions that are not async which run at once: the CPUs they share.
    pub compute_threads: usize,
    /// Resources with a name of their own, in wholes and parts.
    pub resources: BTreeMap<String, f64>,
    /// How long actors and functions may take to end with the session.
    pub patience: Duration,
    /// Tasks that may wait.
    pub queue: QueueBounds,
    /// Where names are unique that say no namespace; all are of this session.
    pub namespace: Option<String>,
    /// The bytes of one value that passes through the codec.
    pub value_bytes_max: usize,
}

impl Default for EmbeddedConfig {
    /// One thread of each kind per CPU given to the process, nothing encoded.
    fn default() -> Self {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        Self {
            encode_all: false,
            arbiters: cpus,
            compute_threads: cpus,
            resources: BTreeMap::new(),
            patience: PATIENCE,
            queue: QueueBounds::default(),
            namespace: None,
            value_bytes_max: PAYLOAD_BYTES_MAX,
        }
    }
}

/// Node, worker and driver in one process.
///
/// Dropping it stops it; both wait at most for the configured patience and a second.
pub struct Embedded {
    /// The system of the program's own code.
    driver: Arc<System>,
    /// The system in which actors and functions run: the same one unless all is encoded.
    worker: Arc<System>,
    pool: Arc<Pool>,
    bundles: Arc<Bundles>,
    reruns: Arc<Reruns>,
    patience: Duration,
}

impl Embedded {
    /// Starts a session; its threads of the compute pool start when they are needed.
    pub fn start(config: &EmbeddedConfig) -> Self {
        let EmbeddedConfig {
            encode_all,
            arbiters,
            compute_threads,
            resources,
            patience,
            queue,
            namespace,
            value_bytes_max,
        } = config;
        let compute_threads = (*compute_threads).max(1);
        let others = resources.iter().map(|(name, amount)| (name.clone(), Amount::new(*amount).unwrap_or_default()));
        let resources =
            Resources { cpus: Amount::whole(compute_threads as u64), gpus: Amount::ZERO, others: others.collect() };
        let pool = Pool::new(compute_threads, &resources);
        let host = Host::new(pool.clone(), *queue);
        let system = |arbiters| {
            let system =
                System::start(&SystemConfig { process: next_process(), arbiters, value_bytes_max: *value_bytes_max });
            assert!(system.set_extension(host.clone()), "a new system has no extension");
            if let Some(namespace) = namespace {
                system.set_namespace(namespace.clone());
            }
            system
        };
        let driver = system(if *encode_all { 1 } else { *arbiters });
        let worker = if *encode_all {
            let worker = system(*arbiters);
            loopback::join(&driver, &worker);
            worker
        } else {
            driver.clone()
        };
        let bundles = Bundles::new(worker.process(), pool.clone(), &resources);
        bundles.serve(&worker);
        host.bundles.set(bundles.clone()).ok();
        let reruns = Reruns::new(&driver, encoded::beside(&worker));
        let taking = reruns.clone();
        let road: Road = Box::new(move |frame, reply| taking.take(frame, reply));
        if *encode_all {
            host.run_tasks_at(road);
        } else {
            // What runs once needs no bytes; what may run again needs its arguments a second time.
            host.run_some_at(|options| options.error_retries.count > 0, road);
        }
        Self { driver, worker, pool, bundles, reruns, patience: *patience }
    }

    /// The system of the program's own code.
    pub fn driver(&self) -> &Arc<System> {
        &self.driver
    }

    /// The system in which actors and functions run.
    pub fn worker(&self) -> &Arc<System> {
        &self.worker
    }

    /// Whether everything passes through the codec.
    pub fn encodes_all(&self) -> bool {
        !Arc::ptr_eq(&self.driver, &self.worker)
    }

    /// Ends the session: what waits is refused, what runs may end within the patience, actors stop children first.
    pub async fn stop(self) {
        let (done, stopped) = tokio::sync::oneshot::channel();
        self.stop_in_background(move || {
            done.send(()).ok();
        });
        // An error says that the thread is gone, which is as good.
        stopped.await.ok();
    }

    /// Stops on a thread of its own: whoever waits may be a thread that the stop needs, or one that must not block.
    fn stop_in_background(&self, done: impl FnOnce() + Send + 'static) {
        let Self { driver, worker, pool, bundles, reruns, patience } = self;
        let (driver, worker, pool, patience) = (driver.clone(), worker.clone(), pool.clone(), *patience);
        let (bundles, reruns) = (bundles.clone(), reruns.clone());
        let stop = move || {
            reruns.end();
            bundles.close();
            // Functions first: they may wait for actors, and actors that wait for them see them end.
            pool.close(patience);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            match runtime {
                Ok(runtime) => runtime.block_on(async {
                    driver.stop(patience).await;
                    worker.stop(patience).await;
                    outcomes([&driver, &worker]).await;
                }),
                Err(error) => tracing::warn!(%error, "the session's actors are left to the end of the process"),
            }
            done();
        };
        if let Err(error) = thread::Builder::new().name("mobula-stop".into()).spawn(stop) {
            tracing::warn!(%error, "the session is left to the end of the process");
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if self.worker.is_ending() {
            return;
        }
        let (done, stopped) = std::sync::mpsc::channel();
        self.stop_in_background(move || {
            done.send(()).ok();
        });
        if stopped.recv_timeout(self.patience * 3 + STOP_GRACE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the session did not stop in time: an actor or a function blocks its thread");
        }
    }
}

/// Waits until all that was submitted has its outcome, as long as that is a matter of threads that run.
async fn outcomes(systems: [&Arc<System>; 2]) {
    let end = tokio::time::Instant::now() + OUTCOMES_GRACE;
    while systems.iter().any(|system| system.counters().pending() > 0) && tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Ids are unique in the process, so that sessions may run beside one another.
fn next_process() -> ProcessId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    ProcessId::from(NodeId(NEXT.fetch_add(1, Ordering::Relaxed)))
}
