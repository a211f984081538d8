//! The threads that run remote functions which are not async.
//!
//! Plain tasks (one CPU, nothing else) go through a queue without a lock; a thread that holds a CPU takes one after
//! another. All others stand in the [`Line`], at the desk, whose lock is taken only when a thread begins or stops to
//! hold a CPU, or somebody stands in the line.
//!
//! A thread without work looks for it [`SPIN`] long before it sleeps, one thread at a time: a task that follows another
//! shortly needs no wake-up, which costs 4.5 µs. A thread that waits for an object gives its CPU back and another takes
//! over, until there are [`THREADS_MAX`]; the last of those runs queued tasks on top of its own while it waits.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::deque::{Injector, Steal};
use crossbeam::sync::{Parker, Unparker};
use crossbeam::utils::CachePadded;
use mobula_actor::caught_on_this_thread;
use mobula_actor::object::blocking::{self, Blocking};
use mobula_types::NotStarted;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::logic::{Amount, Line, Request, Resources};
use crate::task::drop_quietly;

/// Threads of one pool: a wait beyond this many runs queued tasks itself (design.md §5).
const THREADS_MAX: usize = 256;

/// How deep waits may run tasks that wait in turn: their stacks lie on top of one another.
const HELP_DEPTH_MAX: usize = 64;

/// How long a thread looks for work before it sleeps: four times the way from a result to the next submission.
const SPIN: Duration = Duration::from_micros(20);

/// How often the last thread looks for tasks to help with while it waits.
const HELP_EVERY: Duration = Duration::from_millis(1);

/// A thread above the number of CPUs ends after being idle this long.
const IDLE_MAX: Duration = Duration::from_secs(10);

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

    /// Ends it: it will not be run.
    fn refuse(self: Arc<Self>, cause: NotStarted);

    /// Ends it for its caller; it may run on, and sees that nobody waits.
    fn abandon(&self);
}

/// What a running job holds; dropped, it is free for the next.
pub(crate) struct Permit(Option<(Arc<Pool>, Request)>);

impl Permit {
    /// Holds nothing, or what its thread holds for it.
    pub(crate) fn none() -> Self {
        Self(None)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some((pool, request)) = self.0.take() {
            let mut desk = pool.desk.lock();
            desk.line.give(&request);
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

thread_local! {
    /// What this thread of a pool holds for the job it runs.
    static HELD: RefCell<Request> = RefCell::new(Request::default());
    static HELP_DEPTH: Cell<usize> = const { Cell::new(0) };
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
        })
    }

    /// What of `request` can never be granted, in words.
    pub(crate) fn never(&self, request: &Request) -> Option<String> {
        self.desk.lock().line.ledger().never(request)
    }

    /// Runs `job` as soon as it is its turn.
    pub(crate) fn push(self: &Arc<Self>, job: Arc<dyn Job>, request: Request) {
        if self.closed.load(Ordering::Acquire) {
            return job.refuse(NotStarted::NoSession);
        }
        if request == Request::ONE_CPU && !job.is_elsewhere() {
            self.came.fetch_add(1, Ordering::Relaxed);
            self.queue.push(job);
            self.call_for_plain();
        } else {
            let mut desk = self.desk.lock();
            desk.line.push(request, self.came.load(Ordering::Relaxed), job);
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
                tracing::warn!(
                    "a function did not return before its session ended; it runs on, its caller does not wait"
                );
                job.abandon();
            }
        }
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
            match thread.spawn(move || Worker { pool, seat: own, has_cpu: false, parker: Parker::new() }.run()) {
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
        while let Some((job, request)) = desk.line.next(self.begun.load(Ordering::Relaxed), |job| job.is_over()) {
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
            job.run(Permit(Some((self.clone(), request))));
        }
    }
}

/// A thread of the pool.
struct Worker {
    pool: Arc<Pool>,
    seat: Arc<Seat>,
    /// Whether it holds a CPU for plain tasks.
    has_cpu: bool,
    parker: Parker,
}

/// What a thread does next.
enum Next {
    Plain(Arc<dyn Job>),
    Ready(Arc<dyn Job>, Request),
    Look,
    Sleep,
}

impl Worker {
    fn run(mut self) {
        caught_on_this_thread();
        blocking::set_hook(Arc::new(Hook(self.pool.clone())));
        self.pool.desk.lock().coming -= 1;
        loop {
            match self.next() {
                Next::Plain(job) => {
                    HELD.set(Request::ONE_CPU);
                    run_in(&self.seat, job, Permit::none());
                }
                Next::Ready(job, request) => {
                    HELD.set(request.clone());
                    run_in(&self.seat, job, Permit(Some((self.pool.clone(), request))));
                }
                Next::Look => {}
                Next::Sleep => {
                    if !self.sleep() {
                        return;
                    }
                }
            }
        }
    }

    fn next(&mut self) -> Next {
        if !self.has_cpu || self.pool.desk_calls.load(Ordering::Relaxed) {
            match self.stop_at_desk() {
                Some((job, request)) => return Next::Ready(job, request),
                None if !self.has_cpu => return Next::Sleep,
                None => {}
            }
        }
        if let Some(job) = self.pool.pop() {
            return Next::Plain(job);
        }
        self.look()
    }

    /// Takes a job that is ready, else a CPU if it is our turn.
    fn stop_at_desk(&mut self) -> Option<(Arc<dyn Job>, Request)> {
        let mut desk = self.pool.desk.lock();
        if std::mem::take(&mut self.has_cpu) {
            desk.line.give(&Request::ONE_CPU);
            self.pool.dispatch(desk);
            desk = self.pool.desk.lock();
        }
        let ready = desk.ready.pop_front();
        if ready.is_none() {
            self.has_cpu = desk.line.take_cpu(self.pool.begun.load(Ordering::Relaxed));
        }
        self.pool.publish(&desk);
        ready
    }

    /// Looks for a plain task for a while, if nobody else does.
    fn look(&mut self) -> Next {
        let pool = &self.pool;
        if pool.looking.fetch_add(1, Ordering::SeqCst) > 0 {
            pool.looking.fetch_sub(1, Ordering::SeqCst);
            return Next::Sleep;
        }
        let end = Instant::now() + SPIN;
        let found = loop {
            if !pool.queue.is_empty()
                && let Some(job) = pool.pop()
            {
                break Next::Plain(job);
            }
            if pool.desk_calls.load(Ordering::Relaxed) {
                break Next::Look;
            }
            if pool.closed.load(Ordering::Relaxed) || Instant::now() >= end {
                break Next::Sleep;
            }
            (0..16).for_each(|_| std::hint::spin_loop());
        };
        pool.looking.fetch_sub(1, Ordering::SeqCst);
        if matches!(found, Next::Plain(_)) && !pool.queue.is_empty() {
            // More came while only we looked: whoever pushed it relied on us.
            pool.call_for_plain();
        }
        found
    }

    /// Sleeps until there is work; false when the thread is to end.
    fn sleep(&mut self) -> bool {
        let mut desk = self.pool.desk.lock();
        if std::mem::take(&mut self.has_cpu) {
            desk.line.give(&Request::ONE_CPU);
        }
        if self.pool.closed.load(Ordering::Acquire) {
            self.leave(desk);
            return false;
        }
        let sleeper = Sleeper { seat: self.seat.clone(), unparker: self.parker.unparker().clone() };
        desk.asleep.push(sleeper);
        self.pool.publish(&desk);
        // Pairs with the fence in `call_for_plain`. The line is looked at, too: giving the CPU back may have freed it.
        fence(Ordering::SeqCst);
        self.pool.dispatch(desk);
        loop {
            self.parker.park_timeout(IDLE_MAX);
            let mut desk = self.pool.desk.lock();
            match desk.asleep.iter().position(|sleeper| Arc::ptr_eq(&sleeper.seat, &self.seat)) {
                None => {
                    // Whoever takes a sleeper off the list has counted it as coming.
                    desk.coming -= 1;
                    if self.pool.closed.load(Ordering::Acquire) {
                        self.leave(desk);
                        return false;
                    }
                    return true;
                }
                Some(at) if desk.threads.len() > self.pool.cpus => {
                    desk.asleep.swap_remove(at);
                    self.leave(desk);
                    return false;
                }
                Some(_) => {}
            }
        }
    }

    fn leave(&self, mut desk: MutexGuard<'_, Desk>) {
        desk.threads.retain(|seat| !Arc::ptr_eq(seat, &self.seat));
        self.pool.publish(&desk);
        drop(desk);
        self.pool.thread_ended.notify_all();
    }
}

fn run_in(seat: &Seat, job: Arc<dyn Job>, permit: Permit) {
    *seat.running.lock() = Some(job.clone());
    // Jobs catch the panics of the code they run; this is for those of our own, which must not cost a thread.
    if catch_unwind(AssertUnwindSafe(|| job.run(permit))).is_err() {
        tracing::error!("a job panicked outside of its function");
    }
    let over = seat.running.lock().take();
    drop_quietly(over);
}

/// Waits for objects in the name of a thread of the pool.
struct Hook(Arc<Pool>);

impl Blocking for Hook {
    fn block(&self, wait: &mut dyn FnMut(Option<Duration>) -> bool) -> Result<(), NotStarted> {
        let pool = &self.0;
        let held = HELD.with_borrow(Clone::clone);
        // Only the CPU is given back: a GPU's memory or a licence is not free because its holder waits.
        let cpus = Request { cpus: held.cpus, ..Request::default() };
        let is_last = {
            let mut desk = pool.desk.lock();
            desk.line.give(&cpus);
            desk.waiting += 1;
            let is_last = desk.waiting >= desk.threads_max;
            pool.dispatch(desk);
            is_last
        };
        let result = if is_last {
            self.help(wait)
        } else {
            wait(None);
            Ok(())
        };
        let mut desk = pool.desk.lock();
        desk.waiting -= 1;
        if cpus.cpus > Amount::ZERO {
            desk.line.take_again(&cpus);
        }
        pool.publish(&desk);
        result
    }
}

impl Hook {
    /// Every thread waits: this one runs what is queued on top of its own function.
    fn help(&self, wait: &mut dyn FnMut(Option<Duration>) -> bool) -> Result<(), NotStarted> {
        let depth = HELP_DEPTH.get();
        if depth >= HELP_DEPTH_MAX {
            return Err(NotStarted::WouldBlock);
        }
        HELP_DEPTH.set(depth + 1);
        let held = HELD.take();
        while !wait(Some(HELP_EVERY)) {
            let ready = self.0.desk.lock().ready.pop_front();
            if let Some((job, request)) = ready {
                HELD.set(request.clone());
                job.run(Permit(Some((self.0.clone(), request))));
            } else if let Some(job) = self.0.pop() {
                self.0.desk.lock().line.take_again(&Request::ONE_CPU);
                HELD.set(Request::ONE_CPU);
                job.run(Permit(Some((self.0.clone(), Request::ONE_CPU))));
            }
        }
        HELD.set(held);
        HELP_DEPTH.set(depth);
        Ok(())
    }
}
