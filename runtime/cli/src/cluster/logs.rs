//! `mobula logs`: what a worker or a job's driver wrote.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use mobula_types::state::LogPart;
use mobula_wire::local::ToolQuestion;

use super::ask::{Node, Which};
use crate::exit;

/// Show what a worker or a job wrote.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A worker's id, as 1:3 or 1:3.err, or a job's, as job-2
    id: String,

    /// Go on as it writes, until it has ended
    #[arg(short, long)]
    follow: bool,

    #[command(flatten)]
    which: Which,
}

/// Between two looks for more.
const LOOK: Duration = Duration::from_millis(250);

/// Prints the log.
pub(crate) fn run(args: &Args) -> Result<()> {
    exit::until_signal(async {
        let mut node = Node::of(&args.which).await?;
        let mut offset = 0;
        loop {
            let answer = node.ask(ToolQuestion::Logs { id: args.id.clone(), offset }).await?;
            let part: LogPart = serde_json::from_str(&answer).context("read the node's answer")?;
            let mut out = std::io::stdout();
            let shown = out.write_all(part.text.as_bytes()).and_then(|()| out.flush());
            let is_at_end = part.next_offset == offset;
            offset = part.next_offset;
            // A reader that has gone, as `| head` does, is no error.
            if shown.is_err() || (is_at_end && (part.has_ended || !args.follow)) {
                return Ok(());
            }
            if is_at_end {
                tokio::time::sleep(LOOK).await;
            }
        }
    })
}
