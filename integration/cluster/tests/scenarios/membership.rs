//! Nodes alone, without work: who is counted as alive, when, and in which life. What goes wrong here goes wrong
//! everywhere else, too.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mobula_cluster::cluster::{Cluster, Plan};
use rustix::process::Signal;

use crate::promises::{ASKED, HEALED, KILLED, REGISTERED, SILENT};
use crate::{cluster, waiting_cluster};

/// A node on which nothing runs needs a moment to end; G19 gives it 30 s for what does.
const ENDS: Duration = Duration::from_secs(5);

fn known(cluster: &Cluster, alive: usize, within: Duration, what: &str) -> Result<()> {
    let begun = Instant::now();
    cluster.until_alive(alive).with_context(|| what.to_owned())?;
    println!("{what}: known after {:?}", begun.elapsed());
    ensure!(begun.elapsed() < within + ASKED, "{what}: known only after {:?}", begun.elapsed());
    Ok(())
}

/// Which life of which node the head counts at the address of this one.
pub(crate) fn life_of(cluster: &Cluster, node: usize) -> Result<(String, u32)> {
    let ip = cluster.host(node).ip().to_string();
    let nodes = cluster.status(0)?.nodes;
    let found = nodes.iter().find(|node| node.state == "alive" && node.addr.starts_with(&format!("{ip}:")));
    let found = found.with_context(|| format!("the head knows of no living node at {ip}: {nodes:?}"))?;
    Ok((found.node_id.clone(), found.incarnation))
}

#[test]
fn a_killed_node_is_known_and_comes_back() -> Result<()> {
    let Some((mut cluster, _turn)) = cluster(Plan::of(3))? else { return Ok(()) };
    // Each once: a host answers for closed ports a few times at once, and then for seconds hardly.
    for node in [1, 2] {
        let life = life_of(&cluster, node)?;
        cluster.kill_node(node)?;
        known(&cluster, 2, KILLED, "a killed node")?;
        cluster.start_node(node)?;
        known(&cluster, 3, HEALED, "a node that was started again")?;
        ensure!(life_of(&cluster, node)? != life, "another life of node {node} is told apart");
    }
    Ok(())
}

#[test]
fn a_stopped_node_is_missed_after_five_seconds() -> Result<()> {
    let Some((mut cluster, _turn)) = waiting_cluster(Plan::of(3))? else { return Ok(()) };
    let life = life_of(&cluster, 1)?;
    // Not asked meanwhile: an answer waits a while for what the stopped node would say.
    cluster.node(1)?.signal(Signal::STOP)?;
    thread::sleep(Duration::from_secs(4));
    cluster.node(1)?.signal(Signal::CONT)?;
    thread::sleep(Duration::from_secs(1));
    ensure!(life_of(&cluster, 1)? == life, "4 s are no death: it goes on as it was");

    cluster.node(1)?.signal(Signal::STOP)?;
    known(&cluster, 2, SILENT, "a node that stands still")?;
    cluster.node(1)?.signal(Signal::CONT)?;
    known(&cluster, 3, HEALED, "a node that goes on")?;
    ensure!(life_of(&cluster, 1)? != life, "it comes back in another life");
    Ok(())
}

#[test]
fn who_is_cut_off_is_missed_and_comes_back() -> Result<()> {
    let Some((cluster, _turn)) = waiting_cluster(Plan::of(4))? else { return Ok(()) };
    let network = cluster.network();
    network.cut(&[3])?;
    known(&cluster, 3, SILENT, "a node cut off")?;
    network.heal()?;
    known(&cluster, 4, HEALED, "a node that was cut off")?;
    network.cut(&[0])?;
    known(&cluster, 1, SILENT, "all cut off from the head")?;
    network.heal()?;
    known(&cluster, 4, HEALED, "all that were cut off from the head")?;
    network.cut_one_way(3, 0)?;
    known(&cluster, 3, SILENT, "a node that is not heard")?;
    network.heal()?;
    known(&cluster, 4, HEALED, "a node that was not heard")?;
    network.cut_one_way(0, 3)?;
    known(&cluster, 3, SILENT, "a node that does not hear")?;
    network.heal()?;
    known(&cluster, 4, HEALED, "a node that did not hear")
}

/// Whoever lives goes on living: nodes that do not hear one another, but the head, are all there.
#[test]
fn a_cut_between_two_nodes_is_no_death() -> Result<()> {
    let Some((cluster, _turn)) = waiting_cluster(Plan::of(3))? else { return Ok(()) };
    let lives = [life_of(&cluster, 1)?, life_of(&cluster, 2)?];
    cluster.network().cut_one_way(1, 2)?;
    cluster.network().cut_one_way(2, 1)?;
    // Longer than any death takes to be known.
    thread::sleep(SILENT + KILLED + ASKED);
    ensure!([life_of(&cluster, 1)?, life_of(&cluster, 2)?] == lives, "the head hears both");
    Ok(())
}

#[test]
fn a_head_that_is_started_again_finds_its_nodes() -> Result<()> {
    let Some((mut cluster, _turn)) = cluster(Plan::of(3))? else { return Ok(()) };
    let before = cluster.status(0)?;
    for turn in 1..=3 {
        cluster.kill_node(0)?;
        cluster.start_node(0)?;
        known(&cluster, 3, REGISTERED, "nodes of a head that was started again")?;
        let after = cluster.status(0)?;
        ensure!(after.cluster_id == before.cluster_id, "it is the same cluster");
        ensure!(after.epoch == before.epoch + turn, "epoch {} after {turn} restarts of {}", after.epoch, before.epoch);
    }
    Ok(())
}

#[test]
fn a_node_that_is_told_to_leaves() -> Result<()> {
    let Some((mut cluster, _turn)) = cluster(Plan::of(3))? else { return Ok(()) };
    cluster.ask(1, &["stop"])?;
    let ended = cluster.node(1)?.wait(ENDS)?;
    ensure!(ended.success(), "a node that was told to stop ended with {ended}");
    cluster.forget_node(1);
    known(&cluster, 2, KILLED, "a node that left")?;

    let (id, _) = life_of(&cluster, 2)?;
    cluster.ask(0, &["drain", &id])?;
    let ended = cluster.node(2)?.wait(ENDS)?;
    ensure!(ended.success(), "a drained node ended with {ended}");
    cluster.forget_node(2);
    known(&cluster, 1, KILLED, "a drained node")
}
