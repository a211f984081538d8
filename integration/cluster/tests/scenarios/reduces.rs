//! Gigabytes are added up on nodes that are killed meanwhile (G2, G9, G10).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mobula_cluster::cluster::{Cluster, Plan};
use mobula_cluster::oracle::Holdings;
use mobula_cluster::process::{Process, until};
use mobula_cluster::report::FINISH;

use crate::cluster;

/// 2 GiB in so many arrays.
const LEAVES: &str = "64";
/// Numbers of each: 32 MiB.
const WORDS: &str = "4194304";

/// These builds are not optimised, and what is lost is made again.
const ADDED: Duration = Duration::from_secs(120);

/// Freed within 1 s of the last reference (G9); the rest is the command line's.
const FREED: Duration = Duration::from_secs(10);

#[test]
fn a_sum_over_two_gigabytes_survives_the_death_of_nodes() -> Result<()> {
    let Some((mut cluster, _turn)) = cluster(Plan::of(4).head_apart())? else { return Ok(()) };
    let before = Holdings::of(&cluster).under_gigabytes();
    let mut driver = cluster.drive(0, "driver", &["reduce", "--leaves", LEAVES, "--words", WORDS])?.process;
    // The driver is still there: with it, its tasks and objects would be gone.
    add_up(&mut cluster, &mut driver).with_context(|| what_there_is(&cluster))?;
    driver.tell(FINISH)?;
    driver.succeed(FREED)?;
    before.restored(&cluster)
}

fn add_up(cluster: &mut Cluster, driver: &mut Process) -> Result<()> {
    let begun = Instant::now();
    for (node, level) in [(1, "half of 64"), (2, "half of 16")] {
        driver.line(level, ADDED)?;
        println!("{level} after {:?}", begun.elapsed());
        cluster.kill_node(node)?;
        cluster.start_node(node)?;
    }
    let sum = driver.line("the sum is ", ADDED)?;
    println!("the sum after {:?}", begun.elapsed());
    ensure!(sum == "right", "the sum is {sum}");
    cluster.until_alive(4)?;
    until("all stores to be empty", FREED, || {
        let used: u64 = cluster.until_alive(4)?.iter().map(|node| node.store_bytes_used).sum();
        Ok((used == 0 && cluster.list(0, "objects")?.is_empty()).then_some(()))
    })
}

/// What every node says of tasks and objects.
fn what_there_is(cluster: &Cluster) -> String {
    let listed = ["tasks", "objects"].map(|kind| format!("{kind}: {:?}", cluster.list(0, kind)));
    listed.join("\n")
}
