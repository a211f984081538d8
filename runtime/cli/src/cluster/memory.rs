//! `mobula memory`: which objects there are, where their bytes are, and who holds them.

use anyhow::Result;
use mobula_types::state::Listed;
use mobula_wire::local::ToolQuestion;

use super::ask::{self, Which};

/// List the objects of the cluster, the largest first: where their bytes are, and who holds them.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,

    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Prints the list.
pub(crate) fn run(args: &Args) -> Result<()> {
    let answer = ask::once(&args.which, ToolQuestion::List { kind: "objects".to_owned() })?;
    if args.json {
        if !answer.is_empty() {
            anstream::println!("{answer}");
        }
        return Ok(());
    }
    let mut listed: Vec<Listed> = ask::records(&answer)?;
    listed.sort_by_key(|item| std::cmp::Reverse(item.bytes));
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let rows: Vec<Vec<String>> = listed
        .iter()
        .map(|item| {
            vec![
                item.id.clone(),
                or_dash(item.job_id.clone().unwrap_or_default()),
                item.state.clone(),
                item.bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()),
                or_dash(item.name.clone()),
                or_dash(item.copies.join(" ")),
                or_dash(item.held_by.join(" ")),
                or_dash(item.cause.clone().or_else(|| item.why.clone()).unwrap_or_default()),
            ]
        })
        .collect();
    ask::table(&["id", "job", "state", "bytes", "where", "copies", "held by", "why"], &rows);
    let bytes: u64 = listed.iter().filter_map(|item| item.bytes).sum();
    anstream::println!("{} objects, {bytes} bytes", listed.len());
    Ok(())
}
