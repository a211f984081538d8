//! `mobula list`: what there is of one kind.

use anyhow::Result;
use mobula_types::state::Listed;
use mobula_wire::local::ToolQuestion;

use super::ask::{self, Which};

/// List what the cluster holds.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Of which kind
    #[arg(value_parser = ["nodes", "jobs", "workers", "actors", "tasks", "objects", "placement-groups"])]
    kind: String,

    #[command(flatten)]
    which: Which,

    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Prints the list.
pub(crate) fn run(args: &Args) -> Result<()> {
    let answer = ask::once(&args.which, ToolQuestion::List { kind: args.kind.clone() })?;
    if args.json {
        if !answer.is_empty() {
            anstream::println!("{answer}");
        }
        return Ok(());
    }
    let listed: Vec<Listed> = ask::records(&answer)?;
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let rows: Vec<Vec<String>> = listed
        .iter()
        .map(|item| {
            let why = item.why.as_ref().or(item.cause.as_ref()).cloned();
            let since = format!("{:.1} s", item.since_s);
            vec![
                item.id.clone(),
                item.name.clone(),
                or_dash(&item.job_id),
                or_dash(&item.node_id),
                item.state.clone(),
                since,
                or_dash(&why),
            ]
        })
        .collect();
    ask::table(&["id", "name", "job", "node", "state", "since", "why"], &rows);
    Ok(())
}
