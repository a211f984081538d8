//! `mobula drain`: lets a node finish what it does and leave.

use anyhow::Result;
use mobula_types::NodeId;
use mobula_wire::local::ToolQuestion;

use super::ask::{self, Which};

/// Let a node finish what it does and leave the cluster.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Its number, as `mobula status` prints it
    node: u64,

    #[command(flatten)]
    which: Which,
}

/// Tells the head.
pub(crate) fn run(args: &Args) -> Result<()> {
    ask::once(&args.which, ToolQuestion::Drain { node: NodeId(args.node) })?;
    anstream::println!("node {} takes nothing new, and ends when what it runs has ended, in 30 s at most", args.node);
    Ok(())
}
