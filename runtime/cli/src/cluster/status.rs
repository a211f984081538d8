//! `mobula status`: the nodes, what they have, and how everything that was submitted ended.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use mobula_types::state::ClusterStatus;
use mobula_wire::local::ToolQuestion;

use super::ask::{self, Which};

/// Show the cluster's nodes and counters.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,

    /// As one line of JSON
    #[arg(long)]
    json: bool,
}

/// Prints the state.
pub(crate) fn run(args: &Args) -> Result<()> {
    let answer = ask::once(&args.which, ToolQuestion::Status)?;
    if args.json {
        anstream::println!("{answer}");
        return Ok(());
    }
    let status: ClusterStatus = serde_json::from_str(&answer).context("read the node's answer")?;
    let alive = status.nodes.iter().filter(|node| node.state == "alive").count();
    anstream::println!(
        "cluster {}: {alive} of {} nodes alive, head {} (epoch {}) for {:.0} s",
        status.cluster_id,
        status.nodes.len(),
        status.head,
        status.epoch,
        status.uptime_s
    );
    let rows: Vec<Vec<String>> = status
        .nodes
        .iter()
        .map(|node| {
            vec![
                node.node_id.clone(),
                node.addr.clone(),
                node.state.clone(),
                amounts(&node.resources_free, &node.resources_total),
                mebibytes(node.rss_bytes),
                format!("{}/{}", mebibytes(node.store_bytes_used), mebibytes(node.store_bytes_total)),
            ]
        })
        .collect();
    ask::table(&["node", "address", "state", "free", "memory", "store"], &rows);
    for node in status.nodes.iter().filter(|node| node.spilled_bytes > 0 || node.is_disk_full) {
        let full = if node.is_disk_full { ", OutOfDisk: its spill folder has no room for more" } else { "" };
        anstream::println!("{}: {} of values are in files{full}", node.node_id, mebibytes(node.spilled_bytes));
    }
    let outcomes = counts(&status.counters.outcomes);
    let outcomes = if outcomes.is_empty() { "nothing has ended".to_owned() } else { outcomes };
    anstream::println!("{} submitted: {outcomes}", status.counters.submitted);
    if !status.counters.refusals.is_empty() {
        anstream::println!("refused: {}", counts(&status.counters.refusals));
    }
    Ok(())
}

fn counts(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

/// A node says how large it is with its first beat.
fn mebibytes(bytes: u64) -> String {
    if bytes == 0 { "-".to_owned() } else { format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20)) }
}

fn amounts(free: &BTreeMap<String, f64>, total: &BTreeMap<String, f64>) -> String {
    let each = total.iter().filter(|(_, total)| **total > 0.0);
    let each = each.map(|(name, total)| format!("{name} {}/{total}", free.get(name).unwrap_or(&0.0)));
    each.collect::<Vec<_>>().join(", ")
}
