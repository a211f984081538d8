//! `cargo xtask check`: everything that can be said about the sources without running them. It writes nothing but
//! build outputs.

use anyhow::{Result, bail};

use crate::tally::Tally;
use crate::{cargo, child, floors, laws};

/// Runs all checks, also after one failed, and fails if any did.
pub(crate) fn run_alone() -> Result<()> {
    let mut tally = Tally::default();
    run(&mut tally);
    tally.finish()
}

/// Runs all checks, the quick ones first, and counts them in `tally`.
pub(crate) fn run(tally: &mut Tally) {
    tally.record("the three laws", no_findings(laws::findings(&cargo::root())));
    tally.record("version floors", no_findings(floors::findings(&cargo::root())));
    tally.record("format", cargo::run(&["fmt", "--all", "--check"]));
    tally.record("lints", cargo::run(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]));
    tally.record("docs", docs());
}

fn docs() -> Result<()> {
    let mut doc = cargo::command(&["doc", "--workspace", "--no-deps", "--locked"]);
    child::run("cargo doc", doc.env("RUSTDOCFLAGS", "-D warnings"), cargo::LIMIT)
}

fn no_findings(findings: Result<Vec<String>>) -> Result<()> {
    let findings = findings?;
    if findings.is_empty() { Ok(()) } else { bail!("\n    {}", findings.join("\n    ")) }
}
