//! Law 1: who may import whom, read from every member's `Cargo.toml`.
//!
//! The table bounds what a crate is built from. A test is a user of its crate and may also name what users name, so
//! development dependencies on [`USER_CRATES`] are free; reaching for a neighbour's inside is not. A crate without a row
//! is a finding: a new edge is an event to be explained.

use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

/// What each crate may import of ours.
const TABLE: &[(&str, Imports)] = &[
    // runtime: types <- wire <- logic, and what drives them.
    ("mobula-types", Only(&[])),
    ("mobula-wire", Only(&["mobula-types"])),
    ("mobula-logic", Only(&["mobula-types", "mobula-wire"])),
    ("mobula-store", Only(&["mobula-types", "mobula-wire"])),
    // net drives the session machine, which the simulator drives too.
    ("mobula-net", Only(&["mobula-types", "mobula-wire", "mobula-logic"])),
    ("mobula-head", Only(&["mobula-types", "mobula-wire", "mobula-logic"])),
    (
        "mobula-node",
        Only(&[
            "mobula-types",
            "mobula-wire",
            "mobula-logic",
            "mobula-store",
            "mobula-net",
            "mobula-actor",
            "mobula-head",
        ]),
    ),
    ("mobula-dashboard", Only(&["mobula"])),
    ("mobula-cli", Any),
    // framework: the actor model, and what stands on the public crate alone.
    ("mobula-actor", Only(&["mobula-types", "mobula-wire", "mobula-logic"])),
    ("mobula-macros", Only(&[])),
    ("mobula", Only(&["mobula-node", "mobula-head", "mobula-actor", "mobula-macros", "mobula-types"])),
    ("mobula-serve", Only(&["mobula"])),
    ("mobula-data", Only(&["mobula"])),
    ("mobula-train", Only(&["mobula", "mobula-collective"])),
    // gpu: devices know nothing of ours; inference is a user of serve's trait `Engine`.
    ("mobula-device", Only(&[])),
    ("mobula-kernels", Only(&["mobula-device"])),
    ("mobula-collective", Only(&["mobula", "mobula-device"])),
    ("mobula-llm", Only(&["mobula", "mobula-collective", "mobula-serve", "mobula-device", "mobula-kernels"])),
    // What stands outside the house and proves it: examples are users, the simulator sees decisions only.
    ("mobula-examples", Only(USER_CRATES)),
    ("mobula-sim", Only(&["mobula-types", "mobula-wire", "mobula-logic"])),
    ("mobula-bench", Any),
    ("mobula-cluster", Any),
    ("xtask", Only(&[])),
];

/// What a user's own program names.
const USER_CRATES: &[&str] = &["mobula", "mobula-serve", "mobula-llm", "mobula-data", "mobula-train"];

enum Imports {
    Any,
    Only(&'static [&'static str]),
}
use Imports::{Any, Only};

/// Breaches of law 1 in the workspace at `root`.
pub(super) fn findings(root: &Path) -> Result<Vec<String>> {
    let workspace = read(&root.join("Cargo.toml"))?;
    let members = workspace["workspace"]["members"].as_array().context("workspace.members is a list")?;
    let mut findings = Vec::new();
    for member in members {
        let member = member.as_str().context("a member is a path")?;
        findings.extend(member_findings(&read(&root.join(member).join("Cargo.toml"))?));
    }
    Ok(findings)
}

fn read(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.parse().with_context(|| format!("parse {}", path.display()))
}

fn member_findings(manifest: &Table) -> Vec<String> {
    let name =
        manifest.get("package").and_then(|package| package.get("name")?.as_str()).unwrap_or("a crate without a name");
    let Some((_, may)) = TABLE.iter().find(|(row, _)| *row == name) else {
        return vec![format!("{name} has no row in the import table: say there what it may import")];
    };
    let Only(may) = may else { return Vec::new() };
    let mut findings = Vec::new();
    for (kind, import) in imports(manifest) {
        let as_user = kind == "dev-dependencies" && USER_CRATES.contains(&import.as_str());
        let itself = import == name;
        if !may.contains(&import.as_str()) && !as_user && !itself {
            let allowed = if may.is_empty() { "nothing of ours".to_owned() } else { may.join(", ") };
            findings.push(format!("{name} may not import {import} ({kind}): it may import {allowed}"));
        }
    }
    findings
}

/// Each of our crates that a manifest names, with the kind of table it stands in, also under `target.*`.
fn imports(manifest: &Table) -> Vec<(&'static str, String)> {
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let tables: Vec<&Table> = std::iter::once(manifest).chain(targets.filter_map(Value::as_table)).collect();
    let mut imports = Vec::new();
    for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
        let kinds = tables.iter().filter_map(|table| table.get(kind)?.as_table());
        for (key, value) in kinds.flatten() {
            // A renamed dependency keeps its true name in `package`.
            let import = value.get("package").and_then(Value::as_str).unwrap_or(key);
            if import == "mobula" || import.starts_with("mobula-") {
                imports.push((kind, import.to_owned()));
            }
        }
    }
    imports
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(manifest: &str, expect: &[&str]) {
        let findings = member_findings(&manifest.parse().unwrap());
        assert_eq!(findings.len(), expect.len(), "{findings:?}");
        for (finding, expected) in findings.iter().zip(expect) {
            assert!(finding.starts_with(expected), "{finding} does not start with {expected}");
        }
    }

    #[test]
    fn planted_imports_are_found() {
        check(
            "package.name = 'mobula-serve'\n[dependencies]\nmobula.workspace = true\nmobula-actor.workspace = true",
            &["mobula-serve may not import mobula-actor (dependencies)"],
        );
        check(
            "package.name = 'mobula-types'\n[build-dependencies]\nmobula-wire = '*'",
            &["mobula-types may not import mobula-wire"],
        );
        check(
            "package.name = 'mobula-net'\n[target.'cfg(unix)'.dependencies]\nmobula-node.workspace = true",
            &["mobula-net may not import mobula-node"],
        );
        check(
            "package.name = 'mobula-logic'\n[dependencies]\nquiet = { package = 'mobula-node', path = '../node' }",
            &["mobula-logic may not import mobula-node"],
        );
    }

    #[test]
    fn a_crate_without_a_row_is_found() {
        check("package.name = 'mobula-helpers'", &["mobula-helpers has no row"]);
    }

    #[test]
    fn tests_are_users() {
        check("package.name = 'mobula-macros'\n[dev-dependencies]\nmobula.workspace = true", &[]);
        check(
            "package.name = 'mobula-serve'\n[dev-dependencies]\nmobula-node.workspace = true",
            &["mobula-serve may not import mobula-node (dev-dependencies)"],
        );
    }

    #[test]
    fn the_table_has_no_cycle_and_no_unknown_name() {
        // Rows are in no particular order; a crate is settled once all that it may import is.
        let mut settled: Vec<&str> = Vec::new();
        while settled.len() < TABLE.len() {
            let before = settled.len();
            for (name, may) in TABLE {
                let ready = match may {
                    Any => true,
                    Only(may) => may.iter().all(|import| settled.contains(import)),
                };
                if ready && !settled.contains(name) {
                    settled.push(name);
                }
            }
            assert!(settled.len() > before, "a cycle or an unknown name: only {settled:?} can be settled");
        }
    }
}
