//! The head is killed again and again while names are registered: nothing acknowledged is lost (G12).

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mobula_cluster::cluster::Plan;
use mobula_cluster::oracle::Holdings;
use mobula_cluster::process::until;
use mobula_cluster::report::NAMES;

use crate::{cluster, times};

/// New placements wait for a head no longer than it takes nodes to register again, 2 s (G12); ten times that is a hang.
const REGISTERED: Duration = Duration::from_secs(20);

/// Nodes register with a head that is back in this time (G12).
const BACK: Duration = Duration::from_secs(2);

#[test]
fn the_head_is_killed_during_registrations() -> Result<()> {
    let Some((mut cluster, _turn)) = cluster(Plan::of(3).head_apart())? else { return Ok(()) };
    let before = Holdings::of(&cluster);
    let record = cluster.folder().join("r").display().to_string();
    // What runs is on the other nodes: it goes on without the head.
    let words = ["load", "--record", &record, "--names", "5000", "--tasks", "16", "--task-ms", "5", "--actors", "3"];
    let words = words.into_iter().chain(["--detached"]).collect::<Vec<_>>();
    let driver = cluster.drive(1, "driver", &words)?;
    let epoch = cluster.status(0)?.epoch;
    let kills = times(20);
    let registered = || fs::read_to_string(Path::new(&record).join(NAMES)).map_or(0, |names| names.lines().count());
    for _ in 0..kills {
        // In the midst of registrations: since the head is back some have been acknowledged, and more are to come.
        let had = registered();
        thread::sleep(Duration::from_millis(500));
        until("names to be registered", REGISTERED, || Ok((registered() > had + 1).then_some(())))?;
        cluster.kill_node(0)?;
        cluster.start_node(0)?;
        let begun = Instant::now();
        cluster.until_alive(3)?;
        println!("all nodes were back {:?} after the head", begun.elapsed());
        ensure!(begun.elapsed() < BACK, "nodes came back only after {:?}", begun.elapsed());
    }
    let after = cluster.status(0)?.epoch;
    ensure!(after == epoch + kills as u64, "epoch {epoch} was followed by {after} after {kills} restarts");
    let report = driver.finish()?;
    println!("{report:#?}");
    ensure!(report.names.of("ok") > kills as u64, "hardly a name was registered: {:?}", report.names);
    ensure!(report.tasks.of("ok") == report.tasks.submitted, "tasks need no head: {:?}", report.tasks);
    ensure!(report.calls.of("ok") == report.calls.submitted, "calls need no head: {:?}", report.calls);
    before.restored(&cluster)
}
