//! `mobula microbenchmark`: what this machine does with Mobula alone, one row per figure.
//!
//! The frame knows rows and how to print them; each file beside it measures one part of Mobula and gives rows. A row
//! that does the work of one of `ray microbenchmark`'s bears that row's name. Peers are measured elsewhere
//! (`integration/bench`).

mod alone;
mod calls;
mod cluster;
mod crowds;
mod groups;
mod many;
mod neighbours;
mod objects;
mod process;
mod processes;
mod row;
mod shapes;
mod sharing;
mod tasks;
mod within;

use anyhow::{Context, Result, bail};

pub(crate) use row::{Better, Row};

/// Measure Mobula on this machine.
///
/// Prints one row per figure: the value, and the median and the 99th percentile of its runs. Run it on a quiet machine;
/// figures of shared machines say little by themselves.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  mobula microbenchmark --quick
  mobula microbenchmark --json > figures.jsonl")]
pub(crate) struct Args {
    /// Print one JSON object per line in place of a table
    #[arg(long)]
    json: bool,
    /// Measure each figure for a moment only, to see that all of them work
    #[arg(long)]
    quick: bool,
    /// Measure only this part
    #[arg(long, value_name = "PART")]
    only: Option<String>,
    /// What this process does when it was started by a section that needs one of its own
    #[arg(long, hide = true)]
    alone: Option<alone::Alone>,
}

/// How much measuring is wanted.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    quick: bool,
}

impl Effort {
    /// `thorough` runs, or a tenth of them when a quick look is enough.
    pub(crate) fn runs(self, thorough: usize) -> usize {
        if self.quick { thorough.div_ceil(10) } else { thorough }
    }
}

/// Measures one part of Mobula.
type Section = fn(Effort) -> Result<Vec<Row>>;

/// All parts, in the order of their rows.
const SECTIONS: &[(&str, Section)] = &[
    ("process", process::rows),
    ("fresh processes", alone::rows),
    ("calls", calls::rows),
    ("neighbours", neighbours::rows),
    ("tasks", tasks::rows),
    ("shapes of tasks", shapes::rows),
    ("objects", objects::rows),
    ("processes", processes::rows),
    ("sharing", sharing::rows),
    ("many at once", many::rows),
    ("crowds", crowds::rows),
    ("placement groups", groups::rows),
];

/// Prints each section's rows as soon as they are measured.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(alone) = args.alone {
        return alone::run(alone);
    }
    if !args.json {
        anstream::println!("{}", row::table_head());
    }
    let wanted = |name: &str| args.only.as_deref().is_none_or(|only| only == name);
    if !SECTIONS.iter().any(|(name, _)| wanted(name)) {
        let parts: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
        bail!("--only {}: expected one of {}", args.only.as_deref().unwrap_or_default(), parts.join(", "));
    }
    for (name, section) in SECTIONS.iter().filter(|(name, _)| wanted(name)) {
        let rows = section(Effort { quick: args.quick }).with_context(|| format!("measure {name}"))?;
        for row in rows {
            let line =
                if args.json { serde_json::to_string(&row).context("write a row as JSON")? } else { row.table_line() };
            anstream::println!("{line}");
        }
    }
    Ok(())
}
