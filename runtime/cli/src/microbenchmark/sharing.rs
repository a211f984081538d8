//! Large values between processes: in the memory of one host, and from node to node.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use mobula::prelude::*;
use mobula::{NodeId, View};

use super::cluster::Cluster;
use super::within::micros;
use super::{Better, Effort, Row};

/// 100 MB of numbers.
const ARRAY: usize = 25_000_000;
/// A gigabyte of them.
const GIGABYTE: usize = 250_000_000;
/// What one value may have between nodes.
const PULLED: usize = 60_000_000;

#[remote]
fn nothing() -> f32 {
    0.0
}

#[remote]
fn first(array: View<Vec<f32>>) -> f32 {
    array[0]
}

#[remote]
fn make(count: usize) -> Vec<f32> {
    vec![1.0; count]
}

pub(crate) fn rows(effort: Effort) -> Result<Vec<Row>> {
    let cluster = Cluster::start(effort)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the driver")?;
    runtime.block_on(async {
        let session = cluster.session().await?;
        let mut rows = vec![copied(effort)];
        rows.extend(written(effort).await?);
        rows.push(by_reference(effort).await?);
        rows.push(looked_at(effort).await?);
        rows.push(pulled(effort).await?);
        session.stop().await;
        Ok(rows)
    })
}

fn gigabytes_per_second(count: usize, start: Instant) -> f64 {
    (count * size_of::<f32>()) as f64 / 1e9 / start.elapsed().as_secs_f64()
}

/// What the memory does: a copy into pages that are there.
fn copied(effort: Effort) -> Row {
    let (source, mut target) = (vec![1f32; GIGABYTE], vec![2f32; GIGABYTE]);
    let copy = |_| {
        let start = Instant::now();
        target.copy_from_slice(black_box(&source));
        black_box(&mut target);
        gigabytes_per_second(GIGABYTE, start)
    };
    Row::of("copy of 1 GB into warm memory", "GB/s", Better::Higher, (0..effort.runs(10)).map(copy).collect())
}

/// A gigabyte is put where others read it: the first after start, and then again and again.
async fn written(effort: Effort) -> Result<Vec<Row>> {
    let source = vec![1f32; GIGABYTE];
    let mut rates = Vec::new();
    for _ in 0..effort.runs(10) + 1 {
        let start = Instant::now();
        let mut writer = mobula::writer::<f32>(GIGABYTE).await?;
        writer.copy_from_slice(&source);
        let put = writer.put();
        rates.push(gigabytes_per_second(GIGABYTE, start));
        drop(black_box(put));
    }
    let steady = rates.split_off(1);
    Ok(vec![
        Row::of("put 1 GB, first after start", "GB/s", Better::Higher, rates),
        Row::of("put 1 GB, steady", "GB/s", Better::Higher, steady),
    ])
}

/// What a reference to 100 MB costs a task, beyond one that takes nothing.
async fn by_reference(effort: Effort) -> Result<Row> {
    let array = mobula::put(vec![1f32; ARRAY])?;
    let (here, mut beyond) = (NodeId(1), Vec::new());
    for _ in 0..10 {
        mobula::get(first::options().on_node(here).remote(&array)).await?;
        mobula::get(nothing::options().on_node(here).remote()).await?;
    }
    for _ in 0..effort.runs(1_000) {
        let start = Instant::now();
        mobula::get(nothing::options().on_node(here).remote()).await?;
        let plain = micros(start);
        let start = Instant::now();
        mobula::get(first::options().on_node(here).remote(&array)).await?;
        beyond.push(micros(start) - plain);
    }
    Ok(Row::of("100 MB by reference, beyond a plain task", "us", Better::Lower, beyond))
}

/// A gigabyte that another process has made is looked at.
async fn looked_at(effort: Effort) -> Result<Row> {
    let mut taken = Vec::new();
    for _ in 0..effort.runs(5) {
        let made = make::options().on_node(NodeId(1)).remote(PULLED);
        mobula::wait(std::slice::from_ref(&made)).await?;
        let start = Instant::now();
        let view = mobula::get_view(&made).await?;
        ensure!(black_box(view[PULLED - 1]).to_bits() == 1f32.to_bits(), "it is another value");
        taken.push(micros(start));
    }
    Ok(Row::of("get_view of 240 MB that another process made", "us", Better::Lower, taken))
}

/// A value comes from another node.
async fn pulled(effort: Effort) -> Result<Row> {
    let mut rates = Vec::new();
    for _ in 0..effort.runs(10) {
        let array = mobula::put(vec![1f32; PULLED])?;
        mobula::get(nothing::options().on_node(NodeId(2)).remote()).await?;
        let start = Instant::now();
        mobula::get(first::options().on_node(NodeId(2)).remote(&array)).await?;
        rates.push(gigabytes_per_second(PULLED, start));
    }
    Ok(Row::of("pull of 240 MB between nodes", "GB/s", Better::Higher, rates))
}
