//! `floors.toml` held against `Cargo.lock`: no dependency below its floor of security fixes, and no banned one at all.
//!
//! It knows no advisory database: CI reaches package registries only, so floors are written down with their reasons.

use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

/// Every entry of the lock at `root` that is below its floor or banned.
///
/// # Errors
/// When the lock or the floors cannot be read.
pub(crate) fn findings(root: &Path) -> Result<Vec<String>> {
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).context("read Cargo.lock")?;
    compare(include_str!("../floors.toml"), &lock)
}

fn compare(floors: &str, lock: &str) -> Result<Vec<String>> {
    let floors: Table = floors.parse().context("parse floors.toml")?;
    let lock: Table = lock.parse().context("parse Cargo.lock")?;
    let packages = entries(&lock, "package");
    let mut findings = Vec::new();
    for floor in entries(&floors, "floor") {
        let (name, lowest, reason) = (word(floor, "crate")?, word(floor, "version")?, word(floor, "reason")?);
        for package in packages.iter().filter(|package| package.get("name").and_then(Value::as_str) == Some(name)) {
            let locked = word(package, "version")?;
            if version(locked)? < version(lowest)? {
                findings.push(format!("{name} {locked} is below its floor {lowest}: {reason}"));
            }
        }
    }
    for ban in entries(&floors, "ban") {
        let (name, reason) = (word(ban, "crate")?, word(ban, "reason")?);
        if packages.iter().any(|package| package.get("name").and_then(Value::as_str) == Some(name)) {
            findings.push(format!("{name} may not be in the lock: {reason}"));
        }
    }
    Ok(findings)
}

/// The tables that a file lists under `key`.
pub(crate) fn entries<'a>(table: &'a Table, key: &str) -> Vec<&'a Table> {
    table.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table).collect()
}

/// A word that an entry must say.
pub(crate) fn word<'a>(entry: &'a Table, key: &str) -> Result<&'a str> {
    let word = entry.get(key).and_then(Value::as_str).with_context(|| format!("`{key}` is missing in {entry}"))?;
    anyhow::ensure!(!word.trim().is_empty(), "`{key}` is empty in {entry}");
    Ok(word)
}

/// A version as it is ordered: three numbers, and a release after its pre-releases. Build metadata orders nothing.
fn version(text: &str) -> Result<(Vec<u64>, bool)> {
    let text = text.split('+').next().unwrap_or(text);
    let (numbers, is_release) = match text.split_once('-') {
        Some((numbers, _)) => (numbers, false),
        None => (text, true),
    };
    let numbers: Vec<u64> = numbers
        .split('.')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("`{text}` is no version"))?;
    anyhow::ensure!(numbers.len() == 3, "`{text}` is no version: three numbers are expected");
    Ok((numbers, is_release))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(packages: &[(&str, &str)]) -> String {
        packages
            .iter()
            .map(|(name, version)| format!("[[package]]\nname = '{name}'\nversion = '{version}'\n"))
            .collect()
    }

    fn check(packages: &[(&str, &str)], expect: &[&str]) {
        let findings = compare(include_str!("../floors.toml"), &lock(packages)).unwrap();
        assert_eq!(findings.len(), expect.len(), "{findings:?}");
        for (finding, expected) in findings.iter().zip(expect) {
            assert!(finding.starts_with(expected), "{finding} does not start with {expected}");
        }
    }

    #[test]
    fn this_repository_is_above_its_floors() {
        assert_eq!(findings(&crate::cargo::root()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn planted_versions_below_a_floor_are_found() {
        check(&[("quinn-proto", "0.11.18")], &["quinn-proto 0.11.18 is below its floor 0.11.19"]);
        check(&[("rustls", "0.23.46"), ("rustls", "0.22.99")], &["rustls 0.22.99 is below"]);
        check(&[("rustls-webpki", "0.103.16-alpha.1")], &["rustls-webpki 0.103.16-alpha.1 is below"]);
        check(&[("quinn-proto", "0.11.19"), ("rustls", "0.23.100+build"), ("rustls-webpki", "1.0.0")], &[]);
    }

    #[test]
    fn planted_bans_are_found() {
        check(&[("aws-lc-sys", "0.30.0"), ("openssl-sys", "0.9.0")], &["aws-lc-sys may not", "openssl-sys may not"]);
    }

    #[test]
    fn a_floor_without_a_reason_is_an_error() {
        let floors = "[[floor]]\ncrate = 'a'\nversion = '1.0.0'\nreason = ' '";
        assert!(compare(floors, &lock(&[])).unwrap_err().to_string().contains("reason"));
        assert!(compare("[[ban]]\ncrate = 'a'", &lock(&[])).unwrap_err().to_string().contains("`reason` is missing"));
    }
}
