//! Jobs share a cluster, wherever their drivers are.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use mobula_cluster::cluster::{Cluster, Driver, Plan};
use mobula_cluster::process::until;

use crate::waiting_cluster;

const NODES: usize = 3;

/// CPUs of each.
const CPUS: u64 = 2;

/// What the job that comes second must have of all CPUs, in percent.
const SHARE: u64 = 40;

/// It has it when the tasks have ended that run as it comes, which take a second; and a loaded machine needs some to start
/// its workers.
const WITHIN: Duration = Duration::from_secs(6);

/// For so long it is looked at.
const LOOKED_AT: Duration = Duration::from_secs(5);

/// Programs go to all nodes first.
const BEGUN_WITHIN: Duration = Duration::from_secs(60);

/// A task that has ended, as its driver says.
struct Run {
    pid: u32,
    begun_ms: u64,
    ended_ms: u64,
}

fn runs(driver: &Driver) -> Vec<Run> {
    let said = driver.process.output();
    let run = |line: &str| {
        let mut words = line.strip_prefix("ran ")?.split(' ');
        let pid = words.next()?.parse().ok()?;
        let (begun_ms, ended_ms) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Run { pid, begun_ms, ended_ms })
    };
    said.lines().filter_map(run).collect()
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The nodes on which tasks have run.
fn nodes_of(cluster: &Cluster, runs: &[Run]) -> BTreeSet<usize> {
    let is_on = |node: &usize| {
        let pids = cluster.host(*node).pids();
        runs.iter().any(|run| pids.contains(&run.pid))
    };
    (0..NODES).filter(is_on).collect()
}

#[test]
fn a_job_that_comes_second_has_its_share_of_every_node() -> Result<()> {
    let Some((cluster, _turn)) = waiting_cluster(Plan::of(NODES))? else { return Ok(()) };
    let first = cluster.drive(0, "first", &["sleep", "--tasks", "4000"])?;
    until("tasks of the first job on all nodes", BEGUN_WITHIN, || {
        Ok((nodes_of(&cluster, &runs(&first)).len() == NODES).then_some(()))
    })?;

    let second = cluster.drive(1, "second", &["sleep", "--tasks", "100"])?;
    let from_ms = now_ms() + WITHIN.as_millis() as u64;
    let until_ms = from_ms + LOOKED_AT.as_millis() as u64;
    let is_over = |runs: &[Run]| runs.iter().any(|run| run.ended_ms > until_ms + 2_000);
    let looks_within = WITHIN + LOOKED_AT * 4;
    let seen = until("what ran meanwhile", looks_within, || Ok(Some(runs(&second)).filter(|runs| is_over(runs))))?;

    let used_ms = |run: &Run| run.ended_ms.min(until_ms).saturating_sub(run.begun_ms.max(from_ms));
    let used_ms: u64 = seen.iter().map(used_ms).sum();
    let all_ms = (until_ms - from_ms) * CPUS * NODES as u64;
    let share = used_ms * 100 / all_ms;
    ensure!(share >= SHARE, "the second job has {share} % of all CPUs, its driver being on one of {NODES} nodes");
    ensure!(nodes_of(&cluster, &seen).len() == NODES, "the second job has a share of {:?}", nodes_of(&cluster, &seen));
    Ok(())
}
