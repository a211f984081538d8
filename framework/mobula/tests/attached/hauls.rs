//! Arrays between the memories of two hosts: their nodes move them, and whatever ends half-way leaves nothing behind.
//!
//! Each test has a cluster of its own, whose nodes it can ask what they have moved.

use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mobula::prelude::*;
use mobula::{NodeId, RestartPolicy, View};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::nodes::Nodes;
use super::{Test, settled};

pub(crate) const TESTS: &[Test] = &[
    ("hauls: arrays go from memory to memory, both ways", || Box::pin(both_ways())),
    ("hauls: who made a value is killed half-way", || Box::pin(an_owner_is_killed())),
    ("hauls: a lender is killed half-way", || Box::pin(a_lender_is_killed())),
    ("hauls: a reader is killed half-way", || Box::pin(a_reader_is_killed())),
    ("hauls: what is given up half-way", || Box::pin(given_up())),
    ("hauls: many readers of one value read of each other", || Box::pin(many_readers())),
    ("hauls: one of several sources leaves half-way", || Box::pin(a_source_leaves())),
    ("hauls: where the store is full whoever waits is told so, and not for ever", || Box::pin(no_room())),
];

/// Numbers of an array: some ranges, and a piece that fills none.
const COUNT: usize = (32 << 20) / 8 + 1_234;

/// How often something is ended while nodes move a value for it. Of so many one at least is ended before the value is there.
const ENDS: u64 = 5;

/// A full store is waited for 2 s (G15), and the task is brought there and told.
const TOLD: Duration = Duration::from_secs(5);

/// Between two looks whether they do.
const LOOK: Duration = Duration::from_micros(500);

fn numbers(seed: u64) -> Vec<u64> {
    (0..COUNT as u64).map(|number| (seed + number).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect()
}

fn is_right(view: &[u64], seed: u64) -> bool {
    view.len() == COUNT && view == numbers(seed)
}

#[remote]
fn read(view: View<Vec<u64>>, seed: u64) -> bool {
    is_right(&view, seed)
}

/// A reference that stands for itself.
#[derive(Serialize, Deserialize)]
struct Lent {
    numbers: ObjectRef<Vec<u64>>,
}

/// Whether a value is right; none where it cannot be had.
#[remote]
async fn read_lent(lent: Lent, seed: u64) -> Option<bool> {
    mobula::get_view(&lent.numbers).await.ok().map(|view| is_right(&view, seed))
}

struct Place {
    held: Vec<mobula::Writer<u64>>,
}

#[actor]
impl Place {
    fn new() -> Self {
        Place { held: Vec::new() }
    }

    /// Takes room for arrays until there is none.
    async fn fill(&mut self) -> usize {
        while let Ok(writer) = mobula::writer(COUNT).await {
            self.held.push(writer);
        }
        self.held.len()
    }

    fn empty(&mut self) {
        self.held.clear();
    }

    fn make(&self, seed: u64) -> Vec<u64> {
        numbers(seed)
    }

    fn lend(&self, seed: u64) -> Result<Lent> {
        Ok(Lent { numbers: mobula::put(numbers(seed))? })
    }

    fn read(&self, view: View<Vec<u64>>, seed: u64) -> bool {
        is_right(&view, seed)
    }

    /// A pair is no array, and so it travels in its message.
    fn take(&self, pair: (Bytes, bool)) -> (u8, usize) {
        (pair.0[0], pair.0.len())
    }

    fn process(&self) -> u32 {
        std::process::id()
    }
}

async fn place(node: NodeId) -> Result<ActorRef<Place>> {
    Ok(Place::spawn().isolated().on_node(node).num_cpus(0.1).restart(RestartPolicy::temporary()).await?)
}

/// Ends the process of a place, whatever it does: what is sent to it would wait behind its arguments.
fn kill(process: u32) {
    let killed = Command::new("kill").args(["-9", &process.to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()), "process {process} is not there");
}

struct Cluster {
    nodes: Nodes,
    session: mobula::Session,
    here: NodeId,
    there: NodeId,
}

async fn cluster() -> Result<Cluster> {
    let nodes = Nodes::start(2, 2).await;
    let session = mobula::init_with(Config::default().address(nodes.address())).await?;
    let (here, there) = nodes.ids();
    Ok(Cluster { nodes, session, here, there })
}

impl Cluster {
    async fn end(self, test: &str) {
        settled(&self.session, test).await;
        self.session.stop().await;
        self.nodes.store_is_empty(test).await;
        self.nodes.stop().await;
    }

    /// Payloads that came whole to either node, and those that did not.
    fn moved(&self) -> (u64, u64) {
        let counts = self.nodes.haul_counts();
        (counts.iter().map(|counts| counts.whole).sum(), counts.iter().map(|counts| counts.failed).sum())
    }

    /// Waits until nodes move something, but not beyond the end of what it is moved for.
    async fn until_moving<T: Serialize + DeserializeOwned + Send + Sync + 'static>(&self, end: &ObjectRef<T>) {
        while !end.is_ready() && self.nodes.haul_counts().iter().all(|counts| counts.moving == 0) {
            tokio::time::sleep(LOOK).await;
        }
    }
}

async fn both_ways() -> Result<()> {
    let cluster = cluster().await?;
    let put = mobula::put(numbers(1))?;
    let read_there = || read::options().on_node(cluster.there);
    assert!(*mobula::get(read_there().remote(&put, 1)).await?, "what the driver has put");
    let bytes = cluster.nodes.haul_counts()[1].bytes;
    assert!(bytes >= (COUNT * 8) as u64, "{bytes} bytes were moved there by the nodes");
    let made = place(cluster.there).await?.make(2).submit();
    assert!(is_right(&mobula::get_view(&made).await?, 2), "what an actor there has made");
    let bytes = cluster.nodes.haul_counts()[0].bytes;
    assert!(bytes >= (COUNT * 8) as u64, "{bytes} bytes were moved here by the nodes");
    // Several at once, each way.
    let puts = (10..14).map(|seed| mobula::put(numbers(seed))).collect::<Result<Vec<_>, _>>()?;
    let reads: Vec<_> = puts.iter().zip(10..).map(|(put, seed)| read_there().remote(put, seed)).collect();
    for read in reads {
        assert!(*mobula::get(read).await?);
    }
    assert_eq!(cluster.moved().1, 0, "nothing took the road in parts");
    drop((put, puts, made));
    cluster.end("both ways").await;
    Ok(())
}

async fn an_owner_is_killed() -> Result<()> {
    let cluster = cluster().await?;
    let read = || read_lent::options().on_node(cluster.there).max_retries(0);
    for seed in 0..ENDS {
        let lender = place(cluster.here).await?;
        let process = lender.process().await?;
        let read = read().remote(lender.lend(seed).await?, seed);
        cluster.until_moving(&read).await;
        kill(process);
        assert_eq!(*mobula::get(read).await?, Some(true), "lender {seed}: what its node has of it is read on");
    }
    let (whole, failed) = cluster.moved();
    assert!(whole >= ENDS && failed == 0, "{whole} came whole and {failed} did not");
    cluster.end("an owner is killed").await;
    Ok(())
}

async fn a_lender_is_killed() -> Result<()> {
    let cluster = cluster().await?;
    let read = || read_lent::options().on_node(cluster.there).max_retries(0);
    for seed in 0..ENDS {
        let lender = place(cluster.there).await?;
        let process = lender.process().await?;
        let made = lender.make(seed).submit();
        cluster.until_moving(&made).await;
        kill(process);
        let made = mobula::get_view(&made).await;
        assert!(made.is_err() || made.is_ok_and(|made| is_right(&made, seed)), "lender {seed}: the array is another");
    }
    let (_, failed) = cluster.moved();
    assert!(failed > 0, "none was killed half-way");
    let last = mobula::put(numbers(0))?;
    assert_eq!(*mobula::get(read().remote(Lent { numbers: last }, 0)).await?, Some(true), "the next is moved");
    cluster.end("a lender is killed").await;
    Ok(())
}

async fn a_reader_is_killed() -> Result<()> {
    let cluster = cluster().await?;
    let put = mobula::put(numbers(7))?;
    for number in 0..ENDS {
        let reader = place(cluster.there).await?;
        let process = reader.process().await?;
        let read = reader.read(&put, 7).submit();
        cluster.until_moving(&read).await;
        kill(process);
        let read = mobula::get(read).await;
        assert!(read.is_err() || read.is_ok_and(|read| *read), "reader {number}: the array is another");
    }
    let (_, failed) = cluster.moved();
    assert!(failed > 0, "none was killed half-way");
    let reader = place(cluster.there).await?;
    assert!(reader.read(&put, 7).await?, "the next reads it");
    drop((put, reader));
    cluster.end("a reader is killed").await;
    Ok(())
}

async fn given_up() -> Result<()> {
    let cluster = cluster().await?;
    let reader = place(cluster.there).await?;
    // What travels in its message may be given up; what a reference names comes all the same.
    let bytes = |seed: u8| Bytes::from(vec![seed; COUNT * 8]);
    for _ in 0..ENDS {
        let taken = reader.take((bytes(2), true)).submit();
        cluster.until_moving(&taken).await;
        taken.cancel();
        drop(mobula::get(taken).await);
    }
    let (_, failed) = cluster.moved();
    assert!(failed > 0, "none was given up half-way");
    assert_eq!(reader.take((bytes(3), false)).await?, (3, COUNT * 8), "the next comes");
    drop(reader);
    cluster.end("given up").await;
    Ok(())
}

/// A cluster with two nodes more.
async fn cluster_of_four() -> Result<(Cluster, [mobula_node::daemon::Node; 2])> {
    let cluster = cluster().await?;
    let more = [cluster.nodes.more(1, 2).await, cluster.nodes.more(2, 2).await];
    Ok((cluster, more))
}

async fn many_readers() -> Result<()> {
    const ROUNDS: u64 = 3;
    let (cluster, more) = cluster_of_four().await?;
    for round in 0..ROUNDS {
        let put = mobula::put(numbers(round))?;
        let nodes = [cluster.there, more[0].id(), more[1].id()];
        let reads = nodes.map(|node| read::options().on_node(node).remote(&put, round));
        for read in reads {
            assert!(*mobula::get(read).await?, "round {round}");
        }
    }
    // In one round each may have asked before another had anything; not in all.
    let (sent, read) = (cluster.nodes.haul_counts()[0].sent, ROUNDS * 3 * (COUNT * 8) as u64);
    assert!(sent < read, "{sent} of {read} bytes that the three have read were the owner's to send");
    let counts = cluster.nodes.haul_counts().into_iter().chain(more.iter().map(|node| node.haul_counts()));
    let (whole, failed) = counts.fold((0, 0), |(whole, failed), it| (whole + it.whole, failed + it.failed));
    assert_eq!((whole, failed), (9, 0), "each node has got each value once");
    cluster.end("many readers").await;
    for node in more {
        node.stop().await;
    }
    Ok(())
}

async fn a_source_leaves() -> Result<()> {
    let (cluster, [leaves, reads]) = cluster_of_four().await?;
    let put = mobula::put(numbers(5))?;
    let read_on = |node| read::options().on_node(node).max_retries(0).remote(&put, 5);
    for node in [cluster.there, leaves.id()] {
        assert!(*mobula::get(read_on(node)).await?, "it is a source from here on");
    }
    let read = read_on(reads.id());
    while !read.is_ready() && reads.haul_counts().moving == 0 {
        tokio::time::sleep(LOOK).await;
    }
    leaves.stop().await;
    assert!(*mobula::get(read).await?, "the others have the rest");
    let counts = reads.haul_counts();
    assert_eq!((counts.whole, counts.failed), (1, 0), "it did not begin again");
    drop(put);
    cluster.end("a source leaves").await;
    reads.stop().await;
    Ok(())
}

async fn no_room() -> Result<()> {
    let cluster = cluster().await?;
    let holder = place(cluster.there).await?;
    assert!(holder.fill().await? > 1, "it has all of the store");
    let put = mobula::put(numbers(3))?;
    let begun = Instant::now();
    let refused = mobula::get(read::options().on_node(cluster.there).remote(&put, 3)).await;
    let refused = refused.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("the object store is full"), "it is said to be full: `{refused}`");
    assert!(begun.elapsed() < TOLD, "only after {:?}", begun.elapsed());
    assert_eq!(cluster.moved(), (0, 0), "there was no room in which nodes move anything");
    holder.empty().await?;
    assert!(*mobula::get(read::options().on_node(cluster.there).remote(&put, 3)).await?, "there is room again");
    drop((put, holder));
    cluster.end("no room").await;
    Ok(())
}
