//! Tasks that do not run, or not to their end: cancelled, too late, refused, or left when their session ends.

mod functions;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use functions::{in_session, two};
use mobula_actor::{Arg, ObjectRef, current};
use mobula_node::{EmbeddedConfig, QueueBounds, RemoteFn, TaskOptions, WhenFull, submit};
use mobula_types::{CallError, Error, ErrorChain, NotStarted, Unknown};

fn run<F: RemoteFn>(args: F::Args) -> ObjectRef<F::Reply> {
    with::<F>(&F::OPTIONS, args)
}

fn with<F: RemoteFn>(options: &TaskOptions, args: F::Args) -> ObjectRef<F::Reply> {
    submit::<F>(options, Arg::Value(args))
}

/// Gates that functions stand at until they are opened, by number so that tests do not meet.
static OPEN: Mutex<BTreeMap<u64, bool>> = Mutex::new(BTreeMap::new());
static OPENED: Condvar = Condvar::new();
static NEXT: AtomicUsize = AtomicUsize::new(1);

fn new_gate() -> u64 {
    let gate = NEXT.fetch_add(1, Ordering::Relaxed) as u64;
    OPEN.lock().unwrap().insert(gate, false);
    gate
}

fn open(gate: u64) {
    OPEN.lock().unwrap().insert(gate, true);
    OPENED.notify_all();
}

function!(StandAt(gate: u64) -> u64 {
    let open = OPEN.lock().unwrap();
    drop(OPENED.wait_while(open, |open| !open[&gate] && !current::cancelled()).unwrap());
    gate
});
function!(Id(n: u64) -> u64 { n });

/// Runs until its caller gives up.
static SEEN: AtomicUsize = AtomicUsize::new(0);
function!(UntilCancelled(started: u64) -> u64 {
    open(started);
    while !current::cancelled() {
        std::thread::yield_now();
    }
    SEEN.fetch_add(1, Ordering::Relaxed);
    0
});

async fn until(condition: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < patience, "it did not come to pass within 10 s");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn one() -> EmbeddedConfig {
    EmbeddedConfig { compute_threads: 1, ..two() }
}

#[test]
fn a_queued_task_that_is_cancelled_never_runs() {
    in_session(&one(), || async {
        let gate = new_gate();
        let first = run::<StandAt>((gate,));
        let unused = new_gate();
        let second = run::<UntilCancelled>((unused,));
        second.cancel();
        assert_eq!(second.await.err(), Some(CallError::Cancelled), "at once, while the first still stands");
        assert!(!first.is_ready());
        open(gate);
        first.await.unwrap();
        run::<Id>((1,)).await.unwrap();
        assert!(!OPEN.lock().unwrap()[&unused], "it never began");
    });
}

#[test]
fn a_running_function_sees_that_it_is_cancelled() {
    in_session(&one(), || async {
        let (started, before) = (new_gate(), SEEN.load(Ordering::Relaxed));
        let task = run::<UntilCancelled>((started,));
        until(|| OPEN.lock().unwrap()[&started]).await;
        task.cancel();
        assert_eq!(task.await.err(), Some(CallError::Cancelled));
        until(|| SEEN.load(Ordering::Relaxed) > before).await;
        assert_eq!(*run::<Id>((1,)).await.unwrap(), 1, "its CPU is free again");
    });
}

function!(Outer(started: u64) -> u64 {
    let inner = run::<UntilCancelled>((started,));
    inner.wait().map_or(0, |value| *value)
});

#[test]
fn what_a_task_calls_ends_with_it() {
    in_session(&two(), || async {
        let (started, before) = (new_gate(), SEEN.load(Ordering::Relaxed));
        let task = run::<Outer>((started,));
        until(|| OPEN.lock().unwrap()[&started]).await;
        task.cancel();
        assert_eq!(task.await.err(), Some(CallError::Cancelled));
        until(|| SEEN.load(Ordering::Relaxed) > before).await;
    });
}

static ASYNC_DROPPED: AtomicBool = AtomicBool::new(false);

async_function!(Forever(started: u64) -> u64 {
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            ASYNC_DROPPED.store(true, Ordering::Release);
        }
    }
    let _guard = Guard;
    open(started);
    std::future::pending::<()>().await;
    started
});

#[test]
fn an_async_function_is_dropped_where_it_waits() {
    in_session(&two(), || async {
        ASYNC_DROPPED.store(false, Ordering::Release);
        let started = new_gate();
        let task = run::<Forever>((started,));
        until(|| OPEN.lock().unwrap()[&started]).await;
        task.cancel();
        assert_eq!(task.await.err(), Some(CallError::Cancelled));
        until(|| ASYNC_DROPPED.load(Ordering::Acquire)).await;
    });
}

#[test]
fn a_deadline_ends_what_waits_and_what_runs() {
    in_session(&one(), || async {
        let timeout = Duration::from_millis(50);
        let late = TaskOptions::new().timeout(timeout);
        let gate = new_gate();
        let began = Instant::now();
        let running = with::<StandAt>(&late, (gate,));
        let queued = with::<Id>(&late, (1,));
        let sleeping = with::<Forever>(&late, (new_gate(),));
        for error in [running.await.err(), queued.await.err(), sleeping.await.err()] {
            assert_eq!(error, Some(CallError::DeadlineExceeded { given: Some(timeout) }));
        }
        assert!(began.elapsed() >= timeout && began.elapsed() < timeout + Duration::from_secs(1), "G1");
        open(gate);
        run::<Id>((1,)).await.unwrap();
    });
}

#[test]
fn a_full_queue_refuses() {
    let bounds = QueueBounds { tasks_max: 10, ..QueueBounds::default() };
    let refuse = TaskOptions::new().when_full(WhenFull::Refuse);
    in_session(&EmbeddedConfig { queue: bounds, ..one() }, || async {
        let gate = new_gate();
        let first = run::<StandAt>((gate,));
        let started = new_gate();
        open(started);
        let waiting: Vec<_> = (0..20).map(|n| with::<Id>(&refuse, (n,))).collect();
        open(gate);
        first.await.unwrap();
        let mut refused = 0;
        for task in waiting {
            match task.await {
                Ok(_) => {}
                Err(CallError::NotStarted(NotStarted::QueueFull { waiting: 10 })) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!((10..=11).contains(&refused), "{refused}: the first may or may not have begun by then");
        run::<Id>((1,)).await.unwrap();
    });
}

#[test]
fn what_can_never_run_is_refused_with_what_is_missing() {
    in_session(&two(), || async {
        let missing = |options: TaskOptions| async move {
            match with::<Id>(&options, (1,)).await.err() {
                Some(CallError::NotStarted(NotStarted::Unschedulable { missing })) => missing,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(missing(TaskOptions::new().num_gpus(0.5)).await, "num_gpus = 0.5, the node has 0");
        assert_eq!(missing(TaskOptions::new().num_cpus(3.0)).await, "num_cpus = 3, the node has 2");
        assert_eq!(missing(TaskOptions::new().resource("tpu", 1.0)).await, "tpu = 1, the node has 0");
        let nan = missing(TaskOptions::new().num_cpus(f64::NAN)).await;
        assert_eq!(nan, "num_cpus = NaN is no amount: use a number from 0 on");
    });
}

#[test]
fn resources_are_shared_out() {
    let resources = BTreeMap::from([("licence".to_owned(), 1.0)]);
    in_session(&EmbeddedConfig { resources, ..two() }, || async {
        // One holds the licence: the next waits, others go on.
        let licensed = TaskOptions::new().num_cpus(0.0).resource("licence", 1.0);
        let (first_gate, second_gate) = (new_gate(), new_gate());
        let first = with::<StandAt>(&licensed, (first_gate,));
        let second = with::<StandAt>(&licensed, (second_gate,));
        open(second_gate);
        run::<Id>((1,)).await.unwrap();
        with::<Id>(&TaskOptions::new().num_cpus(2.0), (1,)).await.unwrap();
        assert!(!second.is_ready());
        open(first_gate);
        first.await.unwrap();
        second.await.unwrap();
        // Four halves fill two CPUs: what needs a whole one waits for two of them.
        let half = TaskOptions::new().num_cpus(0.5);
        let gates: Vec<_> = (0..4).map(|_| new_gate()).collect();
        let halves: Vec<_> = gates.iter().map(|gate| with::<StandAt>(&half, (*gate,))).collect();
        let whole = run::<Id>((1,));
        let both = with::<Id>(&TaskOptions::new().num_cpus(2.0), (2,));
        open(gates[0]);
        open(gates[1]);
        whole.await.unwrap();
        assert!(!both.is_ready());
        gates.into_iter().for_each(open);
        both.await.unwrap();
        for half in halves {
            half.await.unwrap();
        }
    });
}

static FAILED: AtomicUsize = AtomicUsize::new(0);
function!(Fails(text: String) -> Result<u64, Error> {
    FAILED.fetch_add(1, Ordering::Relaxed);
    Err(Error::msg(text))
});

#[test]
fn what_waits_for_its_next_run_ends_with_its_session_as_its_last_one() {
    let options = TaskOptions::new().retry_errors(1_000_000);
    let failed = || Some(CallError::Returned(ErrorChain::message("it fails")));
    for encode_all in [false, true] {
        FAILED.store(0, Ordering::Relaxed);
        let session = mobula_node::Embedded::start(&EmbeddedConfig { encode_all, ..one() });
        let driver = session.driver().clone();
        let mut frame = current::Frame { system: Some(driver.clone()), ..current::Frame::default() };
        let task = frame.enter(|| with::<Fails>(&options, ("it fails".to_owned(),)));
        // The second run follows at once, and the fourth is 200 ms later at the soonest.
        mobula_actor::arbiters::runtime().block_on(until(|| FAILED.load(Ordering::Relaxed) >= 4));
        drop(session);
        assert_eq!(task.wait().err(), failed());
        assert_eq!(driver.counters().pending(), 0);
    }
}

function!(FailAt(begun: u64, gate: u64) -> Result<u64, Error> {
    open(begun);
    drop(OPENED.wait_while(OPEN.lock().unwrap(), |open| !open[&gate]).unwrap());
    Err(Error::msg("it fails"))
});

#[test]
fn what_has_no_place_for_its_next_run_ends_as_its_last_one() {
    let queue = QueueBounds { tasks_max: 1, ..QueueBounds::default() };
    in_session(&EmbeddedConfig { queue, ..one() }, || async {
        let (begun, gate) = (new_gate(), new_gate());
        let task = with::<FailAt>(&TaskOptions::new().retry_errors(1), (begun, gate));
        until(|| OPEN.lock().unwrap()[&begun]).await;
        let queued = run::<Id>((1,));
        open(gate);
        let failed = CallError::Returned(ErrorChain::message("it fails"));
        assert_eq!(task.await.err(), Some(failed), "it has run: it is not as if it had not begun");
        assert_eq!(*queued.await.unwrap(), 1);
    });
}

#[test]
fn a_session_ends_within_its_patience() {
    for encode_all in [false, true] {
        let config = EmbeddedConfig { encode_all, patience: Duration::from_millis(100), ..one() };
        let session = mobula_node::Embedded::start(&config);
        let driver = session.driver().clone();
        let mut frame = current::Frame { system: Some(driver.clone()), ..current::Frame::default() };
        let (started, asleep, stuck) = (new_gate(), new_gate(), new_gate());
        let (running, queued, sleeping) =
            frame.enter(|| (run::<Stuck>((started, stuck)), run::<Id>((1,)), run::<Forever>((asleep,))));
        let begun = || OPEN.lock().unwrap()[&started] && OPEN.lock().unwrap()[&asleep];
        mobula_actor::arbiters::runtime().block_on(until(begun));
        let began = Instant::now();
        drop(session);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(running.wait().err(), Some(CallError::MayHaveRun(Unknown::NoReply)));
        assert_eq!(queued.wait().err(), Some(CallError::NotStarted(NotStarted::NoSession)));
        assert_eq!(sleeping.wait().err(), Some(CallError::MayHaveRun(Unknown::NoReply)));
        let late = frame.enter(|| run::<Id>((1,)));
        assert_eq!(late.wait().err(), Some(CallError::NotStarted(NotStarted::NoSession)));
        assert_eq!(driver.counters().pending(), 0);
        open(stuck);
    }
}

function!(Stuck(started: u64, gate: u64) -> u64 {
    open(started);
    let open = OPEN.lock().unwrap();
    drop(OPENED.wait_while(open, |open| !open[&gate]).unwrap());
    gate
});
