//! More values than a node has memory for: they go to files and come back, and what finds neither memory nor disk is told so.
//!
//! Each test has a cluster of its own, whose nodes have little memory.

use std::time::{Duration, Instant};

use mobula::prelude::*;
use mobula::{CallError, NodeId, NotStarted, Session, View};
use mobula_node::daemon::NodeConfig;

use super::nodes::Nodes;
use super::{Test, settled};

pub(crate) const TESTS: &[Test] = &[
    ("spills: results of four times the memory are all read back", || Box::pin(results())),
    ("spills: what is looked at stays where it is", || Box::pin(what_is_looked_at())),
    ("spills: a full disk is said to be full, and has room again", || Box::pin(a_full_disk())),
];

/// The memory of each node.
const STORE_BYTES: u64 = 64 << 20;

/// What the files of a node may hold in the test of a full disk.
const DISK_BYTES: u64 = 32 << 20;

/// Numbers of a value of 2 MiB.
const COUNT: usize = (2 << 20) / 8;

/// Values of four times the memory.
const VALUES: u64 = 4 * STORE_BYTES / (COUNT as u64 * 8);

/// A full disk has room again in this time (G16), and a beat has said so.
const RESUMES: Duration = Duration::from_secs(7);

/// A hang shows as this.
const HANGS: Duration = Duration::from_secs(20);

/// What is in files alone is with the next beat, and what an answer took back is swept.
const LOOK: Duration = Duration::from_millis(20);

fn numbers(seed: u64) -> Vec<u64> {
    (0..COUNT as u64).map(|number| (seed + number).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect()
}

fn is_right(view: &[u64], seed: u64) -> bool {
    view == numbers(seed)
}

#[remote]
fn make(seed: u64) -> Vec<u64> {
    numbers(seed)
}

#[remote]
fn read(view: View<Vec<u64>>, seed: u64) -> bool {
    is_right(&view, seed)
}

struct Cluster {
    nodes: Nodes,
    session: Session,
    here: NodeId,
    there: NodeId,
}

impl Cluster {
    async fn start(disk_bytes: Option<u64>) -> Result<Self> {
        let tell = |config: &mut NodeConfig| {
            config.store_bytes = STORE_BYTES;
            config.spill_bytes_max = disk_bytes;
        };
        let nodes = Nodes::start_as((2, 1), 0, tell).await;
        let session = mobula::init_with(Config::default().address(nodes.address())).await?;
        let (here, there) = nodes.ids();
        Ok(Self { nodes, session, here, there })
    }

    /// Nothing is left of anything.
    async fn end(self, name: &str) {
        settled(&self.session, name).await;
        self.session.stop().await;
        self.nodes.store_is_empty(name).await;
        until(|| self.nodes.spilled() == 0).await;
        assert_eq!(self.nodes.spilled(), 0, "{name}: files are left");
        self.nodes.stop().await;
    }
}

async fn until(is_so: impl Fn() -> bool) {
    let end = Instant::now() + HANGS;
    while !is_so() && Instant::now() < end {
        tokio::time::sleep(LOOK).await;
    }
}

/// What the head says of the node in which the driver is.
async fn is_disk_full(cluster: &Cluster) -> bool {
    cluster.nodes.is_disk_full(cluster.here).await
}

async fn results() -> Result<()> {
    let cluster = Cluster::start(None).await?;
    let here = cluster.here;
    let made: Vec<ObjectRef<Vec<u64>>> = (0..VALUES).map(|seed| make::options().on_node(here).remote(seed)).collect();
    for result in &made {
        result.settled().await;
        assert!(cluster.nodes.leased() <= STORE_BYTES, "the memory is bounded");
    }
    assert!(cluster.nodes.spilled() > 0, "not all of them fit");
    for (seed, result) in made.iter().enumerate() {
        let view = mobula::get_view(result).await?;
        assert!(is_right(&view, seed as u64), "value {seed} is another");
    }
    // The newest first, by another process.
    for (seed, result) in made.iter().enumerate().rev() {
        assert!(
            *mobula::get(read::options().on_node(here).remote(result, seed as u64)).await?,
            "value {seed} is another"
        );
    }
    // And some by another node, which gets them where they lie in files here.
    for (seed, result) in made.iter().enumerate().step_by(9) {
        let is_right = read::options().on_node(cluster.there).remote(result, seed as u64);
        assert!(*mobula::get(is_right).await?, "value {seed} is another there");
    }
    drop(made);
    cluster.end("results").await;
    Ok(())
}

/// Writes a value where it will be read.
async fn write(seed: u64) -> Result<ObjectRef<Vec<u64>>, CallError> {
    let mut writer = mobula::writer(COUNT).await?;
    writer.copy_from_slice(&numbers(seed));
    Ok(writer.put())
}

async fn what_is_looked_at() -> Result<()> {
    let cluster = Cluster::start(None).await?;
    let first = write(0).await.expect("there is room");
    let view = mobula::get_view(&first).await?;
    let mut others = Vec::new();
    for seed in 1..VALUES {
        others.push(write(seed).await.expect("room is made"));
        assert!(is_right(&view, 0), "it is there while {seed} others go to files");
    }
    assert!(cluster.nodes.spilled() > 0, "others went to files");
    for (seed, other) in (1..).zip(&others) {
        assert!(is_right(&mobula::get_view(other).await?, seed), "value {seed} is another");
    }
    assert!(is_right(&view, 0));
    drop((view, first, others));
    cluster.end("what is looked at").await;
    Ok(())
}

async fn a_full_disk() -> Result<()> {
    let cluster = Cluster::start(Some(DISK_BYTES)).await?;
    let mut made = Vec::new();
    let refused = loop {
        match write(made.len() as u64).await {
            Ok(value) => made.push(value),
            Err(refused) => break refused,
        }
        assert!((made.len() as u64) < VALUES, "the disk is bounded");
    };
    let CallError::NotStarted(NotStarted::StoreFull { bytes, budget, .. }) = refused else {
        panic!("it is said to be full: {refused}")
    };
    assert!(bytes >= COUNT as u64 * 8 && budget == STORE_BYTES, "{bytes} bytes of {budget}");
    let end = Instant::now() + HANGS;
    while !is_disk_full(&cluster).await {
        assert!(Instant::now() < end, "it is not said that the disk is full");
        tokio::time::sleep(LOOK).await;
    }
    // All that was taken is there.
    let kept = made.split_off(made.len() / 2);
    for (seed, value) in made.iter().enumerate() {
        assert!(is_right(&mobula::get_view(value).await?, seed as u64), "value {seed} is another");
    }
    let first = made.len();
    drop(made);
    let freed = Instant::now();
    let mut more = Vec::new();
    while more.len() < 4 {
        if let Ok(value) = write(more.len() as u64).await {
            more.push(value);
        }
        assert!(freed.elapsed() < RESUMES, "there is no room yet for {} more", 4 - more.len());
    }
    for (seed, value) in (first..).zip(&kept) {
        assert!(is_right(&mobula::get_view(value).await?, seed as u64), "value {seed} is another");
    }
    drop((kept, more));
    let freed = Instant::now();
    while is_disk_full(&cluster).await {
        assert!(freed.elapsed() < RESUMES, "it is still said that the disk is full");
        tokio::time::sleep(LOOK).await;
    }
    cluster.end("a full disk").await;
    Ok(())
}
