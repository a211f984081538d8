//! `mobula stop-job`: ends a job and all that it started.

use anyhow::Result;
use mobula_types::JobId;
use mobula_wire::local::ToolQuestion;

use super::ask::{self, Which};
use crate::exit::Usage;

/// End a job and all that it started.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Its id, as `mobula list jobs` prints it
    job: String,

    #[command(flatten)]
    which: Which,
}

/// Tells the head.
pub(crate) fn run(args: &Args) -> Result<()> {
    let number = args.job.strip_prefix("job-").unwrap_or(&args.job).parse();
    let job = number.map(JobId).map_err(|_| Usage(format!("{}: expected a job's id, as job-3", args.job)))?;
    ask::once(&args.which, ToolQuestion::StopJob { job })?;
    Ok(())
}
