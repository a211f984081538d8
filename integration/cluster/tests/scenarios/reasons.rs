//! What waits says what for: each its own reason, and a fresh one (`mobula why`).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mobula_cluster::cluster::{Cluster, Plan};
use mobula_cluster::process::until;
use mobula_cluster::report::FINISH;
use mobula_types::state::Listed;

use crate::cluster;

/// Lists are gathered, and a load needs a moment to be where it will be.
const SETTLES: Duration = Duration::from_secs(10);

/// A reason is no older than 1 s; it is made when it is asked for. The rest is the command line's.
const FRESH: Duration = Duration::from_secs(10);

fn why(cluster: &Cluster, id: &str) -> Result<String> {
    let begun = Instant::now();
    let said = cluster.ask(0, &["why", id])?;
    ensure!(begun.elapsed() < FRESH, "a reason came after {:?}", begun.elapsed());
    Ok(said)
}

/// Waits until something of this name is listed so.
fn find(cluster: &Cluster, kind: &str, is_it: impl Fn(&Listed) -> bool) -> Result<Listed> {
    let found = until("what waits to be listed", SETTLES, || Ok(cluster.list(0, kind)?.into_iter().find(&is_it)));
    found.with_context(|| format!("listed are {:?}", cluster.list(0, kind)))
}

#[test]
fn what_waits_says_what_for() -> Result<()> {
    let Some((cluster, _turn)) = cluster(Plan::of(1))? else { return Ok(()) };
    let mut driver = cluster.drive(0, "driver", &["lack"])?;
    let named = |what: &'static str| move |item: &Listed| item.name.contains(what);

    let many = find(&cluster, "tasks", |item| named("needs_many")(item) && item.state == "waiting")?;
    let said = why(&cluster, &many.id)?;
    ensure!(said.contains("num_cpus = 99") && said.contains('2') && said.contains("node-1"), "{said}");

    let needy = find(&cluster, "actors", |item| named("Needy")(item) && item.state == "waiting")?;
    let said = why(&cluster, &needy.id)?;
    ensure!(said.contains("num_cpus = 77") && !said.contains("99"), "{said}");

    let is_ring = |item: &Listed| item.why.as_ref().is_some_and(|why| why.contains(" → "));
    let stuck = find(&cluster, "actors", |item| named("Stuck")(item) && is_ring(item))?;
    let all = cluster.list(0, "actors")?;
    let other = all.iter().find(|item| named("Stuck")(item) && item.id != stuck.id).context("there are two")?;
    let said = why(&cluster, &stuck.id)?;
    let ring = format!("it waits for itself: {} → {} → {}", stuck.id, other.id, stuck.id);
    ensure!(said.contains(&ring), "{said}");

    // Of those that keep the CPUs some run, some were sent ahead, and some wait behind others.
    find(&cluster, "tasks", |item| named("keep")(item) && item.state == "running")?;
    let sent = find(&cluster, "tasks", |item| named("keep")(item) && item.state == "sent")?;
    let said = why(&cluster, &sent.id)?;
    ensure!(said.contains("older ones were sent to the same place"), "{said}");
    let is_behind =
        |item: &Listed| item.why.as_ref().is_some_and(|why| why.contains("older or more urgent ones of its process"));
    let behind = find(&cluster, "tasks", |item| named("keep")(item) && is_behind(item))?;
    let said = why(&cluster, &behind.id)?;
    ensure!(
        said.contains("older or more urgent ones of its process wait for the same: num_cpus = 1, 0 of 2 are free"),
        "{said}"
    );

    driver.process.tell(FINISH)?;
    driver.process.succeed(SETTLES)?;
    Ok(())
}
