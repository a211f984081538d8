//! Calls and functions between processes: those of one host, and those of two nodes on this host over loopback.

use std::future::IntoFuture;
use std::time::Instant;

use anyhow::{Context as _, Result};
use futures_util::stream::{FuturesUnordered, StreamExt};
use mobula::NodeId;
use mobula::prelude::*;

use super::cluster::Cluster;
use super::within::{micros, per_second};
use super::{Better, Effort, Row};

/// Calls on the way at once; a mailbox takes 1,024.
const PIPELINED: usize = 500;
/// Calls of one run that pipelines them.
const BURST: usize = 40 * PIPELINED;
/// Tasks submitted at once.
const BATCH: usize = 10_000;

struct Adder {
    total: u64,
}

#[actor]
impl Adder {
    fn new() -> Self {
        Adder { total: 0 }
    }

    fn add(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }
}

#[remote]
fn nothing(n: u64) -> u64 {
    n
}

pub(crate) fn rows(effort: Effort) -> Result<Vec<Row>> {
    let cluster = Cluster::start(effort)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the driver")?;
    let joined: Vec<f64> =
        (0..effort.runs(10)).map(|_| runtime.block_on(joined(&cluster))).collect::<Result<_>>().context("join")?;
    let mut rows = vec![Row::of("joined to a running cluster, to first result", "ms", Better::Lower, joined)];
    runtime.block_on(async {
        let session = cluster.session().await?;
        let beside = Adder::spawn().on_node(NodeId(1)).await.context("spawn in another process")?;
        rows.extend(calls("between processes", &beside, effort).await?);
        let elsewhere = Adder::spawn().on_node(NodeId(2)).await.context("spawn on another node")?;
        rows.extend(calls("between nodes", &elsewhere, effort).await?);
        rows.extend(tasks(effort).await?);
        session.stop().await;
        anyhow::Ok(())
    })?;
    Ok(rows)
}

async fn calls(between: &str, adder: &ActorRef<Adder>, effort: Effort) -> Result<Vec<Row>> {
    for _ in 0..1_000 {
        adder.add(1).await?;
    }
    let mut latencies = Vec::new();
    for _ in 0..effort.runs(20_000) {
        let start = Instant::now();
        adder.add(1).await?;
        latencies.push(micros(start));
    }
    let mut rates = Vec::new();
    for _ in 0..effort.runs(20) {
        let start = Instant::now();
        let mut under_way = FuturesUnordered::new();
        for _ in 0..BURST {
            if under_way.len() >= PIPELINED
                && let Some(reply) = under_way.next().await
            {
                let _: u64 = reply?;
            }
            under_way.push(adder.add(1).into_future());
        }
        while let Some(reply) = under_way.next().await {
            reply?;
        }
        rates.push(per_second(BURST, start));
    }
    Ok(vec![
        Row::of(format!("actor call {between}, one at a time"), "us", Better::Lower, latencies),
        Row::of(format!("actor calls {between}, pipelined"), "1/s", Better::Higher, rates),
    ])
}

async fn tasks(effort: Effort) -> Result<Vec<Row>> {
    mobula::get(nothing::remote(0)).await?;
    let mut latencies = Vec::new();
    for n in 0..effort.runs(10_000) {
        let start = Instant::now();
        mobula::get(nothing::remote(n as u64)).await?;
        latencies.push(micros(start));
    }
    let mut rates = Vec::new();
    for _ in 0..effort.runs(20) {
        let start = Instant::now();
        mobula::get((0..BATCH as u64).map(nothing::remote).collect::<Vec<_>>()).await?;
        rates.push(per_second(BATCH, start));
    }
    Ok(vec![
        Row::of("task in a worker process, one at a time", "us", Better::Lower, latencies),
        Row::of("tasks in worker processes, pipelined", "1/s", Better::Higher, rates),
    ])
}

/// Milliseconds from nothing to the first result of a function.
async fn joined(cluster: &Cluster) -> Result<f64> {
    let start = Instant::now();
    let session = cluster.session().await?;
    mobula::get(nothing::remote(1)).await?;
    let taken = micros(start) / 1e3;
    session.stop().await;
    Ok(taken)
}
