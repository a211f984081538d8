//! Much of one kind at once: arguments, results, references that are waited for, tasks in a queue. In one process, and on a
//! cluster.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use mobula::ObjectRef;
use mobula::prelude::*;

use super::cluster::Cluster;
use super::within::{a_session, micros, resident_bytes};
use super::{Better, Effort, Row};

/// Arguments of one task.
const ARGUMENTS: u64 = 10_000;
/// Results of one task.
const RESULTS: u64 = 3_000;
/// References that are waited for, one by one.
const WAITED: u64 = 1_000;
/// Tasks that wait at once, and many more of them.
const QUEUED: [u64; 2] = [100_000, 1_000_000];

#[remote]
async fn sum(numbers: Vec<ObjectRef<u64>>) -> u64 {
    match mobula::get(numbers).await {
        Ok(numbers) => numbers.iter().map(|number| **number).sum(),
        Err(_) => 0,
    }
}

#[remote]
fn results() -> Vec<ObjectRef<u64>> {
    (0..RESULTS).filter_map(|n| mobula::put(n).ok()).collect()
}

#[remote]
fn same(n: u64) -> u64 {
    n
}

#[remote]
fn kilobyte() -> Vec<ObjectRef<Vec<u8>>> {
    mobula::put(vec![7; 1_024]).into_iter().collect()
}

pub(crate) fn rows(effort: Effort) -> Result<Vec<Row>> {
    let mut rows = a_session(async |_| measured("in one process", effort).await)?;
    let cluster = Cluster::start(effort)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the driver")?;
    rows.extend(runtime.block_on(async {
        let session = cluster.session().await?;
        mobula::get(same::remote(0)).await?;
        let mut rows = measured("on a cluster", effort).await?;
        rows.push(one_of_another(effort).await?);
        session.stop().await;
        anyhow::Ok(rows)
    })?);
    Ok(rows)
}

async fn measured(place: &str, effort: Effort) -> Result<Vec<Row>> {
    let numbers = (0..ARGUMENTS).map(mobula::put).collect::<Result<Vec<_>, _>>()?;
    let (mut arguments, mut from_one, mut waits) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.runs(20) {
        let start = Instant::now();
        let total = *mobula::get(sum::remote(numbers.clone())).await?;
        arguments.push(micros(start) / 1e3);
        ensure!(total == (0..ARGUMENTS).sum::<u64>(), "the arguments were others");
        let start = Instant::now();
        let made = mobula::get(results::remote()).await?;
        let made = mobula::get(&*made).await?;
        from_one.push(micros(start) / 1e3);
        ensure!(made.len() as u64 == RESULTS, "{} of {RESULTS} results came", made.len());
        let start = Instant::now();
        let mut rest: Vec<_> = (0..WAITED).map(same::remote).collect();
        while !rest.is_empty() {
            rest = mobula::wait(&rest).await?.1;
        }
        waits.push(micros(start) / 1e3);
    }
    let mut rows = vec![
        Row::of(format!("10,000 arguments to one task, {place}"), "ms", Better::Lower, arguments),
        Row::of(format!("3,000 results of one task, {place}"), "ms", Better::Lower, from_one),
        Row::of(format!("wait on 1,000 references, one by one, {place}"), "ms", Better::Lower, waits),
    ];
    for count in QUEUED {
        let (mut taken, mut bytes) = (Vec::new(), Vec::new());
        for _ in 0..effort.runs(5) {
            let before = resident_bytes()?;
            let start = Instant::now();
            let tasks: Vec<_> = (0..count).map(same::remote).collect();
            bytes.push(resident_bytes()?.saturating_sub(before) as f64 / f64::from(1 << 20));
            let values = mobula::get(tasks).await?;
            taken.push(micros(start) / 1e6);
            ensure!(values.iter().map(|n| **n).eq(0..count), "tasks gave what others should have given");
        }
        rows.push(Row::of(format!("{count} tasks queued and done, {place}"), "s", Better::Lower, taken));
        rows.push(Row::of(format!("{count} tasks queued, driver's memory, {place}"), "MiB", Better::Lower, bytes));
    }
    Ok(rows)
}

/// A small value that another process has put.
async fn one_of_another(effort: Effort) -> Result<Row> {
    let mut taken = Vec::new();
    for _ in 0..effort.runs(1_000) {
        let put = mobula::get(kilobyte::remote()).await?;
        let start = Instant::now();
        mobula::get(&put[0]).await?;
        taken.push(micros(start));
    }
    Ok(Row::of("get 1 KB that another process has put", "us", Better::Lower, taken))
}
