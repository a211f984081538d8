//! `mobula why`: what something waits for.

use anyhow::{Context, Result};
use mobula_types::state::Listed;
use mobula_wire::local::ToolQuestion;

use super::ask::{self, Which};

/// Say what a task, an actor or a placement group waits for.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Its id, as `mobula list` prints it
    id: String,

    #[command(flatten)]
    which: Which,

    /// As one line of JSON
    #[arg(long)]
    json: bool,
}

/// Prints the reason.
pub(crate) fn run(args: &Args) -> Result<()> {
    let answer = ask::once(&args.which, ToolQuestion::Why { id: args.id.clone() })?;
    if args.json {
        anstream::println!("{answer}");
        return Ok(());
    }
    let item: Listed = serde_json::from_str(&answer).context("read the node's answer")?;
    let reason = item.why.or(item.cause).unwrap_or_else(|| "it waits for nothing".to_owned());
    anstream::println!("{} is {} since {:.1} s: {reason}", item.id, item.state, item.since_s);
    Ok(())
}
