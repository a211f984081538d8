//! Drains under load: a node that is to leave finishes or hands on what it has, and nobody notices (G19).

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mobula_cluster::cluster::Plan;
use mobula_cluster::oracle::Holdings;
use mobula_cluster::process::until;
use mobula_cluster::report::REPORT;
use serde_json::Value;

use crate::membership::life_of;
use crate::{cluster, times, waiting_cluster};

/// G19: what runs has so long to finish.
const FINISH: Duration = Duration::from_secs(30);

/// A node needs a moment to end.
const LEAVES: Duration = Duration::from_secs(32);

/// Work goes on for so long between two drains.
const BETWEEN: Duration = Duration::from_secs(1);

/// A stream that has begun comes to its end, although the lease of its task and the place of its actor are given back.
#[test]
fn streams_of_a_drained_node_come_to_their_end() -> Result<()> {
    let Some((mut cluster, _turn)) = cluster(Plan::of(2).head_apart())? else { return Ok(()) };
    let mut driver = cluster.drive(0, "driver", &["streams"])?;
    let (id, _) = life_of(&cluster, 1)?;
    cluster.ask(0, &["drain", "--no-wait", &id])?;
    let ended = cluster.node(1)?.wait(LEAVES)?;
    ensure!(ended.success(), "the node ended with {ended}");
    cluster.forget_node(1);
    let said = driver.process.line(REPORT, BETWEEN * 5)?;
    let read: Vec<Value> = serde_json::from_str(&said)?;
    for stream in &read {
        ensure!(stream["error"].is_null() && stream["items"] == stream["of"], "streams were cut off: {said}");
    }
    driver.process.succeed(BETWEEN * 5)?;
    Ok(())
}

/// What does not end in 30 s ends with the node, and whoever waits for it is told why: a caller elsewhere, and a driver on
/// the node itself.
#[test]
fn what_outlives_a_drain_is_told_that_it_was_drained() -> Result<()> {
    let Some((mut cluster, _turn)) = waiting_cluster(Plan::of(2).head_apart())? else { return Ok(()) };
    let mut drivers =
        [cluster.drive(0, "elsewhere", &["death", "wait"])?, cluster.drive(1, "there", &["death", "wait"])?];
    let (id, _) = life_of(&cluster, 1)?;
    let begun = Instant::now();
    cluster.ask(0, &["drain", "--no-wait", &id])?;
    let ended = cluster.node(1)?.wait(LEAVES + BETWEEN)?;
    ensure!(ended.success(), "the node ended with {ended}");
    ensure!(begun.elapsed() > FINISH, "it left after {:?}, while something ran", begun.elapsed());
    cluster.forget_node(1);
    for driver in &mut drivers {
        let said = driver.process.line(REPORT, BETWEEN * 5)?;
        ensure!(said.contains("may_have_run") && said.contains("drained"), "{} heard {said}", driver.process.name());
        driver.process.succeed(BETWEEN * 5)?;
    }
    Ok(())
}

/// A driver keeps its node, until it has ended; what it submits meanwhile runs elsewhere.
#[test]
fn a_driver_goes_on_while_its_node_is_drained() -> Result<()> {
    let Some((mut cluster, _turn)) = cluster(Plan::of(3).head_apart())? else { return Ok(()) };
    let record = cluster.folder().join("r").display().to_string();
    let words = ["load", "--record", &record, "--tasks", "100", "--task-ms", "10", "--actors", "4", "--named"];
    let driver = cluster.drive(1, "driver", &words)?;
    thread::sleep(BETWEEN);
    let (id, _) = life_of(&cluster, 1)?;
    // Else the command line waits until the node has left, and the node for its driver.
    cluster.ask(0, &["drain", "--no-wait", &id])?;
    until("work to leave the node", LEAVES, || {
        let node = cluster.status(0)?.nodes.into_iter().find(|node| node.node_id == id);
        Ok(node.filter(|node| node.resources_free == node.resources_total))
    })?;
    thread::sleep(BETWEEN);
    ensure!(cluster.node(1)?.status()?.is_none(), "a node does not leave its driver");
    let report = driver.finish()?;
    for (what, account) in [("tasks", &report.tasks), ("calls", &report.calls)] {
        let ok = account.of("ok");
        ensure!(ok == account.submitted, "{ok} of {} {what} were ok: {:?}", account.submitted, account.errors);
    }
    let ended = cluster.node(1)?.wait(BETWEEN * 5)?;
    ensure!(ended.success(), "the node ended with {ended}");
    cluster.forget_node(1);
    Ok(())
}

/// Every node but the head's is drained and started again, one after the other. The driver and the homes of its actors
/// are on the head's host; nothing of the job runs there.
#[test]
fn a_rolling_restart_is_noticed_by_nobody() -> Result<()> {
    let Some((mut cluster, _turn)) = cluster(Plan::of(4).head_apart())? else { return Ok(()) };
    let before = Holdings::of(&cluster);
    let record = cluster.folder().join("r").display().to_string();
    // More tasks than places: some wait in the workers that are drained, behind those that run.
    let words = ["load", "--record", &record, "--tasks", "400", "--task-ms", "20", "--actors", "6", "--named"];
    let driver = cluster.drive(0, "driver", &words)?;
    for turn in 0..times(3) {
        let node = 1 + turn % 3;
        thread::sleep(BETWEEN);
        let (id, _) = life_of(&cluster, node)?;
        let begun = Instant::now();
        cluster.ask(0, &["drain", &id])?;
        let ended = cluster.node(node)?.wait(LEAVES).with_context(|| format!("node {node} does not leave"))?;
        println!("node {node} left after {:?}", begun.elapsed());
        ensure!(ended.success(), "node {node} ended with {ended}");
        cluster.forget_node(node);
        cluster.start_node(node)?;
        cluster.until_alive(4)?;
    }
    let report = driver.finish()?;
    println!("{report:#?}");
    for (what, account) in [("tasks", &report.tasks), ("calls", &report.calls)] {
        let ok = account.of("ok");
        ensure!(ok == account.submitted, "{ok} of {} {what} were ok: {:?}", account.submitted, account.errors);
    }
    // What had not begun was handed on, and what had begun was waited for.
    ensure!(report.runs_max == 1, "a task ran {} times", report.runs_max);
    before.restored(&cluster)
}
