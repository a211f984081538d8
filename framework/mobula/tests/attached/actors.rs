//! Actors and functions that live in other processes.

use std::future::IntoFuture;

use mobula::prelude::*;
use mobula::{LabelRule, LabelSelector, NodeId, NodeInfo, SpawnError};

use super::Test;

pub(crate) const TESTS: &[Test] = &[
    ("functions run in other processes", || Box::pin(functions_run_elsewhere())),
    ("functions call functions", || Box::pin(functions_call_functions())),
    ("actors live in other processes", || Box::pin(actors_live_elsewhere())),
    ("labels and nodes are heard", || Box::pin(labels_and_nodes_are_heard())),
    ("labels are read by rules", || Box::pin(labels_are_read_by_rules())),
    ("a node that is preferred is not insisted on", || Box::pin(a_preferred_node_is_not_insisted_on())),
    ("a type says what its actors take", || Box::pin(a_type_says_what_its_actors_take())),
    ("names are of all processes", || Box::pin(names_are_of_all_processes())),
    ("streams cross processes", || Box::pin(streams_cross_processes())),
    ("order holds", || Box::pin(order_holds())),
    ("an actor may get a place beside its home", || Box::pin(an_actor_may_get_a_place_beside_its_home())),
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

/// The node that ran it.
#[remote]
fn node_of_task() -> u64 {
    mobula_node_of_here()
}

/// The head carries no label, the other node is in zone `b`.
async fn head_and_other() -> Result<(u64, u64)> {
    let nodes = mobula::nodes().await?;
    let ids: Vec<u64> = nodes.iter().map(|node| node.id.0).collect();
    match (ids.iter().min(), ids.iter().max()) {
        (Some(head), Some(other)) => Ok((*head, *other)),
        _ => Err(Error::msg("there is no node")),
    }
}

async fn labels_are_read_by_rules() -> Result<()> {
    let (head, other) = head_and_other().await?;
    for (rule, at) in [
        ("zone = b", other),
        ("zone != b", head),
        ("zone in (a, b)", other),
        ("zone not in (a, b)", head),
        ("zone != a", 0),
    ] {
        let rule: LabelRule = rule.parse()?;
        let task = *node_of_task::options().label_rule(rule.clone()).remote().await?;
        let actor = Counter::spawn().label_rule(rule.clone()).await?.place().await?.1;
        assert!(at == 0 || (task, actor) == (at, at), "{rule}: the task was on {task}, the actor on {actor}");
    }
    let nowhere = LabelRule::equal("zone", "x");
    let task = node_of_task::options().label_rule(nowhere.clone()).label_fallback(LabelRule::equal("zone", "b"));
    assert_eq!(*task.remote().await?, other);
    let fallbacks = [LabelRule::equal("zone", "y"), LabelRule::not_equal("zone", "b")];
    let spawn = Counter::spawn().label_rule(nowhere);
    let spawn = fallbacks.into_iter().fold(spawn, |spawn, rule| spawn.label_fallback(rule));
    assert_eq!(spawn.await?.place().await?.1, head);
    let many: LabelSelector = (0..40).map(|at| LabelRule::not_equal("zone", format!("z{at}"))).collect();
    let refused = node_of_task::options().label_fallback(many.clone()).remote().await.err();
    let is_clear = |text: Option<String>| text.is_some_and(|text| text.contains("40 rules for labels: use 32 at most"));
    assert!(is_clear(refused.as_ref().map(ToString::to_string)), "{refused:?}");
    let refused = Counter::spawn().label_fallback(many).await.err();
    assert!(is_clear(refused.as_ref().map(ToString::to_string)), "{refused:?}");
    Ok(())
}

async fn a_preferred_node_is_not_insisted_on() -> Result<()> {
    let (head, other) = head_and_other().await?;
    for node in [head, other] {
        assert_eq!(*node_of_task::options().on_node_soft(NodeId(node)).remote().await?, node);
        assert_eq!(Counter::spawn().on_node_soft(NodeId(node)).await?.place().await?.1, node);
    }
    let gone = NodeId(99_999);
    assert!(*node_of_task::options().on_node_soft(gone).remote().await? > 0, "there is no such node");
    assert!(Counter::spawn().on_node_soft(gone).await?.place().await?.1 > 0);
    // It carries no such label, however long one waits.
    let elsewhere = node_of_task::options().on_node_soft(NodeId(head)).label("zone", "b");
    assert_eq!(*elsewhere.remote().await?, other);
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

/// Spawns a counter with a place of its own, on the node where this runs: in the very process, since a job has one for each
/// node.
#[remote]
async fn spawn_beside() -> Result<(u32, ActorRef<Counter>)> {
    let counter = Counter::spawn().num_cpus(0.5).on_node(NodeId(mobula_node_of_here())).await?;
    counter.add(1).await?;
    Ok((std::process::id(), counter))
}

async fn an_actor_may_get_a_place_beside_its_home() -> Result<()> {
    let (pid, counter) = spawn_beside::remote().await?.into_owned();
    assert_eq!(counter.place().await?.0, pid);
    assert_eq!(counter.add(1).await?, 2);
    counter.stop();
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while counter.is_alive() || counter.add(1).await.is_ok() {
        assert!(tokio::time::Instant::now() < end, "it goes on");
    }
    Ok(())
}
