//! A thread of the pool: takes jobs, looks for more, sleeps; and what it does while its job waits for an object.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use crossbeam::sync::Parker;
use mobula_actor::caught_on_this_thread;
use mobula_actor::object::blocking::{self, Blocking};
use mobula_types::NotStarted;
use parking_lot::MutexGuard;

use super::{Desk, Job, Permit, Pool, Seat, Sleeper};
use crate::bundles::Share;
use crate::logic::{Amount, Request};
use crate::task::drop_quietly;

/// How long a thread looks for work before it sleeps: four times the way from a result to the next submission.
const SPIN: Duration = Duration::from_micros(20);

/// A thread above the number of CPUs ends after being idle this long.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// How often the last thread looks for tasks to help with while it waits.
const HELP_EVERY: Duration = Duration::from_millis(1);

/// How deep waits may run tasks that wait in turn: their stacks lie on top of one another.
const HELP_DEPTH_MAX: usize = 64;

thread_local! {
    /// What this thread of a pool holds for the job it runs.
    static HELD: RefCell<Request> = RefCell::new(Request::default());
    /// The same of a bundle, of which the pool counts nothing.
    static SHARE: RefCell<Option<Arc<Share>>> = const { RefCell::new(None) };
    static HELP_DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// A thread of the pool.
pub(crate) struct Worker {
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
    pub(crate) fn new(pool: Arc<Pool>, seat: Arc<Seat>) -> Self {
        Self { pool, seat, has_cpu: false, parker: Parker::new() }
    }

    pub(crate) fn run(mut self) {
        caught_on_this_thread();
        blocking::set_hook(Arc::new(Hook(self.pool.clone())));
        self.pool.desk.lock().coming -= 1;
        loop {
            match self.next() {
                Next::Plain(job) => {
                    // It may have been the last before somebody in the line, who can have another CPU that is free.
                    if self.pool.desk_calls.load(Ordering::Relaxed) && self.pool.cpus_idle.load(Ordering::Relaxed) > 0 {
                        self.pool.dispatch(self.pool.desk.lock());
                    }
                    HELD.set(Request::ONE_CPU);
                    run_in(&self.seat, job, Permit::none());
                }
                Next::Ready(job, request) => {
                    HELD.set(request.clone());
                    run_in(&self.seat, job, Permit::of_pool(&self.pool, request));
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
            self.has_cpu = desk.line.take_cpu(self.pool.plain());
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

/// Runs on this thread what has a share of a bundle, whose CPUs are lent while it waits.
pub(crate) fn in_share(share: Arc<Share>, run: impl FnOnce()) {
    let before = SHARE.replace(Some(share));
    run();
    SHARE.set(before);
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
        let waiting = pool.waits.begin(cpus.cpus, false);
        let lent = SHARE.with_borrow(|share| share.as_ref().and_then(Share::lend));
        let result = if is_last {
            self.help(wait)
        } else {
            wait(None);
            Ok(())
        };
        drop((waiting, lent));
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
        let (held, share) = (HELD.take(), SHARE.take());
        while !wait(Some(HELP_EVERY)) {
            let ready = self.0.desk.lock().ready.pop_front();
            if let Some((job, request)) = ready {
                HELD.set(request.clone());
                job.run(Permit::of_pool(&self.0, request));
            } else if let Some(job) = self.0.pop() {
                self.0.desk.lock().line.take_again(&Request::ONE_CPU);
                HELD.set(Request::ONE_CPU);
                job.run(Permit::of_pool(&self.0, Request::ONE_CPU));
            }
        }
        HELD.set(held);
        SHARE.set(share);
        HELP_DEPTH.set(depth);
        Ok(())
    }
}
