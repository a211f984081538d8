//! `mobula drain`: lets a node finish what it does and leave, and waits until it has.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mobula_types::NodeId;
use mobula_types::state::Listed;
use mobula_wire::local::ToolQuestion;

use super::ask::{self, Node, Which};
use crate::exit;

/// Let a node finish what it does and leave the cluster.
///
/// It takes nothing new, and ends when what it runs has ended, in 30 s at most; this command waits for that.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Its id, as `mobula status` prints it
    #[arg(value_parser = node_id)]
    node: NodeId,

    /// Do not wait until it has left
    #[arg(long)]
    no_wait: bool,

    #[command(flatten)]
    which: Which,
}

/// A node may finish for 30 s; it and its head need a moment to say so.
const LEFT_WITHIN: Duration = Duration::from_secs(40);

/// Between two looks at its state.
const LOOK: Duration = Duration::from_millis(200);

/// How often a wait is told.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// Tells the head, and waits.
pub(crate) fn run(args: &Args) -> Result<()> {
    exit::until_signal(async {
        let mut asked = Node::of(&args.which).await?;
        let is_asked = asked.id() == args.node;
        let told = asked.ask(ToolQuestion::Drain { node: args.node }).await;
        told.with_context(|| format!("drain {}", args.node))?;
        if args.no_wait {
            anstream::println!("{} takes nothing new, and ends in 30 s at most", args.node);
            return Ok(());
        }
        let (begun, mut told) = (Instant::now(), Instant::now());
        loop {
            let state = match asked.ask(ToolQuestion::List { kind: "nodes".to_owned() }).await {
                Ok(answer) => state(&answer, args.node)?,
                // The one that was asked is the one that leaves.
                Err(_) if is_asked => None,
                Err(error) => return Err(error).context("wait until the node has left"),
            };
            if state.as_deref().is_none_or(|state| state == "dead") {
                anstream::println!("{} has left after {:.1} s", args.node, begun.elapsed().as_secs_f64());
                return Ok(());
            }
            if begun.elapsed() >= LEFT_WITHIN {
                bail!("{} has not left within {} s: see its log, or stop it", args.node, LEFT_WITHIN.as_secs());
            }
            if told.elapsed() >= TOLD_EVERY {
                told = Instant::now();
                anstream::eprintln!("{} finishes what it runs, for {} s now", args.node, begun.elapsed().as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    })
}

/// What the head says of a node; nothing when it does not know it any more.
fn state(answer: &str, node: NodeId) -> Result<Option<String>> {
    let nodes: Vec<Listed> = ask::records(answer)?;
    Ok(nodes.into_iter().find(|listed| node_id(&listed.id) == Ok(node)).map(|listed| listed.state))
}

/// `node-3`, or 3.
pub(crate) fn node_id(text: &str) -> Result<NodeId, &'static str> {
    let number = text.strip_prefix("node-").unwrap_or(text).parse();
    number.map(NodeId).map_err(|_| "expected a node's id, as node-3")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_with_and_without_its_prefix() {
        assert_eq!((node_id("node-3"), node_id("3")), (Ok(NodeId(3)), Ok(NodeId(3))));
        for wrong in ["", "node-", "three", "-3", "job-3"] {
            assert!(node_id(wrong).is_err(), "{wrong}");
        }
    }
}
