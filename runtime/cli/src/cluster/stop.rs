//! `mobula stop`: ends the node of this host, with all that it runs.

use std::time::Duration;

use anyhow::{Result, anyhow};
use mobula_wire::local::ToolQuestion;

use super::ask::{Node, Which};
use crate::exit;

/// End the node of this host, with all that it runs.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
}

/// A node gives its workers a second and kills them then; what hangs in the kernel is not waited for.
const STOP_MAX: Duration = Duration::from_secs(15);

/// Stops the node.
pub(crate) fn run(args: &Args) -> Result<()> {
    exit::until_signal(async {
        let mut node = Node::of(&args.which).await?;
        node.ask(ToolQuestion::Stop).await?;
        let ended = tokio::time::timeout(STOP_MAX, node.closed()).await;
        ended.map_err(|_| anyhow!("the node was told to stop and has not ended within {} s", STOP_MAX.as_secs()))
    })
}
