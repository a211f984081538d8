//! Calls of cargo, all from the workspace's root and with the same selection of units.
//!
//! Build, lints and tests say `--workspace --locked` and run without incremental compilation: cargo unifies the features
//! of what is selected, so another selection would build most dependencies a second time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::child;

/// The longest that one call of cargo may take: a cold build takes 8 minutes on 2 cores.
pub(crate) const LIMIT: Duration = Duration::from_secs(40 * 60);

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.ancestors().nth(2).expect("xtask lies two folders below the root").to_owned()
}

/// Where cargo builds to.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A call of the cargo that called us.
pub(crate) fn command(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).env("CARGO_INCREMENTAL", "0").args(words);
    command
}

/// Runs cargo with our terminal.
pub(crate) fn run(words: &[&str]) -> Result<()> {
    child::run(&format!("cargo {}", words.join(" ")), &mut command(words), LIMIT)
}
