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

#[cfg(test)]
mod tests {
    use crate::cargo;

    #[test]
    fn this_repository_keeps_the_laws() {
        let findings = super::findings(&cargo::root()).unwrap();
        assert!(findings.is_empty(), "\n{}", findings.join("\n"));
    }

    #[test]
    fn the_readme_maps_every_member() {
        let root = cargo::root();
        let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
        let manifest: toml::Table = std::fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
        let members = manifest["workspace"]["members"].as_array().unwrap();
        let rows = members.iter().map(|member| format!("| `{}` |", member.as_str().unwrap()));
        let missing: Vec<String> = rows.filter(|row| !readme.contains(row)).collect();
        assert!(missing.is_empty(), "the code map of README.md has no row {missing:?}");
    }
}
