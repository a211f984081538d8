//! `mobula memory`: which objects there are, where their bytes are, who holds them, and which code has made them.

use std::collections::HashMap;

use anyhow::Result;
use mobula_types::state::Listed;
use mobula_wire::local::ToolQuestion;

use super::ask::{self, Which};

/// List the objects of the cluster, the largest first: where their bytes are, who holds them, and where in the program
/// they were made; then what each of those places has made.
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
                or_dash(item.made_at.clone().unwrap_or_default()),
                or_dash(item.copies.join(" ")),
                or_dash(item.held_by.join(" ")),
                or_dash(item.cause.clone().or_else(|| item.why.clone()).unwrap_or_default()),
            ]
        })
        .collect();
    ask::table(&["id", "job", "state", "bytes", "where", "made at", "copies", "held by", "why"], &rows);
    if !listed.is_empty() {
        print_places(&listed);
    }
    let bytes: u64 = listed.iter().filter_map(|item| item.bytes).sum();
    anstream::println!("{} objects, {bytes} bytes", listed.len());
    Ok(())
}

/// What each place in code has made, the most bytes first.
fn print_places(listed: &[Listed]) {
    let mut made: HashMap<&str, (u64, usize)> = HashMap::new();
    for item in listed {
        let (bytes, count) = made.entry(item.made_at.as_deref().unwrap_or("unknown")).or_default();
        *bytes += item.bytes.unwrap_or_default();
        *count += 1;
    }
    let mut made: Vec<_> = made.into_iter().collect();
    made.sort_by_key(|(place, (bytes, _))| (std::cmp::Reverse(*bytes), *place));
    let rows: Vec<Vec<String>> = made
        .into_iter()
        .map(|(place, (bytes, count))| vec![place.to_owned(), count.to_string(), bytes.to_string()])
        .collect();
    anstream::println!();
    ask::table(&["made at", "objects", "bytes"], &rows);
}
