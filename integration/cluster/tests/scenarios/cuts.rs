//! Cuts of the network of each kind, for 30 s, and healing (G13).

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mobula_cluster::cluster::{Cluster, Plan};
use mobula_cluster::hosts::Network;
use mobula_cluster::oracle::Holdings;
use mobula_cluster::report::Report;

use crate::promises::{ASKED, HEALED, SILENT};
use crate::waiting_cluster;

const CUT: Duration = Duration::from_secs(30);

fn cut(driver_on: usize, alive_meanwhile: usize, cut: impl Fn(&Network) -> Result<()>) -> Result<()> {
    let Some((cluster, _turn)) = waiting_cluster(Plan::of(4).head_apart())? else { return Ok(()) };
    let before = Holdings::of(&cluster);
    let record = cluster.folder().join("r").display().to_string();
    let words = ["load", "--record", &record, "--tasks", "32", "--task-ms", "5", "--actors", "6", "--names", "100"];
    let driver = cluster.drive(driver_on, "driver", &words)?;
    thread::sleep(Duration::from_secs(1));
    cut(cluster.network())?;
    let begun = Instant::now();
    cluster.until_alive(alive_meanwhile)?;
    println!("the head missed them after {:?}", begun.elapsed());
    ensure!(begun.elapsed() < SILENT + ASKED, "the head missed nodes only after {:?}", begun.elapsed());
    thread::sleep(CUT.saturating_sub(begun.elapsed()));
    cluster.network().heal()?;
    let begun = Instant::now();
    cluster.until_alive(4)?;
    println!("all were back after {:?}", begun.elapsed());
    ensure!(begun.elapsed() < HEALED, "all were back only after {:?}", begun.elapsed());
    let report = driver.finish()?;
    println!("{report:#?}");
    served(&cluster, driver_on)?;
    before.restored(&cluster)
}

/// A job that begins now finds everything as it should be.
fn served(cluster: &Cluster, node: usize) -> Result<()> {
    let record = cluster.folder().join("s").display().to_string();
    let words = ["load", "--record", &record, "--tasks", "32", "--actors", "6"];
    let driver = cluster.drive(node, "after", &words)?;
    thread::sleep(Duration::from_secs(1));
    let report: Report = driver.finish().context("a job after the cut was healed")?;
    ensure!(report.tasks.of("ok") == report.tasks.submitted && report.calls.of("ok") == report.calls.submitted);
    Ok(())
}

#[test]
fn the_head_is_cut_from_the_rest() -> Result<()> {
    cut(0, 1, |network| network.cut(&[0]))
}

#[test]
fn one_node_is_cut_off() -> Result<()> {
    cut(1, 3, |network| network.cut(&[3]))
}

#[test]
fn one_direction_is_cut() -> Result<()> {
    // Node 3 hears the head, which does not hear it.
    cut(1, 3, |network| network.cut_one_way(3, 0))
}
