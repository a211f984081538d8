//! The node's side: one task that knows all workers, gives the warden its orders, and tells what became of each.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use mobula_store::Slots;
use mobula_types::{Culprit, Death, DeathCause, JobId, ProcessId};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::letter::{Ended, FromWarden, ToWarden};
use super::link::Link;
use super::logic::cause::{Evidence, cause};
use super::logic::pressure::{Candidate, Memory, Pressure};
use super::logs::{Logs, Stream};
use super::output::{Reader, Tail};
use super::warden::adopt;
use super::{LogId, WorkerEvent, WorkersConfig};
use crate::running::host_now;

/// What the daemon wants done.
#[derive(Debug)]
pub(super) enum Order {
    Spawn { process: ProcessId, job: JobId, is_driver: bool, letter: Vec<u8> },
    End { who: Who, cause: DeathCause, grace: Duration },
    Stop { cause: DeathCause, done: oneshot::Sender<()> },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Who {
    Process(ProcessId),
    Job(JobId),
    All,
}

/// A warden that has not started a process, or said why not, for this long hangs: it is killed, and with it all below it.
/// It takes milliseconds, and seconds where a disk is slow.
const START_MAX: Duration = Duration::from_secs(30);

/// What a worker wrote last is read for this long after its end is known; then its death is told with what there is.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// Between two looks at the memory of the host: between two of them a process fills a tenth of a small machine.
const MEMORY_LOOK: Duration = Duration::from_millis(250);

/// After this long nobody is waited for at the end: [`Workers::stop`](super::Workers::stop) returns.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Readers of a dead worker whose pipe does not end are given up after this: what holds it cannot be killed.
const READ_ON: Duration = Duration::from_secs(10);

pub(super) struct Keeper {
    config: WorkersConfig,
    events: mpsc::Sender<WorkerEvent>,
    logs: Logs,
    alive: Arc<AtomicUsize>,
    memory_groups: watch::Sender<Option<Result<String, String>>>,
    link: Option<Link>,
    workers: BTreeMap<ProcessId, Worker>,
    pressure: Pressure,
    /// When memory is looked at next, if there is a worker then.
    look_at: Instant,
    /// Deaths that are being told.
    burials: JoinSet<()>,
}

struct Worker {
    job: JobId,
    /// Its number on the host, once it runs.
    pid: Option<i32>,
    asked: Instant,
    /// The same, on the host's monotonic clock.
    started: Duration,
    is_driver: bool,
    slots: Slots,
    tail: Tail,
    readers: Vec<JoinHandle<io::Result<()>>>,
    /// Why it is to end, if it is.
    expected: Option<DeathCause>,
    /// When it is killed if it has not ended by then.
    kill_at: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(
        config: WorkersConfig,
        events: mpsc::Sender<WorkerEvent>,
        logs: Logs,
        alive: Arc<AtomicUsize>,
        memory_groups: watch::Sender<Option<Result<String, String>>>,
    ) -> Self {
        let (link, workers, burials) = (None, BTreeMap::new(), JoinSet::new());
        let (pressure, look_at) = (Pressure::new(config.memory_threshold), Instant::now());
        Self { config, events, logs, alive, memory_groups, link, workers, pressure, look_at, burials }
    }

    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            let due = self.due();
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Spawn { process, job, is_driver, letter }) => {
                        self.spawn(process, job, is_driver, &letter).await;
                    }
                    Some(Order::End { who, cause, grace }) => self.end(who, &cause, grace).await,
                    Some(Order::Stop { cause, done }) => {
                        self.stop(&mut orders, &cause).await;
                        done.send(()).ok();
                        return;
                    }
                    None => return self.stop(&mut orders, &DeathCause::JobStopped).await,
                },
                heard = next(self.link.as_ref()) => self.hear(heard).await,
                () = until(due) => self.turn().await,
                () = sleep_until(self.look_at), if !self.workers.is_empty() => self.look_at_memory().await,
                Some(_) = self.burials.join_next() => {}
            }
        }
    }

    async fn spawn(&mut self, process: ProcessId, job: JobId, is_driver: bool, letter: &[u8]) {
        let (worker, fds) = match self.cradle(process, job, is_driver) {
            Ok(made) => made,
            Err(error) => return self.not_started(process, job, format!("its node cannot prepare it: {error}")),
        };
        if self.link.is_none() {
            match self.start_warden() {
                Ok(link) => self.link = Some(link),
                Err(error) => {
                    return self.not_started(process, job, format!("its node cannot start a warden: {error}"));
                }
            }
        }
        self.workers.insert(process, worker);
        self.send(letter, fds).await;
    }

    /// What a worker has before it lives: slots, pipes, logs; and the ends that go to it.
    fn cradle(&self, process: ProcessId, job: JobId, is_driver: bool) -> io::Result<(Worker, Vec<OwnedFd>)> {
        let (slots, mut stdin) = Slots::create()?;
        if is_driver {
            stdin = File::open("/dev/null")?.into();
        }
        let (tail, mut readers, mut fds) = (Tail::default(), Vec::new(), vec![stdin]);
        for stream in [Stream::Out, Stream::Err] {
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
            let is_stderr = stream == Stream::Err;
            let reader = Reader {
                process,
                job,
                is_stderr,
                log: self.logs.begin(LogId { process, stream }, job),
                tail: is_stderr.then(|| tail.clone()),
                events: self.events.clone(),
            };
            readers.push(tokio::spawn(reader.run(ours)));
            fds.push(theirs);
        }
        let asked = Instant::now();
        let started = host_now();
        let worker =
            Worker { job, pid: None, asked, started, is_driver, slots, tail, readers, expected: None, kill_at: None };
        Ok((worker, fds))
    }

    fn start_warden(&self) -> io::Result<Link> {
        if self.config.is_own_process {
            adopt::begin()?;
        }
        Link::start(&self.config)
    }

    async fn end(&mut self, who: Who, cause: &DeathCause, grace: Duration) {
        let kill_at = Instant::now() + grace;
        for (process, worker) in &mut self.workers {
            let is_meant = match who {
                Who::Process(meant) => *process == meant,
                Who::Job(job) => worker.job == job,
                Who::All => true,
            };
            if is_meant {
                worker.expected.get_or_insert_with(|| cause.clone());
                worker.kill_at = Some(worker.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at)));
            }
        }
        self.turn().await;
    }

    /// Ends a worker if the host is short of memory. Programs that the node runs as drivers are none: theirs is the job.
    async fn look_at_memory(&mut self) {
        self.look_at = Instant::now() + MEMORY_LOOK;
        let Some(memory) = self.config.memory_files.read() else { return };
        let may_end = |worker: &Worker| !worker.is_driver && worker.pid.is_some() && worker.expected.is_none();
        let candidates = self.workers.iter().filter(|(_, worker)| may_end(worker)).map(|(process, worker)| {
            let tasks = worker.slots.tasks().filter(|task| task.may_run_again);
            let newest_task = tasks.map(|task| task.since).max();
            Candidate { process: *process, started: worker.started, newest_task }
        });
        if let Some(process) = self.pressure.look(host_now(), memory, candidates) {
            let Memory { used_bytes, total_bytes } = memory;
            tracing::warn!(%process, used_bytes, total_bytes, "a worker ends: its host is short of memory");
            let cause = DeathCause::MemoryPressure { used_bytes, total_bytes };
            self.end(Who::Process(process), &cause, Duration::ZERO).await;
        }
    }

    /// Kills those whose time is up; and a warden that hangs.
    async fn turn(&mut self) {
        let now = Instant::now();
        let is_late = |worker: &Worker| worker.pid.is_none() && worker.asked + START_MAX <= now;
        if self.workers.values().any(is_late) {
            return self.lose_warden("it hangs").await;
        }
        let mut due = Vec::new();
        for (process, worker) in &mut self.workers {
            if worker.kill_at.is_some_and(|at| at <= now) {
                worker.kill_at = None;
                due.push(*process);
            }
        }
        for process in due {
            match mobula_wire::encode(&ToWarden::Kill { process }) {
                Ok(letter) => self.send(&letter, Vec::new()).await,
                Err(error) => tracing::error!(%process, %error, "a worker's end cannot be ordered"),
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        let of = |worker: &Worker| {
            let started = worker.pid.is_none().then(|| worker.asked + START_MAX);
            worker.kill_at.into_iter().chain(started).min()
        };
        self.workers.values().filter_map(of).min()
    }

    async fn send(&mut self, letter: &[u8], fds: Vec<OwnedFd>) {
        let Some(link) = &self.link else { return };
        if let Err(error) = link.send(letter, &fds).await {
            self.lose_warden(&error.to_string()).await;
        }
    }

    async fn hear(&mut self, heard: io::Result<FromWarden>) {
        match heard {
            Ok(FromWarden::Ready { memory_groups }) => {
                if let Err(why) = &memory_groups {
                    tracing::warn!(%why, "workers' memory is not bounded");
                }
                self.memory_groups.send_replace(Some(memory_groups));
            }
            Ok(FromWarden::Started { process, pid }) => {
                if let Some(worker) = self.workers.get_mut(&process) {
                    worker.pid = Some(pid);
                    self.events.send(WorkerEvent::Started { process, pid: pid.cast_unsigned() }).await.ok();
                }
            }
            Ok(FromWarden::NotStarted { process, message }) => {
                if let Some(worker) = self.workers.remove(&process) {
                    let cause = worker.expected.unwrap_or(DeathCause::NotStarted { message });
                    self.tell_death(worker.job, Death::of(process, cause));
                }
            }
            Ok(FromWarden::Ended { process, how, out_of_memory }) => {
                if let Some(worker) = self.workers.remove(&process) {
                    self.bury(process, worker, Some(how), out_of_memory);
                }
            }
            Err(error) => self.lose_warden(&error.to_string()).await,
        }
    }

    /// The warden is gone, or of no use: so are all workers.
    async fn lose_warden(&mut self, why: &str) {
        let Some(link) = self.link.take() else { return };
        let warden = link.pid();
        tracing::error!(pid = warden, %why, "the warden of this node's workers is lost, and with it the workers");
        let mut child = link.close();
        child.kill().ok();
        let workers = std::mem::take(&mut self.workers);
        let pids: Vec<i32> = workers.values().filter_map(|worker| worker.pid).collect();
        // It was sent SIGKILL: it ends as soon as the kernel is done with it, but a disk may keep it.
        wait_for(&mut child).await;
        adopt::end_all(warden, &pids, self.config.is_own_process).await;
        for (process, worker) in workers {
            self.bury(process, worker, None, false);
        }
    }

    fn not_started(&mut self, process: ProcessId, job: JobId, message: String) {
        self.tell_death(job, Death::of(process, DeathCause::NotStarted { message }));
    }

    /// Hears the last words and tells the death.
    fn bury(&mut self, process: ProcessId, worker: Worker, how: Option<Ended>, out_of_memory: bool) {
        let culprits: Vec<Culprit> = worker.slots.running();
        let (events, alive) = (self.events.clone(), self.alive.clone());
        let seen_unix_ms = unix_ms();
        self.burials.spawn(async move {
            let (job, mut readers) = (worker.job, worker.readers);
            let patience = Instant::now() + LAST_WORDS;
            for reader in &mut readers {
                timeout_at(patience, reader).await.ok();
            }
            let stderr = worker.tail.lines();
            // Its socket closes before its end is seen: one that ended within its grace did so by itself.
            let by_itself = worker.expected == Some(DeathCause::Disconnected) && worker.kill_at.is_some();
            let expected = worker.expected.as_ref().filter(|_| !by_itself);
            let seen = Evidence { how, out_of_memory, expected, stderr: &stderr };
            let death = Death { process, cause: cause(&seen), culprits, stderr, seen_unix_ms };
            alive.fetch_sub(1, Ordering::AcqRel);
            events.send(WorkerEvent::Died { job, death }).await.ok();
            if readers.iter().any(|reader| !reader.is_finished()) {
                tokio::spawn(async move {
                    sleep(READ_ON).await;
                    readers.iter().for_each(JoinHandle::abort);
                });
            }
        });
    }

    fn tell_death(&mut self, job: JobId, death: Death) {
        let (events, alive) = (self.events.clone(), self.alive.clone());
        let death = Death { seen_unix_ms: unix_ms(), ..death };
        self.burials.spawn(async move {
            alive.fetch_sub(1, Ordering::AcqRel);
            events.send(WorkerEvent::Died { job, death }).await.ok();
        });
    }

    /// Kills all, refuses the rest, and waits until it was told.
    async fn stop(&mut self, orders: &mut mpsc::Receiver<Order>, cause: &DeathCause) {
        orders.close();
        let deadline = Instant::now() + STOP_MAX;
        self.end(Who::All, cause, Duration::ZERO).await;
        while let Some(order) = orders.recv().await {
            if let Order::Spawn { process, job, .. } = order {
                self.tell_death(job, Death::of(process, cause.clone()));
            }
        }
        while !self.workers.is_empty() {
            match timeout_at(deadline, next(self.link.as_ref())).await {
                Ok(heard) => self.hear(heard).await,
                Err(_) => break,
            }
        }
        if let Some(link) = self.link.take() {
            let mut warden = link.close();
            if !wait_for(&mut warden).await {
                tracing::error!(pid = warden.id(), "the warden does not end: something below it cannot be killed");
                warden.kill().ok();
            }
        }
        for (process, worker) in std::mem::take(&mut self.workers) {
            self.bury(process, worker, None, false);
        }
        let told = async { while self.burials.join_next().await.is_some() {} };
        timeout_at(deadline, told).await.ok();
        // Those that nobody took for so long go on waiting, for a receiver that lives longer.
        self.burials.detach_all();
    }
}

/// What the warden says next; for ever nothing when there is none.
async fn next(link: Option<&Link>) -> io::Result<FromWarden> {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Waits for a child that is ending. Its end has no descriptor of ours to wait at; it comes within milliseconds.
async fn wait_for(child: &mut Child) -> bool {
    let gone = async {
        while let Ok(None) = child.try_wait() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(STOP_MAX, gone).await.is_ok()
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
