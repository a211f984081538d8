//! The threads that run remote functions which are not async.
//!
//! Plain tasks (one CPU, nothing else, no priority) go through a queue without a lock; a thread that holds a CPU takes one
//! after another. All others stand in the [`Line`], at the desk, whose lock is taken only when a thread begins or stops to
//! hold a CPU, or somebody stands in the line.
//!
//! A thread without work looks for it for a while before it sleeps, one thread at a time: a task that follows another
//! shortly needs no wake-up, which costs 4.5 µs. A thread that waits for an object gives its CPU back and another takes
//! over, until there are [`THREADS_MAX`]; the last of those runs queued tasks on top of its own while it waits.

mod waits;
mod worker;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::deque::{Injector, Steal};
use crossbeam::sync::Unparker;
use crossbeam::utils::CachePadded;
use mobula_types::resources::CPUS;
use mobula_types::{NotStarted, Unknown};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::bundles::{self, Share};
use crate::logic::{Amount, Line, Plain, Request, Resources};
use waits::Waits;
use worker::Worker;

pub(crate) use waits::{Guard as ArgumentsAwaited, Tell};
pub(crate) use worker::in_share;

/// Threads of one pool: a wait beyond this many runs queued tasks itself (design.md §5).
const THREADS_MAX: usize = 256;

/// Stack of a thread: what a main thread has, since functions were written for that. Pages are taken when touched.
const STACK_BYTES: usize = 8 << 20;

/// Something that runs on a thread of the pool, or is started by one.
pub(crate) trait Job: Send + Sync {
    /// Runs it, or hands it to where it runs. The permit is dropped when it is over.
    fn run(self: Arc<Self>, permit: Permit);

    /// Whether `run` gives it to another thread and comes back at once.
    fn is_elsewhere(&self) -> bool;

    /// Whether it has its outcome already.
    fn is_over(&self) -> bool;

    /// Whether another process sent it here.
    fn is_sent(&self) -> bool;

    /// Ends it: it will not be run.
    fn refuse(self: Arc<Self>, cause: NotStarted);

    /// Ends it for its caller, who is told why; it may run on, and sees that nobody waits.
    fn abandon(&self, why: Unknown);

    /// What to call it in logs.
    fn name(&self) -> &str;
}

/// What a running job holds; dropped, it is free for the next.
pub(crate) struct Permit(Holds);

enum Holds {
    Nothing,
    OfPool(Arc<Pool>, Request),
    InBundle(Arc<Share>),
}

impl Permit {
    /// Holds nothing, or what its thread holds for it.
    pub(crate) fn none() -> Self {
        Self(Holds::Nothing)
    }

    /// Holds so much of the pool, which counts it as taken.
    fn of_pool(pool: &Arc<Pool>, request: Request) -> Self {
        Self(Holds::OfPool(pool.clone(), request))
    }

    /// Holds a part of a placement group's bundle.
    pub(crate) fn share(share: Arc<Share>) -> Self {
        Self(Holds::InBundle(share))
    }

    /// Lets others have the CPUs until the guard is dropped: what holds them waits. What then runs on them goes on beside it.
    pub(crate) fn lend(&self) -> Option<Lent> {
        let (pool, request) = match &self.0 {
            Holds::Nothing => return None,
            Holds::InBundle(share) => return share.lend().map(|lent| Lent::InBundle { _lent: lent }),
            Holds::OfPool(pool, request) => (pool, request),
        };
        if request.cpus == Amount::ZERO {
            return None;
        }
        let cpus = Request { cpus: request.cpus, ..Request::default() };
        let mut desk = pool.desk.lock();
        desk.line.give(&cpus);
        pool.dispatch(desk);
        let waiting = pool.waits.begin(cpus.cpus, false);
        Some(Lent::OfPool { _cpus: LentCpus { pool: pool.clone(), cpus, _waiting: waiting } })
    }
}

/// CPUs of something that waits; dropped, it goes on.
pub(crate) enum Lent {
    OfPool { _cpus: LentCpus },
    InBundle { _lent: bundles::Lent },
}

/// CPUs of a pool that are lent.
pub(crate) struct LentCpus {
    pool: Arc<Pool>,
    cpus: Request,
    _waiting: Option<waits::Guard>,
}

impl Drop for LentCpus {
    fn drop(&mut self) {
        let mut desk = self.pool.desk.lock();
        desk.line.take_again(&self.cpus);
        self.pool.publish(&desk);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Holds::OfPool(pool, request) = &self.0 {
            let mut desk = pool.desk.lock();
            desk.line.give(request);
            pool.dispatch(desk);
        }
    }
}

/// The pool of one session.
pub(crate) struct Pool {
    /// Plain tasks.
    queue: Injector<Arc<dyn Job>>,
    /// Plain tasks there have been, and how many of them have left the queue.
    came: CachePadded<AtomicU64>,
    begun: CachePadded<AtomicU64>,
    /// Threads that look for work now.
    looking: AtomicUsize,
    /// CPUs that are free and for which no thread is on its way. Written at the desk only.
    cpus_idle: AtomicUsize,
    /// Whether a thread with a CPU is wanted at the desk after its job. Written at the desk only.
    desk_calls: AtomicBool,
    closed: AtomicBool,
    desk: Mutex<Desk>,
    thread_ended: Condvar,
    cpus: usize,
    waits: Arc<Waits>,
}

struct Desk {
    line: Line<Arc<dyn Job>>,
    /// Jobs that have what they asked for and need a thread.
    ready: VecDeque<(Arc<dyn Job>, Request)>,
    asleep: Vec<Sleeper>,
    /// Threads on their way to the desk: just made, or just woken.
    coming: usize,
    threads: Vec<Arc<Seat>>,
    threads_max: usize,
    /// Threads that wait for objects.
    waiting: usize,
}

struct Sleeper {
    seat: Arc<Seat>,
    unparker: Unparker,
}

/// What one thread runs now.
#[derive(Default)]
struct Seat {
    running: Mutex<Option<Arc<dyn Job>>>,
}

impl Pool {
    pub(crate) fn new(cpus: usize, resources: &Resources) -> Arc<Self> {
        let desk = Desk {
            line: Line::new(resources),
            ready: VecDeque::new(),
            asleep: Vec::new(),
            coming: 0,
            threads: Vec::new(),
            threads_max: THREADS_MAX,
            waiting: 0,
        };
        Arc::new(Self {
            queue: Injector::new(),
            came: CachePadded::default(),
            begun: CachePadded::default(),
            looking: AtomicUsize::new(0),
            cpus_idle: AtomicUsize::new(cpus),
            desk_calls: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            desk: Mutex::new(desk),
            thread_ended: Condvar::new(),
            cpus,
            waits: Arc::default(),
        })
    }

    /// CPUs that functions share.
    pub(crate) fn cpus(&self) -> usize {
        self.cpus
    }

    /// Tells `tell` from now on how many CPUs are held by functions that wait for objects.
    pub(crate) fn tell_waits(self: &Arc<Self>, tell: Tell) {
        let pool = Arc::downgrade(self);
        let free = move || {
            let pool = pool.upgrade();
            pool.map_or(Amount::ZERO, |pool| pool.desk.lock().line.ledger().amount(CPUS).1)
        };
        self.waits.tell_to(tell, Box::new(free));
    }

    /// A function that is to run here and asks for `request` has not got its arguments until the guard is dropped: they may
    /// be made by others that need the CPUs which were lent for it.
    pub(crate) fn awaits_arguments(&self, request: &Request) -> Option<ArgumentsAwaited> {
        self.waits.begin(request.cpus, true)
    }

    /// What of `request` can never be granted, in words.
    pub(crate) fn never(&self, request: &Request) -> Option<String> {
        self.desk.lock().line.ledger().never(request)
    }

    /// There is so much to run on from now on: the leases on a worker come and go. What runs goes on.
    pub(crate) fn resize(self: &Arc<Self>, resources: &Resources) {
        let mut desk = self.desk.lock();
        desk.line.resize(resources);
        let plain = self.idle(&desk).min(self.queue.len());
        for _ in 0..plain {
            self.call_thread(&mut desk);
        }
        self.dispatch(desk);
    }

    /// Runs `job` as soon as it is its turn: those of a higher `priority` first, and of one in the order in which they come.
    pub(crate) fn push(self: &Arc<Self>, job: Arc<dyn Job>, request: Request, priority: i32) {
        if self.closed.load(Ordering::Acquire) {
            return job.refuse(NotStarted::NoSession);
        }
        if priority == 0 && request == Request::ONE_CPU && !job.is_elsewhere() {
            self.came.fetch_add(1, Ordering::Relaxed);
            self.queue.push(job);
            self.call_for_plain();
        } else {
            let mut desk = self.desk.lock();
            desk.line.push(request, priority, self.plain(), job);
            self.dispatch(desk);
        }
        // Closed while we pushed: nobody may ever look at the queue again.
        if self.closed.load(Ordering::Acquire) {
            self.refuse_all();
        }
    }

    /// Refuses all that waits, waits at most `patience` for what runs, and ends the threads.
    pub(crate) fn close(&self, patience: Duration) {
        self.closed.store(true, Ordering::SeqCst);
        self.refuse_all();
        let end = Instant::now() + patience;
        let mut desk = self.desk.lock();
        desk.coming += desk.asleep.len();
        desk.asleep.drain(..).for_each(|sleeper| sleeper.unparker.unpark());
        while !desk.threads.is_empty() {
            if self.thread_ended.wait_until(&mut desk, end).timed_out() {
                break;
            }
        }
        let left = desk.threads.clone();
        drop(desk);
        for seat in left {
            let running = seat.running.lock().clone();
            if let Some(job) = running {
                tracing::warn!(name = job.name(), "a function outlives its session: it runs on, nobody waits for it");
                job.abandon(Unknown::NoReply);
            }
        }
    }

    /// Refuses what other processes have sent and has not begun. What this process began itself is its own to finish.
    pub(crate) fn withdraw(self: &Arc<Self>, cause: &NotStarted) {
        let mut own = Vec::new();
        let mut sent = Vec::new();
        while let Some(job) = self.pop() {
            if job.is_sent() { sent.push(job) } else { own.push(job) }
        }
        sent.extend(self.desk.lock().line.take_out(|job| job.is_sent()));
        for job in own {
            self.push(job, Request::ONE_CPU, 0);
        }
        sent.into_iter().for_each(|job| job.refuse(cause.clone()));
    }

    fn refuse_all(&self) {
        while let Some(job) = self.pop() {
            job.refuse(NotStarted::NoSession);
        }
        let waiting = {
            let mut desk = self.desk.lock();
            let mut waiting = desk.line.drain();
            waiting.extend(std::mem::take(&mut desk.ready).into_iter().map(|(job, _)| job));
            waiting
        };
        waiting.into_iter().for_each(|job| job.refuse(NotStarted::NoSession));
    }

    fn pop(&self) -> Option<Arc<dyn Job>> {
        loop {
            match self.queue.steal() {
                Steal::Success(job) => {
                    self.begun.fetch_add(1, Ordering::Relaxed);
                    return Some(job);
                }
                Steal::Empty => return None,
                Steal::Retry => {}
            }
        }
    }

    /// Brings a thread to the queue if a CPU is idle and nobody looks.
    fn call_for_plain(self: &Arc<Self>) {
        // Pairs with the fence in `sleep`: either we see the thread that stops looking, or it sees what was pushed.
        fence(Ordering::SeqCst);
        if self.cpus_idle.load(Ordering::Relaxed) > 0 && self.looking.load(Ordering::Relaxed) == 0 {
            let mut desk = self.desk.lock();
            if self.idle(&desk) > 0 && !self.queue.is_empty() {
                self.call_thread(&mut desk);
            }
            self.publish(&desk);
        }
    }

    /// What there has been of plain tasks.
    fn plain(&self) -> Plain {
        // This order: what began has come.
        let begun = self.begun.load(Ordering::Relaxed);
        Plain { begun, came: self.came.load(Ordering::Relaxed) }
    }

    /// CPUs that are free and for which no thread is on its way.
    fn idle(&self, desk: &Desk) -> usize {
        desk.line.ledger().whole_cpus_free().saturating_sub(desk.coming)
    }

    fn publish(&self, desk: &Desk) {
        self.cpus_idle.store(self.idle(desk), Ordering::Relaxed);
        self.desk_calls.store(!desk.ready.is_empty() || desk.line.wants_cpus(), Ordering::Relaxed);
    }

    /// Wakes a thread or makes one.
    fn call_thread(self: &Arc<Self>, desk: &mut Desk) {
        if let Some(sleeper) = desk.asleep.pop() {
            desk.coming += 1;
            sleeper.unparker.unpark();
        } else if desk.threads.len() < desk.threads_max && !self.closed.load(Ordering::Acquire) {
            let seat = Arc::new(Seat::default());
            let (pool, own) = (self.clone(), seat.clone());
            let thread = thread::Builder::new().name("mobula-compute".into()).stack_size(STACK_BYTES);
            match thread.spawn(move || Worker::new(pool, own).run()) {
                Ok(_) => {
                    desk.coming += 1;
                    desk.threads.push(seat);
                }
                Err(error) => {
                    tracing::warn!(%error, threads = desk.threads.len(), "no further compute thread can be made");
                    desk.threads_max = desk.threads.len();
                }
            }
        }
    }

    /// Starts who may start now: those that run elsewhere at once, others by calling threads.
    fn dispatch(self: &Arc<Self>, mut desk: MutexGuard<'_, Desk>) {
        let mut elsewhere = Vec::new();
        while let Some((job, request)) = desk.line.next(self.plain(), |job| job.is_over()) {
            if job.is_elsewhere() || job.is_over() {
                elsewhere.push((job, request));
            } else {
                desk.ready.push_back((job, request));
                self.call_thread(&mut desk);
            }
        }
        if !self.queue.is_empty() && self.idle(&desk) > 0 && self.looking.load(Ordering::Relaxed) == 0 {
            self.call_thread(&mut desk);
        }
        self.publish(&desk);
        drop(desk);
        for (job, request) in elsewhere {
            job.run(Permit::of_pool(self, request));
        }
    }
}
