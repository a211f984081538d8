//! Placement groups that are made and removed: in one process, and on two nodes of this host, by way of their head.

use std::time::Instant;

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use mobula::PlacementGroup;

use super::cluster::Cluster;
use super::within::{a_session, micros, per_second};
use super::{Better, Effort, Row};

/// Groups that are asked for at once, of one small bundle each, as `ray microbenchmark` does.
const GROUPS: usize = 100;
/// CPUs of a bundle.
const SMALL: f64 = 0.001;

pub(crate) fn rows(effort: Effort) -> Result<Vec<Row>> {
    let mut rows = a_session(async |_| measured(["create/removal per second", "made and removed"], effort).await)?;
    let cluster = Cluster::start(effort)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the driver")?;
    rows.extend(runtime.block_on(async {
        let session = cluster.session().await?;
        let rows = measured(["create/removal, cluster", "made and removed, cluster"], effort).await;
        session.stop().await;
        rows
    })?);
    Ok(rows)
}

async fn measured([rate, latency]: [&str; 2], effort: Effort) -> Result<Vec<Row>> {
    // The first finds nothing prepared.
    many().await?;
    let (mut latencies, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..effort.runs(1_000) {
        let start = Instant::now();
        one().await?.remove().await?;
        latencies.push(micros(start));
    }
    for _ in 0..effort.runs(20) {
        let start = Instant::now();
        many().await?;
        rates.push(per_second(GROUPS, start));
    }
    Ok(vec![
        Row::of(format!("placement group {rate}"), "1/s", Better::Higher, rates),
        Row::of(format!("placement group {latency}"), "us", Better::Lower, latencies),
    ])
}

async fn one() -> Result<PlacementGroup> {
    Ok(mobula::placement_group().bundle(|bundle| bundle.num_cpus(SMALL)).create().await?)
}

async fn many() -> Result<()> {
    let groups = try_join_all((0..GROUPS).map(|_| one())).await?;
    for group in groups {
        group.remove().await?;
    }
    Ok(())
}
