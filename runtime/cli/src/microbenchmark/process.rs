//! What it costs to start the command at all: the floor under "process start to first task's result".

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::{Better, Effort, Row};

/// From the start of `mobula --version` to its end.
pub(crate) fn rows(effort: Effort) -> Result<Vec<Row>> {
    let mobula = std::env::current_exe().context("find our own executable")?;
    let mut samples = Vec::new();
    for _ in 0..effort.runs(50) {
        let start = Instant::now();
        let status =
            Command::new(&mobula).arg("--version").stdout(Stdio::null()).status().context("start mobula --version")?;
        samples.push(start.elapsed().as_secs_f64() * 1e3);
        ensure!(status.success(), "mobula --version ended with {status}");
    }
    Ok(vec![Row::of("process start to end", "ms", Better::Lower, samples)])
}
