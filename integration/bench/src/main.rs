//! `mobula-bench`: the peers' figures, under the names that `mobula microbenchmark` gives to ours.
//!
//! Where ours and a peer's must be measured by the same hand (HTTP under `wrk`, generation), both are measured here.
//! `cargo xtask bench` runs both programs in turn and writes the table. A peer that is not installed is skipped, and
//! that is said on standard error.

#![forbid(unsafe_code)]

mod actix_actors;
mod http;
mod llama;
mod row;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;

use row::Row;

/// Measure Mobula's peers on this machine.
#[derive(Parser)]
#[command(name = "mobula-bench")]
struct Args {
    /// Print one JSON object per line in place of a table
    #[arg(long)]
    json: bool,
    /// Measure each figure for a moment only, to see that all of them work
    #[arg(long)]
    quick: bool,
    /// A Python that has llama-cpp-python; without one llama.cpp is skipped
    #[arg(long, value_name = "PATH", env = "MOBULA_BENCH_LLAMA_PYTHON")]
    llama_python: Option<PathBuf>,
    /// Spawn actix actors and say how fast and how large: what this program starts itself with
    #[arg(long, hide = true)]
    alone: bool,
}

/// How much measuring is wanted.
#[derive(Clone, Copy)]
struct Effort {
    quick: bool,
}

impl Effort {
    /// `thorough` runs, or a tenth of them when a quick look is enough.
    fn runs(self, thorough: usize) -> usize {
        if self.quick { thorough.div_ceil(10) } else { thorough }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.alone {
        return actix_actors::alone();
    }
    let effort = Effort { quick: args.quick };
    if !args.json {
        anstream::println!("{}", row::table_head());
    }
    print(args.json, &actix_actors::rows(effort).context("measure actix")?)?;
    print(args.json, &http::rows(effort).context("measure HTTP")?)?;
    print(args.json, &llama::rows(effort, args.llama_python.as_deref()).context("measure generation")?)
}

fn print(json: bool, rows: &[Row]) -> Result<()> {
    for row in rows {
        let line = if json { serde_json::to_string(row).context("write a row as JSON")? } else { row.table_line() };
        anstream::println!("{line}");
    }
    Ok(())
}
