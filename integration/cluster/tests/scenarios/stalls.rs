//! Processes that stand still: a node that is stopped for less than 5 s is missed by nobody, a longer stop is a death.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mobula_cluster::cluster::Plan;
use mobula_cluster::oracle::Holdings;
use rustix::process::Signal;

use crate::cluster;
use crate::membership::life_of;

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
