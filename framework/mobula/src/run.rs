//! What `#[mobula::main]` and `#[mobula::test]` run.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::process::{ExitCode, Termination};
use std::time::{Duration, Instant};

use mobula_actor::arbiters;
use mobula_actor::current::Frame;
use mobula_actor::{Count, System};

use crate::session::{Config, Session, become_worker};

/// What is pending when a session ends has its outcome in this time: a hang detector, since other processes are not asked
/// for it any more.
const SETTLES: Duration = Duration::from_secs(5);

/// Runs a program's `main` to its end, on this thread; what it returns is what `main` returns.
pub fn run_main<T>(main: impl Future<Output = T>) -> T {
    become_worker();
    arbiters::runtime().block_on(main)
}

/// Runs a test in a session of its own, plain or with everything through the codec, and checks that nothing that was
/// submitted stays without an outcome (G21).
///
/// # Panics
///
/// When the test does, or when a call or task has no outcome after the session has ended.
pub fn run_test<T, F: Future<Output = T>>(encode_all: bool, test: impl FnOnce() -> F) -> T {
    arbiters::runtime().block_on(async {
        let config = Config::default().encode_all(encode_all).address("embedded");
        let session = Session::private(config).await.expect("a test's session begins");
        let driver = session.driver().clone();
        let worker = session.worker().unwrap_or(&driver).clone();
        let result = run_within(&driver, test).await;
        session.stop().await;
        check_outcomes(&driver, "test");
        check_outcomes(&worker, "actors and functions");
        result
    })
}

/// A test that is to run on a cluster, too.
pub struct ClusterTest {
    /// Its function, with all modules around it.
    pub name: &'static str,
    /// How it is run there, as [`run_on_cluster`] does, or why it makes no sense there.
    pub run: Result<fn(Config) -> ExitCode, &'static str>,
}

inventory::collect!(ClusterTest);

/// Runs a test in a session of its own on the cluster that `config` names; else as [`run_test`].
///
/// # Panics
///
/// When no session begins, when the test panics, or when a call or task has no outcome after the session has ended.
pub fn run_on_cluster<T: Termination, F: Future<Output = T>>(config: Config, test: impl FnOnce() -> F) -> ExitCode {
    arbiters::runtime().block_on(async {
        let session = Session::private(config).await.expect("a test's session begins");
        let driver = session.driver().clone();
        let result = run_within(&driver, test).await;
        session.stop().await;
        let end = Instant::now() + SETTLES;
        while driver.counters().pending() > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        check_outcomes(&driver, "test");
        result.report()
    })
}

/// Runs a test as the code of `driver`'s session.
async fn run_within<T, F: Future<Output = T>>(driver: &std::sync::Arc<System>, test: impl FnOnce() -> F) -> T {
    // Threads that the test itself makes find the session, too, if no other test was first.
    driver.make_process_default();
    let mut frame = Frame { system: Some(driver.clone()), ..Frame::default() };
    let mut test = pin!(frame.enter(test));
    poll_fn(|cx| frame.enter(|| test.as_mut().poll(cx))).await
}

fn check_outcomes(system: &System, whose: &str) {
    let counters = system.counters();
    let (submitted, pending) = (counters.of(Count::Submitted), counters.pending());
    assert_eq!(pending, 0, "{pending} of {submitted} calls and tasks of the {whose} have no outcome");
}
