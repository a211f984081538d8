//! A placement group whose node dies: what that node kept is reserved anew where there is room, and what was in it begins
//! its next life there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mobula_cluster::cluster::{Cluster, Plan};
use mobula_cluster::process::until;
use mobula_cluster::report::{FINISH, GROUP, life};
use mobula_types::state::Listed;

use crate::cluster;
use crate::promises::KILLED;

/// Lists are gathered, a node's load is heard with its beats, and a worker has to start.
const SETTLES: Duration = Duration::from_secs(20);

/// The group, as soon as it is listed so.
fn find(cluster: &Cluster, state: &str) -> Result<Listed> {
    let find = || Ok(cluster.list(0, "placement-groups")?.into_iter().find(|group| group.state == state));
    let found = until(&format!("a group that is {state}"), SETTLES, find);
    found.with_context(|| format!("listed are {:?}", cluster.list(0, "placement-groups")))
}

#[test]
fn a_group_is_placed_again_when_a_node_of_it_dies() -> Result<()> {
    let Some((mut cluster, _turn)) = cluster(Plan::of(3).head_apart())? else { return Ok(()) };
    let mut driver = cluster.drive(0, "driver", &["groups"])?;
    let id = driver.process.line(GROUP, SETTLES)?;
    let mut living =
        |bundle, number| -> Result<u32> { Ok(driver.process.line(&life(bundle, number), SETTLES + KILLED)?.parse()?) };
    let first = [living(0, 1)?, living(1, 1)?];
    // Each bundle is most of a node.
    let lost = u32::from(cluster.workers(2).contains(&first[1]));
    let kept = 1 - lost;
    ensure!(cluster.workers(1).contains(&first[kept as usize]), "nodes are {first:?}");
    ensure!(cluster.workers(2).contains(&first[lost as usize]), "nodes are {first:?}");
    let before = find(&cluster, "ready")?;
    ensure!(before.id == id, "{id} is made, {before:?} is listed");

    cluster.kill_node(2)?;
    let waiting = find(&cluster, "waiting")?;
    let nodes = waiting.node_id.clone().unwrap_or_default();
    ensure!(nodes.split(' ').nth(lost as usize) == Some("-"), "what died is on no node: {waiting:?}");
    // A head that is young cannot know yet that nobody else has it.
    let expected = "1 bundles have no room now: most is free on node-";
    until("the reason of the group", SETTLES, || {
        let said = cluster.ask(0, &["why", &id])?;
        ensure!(said.contains(&id) && said.contains("is waiting since"), "{said}");
        Ok(said.contains(expected).then_some(()))
    })?;
    let tenant = until("an actor without a place", SETTLES, || {
        let is_it = |actor: &Listed| actor.name.contains("Tenant") && actor.why.is_some();
        Ok(cluster.list(0, "actors")?.into_iter().find(is_it))
    })?;
    let said = cluster.ask(0, &["why", &tenant.id])?;
    ensure!(said.contains(&format!("bundle {lost} of {id}")), "{said}");

    cluster.start_node(2)?;
    let process = living(lost, 2)?;
    ensure!(cluster.workers(2).contains(&process), "{process} is not on the node that has room");
    let after = find(&cluster, "ready")?;
    ensure!(after.id == id && after.node_id != before.node_id, "before {before:?}, after {after:?}");

    driver.process.tell(FINISH)?;
    driver.process.succeed(SETTLES)?;
    let output = driver.process.output();
    ensure!(!output.contains(&life(kept, 2)), "what other nodes kept stays there: {output}");
    Ok(())
}
