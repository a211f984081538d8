//! What becomes of work whose node is gone, or whose program does nothing: no test here is given a session.

use std::time::{Duration, Instant};

use mobula::prelude::*;
use mobula::{DeathCause, SpawnError, Unknown};

use super::actors::Counter;
use super::nodes::Nodes;
use super::{HANGS, Test, settled};

pub(crate) const TESTS: &[Test] = &[
    ("nothing waits for a node that is gone", || Box::pin(nothing_waits_for_a_node_that_is_gone())),
    (
        "a host that is short of memory ends a worker, and its task runs alone",
        || Box::pin(short_memory_ends_a_worker()),
    ),
    ("a task that may not run again says whose memory was short", || Box::pin(short_memory_is_told())),
    ("a tell that nobody handles is in the status", || Box::pin(a_tell_that_nobody_handles_is_in_the_status())),
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

/// Waits for ever the first time; the second time it says where it runs.
#[remote]
async fn wait_once(key: String) -> Result<u32> {
    let runs = mobula::kv::get::<u32>(&key).await?.unwrap_or(0) + 1;
    mobula::kv::put(&key, &runs).await?;
    match runs {
        1 => std::future::pending().await,
        _ => Ok(std::process::id()),
    }
}

#[remote]
fn place() -> u32 {
    std::process::id()
}

async fn until_run(key: &str, runs: u32) -> Result<()> {
    while mobula::kv::get::<u32>(key).await?.is_none_or(|now| now < runs) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// G15: whole workers end, and what ran in them runs again, one per process.
async fn short_memory_ends_a_worker() -> Result<()> {
    let nodes = Nodes::start(2, 2).await;
    let session = mobula::init_with(Config::default().address(nodes.address())).await?;
    let shared = *place::remote().await?;
    let waiting = wait_once::remote("again".to_owned());
    until_run("again", 1).await?;
    nodes.say_memory(40);
    until_run("again", 2).await?;
    nodes.say_memory(600);
    let alone = *waiting.await?;
    assert_ne!(alone, shared, "its first process has ended");
    let places: Vec<_> = (0..100).map(|_| place::remote()).collect();
    for place in mobula::get(places).await? {
        assert_ne!(*place, alone, "its second run was in a process of its own");
    }
    settled(&session, "all of it").await;
    session.stop().await;
    nodes.stop().await;
    Ok(())
}

async fn short_memory_is_told() -> Result<()> {
    let nodes = Nodes::start(1, 1).await;
    let session = mobula::init_with(Config::default().address(nodes.address())).await?;
    let waiting = wait_once::options().at_most_once().remote("once".to_owned());
    until_run("once", 1).await?;
    nodes.say_memory(40);
    let error = waiting.await.err();
    let Some(CallError::MayHaveRun(Unknown::ProcessDied { death })) = &error else { panic!("{error:?}") };
    let cause = DeathCause::MemoryPressure { used_bytes: 960 << 10, total_bytes: 1000 << 10 };
    assert_eq!(death.cause, cause);
    assert!(death.to_string().contains("983040 of 1024000 bytes of memory"), "{death}");
    settled(&session, "all of it").await;
    session.stop().await;
    nodes.stop().await;
    Ok(())
}

struct Fragile;

#[actor]
impl Fragile {
    fn new() -> Self {
        Self
    }

    fn fall(&mut self) {
        panic!("it falls");
    }
}

/// G21: what a worker counts comes to the status of the cluster.
async fn a_tell_that_nobody_handles_is_in_the_status() -> Result<()> {
    let nodes = Nodes::start(1, 1).await;
    let session = mobula::init_with(Config::default().address(nodes.address())).await?;
    assert_eq!(nodes.losses().await.get("dead_letter"), None);
    let fragile = Fragile::spawn().await?;
    fragile.fall().tell()?;
    while nodes.losses().await.get("dead_letter") != Some(&1) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    session.stop().await;
    nodes.stop().await;
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
