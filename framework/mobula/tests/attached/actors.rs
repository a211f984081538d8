//! Actors and functions that live in other processes.

use std::future::IntoFuture;

use mobula::prelude::*;
use mobula::{NodeInfo, SpawnError};

use super::Test;

pub(crate) const TESTS: &[Test] = &[
    ("functions run in other processes", || Box::pin(functions_run_elsewhere())),
    ("functions call functions", || Box::pin(functions_call_functions())),
    ("actors live in other processes", || Box::pin(actors_live_elsewhere())),
    ("labels and nodes are heard", || Box::pin(labels_and_nodes_are_heard())),
    ("a type says what its actors take", || Box::pin(a_type_says_what_its_actors_take())),
    ("names are of all processes", || Box::pin(names_are_of_all_processes())),
    ("streams cross processes", || Box::pin(streams_cross_processes())),
    ("order holds", || Box::pin(order_holds())),
];

/// Where it ran: the system's number of the process.
#[remote]
fn place() -> u32 {
    std::process::id()
}

#[remote]
fn fib(n: u64) -> Result<u64> {
    if n < 2 {
        return Ok(n);
    }
    let (a, b) = (fib::remote(n - 1), fib::remote(n - 2));
    Ok(a.wait()?.into_owned() + b.wait()?.into_owned())
}

pub(crate) struct Counter {
    total: u64,
    seen: Vec<u64>,
}

#[actor]
impl Counter {
    pub(crate) fn new() -> Self {
        Counter { total: 0, seen: Vec::new() }
    }

    pub(crate) fn add(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }

    pub(crate) fn note(&mut self, n: u64) {
        self.seen.push(n);
    }

    pub(crate) fn seen(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.seen)
    }

    pub(crate) fn place(&mut self) -> (u32, u64) {
        (std::process::id(), mobula_node_of_here())
    }

    pub(crate) fn count_to(&self, n: u64) -> impl futures_util::Stream<Item = u64> + use<> {
        futures_util::stream::iter(0..n)
    }
}

/// The node of the process that runs this.
fn mobula_node_of_here() -> u64 {
    mobula_actor::current::system().map_or(0, |system| system.process().node().0)
}

/// Adds to a counter that it finds by its name.
#[remote]
async fn add_by_name(name: String, n: u64) -> Result<u64> {
    Ok(mobula::actor::<Counter>(&name).await?.add(n).await?)
}

/// Adds to a counter it was given.
#[remote]
async fn add_by_reference(counter: ActorRef<Counter>, n: u64) -> Result<u64> {
    Ok(counter.add(n).await?)
}

#[remote]
fn count(n: u64) -> impl futures_util::Stream<Item = u64> + use<> {
    futures_util::stream::iter(0..n)
}

async fn functions_run_elsewhere() -> Result<()> {
    let refs: Vec<_> = (0..200).map(|_| place::remote()).collect();
    for at in mobula::get(refs).await? {
        assert_ne!(*at, std::process::id());
    }
    Ok(())
}

async fn functions_call_functions() -> Result<()> {
    assert_eq!(*mobula::get(fib::remote(7u64)).await?, 13, "those that wait give their CPUs to those they wait for");
    Ok(())
}

async fn actors_live_elsewhere() -> Result<()> {
    let counter = Counter::spawn().await?;
    assert_ne!(counter.place().await?.0, std::process::id());
    assert_eq!(counter.add(2).await?, 2);
    counter.add(3).tell()?;
    assert_eq!(*mobula::get(add_by_reference::remote(counter.clone(), 4u64)).await?, 9);
    counter.stop();
    Ok(())
}

async fn labels_and_nodes_are_heard() -> Result<()> {
    let nodes: Vec<NodeInfo> = mobula::nodes().await?;
    assert_eq!(nodes.len(), 2, "{nodes:?}");
    for node in &nodes {
        let counter = Counter::spawn().on_node(node.id).await?;
        assert_eq!(counter.place().await?.1, node.id.0);
    }
    let there = Counter::spawn().label("zone", "b").await?.place().await?.1;
    assert_eq!(there, nodes.iter().map(|node| node.id.0).max().unwrap_or(0), "the second node has the label");
    let nowhere = Counter::spawn().num_cpus(1000.0).into_future();
    assert!(tokio::time::timeout(mobula::millis(300), nowhere).await.is_err(), "a node that large may come yet");
    let alone = Counter::spawn().isolated().await?;
    let beside = Counter::spawn().await?;
    assert_ne!(alone.place().await?.0, beside.place().await?.0);
    Ok(())
}

/// Takes more than half a node.
struct Painter;

#[actor(num_cpus = 1.5)]
impl Painter {
    fn new() -> Self {
        Painter
    }

    fn node(&self) -> u64 {
        mobula_node_of_here()
    }
}

async fn a_type_says_what_its_actors_take() -> Result<()> {
    // Two nodes with two CPUs each: two of them fit, and then none.
    let (first, second) = (Painter::spawn().await?, Painter::spawn().await?);
    assert_ne!(first.node().await?, second.node().await?);
    let third = Painter::spawn().into_future();
    assert!(tokio::time::timeout(mobula::millis(300), third).await.is_err(), "there is no room for a third");
    let small = Painter::spawn().num_cpus(0.5).await?;
    assert!(small.node().await? > 0, "a spawn may say otherwise");
    Ok(())
}

async fn names_are_of_all_processes() -> Result<()> {
    let counter = Counter::spawn().name("words").await?;
    assert_eq!(*mobula::get(add_by_name::remote("words", 5u64)).await?, 5);
    let taken = Counter::spawn().name("words").await.err();
    assert!(matches!(taken, Some(SpawnError::NameTaken { .. })), "{taken:?}");
    assert_eq!(mobula::actor::<Counter>("words").await?, counter);
    Ok(())
}

async fn streams_cross_processes() -> Result<()> {
    let counter = Counter::spawn().await?;
    let mut items = counter.count_to(1000).await?;
    let mut expect = 0;
    while let Some(item) = items.next().await {
        assert_eq!(item?, expect);
        expect += 1;
    }
    assert_eq!(expect, 1000);
    let mut items = count::remote(700u64);
    let mut sum = 0;
    while let Some(item) = items.next().await {
        sum += item?;
    }
    assert_eq!(sum, 699 * 700 / 2);
    Ok(())
}

async fn order_holds() -> Result<()> {
    let counter = Counter::spawn().await?;
    for n in 0..5000 {
        counter.note(n).send().await?;
    }
    assert_eq!(counter.seen().await?, (0..5000).collect::<Vec<_>>());
    Ok(())
}
