//! Many actors on a cluster's nodes, what they cost, and how soon deaths are seen and healed.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mobula::prelude::*;
use mobula::{Backoff, Intensity, NodeId, Restart, RestartPolicy};
use rustix::process::{Pid, Signal, kill_process};

use super::cluster::Cluster;
use super::within::{micros, per_second};
use super::{Better, Effort, Row};

/// Actors with a process each.
const ISOLATED: usize = 100;
/// Actors that share a worker.
const SHARED: usize = 100_000;
/// What takes longer than this hangs.
const HANGS: Duration = Duration::from_secs(60);
/// How often it is looked whether a node's death is known.
const LOOK_EVERY: Duration = Duration::from_millis(2);

struct Member {
    calls: u64,
}

#[actor]
impl Member {
    fn new() -> Self {
        Member { calls: 0 }
    }

    /// The system's number of the process it lives in.
    fn process(&mut self) -> u32 {
        self.calls += 1;
        std::process::id()
    }
}

pub(crate) fn rows(effort: Effort) -> Result<Vec<Row>> {
    let mut cluster = Cluster::start(effort)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the driver")?;
    let mut rows = runtime.block_on(async {
        let session = cluster.session().await?;
        let mut rows = isolated(effort).await?;
        rows.extend(shared(effort).await?);
        rows.extend(killed_actors(effort).await?);
        session.stop().await;
        anyhow::Ok(rows)
    })?;
    rows.push(runtime.block_on(killed_nodes(&mut cluster, effort))?);
    Ok(rows)
}

/// Actors with a process each: how fast they come, and what of memory each adds.
async fn isolated(effort: Effort) -> Result<Vec<Row>> {
    let count = effort.runs(ISOLATED);
    let start = Instant::now();
    let mut coming = Vec::new();
    for _ in 0..count {
        coming.push(tokio::spawn(Member::spawn().isolated().on_node(NodeId(1)).into_future()));
    }
    let mut members = Vec::new();
    for member in coming {
        members.push(member.await.context("a spawn panicked")??);
    }
    let rate = per_second(count, start);
    let mut bytes = Vec::new();
    for member in &members {
        bytes.push(memory(member.process().await?, "smaps_rollup", "Pss:")? / f64::from(1 << 20));
    }
    for member in &members {
        member.stop();
    }
    Ok(vec![
        Row::of("actors with a process each, spawned", "1/s", Better::Higher, vec![rate]),
        Row::of("memory per actor with a process (its share of pages)", "MiB", Better::Lower, bytes),
    ])
}

/// Actors of one worker: how fast they come, and what of its memory each takes.
async fn shared(effort: Effort) -> Result<Vec<Row>> {
    let count = effort.runs(SHARED);
    let first = Member::spawn().on_node(NodeId(2)).await?;
    let process = first.process().await?;
    let before = memory(process, "status", "RssAnon:")?;
    let start = Instant::now();
    let mut coming = futures_util::stream::FuturesUnordered::new();
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        coming.push(Member::spawn().on_node(NodeId(2)).into_future());
    }
    while let Some(member) = futures_util::StreamExt::next(&mut coming).await {
        members.push(member?);
    }
    let rate = per_second(count, start);
    ensure!(members.last().context("there are members")?.process().await? == process, "they share a worker");
    let bytes = (memory(process, "status", "RssAnon:")? - before) / count as f64;
    for member in &members {
        member.stop();
    }
    Ok(vec![
        Row::of("actors in one worker, spawned", "1/s", Better::Higher, vec![rate]),
        Row::of("memory per actor in one worker", "B", Better::Lower, vec![bytes]),
    ])
}

/// From the end of an actor's process by force to its next answer.
async fn killed_actors(effort: Effort) -> Result<Vec<Row>> {
    let always = RestartPolicy {
        restart: Restart::Permanent,
        intensity: Intensity { restarts_max: u32::MAX, period: Duration::from_secs(1) },
        backoff: Backoff { first: Duration::ZERO, max: Duration::ZERO },
    };
    let member = Member::spawn().isolated().on_node(NodeId(2)).restart(always).await?;
    let mut taken = Vec::new();
    for _ in 0..effort.runs(30) {
        let process = member.process().await?;
        let pid = i32::try_from(process).ok().and_then(Pid::from_raw).context("a process has a number")?;
        kill_process(pid, Signal::KILL).context("kill an actor's process")?;
        let start = Instant::now();
        loop {
            ensure!(start.elapsed() < HANGS, "a killed actor did not come back");
            // Calls that were with the process when it ended, end so too.
            if member.process().await.is_ok_and(|now| now != process) {
                break;
            }
        }
        taken.push(micros(start) / 1e3);
    }
    member.stop();
    Ok(vec![Row::of("actor's process killed, to its next answer", "ms", Better::Lower, taken)])
}

/// From the end of a node by force to the moment the others know.
async fn killed_nodes(cluster: &mut Cluster, effort: Effort) -> Result<Row> {
    let session = cluster.session().await?;
    let mut taken = Vec::new();
    for _ in 0..effort.runs(10) {
        let process = cluster.join()?;
        until(3).await?;
        cluster.kill(process)?;
        let start = Instant::now();
        until(2).await?;
        taken.push(micros(start) / 1e3);
    }
    session.stop().await;
    Ok(Row::of("node killed, to known", "ms", Better::Lower, taken))
}

/// Waits until the cluster has so many nodes.
async fn until(count: usize) -> Result<()> {
    let start = Instant::now();
    while mobula::nodes().await?.len() != count {
        ensure!(start.elapsed() < HANGS, "the cluster does not come to have {count} nodes");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Bytes of a process's memory, as one line of the system's books has them.
fn memory(process: u32, book: &str, line: &str) -> Result<f64> {
    let path = format!("/proc/{process}/{book}");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let kib = text.lines().find_map(|text| text.strip_prefix(line)?.trim().strip_suffix("kB"));
    let kib: f64 = kib.with_context(|| format!("{path} has no line {line}"))?.trim().parse()?;
    Ok(kib * 1024.0)
}
