//! A rolling drain: node after node finishes what it does and leaves, and nothing is lost (G19).

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mobula_cluster::cluster::Plan;
use mobula_cluster::oracle::Holdings;

use crate::cluster;

/// A drain takes at most 30 s; tasks here take 5 ms.
const LEFT: Duration = Duration::from_secs(30);

#[test]
fn nodes_are_drained_one_after_the_other() -> Result<()> {
    let Some((mut cluster, _turn)) = cluster(Plan::of(4).head_apart())? else { return Ok(()) };
    let before = Holdings::of(&cluster);
    let record = cluster.folder().join("r").display().to_string();
    let words = ["load", "--record", &record, "--tasks", "32", "--task-ms", "5"];
    let driver = cluster.drive(0, "driver", &words)?;
    for node in 1..4 {
        thread::sleep(Duration::from_secs(1));
        let ip = cluster.host(node).ip().to_string();
        let nodes = cluster.status(0)?.nodes;
        let found = nodes.iter().find(|node| node.state == "alive" && node.addr.starts_with(&format!("{ip}:")));
        let id = found.with_context(|| format!("no living node is at {ip}"))?.node_id.clone();
        cluster.ask(0, &["drain", &id])?;
        let ended = cluster.node(node)?.wait(LEFT)?;
        ensure!(ended.success(), "a drained node ended with {ended}");
        cluster.forget_node(node);
        cluster.until_alive(3)?;
        cluster.start_node(node)?;
        cluster.until_alive(4)?;
    }
    let report = driver.finish()?;
    println!("{report:#?}");
    ensure!(report.tasks.of("ok") == report.tasks.submitted, "tasks were lost: {:?}", report.tasks);
    before.restored(&cluster)
}
