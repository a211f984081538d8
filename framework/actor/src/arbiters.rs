//! The threads actors live on: one arbiter per CPU, all on one tokio runtime, and one of its own for who blocks.
//!
//! What each of them runs now, and whether it keeps its thread too long, is watched by `progress`.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use actix_rt::{Arbiter, ArbiterHandle};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::current;
use crate::panics;
use crate::progress;
use crate::system::System;

/// The runtime all arbiters of the process share: timers, sockets, and tasks that belong to no actor.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: std::sync::OnceLock<Runtime> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(thread::available_parallelism().map_or(1, |cpus| cpus.get().min(4)))
            .thread_name("mobula-io")
            .enable_all()
            .build()
            .expect("the system has threads and file descriptors left for a runtime")
    })
}

/// What an arbiter is to run, in order. Unbounded like the actors of a node: each job starts one.
type Job = Box<dyn FnOnce() + Send>;

/// One thread that actors share.
struct Lane {
    /// One task takes all jobs: an arbiter's own command costs a task each.
    jobs: UnboundedSender<Job>,
    arbiter: parking_lot::Mutex<Option<Arbiter>>,
}

/// The arbiters of one system.
pub(crate) struct Arbiters {
    lanes: Vec<Lane>,
    next: AtomicUsize,
    stopped: AtomicBool,
}

thread_local! {
    /// Which arbiter of which system this thread is.
    static HERE: RefCell<Option<(usize, Option<ArbiterHandle>)>> = const { RefCell::new(None) };
    static SHARED: Cell<bool> = const { Cell::new(false) };
}

/// Where a new actor is to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// On the arbiter that spawns it when that is one, else on the next in turn: a call across threads costs ten on one.
    #[default]
    Beside,
    /// On the next arbiter in turn.
    Spread,
    /// On a thread of its own, for actors that block.
    Dedicated,
}

impl Arbiters {
    pub(crate) fn start(count: usize) -> Self {
        let lanes = (0..count.max(1))
            .map(|_| {
                let arbiter = new_arbiter();
                let (jobs, mut inbox) = unbounded_channel::<Job>();
                arbiter.spawn(async move {
                    while let Some(job) = inbox.recv().await {
                        job();
                    }
                });
                Lane { jobs, arbiter: parking_lot::Mutex::new(Some(arbiter)) }
            })
            .collect();
        Self { lanes, next: AtomicUsize::new(0), stopped: AtomicBool::new(false) }
    }

    /// No threads: whatever is to run is refused.
    pub(crate) fn none() -> Self {
        Self { lanes: Vec::new(), next: AtomicUsize::new(0), stopped: AtomicBool::new(true) }
    }

    pub(crate) fn count(&self) -> usize {
        self.lanes.len()
    }

    /// Runs `job` on the arbiter that `placement` chooses for `system`; false when that arbiter has stopped.
    pub(crate) fn run(&self, system: &Arc<System>, placement: Placement, job: impl FnOnce() + Send + 'static) -> bool {
        if self.stopped.load(Ordering::Acquire) {
            return false;
        }
        if placement == Placement::Beside && is_arbiter_of(system) {
            job();
            return true;
        }
        let adopted = system.clone();
        if placement == Placement::Dedicated {
            let arbiter = new_arbiter();
            let handle = arbiter.handle();
            return arbiter.spawn_fn(move || {
                take_home(adopted, Some(handle));
                job();
            });
        }
        let lane = &self.lanes[self.next.fetch_add(1, Ordering::Relaxed) % self.lanes.len()];
        let job = move || {
            take_home(adopted, None);
            job();
        };
        lane.jobs.send(Box::new(job)).is_ok()
    }

    /// Ends the threads. What still runs on them is dropped.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        for lane in &self.lanes {
            if let Some(arbiter) = &*lane.arbiter.lock() {
                arbiter.stop();
            }
        }
        for lane in &self.lanes {
            // The thread that stops the system may be one of them.
            let own = HERE.with_borrow(|here| here.is_some());
            if let Some(arbiter) = lane.arbiter.lock().take()
                && !own
            {
                arbiter.join().ok();
            }
        }
    }
}

/// Ends the thread of a dedicated arbiter after its only actor has.
pub(crate) fn release_dedicated() {
    if let Some(handle) = HERE.with_borrow(|here| here.as_ref().and_then(|(_, handle)| handle.clone())) {
        handle.stop();
    }
}

/// Whether this thread is one that several actors share, so that blocking it blocks them all.
pub fn is_shared_thread() -> bool {
    SHARED.get()
}

/// Whether this thread may wait for others: it is not shared by actors, and runs nothing that a runtime polls beside others.
pub fn may_block() -> bool {
    let is_dedicated = HERE.with_borrow(Option::is_some) && !is_shared_thread();
    is_dedicated || !is_shared_thread() && tokio::task::try_id().is_none()
}

fn is_arbiter_of(system: &Arc<System>) -> bool {
    HERE.with_borrow(|here| here.as_ref().is_some_and(|(home, _)| *home == Arc::as_ptr(system) as usize))
}

/// First job on a thread: it belongs to `system` from now on.
fn take_home(system: Arc<System>, dedicated: Option<ArbiterHandle>) {
    let home = Arc::as_ptr(&system) as usize;
    let known = HERE.with_borrow(|here| here.as_ref().is_some_and(|(known, _)| *known == home));
    if known {
        return;
    }
    SHARED.set(dedicated.is_none());
    HERE.with_borrow_mut(|here| *here = Some((home, dedicated)));
    panics::caught_on_this_thread();
    if is_shared_thread() {
        progress::take_slot(&system);
    }
    current::adopt(Some(system));
}

/// Arbiters can only be made under an actix system, and end with it: one thread keeps it for the whole process.
fn new_arbiter() -> Arbiter {
    type Order = mpsc::Sender<Arbiter>;
    static KEEPER: std::sync::OnceLock<parking_lot::Mutex<tokio::sync::mpsc::UnboundedSender<Order>>> =
        std::sync::OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (orders, mut inbox) = tokio::sync::mpsc::unbounded_channel::<Order>();
        thread::Builder::new()
            .name("mobula-keeper".into())
            .spawn(move || {
                actix_rt::System::with_tokio_rt(runtime).block_on(async move {
                    while let Some(reply) = inbox.recv().await {
                        reply.send(Arbiter::with_tokio_rt(runtime)).ok();
                    }
                });
            })
            .expect("the system has a thread left for the keeper of arbiters");
        parking_lot::Mutex::new(orders)
    });
    let (reply, arbiter) = mpsc::channel();
    keeper.lock().send(reply).expect("the keeper lives as long as the process");
    arbiter.recv().expect("the keeper answers every order")
}
