//! What becomes of actors that were spawned by what runs on a node that is drained (G19): no test here is given a session.

use std::time::Duration;

use mobula::prelude::*;
use mobula::{Context, NodeId};

use super::nodes::Nodes;
use super::{HANGS, Test, settled};

pub(crate) const TESTS: &[Test] = &[
    ("children elsewhere end with a parent that moves", || Box::pin(children_end_with_a_parent_that_moves())),
    ("an actor whose home is drained is waited for", || Box::pin(an_actor_whose_home_is_drained_is_waited_for())),
    ("an actor beside its home leaves a drained node alone", || Box::pin(an_actor_beside_its_home_moves())),
    ("an actor of a task that is drained is waited for", || Box::pin(an_actor_of_a_task_is_waited_for())),
    ("an actor of a task is waited for no longer than its job", || Box::pin(an_actor_of_a_task_ends_with_its_job())),
];

/// How long the call takes that is under way when the node is drained.
const SLOW: Duration = Duration::from_millis(500);

/// Calls after that: each is answered while the drained node waits.
const CALLS: u64 = 50;

/// Where code runs.
fn node_of_here() -> u64 {
    mobula_actor::current::system().map_or(0, |system| system.process().node().0)
}

struct Child;

#[actor]
impl Child {
    fn new() -> Self {
        Child
    }

    async fn answer_slowly(&mut self) -> Result<u64> {
        mobula::kv::put("begun", &true).await?;
        tokio::time::sleep(SLOW).await;
        Ok(node_of_here())
    }

    fn node(&self) -> u64 {
        node_of_here()
    }
}

/// A call to it that has begun.
async fn slow_call(child: &ActorRef<Child>) -> Result<ObjectRef<u64>> {
    let slow = child.answer_slowly().submit();
    while mobula::kv::get::<bool>("begun").await?.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(slow)
}

/// Its child would rather live on another node.
struct Parent {
    child: ActorRef<Child>,
}

#[actor]
impl Parent {
    async fn new(child_node: u64, ctx: &Context<Self>) -> Result<Self> {
        Ok(Parent { child: ctx.spawn::<Child>(()).on_node_soft(NodeId(child_node)).await? })
    }

    fn child(&self) -> ActorRef<Child> {
        self.child.clone()
    }

    fn node(&self) -> u64 {
        node_of_here()
    }
}

/// The parent moves: its children end in order with what they do, and its next life starts others.
async fn children_end_with_a_parent_that_moves() -> Result<()> {
    let mut nodes = Nodes::start(2, 2).await;
    let session = mobula::init_with(Config::default().address(nodes.address())).await?;
    let (head, other) = nodes.ids();
    known(other).await?;
    let parent = Parent::spawn(head.0).on_node_soft(other).await?;
    let child = parent.child().await?;
    assert_eq!((parent.node().await?, child.node().await?), (other.0, head.0));
    let slow = slow_call(&child).await?;
    let behind = child.node().submit();
    nodes.drain_other().await;
    assert_eq!(*slow.await?, head.0, "what has begun is finished");
    match behind.await {
        Ok(node) => assert_eq!(*node, head.0),
        Err(error) => assert_ended_in_order(&error),
    }
    let next = parent.child().await?;
    assert_ne!(next, child);
    assert_eq!((parent.node().await?, next.node().await?), (head.0, head.0), "both live on");
    assert_ended_in_order(&child.node().await.expect_err("it has ended"));
    tokio::time::timeout(HANGS / 4, nodes.other_ended()).await.expect("nothing keeps the node");
    assert_eq!(next.node().await?, head.0, "and the node is not missed");
    settled(&session, "all of it").await;
    session.stop().await;
    nodes.stop().await;
    Ok(())
}

fn assert_ended_in_order<E: std::fmt::Debug>(error: &CallError<E>) {
    let CallError::NotStarted(NotStarted::ActorEnded { reason, .. }) = error else { panic!("{error:?}") };
    assert_eq!(*reason, ExitReason::Shutdown);
}

/// Spawns an actor that lives as long as the job, on the node that is said.
#[remote]
fn nothing() {}

/// Waits until the head's node knows the other: a wish that can wait for no node would be forgotten before.
async fn known(other: NodeId) -> Result<()> {
    mobula::get(nothing::options().on_node(other).remote()).await?;
    Ok(())
}

#[remote]
async fn spawn_on(node: u64) -> Result<ActorRef<Child>> {
    Ok(Child::spawn().on_node_soft(NodeId(node)).await?)
}

/// The same, in this very process.
#[remote]
async fn spawn_here() -> Result<ActorRef<Child>> {
    Ok(Child::spawn().await?)
}

/// Its home is the worker of the task that spawned it, and cannot move.
async fn an_actor_whose_home_is_drained_is_waited_for() -> Result<()> {
    let nodes = Nodes::start(2, 2).await;
    let (head, other) = nodes.ids();
    let session = mobula::init_with(Config::default().address(nodes.address())).await?;
    known(other).await?;
    let child = spawn_on::options().on_node_soft(other).remote(head.0).await?.into_owned();
    is_waited_for(nodes, session, &child, head).await
}

/// Its place is on the drained node too: it moves, and its home is waited for.
async fn an_actor_beside_its_home_moves() -> Result<()> {
    let nodes = Nodes::start(2, 2).await;
    let (head, other) = nodes.ids();
    let session = mobula::init_with(Config::default().address(nodes.address())).await?;
    known(other).await?;
    let child = spawn_on::options().on_node_soft(other).remote(other.0).await?.into_owned();
    assert_eq!(child.node().await?, other.0);
    nodes.drain_other().await;
    while child.node().await? != head.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    is_waited_for(nodes, session, &child, head).await
}

async fn an_actor_of_a_task_is_waited_for() -> Result<()> {
    let nodes = Nodes::start(2, 2).await;
    let (_, other) = nodes.ids();
    let session = mobula::init_with(Config::default().address(nodes.address())).await?;
    known(other).await?;
    let child = spawn_here::options().on_node_soft(other).remote().await?.into_owned();
    is_waited_for(nodes, session, &child, other).await
}

/// Nobody can ask it anything any more when its job is over, and nothing else keeps the node.
async fn an_actor_of_a_task_ends_with_its_job() -> Result<()> {
    let mut nodes = Nodes::start(2, 2).await;
    let (_, other) = nodes.ids();
    let session = mobula::init_with(Config::default().address(nodes.address())).await?;
    known(other).await?;
    let child = spawn_here::options().on_node_soft(other).remote().await?.into_owned();
    nodes.drain_other().await;
    assert_eq!(child.node().await?, other.0, "the node waits for it");
    session.stop().await;
    tokio::time::timeout(HANGS / 4, nodes.other_ended()).await.expect("nothing keeps the node any more");
    nodes.stop().await;
    Ok(())
}

/// It lives on `at`, and its home is in a worker of the node that is drained: all that it is asked is answered until it
/// ends, and then the node leaves.
async fn is_waited_for(mut nodes: Nodes, session: Session, child: &ActorRef<Child>, at: NodeId) -> Result<()> {
    assert_eq!(child.node().await?, at.0);
    let slow = slow_call(child).await?;
    nodes.drain_other().await;
    assert_eq!(*slow.await?, at.0, "what has begun is finished");
    for call in 0..CALLS {
        assert_eq!(child.node().await?, at.0, "call {call} after that");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    child.stop();
    tokio::time::timeout(HANGS / 4, nodes.other_ended()).await.expect("nothing keeps the node any more");
    settled(&session, "all of it").await;
    session.stop().await;
    nodes.stop().await;
    Ok(())
}
