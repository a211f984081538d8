//! The three laws of the house, kept by reading the sources rather than by memory:
//!
//! 1. [`imports`]: which crate may name which.
//! 2. [`purity`]: decisions stay apart from clocks, sockets, files, threads, async and chance.
//! 3. [`unsafety`]: `unsafe` lives in few named folders.
//!
//! A finding is one line that names the place and what would be right.

mod imports;
mod purity;
mod source;
mod unsafety;

use std::path::Path;

use anyhow::Result;

/// Every breach of a law in the workspace at `root`, sorted.
///
/// # Errors
/// When a file cannot be read. What can be read but not understood is a finding.
pub(crate) fn findings(root: &Path) -> Result<Vec<String>> {
    let mut findings = imports::findings(root)?;
    for file in source::files(root)? {
        let source = match source::read(root, &file) {
            Ok(source) => source,
            Err(error) => {
                findings.push(format!("{error:#}"));
                continue;
            }
        };
        findings.extend(purity::findings(&source));
        findings.extend(unsafety::findings(&source));
    }
    findings.sort();
    Ok(findings)
}
