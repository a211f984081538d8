//! What becomes of work whose node is gone, or whose program does nothing: no test here is given a session.

use std::time::{Duration, Instant};

use mobula::prelude::*;
use mobula::{SpawnError, Unknown};

use super::actors::Counter;
use super::nodes::Nodes;
use super::{HANGS, Test, settled};

pub(crate) const TESTS: &[Test] = &[
    ("nothing waits for a node that is gone", || Box::pin(nothing_waits_for_a_node_that_is_gone())),
    ("results come to a program that keeps its thread", || Box::pin(results_come_to_a_program_that_keeps_its_thread())),
];

#[remote]
async fn run_for_ever() {
    mobula::kv::put("begun", &true).await.expect("a value is kept");
    std::future::pending().await
}

#[remote]
fn run_on_many_cpus() {}

async fn nothing_waits_for_a_node_that_is_gone() -> Result<()> {
    let nodes = Nodes::start(1, 1).await;
    let session = mobula::init_with(Config::default().address(nodes.address())).await?;
    let counter = Counter::spawn().await?;
    let running = run_for_ever::remote();
    while mobula::kv::get::<bool>("begun").await?.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let waiting = run_on_many_cpus::options().num_cpus(1000.0).remote();
    let mut unplaced = Counter::spawn().num_cpus(1000.0).into_future();
    assert!(futures_util::poll!(&mut unplaced).is_pending(), "no node has so many CPUs");
    nodes.stop().await;
    let error = running.await.expect_err("nobody runs it any more");
    assert!(matches!(error, CallError::MayHaveRun(Unknown::ProcessDied { .. })), "{error}");
    let error = waiting.await.expect_err("no place came");
    assert!(matches!(error, CallError::NotStarted(_)), "{error}");
    let error = unplaced.await.expect_err("no place came");
    assert!(matches!(error, SpawnError::StartFailed(_)), "{error}");
    // What is begun after that ends as well.
    let error = counter.add(1).submit().await.expect_err("nobody is there");
    assert!(matches!(error, CallError::NotStarted(NotStarted::ActorEnded { .. })), "{error}");
    let error = run_for_ever::remote().await.expect_err("no place is there");
    assert!(matches!(error, CallError::NotStarted(NotStarted::NoSession)), "{error}");
    assert!(Counter::spawn().await.is_err());
    settled(&session, "all of it").await;
    session.stop().await;
    Ok(())
}

#[remote]
fn one() -> u64 {
    1
}

/// The only thread of the program's runtime computes: what comes for the session is read all the same.
async fn results_come_to_a_program_that_keeps_its_thread() -> Result<()> {
    let nodes = Nodes::start(1, 1).await;
    let config = Config::default().address(nodes.address());
    let program = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("there are threads");
        let (session, result) = runtime.block_on(async { (mobula::init_with(config).await, one::remote()) });
        let begun = Instant::now();
        while !result.is_ready() && begun.elapsed() < HANGS / 4 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let is_ready = result.is_ready();
        runtime.block_on(async move { session.expect("a driver attaches").stop().await });
        is_ready
    });
    assert!(program.await.expect("the program does not panic"), "its result waits for its thread");
    nodes.stop().await;
    Ok(())
}
