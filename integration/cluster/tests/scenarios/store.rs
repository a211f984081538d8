//! More values than a node has memory for, and than its disk (G15, G16): what is taken is there, what is not is told so, and
//! nothing hangs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mobula_cluster::cluster::{Cluster, Driver, Plan};
use mobula_cluster::process::until;
use mobula_cluster::report::{Puts, Reads, answer};
use mobula_types::state::NodeStatus;
use serde::de::DeserializeOwned;

use crate::promises::{ASKED, DISK, FREED};
use crate::{cluster, waiting_cluster};

/// Memory of each node's processes, and its disk where that is small.
const SMALL: u64 = 64 << 20;

/// What a value has.
const VALUE: u64 = 8 << 20;

/// To write and to read what fits, in a debug build beside others.
const WORKS: Duration = Duration::from_secs(20);

/// So often more is put than there is room for: each time a disk has as long as anybody waits for it.
const ROUNDS_MAX: usize = 8;

/// A beat with which a node says how full it is.
const BEAT: Duration = Duration::from_secs(1);

/// One node, and a driver whose producers are told what to do.
struct Store {
    // Before the cluster: it ends first.
    driver: Driver,
    orders: u32,
    cluster: Cluster,
}

impl Store {
    fn start(cluster: Cluster, producers: u64) -> Result<Self> {
        Self::start_as(cluster, VALUE, &["--producers", &producers.to_string()])
    }

    fn start_as(cluster: Cluster, value: u64, more: &[&str]) -> Result<Self> {
        let mib = (value >> 20).to_string();
        let driver = cluster.drive(0, "driver", &[&["store", "--mib", &mib], more].concat())?;
        Ok(Self { driver, orders: 0, cluster })
    }

    /// Gives an order, and has its answer.
    fn order<T: DeserializeOwned>(&mut self, order: &str) -> Result<T> {
        let begun = Instant::now();
        self.tell(order)?;
        let said = self.answered(order)?;
        println!("`{order}` after {:?}: {said}", begun.elapsed());
        serde_json::from_str(&said).with_context(|| format!("read `{said}`"))
    }

    fn tell(&mut self, order: &str) -> Result<()> {
        self.orders += 1;
        self.driver.process.tell(order)
    }

    fn answered(&mut self, order: &str) -> Result<String> {
        self.driver.process.line(&answer(self.orders), WORKS).with_context(|| format!("to `{order}`"))
    }

    /// Puts so many values at once: what is not taken is refused as it should be, and in time.
    fn put(&mut self, count: u64) -> Result<Puts> {
        let puts: Puts = self.order(&format!("put {count}"))?;
        ensure!(puts.wrong.is_empty() && puts.taken + puts.full == count, "{puts:?}");
        ensure!(puts.full == 0 || u128::from(puts.ms_max) < DISK.as_millis(), "refused in time: {puts:?}");
        Ok(puts)
    }

    /// Reads all that is held, which are so many values.
    fn read(&mut self, count: u64) -> Result<()> {
        let reads: Reads = self.order("read")?;
        ensure!(reads == Reads { right: count, wrong: Vec::new() }, "of {count}: {reads:?}");
        Ok(())
    }

    /// Lets go of everything, of which nothing is left then.
    fn drop_all(&mut self) -> Result<()> {
        self.order::<()>("drop")?;
        let mut last = String::new();
        let empty = until("an empty store", FREED + BEAT + ASKED, || {
            let NodeStatus { store_bytes_used, spilled_bytes, .. } = self.status()?;
            let files = self.cluster.disk(0).files()?;
            last = format!("{store_bytes_used} bytes are used, {spilled_bytes} are in the files {files:?}");
            Ok((store_bytes_used == 0 && spilled_bytes == 0 && files.is_empty()).then_some(()))
        });
        empty.with_context(|| last)?;
        self.until_full(false)
    }

    /// Waits until the node says that its disk is full, or is not any more.
    fn until_full(&self, is_full: bool) -> Result<()> {
        let what = format!("a disk of which it is said that it is {}", if is_full { "full" } else { "not full" });
        until(&what, DISK + ASKED, || Ok((self.status()?.is_disk_full == is_full).then_some(())))
    }

    fn status(&self) -> Result<NodeStatus> {
        self.cluster.status(0)?.nodes.pop().context("a cluster has a node")
    }
}

#[test]
fn what_neither_memory_nor_disk_has_room_for_is_refused() -> Result<()> {
    let plan = Plan { store_bytes: Some(SMALL), disk_bytes: Some(SMALL), ..Plan::of(1) };
    let Some((cluster, _turn)) = waiting_cluster(plan)? else { return Ok(()) };
    let mut store = Store::start(cluster, 1)?;
    // A slow disk is not full yet when what waits for it is refused.
    let mut taken = 0;
    for _ in 0..ROUNDS_MAX {
        taken += store.put((1 << 30) / VALUE)?.taken;
        if store.status()?.is_disk_full {
            break;
        }
    }
    ensure!(taken * VALUE > SMALL && taken * VALUE <= 2 * SMALL, "{taken} were taken");
    let said = store.cluster.ask(0, &["status"])?;
    ensure!(said.contains("OutOfDisk"), "{said}");
    store.read(taken)?;
    store.drop_all()
}

/// A disk with room for all that is put in these tests.
const LARGE: u64 = 256 << 20;

#[test]
fn three_times_the_memory_is_put_and_read_back() -> Result<()> {
    let plan = Plan { store_bytes: Some(SMALL), disk_bytes: Some(LARGE), ..Plan::of(1) };
    let Some((cluster, _turn)) = waiting_cluster(plan)? else { return Ok(()) };
    let mut store = Store::start(cluster, 3)?;
    let count = 3 * SMALL / VALUE;
    let puts = store.put(count)?;
    ensure!(puts.taken == count, "there is room for all: {puts:?}");
    ensure!(!store.cluster.disk(0).files()?.is_empty(), "not all of them fit into memory");
    store.read(count)?;
    store.drop_all()
}

/// A disk on which no value has room.
const NONE: u64 = VALUE / 2;

#[test]
fn an_overloaded_store_goes_on_as_soon_as_values_are_dropped() -> Result<()> {
    let plan = Plan { store_bytes: Some(SMALL), disk_bytes: Some(NONE), ..Plan::of(1) };
    let Some((cluster, _turn)) = waiting_cluster(plan)? else { return Ok(()) };
    let mut store = Store::start(cluster, 3)?;
    for _ in 0..2 {
        let puts = store.put(3 * SMALL / VALUE)?;
        ensure!(puts.taken > 0 && puts.taken * VALUE < SMALL, "{puts:?}");
        store.read(puts.taken)?;
        store.drop_all()?;
    }
    let puts = store.put(3)?;
    ensure!(puts.taken == 3, "there is room again: {puts:?}");
    store.read(3)
}

#[test]
fn a_disk_that_somebody_else_fills_is_used_again_when_it_is_freed() -> Result<()> {
    let plan = Plan { store_bytes: Some(SMALL), disk_bytes: Some(SMALL), ..Plan::of(1) };
    let Some((cluster, _turn)) = waiting_cluster(plan)? else { return Ok(()) };
    let mut store = Store::start(cluster, 1)?;
    store.cluster.disk(0).fill()?;
    let puts = store.put(SMALL / VALUE)?;
    ensure!(puts.taken > 0 && puts.full > 0, "{puts:?}");
    store.until_full(true)?;
    let said = store.cluster.ask(0, &["status"])?;
    ensure!(said.contains("OutOfDisk"), "{said}");

    store.cluster.disk(0).free()?;
    let freed = Instant::now();
    let mut taken = puts.taken;
    while store.put(1)?.taken == 0 {
        ensure!(freed.elapsed() < DISK + ASKED, "the disk was free {:?} ago", freed.elapsed());
    }
    println!("a value was taken {:?} after the disk was free", freed.elapsed());
    ensure!(freed.elapsed() < DISK + ASKED, "only after {:?}", freed.elapsed());
    taken += 1;
    let more = store.put(3)?;
    ensure!(more.taken == 3, "it stays so: {more:?}");
    store.until_full(false)?;
    store.read(taken + 3)?;
    store.drop_all()
}

/// What is read on many hosts at once.
const BROADCAST: u64 = 64 << 20;

/// Hosts that read it; one of them is killed.
const READERS: usize = 5;

/// What one of them has sent to others when it is killed. At most two read of it, and have the rest of the origin.
const SENT: u64 = BROADCAST / 4 * 3;

#[test]
fn a_broadcast_comes_to_all_who_live_when_a_source_is_killed() -> Result<()> {
    let Some((cluster, _turn)) = cluster(Plan::of(1 + READERS).head_apart())? else { return Ok(()) };
    // A node is called by its place, from 1 on.
    let on: Vec<String> = (1..=READERS).map(|node| (node + 1).to_string()).collect();
    let mut store = Store::start_as(cluster, BROADCAST, &["--on", &on.join(",")])?;
    let sent = |store: &Store, node: usize| store.cluster.host(node).sent_bytes();
    let before = (0..=READERS).map(|node| sent(&store, node)).collect::<Result<Vec<_>>>()?;
    store.tell("broadcast")?;
    let killed = until("a reader that others read of", WORKS, || {
        for (node, before) in before.iter().enumerate().skip(1) {
            if sent(&store, node)? - before > SENT {
                return Ok(Some(node));
            }
        }
        Ok(None)
    })?;
    store.cluster.kill_node(killed)?;
    let begun = Instant::now();
    let had = store.cluster.host(killed).received_bytes()?;
    let at_kill = sent(&store, 0)? - before[0];
    let said = store.answered("broadcast")?;
    let of_origin = sent(&store, 0)? - before[0];
    println!(
        "node {killed} was killed after {at_kill} bytes of the origin, which sent {of_origin} in all; {:?} later: {said}",
        begun.elapsed()
    );
    let said: BTreeMap<usize, String> = serde_json::from_str(&said)?;
    for node in (1..=READERS).filter(|node| *node != killed) {
        let read = said.get(&(node + 1)).map_or("nothing", String::as_str);
        ensure!(read == "right", "node {node} read {read}");
    }
    // As many as live have read it: had each read it of the origin alone, that would have sent it as often, and what the
    // killed one had of it.
    let alone = (READERS as u64 - 1) * BROADCAST + had;
    ensure!(of_origin < alone, "the origin sent {of_origin} bytes, as to each alone: {alone}");
    Ok(())
}
