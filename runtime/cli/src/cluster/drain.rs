//! `mobula drain`: lets a node finish what it does and leave.

use anyhow::Result;
use mobula_types::NodeId;
use mobula_wire::local::ToolQuestion;

use super::ask::{self, Which};

/// Let a node finish what it does and leave the cluster.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Its id or number, as `mobula status` prints it
    #[arg(value_parser = node)]
    node: NodeId,

    #[command(flatten)]
    which: Which,
}

/// Tells the head.
pub(crate) fn run(args: &Args) -> Result<()> {
    ask::once(&args.which, ToolQuestion::Drain { node: args.node })?;
    anstream::println!("{} takes nothing new, and ends when what it runs has ended, in 30 s at most", args.node);
    Ok(())
}

/// Reads `node-3`, and `3` for the same.
fn node(text: &str) -> Result<NodeId, String> {
    let number = text.strip_prefix("node-").unwrap_or(text);
    number.parse().map(NodeId).map_err(|_| "expected a node such as `node-3`".to_owned())
}
