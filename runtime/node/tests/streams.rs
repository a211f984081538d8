//! Remote functions that stream.

mod functions;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use functions::{in_session, two};
use futures_util::StreamExt;
use futures_util::stream::{self, LocalBoxStream};
use mobula_actor::{Arg, ReplyStream, current};
use mobula_node::{FunctionEntry, RemoteStream, TaskOptions, submit_stream};
use mobula_types::{CallError, NotStarted};

/// Counts to `n`; panics when it reaches `bad`.
struct CountTo;

impl RemoteStream for CountTo {
    type Args = (u64, u64);
    type Item = u64;
    const NAME: &'static str = "streams::count_to";
    const OPTIONS: TaskOptions = TaskOptions::new();

    fn open((n, bad): (u64, u64)) -> LocalBoxStream<'static, u64> {
        stream::iter(1..=n).inspect(move |i| assert!(*i != bad, "{i} is bad")).boxed_local()
    }
}

inventory::submit!(FunctionEntry::stream::<CountTo>());

fn count(n: u64, bad: u64) -> ReplyStream<u64> {
    submit_stream::<CountTo>(&CountTo::OPTIONS, Arg::Value((n, bad)))
}

#[test]
fn items_come_in_order_and_end() {
    in_session(&two(), || async {
        let items: Vec<_> = count(1_000, 0).map(Result::unwrap).collect().await;
        assert_eq!(items, (1..=1_000).collect::<Vec<_>>());
        assert_eq!(count(0, 0).next().await, None);
    });
}

#[test]
fn a_panic_is_the_last_item() {
    in_session(&two(), || async {
        let mut items = count(10, 3);
        assert_eq!(items.next().await, Some(Ok(1)));
        assert_eq!(items.next().await, Some(Ok(2)));
        let Some(Err(CallError::Panicked(panic))) = items.next().await else { panic!("expected a panic") };
        assert_eq!(panic.message, "3 is bad");
        assert_eq!(items.next().await, None);
    });
}

/// Never ends by itself; counts how often it was dropped.
struct Endless;

static DROPPED: AtomicUsize = AtomicUsize::new(0);

impl RemoteStream for Endless {
    type Args = ();
    type Item = u64;
    const NAME: &'static str = "streams::endless";
    const OPTIONS: TaskOptions = TaskOptions::new();

    fn open((): ()) -> LocalBoxStream<'static, u64> {
        struct Guard;
        impl Drop for Guard {
            fn drop(&mut self) {
                assert!(current::system().is_some(), "its Drop runs as the task's code");
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
        let guard = Guard;
        stream::iter(1..).inspect(move |_| _ = &guard).boxed_local()
    }
}

inventory::submit!(FunctionEntry::stream::<Endless>());

#[test]
fn a_reader_that_goes_away_drops_the_stream() {
    in_session(&two(), || async {
        let before = DROPPED.load(Ordering::Relaxed);
        let mut items = submit_stream::<Endless>(&Endless::OPTIONS, Arg::Value(()));
        for expect in 1..1_000 {
            assert_eq!(items.next().await, Some(Ok(expect)));
        }
        drop(items);
        let patience = Instant::now() + Duration::from_secs(10);
        while DROPPED.load(Ordering::Relaxed) == before {
            assert!(Instant::now() < patience, "the stream was not dropped");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_stream_that_cannot_run_says_why() {
    in_session(&two(), || async {
        let mut items = submit_stream::<CountTo>(&TaskOptions::new().num_gpus(1.0), Arg::Value((1, 0)));
        let missing = "num_gpus = 1, the node has 0".to_owned();
        assert_eq!(items.next().await, Some(Err(CallError::NotStarted(NotStarted::Unschedulable { missing }))));
    });
}

#[test]
fn an_item_that_takes_too_long_ends_the_stream() {
    in_session(&two(), || async {
        let timeout = Duration::from_millis(20);
        let args = Arg::Later(Box::pin(std::future::pending()));
        let mut items = submit_stream::<CountTo>(&TaskOptions::new().timeout(timeout), args);
        assert_eq!(items.next().await, Some(Err(CallError::DeadlineExceeded { given: Some(timeout) })));
    });
}
