//! Processes that stand still: a node that is stopped for less than 5 s is missed by nobody, a longer stop is a death.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mobula_cluster::cluster::Plan;
use mobula_cluster::oracle::Holdings;
use rustix::process::Signal;

use crate::membership::life_of;
use crate::{cluster, times};

#[test]
fn a_node_stands_still_and_goes_on() -> Result<()> {
    let Some((mut cluster, _turn)) = cluster(Plan::of(4).head_apart())? else { return Ok(()) };
    let before = Holdings::of(&cluster);
    let record = cluster.folder().join("r").display().to_string();
    let words = ["load", "--record", &record, "--tasks", "64", "--task-ms", "5", "--actors", "6"];
    let driver = cluster.drive(0, "driver", &words)?;
    for (node, stop_s) in [(1, 1), (2, 4), (3, 8)] {
        let life = life_of(&cluster, node)?;
        cluster.node(node)?.signal(Signal::STOP)?;
        thread::sleep(Duration::from_secs(stop_s));
        cluster.node(node)?.signal(Signal::CONT)?;
        cluster.until_alive(4).with_context(|| format!("node {node} stood still for {stop_s} s"))?;
        let same = life_of(&cluster, node)? == life;
        ensure!(same == (stop_s < 5), "after {stop_s} s, node {node} is {}", if same { "the same" } else { "another" });
    }
    let report = driver.finish()?;
    println!("{report:#?}");
    before.restored(&cluster)
}

/// Threads that compute without a pause, for each CPU of the machine.
const HOGS_PER_CPU: usize = 2;

#[test]
fn nobody_is_taken_for_dead_at_twice_the_cpus() -> Result<()> {
    let Some((cluster, _turn)) = cluster(Plan::of(4))? else { return Ok(()) };
    let lives = || (0..4).map(|node| life_of(&cluster, node)).collect::<Result<Vec<_>>>();
    let before = lives()?;
    let record = cluster.folder().join("r").display().to_string();
    let words = ["load", "--record", &record, "--tasks", "64", "--task-ms", "5", "--actors", "6"];
    let driver = cluster.drive(0, "driver", &words)?;
    // Ten minutes are promised (G11): a long run takes them.
    let hogged = Duration::from_secs(if times(1) > 1 { 600 } else { 6 });
    let cpus = thread::available_parallelism().context("count the CPUs")?.get();
    let end = Instant::now() + hogged;
    thread::scope(|scope| {
        for _ in 0..cpus * HOGS_PER_CPU {
            scope.spawn(|| {
                while Instant::now() < end {
                    std::hint::spin_loop();
                }
            });
        }
    });
    let report = driver.finish()?;
    println!("after {hogged:?}: {report:#?}");
    ensure!(lives()? == before, "somebody was taken for dead: {:?}, before {before:?}", lives()?);
    cluster.until_alive(4).map(drop)
}
