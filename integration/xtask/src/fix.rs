//! `cargo xtask fix`: formats, and applies what clippy can correct by itself.

use anyhow::Result;

use crate::cargo;

/// Writes to the working tree, dirty or not.
pub(crate) fn run() -> Result<()> {
    cargo::run(&["clippy", "--fix", "--allow-dirty", "--allow-staged", "--workspace", "--all-targets", "--locked"])?;
    cargo::run(&["fmt", "--all"])
}
