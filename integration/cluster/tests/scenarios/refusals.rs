//! Who may not come in is told so within a second, with what would be right; and it is counted by cause (G20, G21).

use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mobula_cluster::cluster::{Cluster, PORT, Plan, run};

use crate::cluster;

/// The bound is 1 s; a program that is not optimised has to be loaded for it.
const REFUSED: Duration = Duration::from_secs(2);

/// Lets a node try to join from host 1 and gives what it says when it is refused.
fn refused(cluster: &Cluster, words: &[&str], texts: &[&str]) -> Result<()> {
    let mut command = cluster.mobula(1, &["start", "--block", "--port", &PORT.to_string()]);
    command.args(["--address", &cluster.address()]).args(words);
    let begun = Instant::now();
    let Output { status, stderr, .. } = run(command, Duration::from_secs(10))?;
    let (took, said) = (begun.elapsed(), String::from_utf8_lossy(&stderr).into_owned());
    ensure!(!status.success(), "{words:?}: it was let in");
    ensure!(took < REFUSED, "{words:?}: refused only after {took:?}: {said}");
    for text in texts {
        ensure!(said.contains(text), "{words:?}: `{said}` does not say `{text}`");
    }
    Ok(())
}

#[test]
fn a_join_without_a_good_token_is_refused() -> Result<()> {
    let Some((mut cluster, _turn)) = cluster(Plan::of(2))? else { return Ok(()) };
    // Host 1 becomes a stranger again.
    cluster.kill_node(1)?;
    std::fs::remove_dir_all(cluster.node_folder(1))?;

    refused(&cluster, &[], &["mobula token create"])?;
    refused(&cluster, &["--token", "nonsense"], &["token"])?;
    let good = cluster.token("node")?;
    refused(&cluster, &["--token", &good[..good.len() - 3]], &["token"])?;
    let other_pin = format!("{}{}", &good[..good.len() - 3], if good.ends_with("aaa") { "bbb" } else { "aaa" });
    refused(&cluster, &["--token", &other_pin], &["token"])?;
    let viewer = cluster.token("viewer")?;
    refused(&cluster, &["--token", &viewer], &["viewer"])?;

    let expired = cluster.ask(0, &["token", "create", "--role", "node", "--ttl", "1s"])?;
    std::thread::sleep(Duration::from_millis(1_200));
    refused(&cluster, &["--token", expired.lines().next_back().unwrap_or_default()], &["expired"])?;

    // None of these was in the way of a good one; which then is used up.
    cluster.start_node(1)?;
    cluster.until_alive(2)?;
    Ok(())
}
