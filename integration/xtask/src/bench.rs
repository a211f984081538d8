//! `cargo xtask bench`: Mobula's own figures (`mobula microbenchmark`) and its peers' (`mobula-bench`, and `ray_rows.py` beside
//! it), in turn on one machine, as one table of medians and ratios.
//!
//! All of them print rows as JSON lines: `{"name", "value", "unit", "better", ...}`. Rows of one name belong together;
//! a peer's row also says who the `peer` is. Measuring is the programs' business, nothing is measured here.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cargo;
use crate::child::Child;
use crate::pip;

/// Rounds of both programs in turn: the median of three survives one round that something disturbed.
const ROUNDS: usize = 3;
/// The longest that one program may take in one round.
const ROUND_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Ray's figures.
const RAY: &str = "integration/bench/src/ray_rows.py";

/// How much measuring is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// [`ROUNDS`] rounds: figures to be quoted.
    Thorough,
    /// One round of a moment per row: all of it works.
    Quick,
}

/// Builds the programs in the release profile, measures, and prints the table.
pub(crate) fn run(effort: Effort) -> Result<()> {
    cargo::run(&["build", "--release", "--locked", "--package", "mobula-cli", "--package", "mobula-bench", "--bins"])?;
    let (llama_python, ray_python) = (pip::LLAMA_CPP.python()?, pip::RAY.python()?);
    let program = |name: &str| Command::new(cargo::target().join("release").join(name));
    let rounds = if effort == Effort::Quick { 1 } else { ROUNDS };
    let mut table = Table::default();
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        let mut ours = program("mobula");
        ours.args(["microbenchmark", "--json"]);
        let mut peers = program("mobula-bench");
        peers.arg("--json");
        if let Some(python) = &llama_python {
            peers.arg("--llama-python").arg(python);
        }
        let ray = ray_python.as_ref().map(|python| {
            let mut ray = Command::new(python);
            ray.arg(cargo::root().join(RAY));
            ray
        });
        for mut command in [ours, peers].into_iter().chain(ray) {
            if effort == Effort::Quick {
                command.arg("--quick");
            }
            measure(&mut command, &mut table)?;
        }
    }
    print!("\n{}", table.render());
    Ok(())
}

fn measure(command: &mut Command, table: &mut Table) -> Result<()> {
    let name = command.get_program().display().to_string();
    let mut child = Child::watch(&name, command)?;
    let deadline = Instant::now() + ROUND_LIMIT;
    while let Some(line) = child.next_line(deadline)? {
        table.add(&line).with_context(|| format!("{name} said `{line}`"))?;
    }
    let status = child.wait(deadline)?;
    if !status.success() {
        bail!("{name} ended with {status}:\n{}", child.tail());
    }
    Ok(())
}

/// All values seen, by row.
#[derive(Default)]
struct Table {
    rows: BTreeMap<String, Row>,
}

#[derive(Default)]
struct Row {
    unit: String,
    higher_is_better: bool,
    ours: Vec<f64>,
    /// By the peer's name.
    peers: BTreeMap<String, Vec<f64>>,
}

impl Table {
    /// Takes in one JSON line of one program.
    fn add(&mut self, line: &str) -> Result<()> {
        let row: Value = serde_json::from_str(line).context("not JSON")?;
        let word = |key: &str| row[key].as_str().with_context(|| format!("`{key}` is missing"));
        let value = row["value"].as_f64().context("`value` is missing")?;
        ensure!(value > 0.0, "`value` is {value}, and a figure is above 0");
        let better = word("better")?;
        ensure!(["higher", "lower"].contains(&better), "`better` is {better:?}, and may be higher or lower");
        let entry = self.rows.entry(word("name")?.to_owned()).or_default();
        entry.unit = word("unit")?.to_owned();
        entry.higher_is_better = better == "higher";
        match row["peer"].as_str() {
            Some(peer) => entry.peers.entry(peer.to_owned()).or_default().push(value),
            None => entry.ours.push(value),
        }
        Ok(())
    }

    /// One line per row and peer: both medians, and how many times better we are.
    fn render(&self) -> String {
        let mut text =
            format!("{:<48}{:>14}  {:<8}{:>14}{:>8}  {}\n", "row", "mobula", "unit", "peer's", "ratio", "peer");
        for (name, row) in &self.rows {
            let ours = median(&row.ours);
            let mine = ours.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
            if row.peers.is_empty() {
                text += &format!("{name:<48}{mine:>14}  {:<8}\n", row.unit);
            }
            for (peer, values) in &row.peers {
                let theirs = median(values).expect("a peer is entered with its first value");
                let ratio = |ours: f64| if row.higher_is_better { ours / theirs } else { theirs / ours };
                let ratio = ours.map_or_else(|| "-".to_owned(), |ours| format!("{:.2}", ratio(ours)));
                text += &format!("{name:<48}{mine:>14}  {:<8}{theirs:>14.2}{ratio:>8}  {peer}\n", row.unit);
            }
        }
        text
    }
}

/// The middle value; of two middle ones the lower.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let mut table = Table::default();
        for value in ["9", "2", "4"] {
            table.add(&format!(r#"{{"name":"ask","value":{value},"unit":"us","better":"lower"}}"#)).unwrap();
        }
        table.add(r#"{"name":"ask","value":8,"unit":"us","better":"lower","peer":"actix"}"#).unwrap();
        table.add(r#"{"name":"tells","value":5,"unit":"1/s","better":"higher"}"#).unwrap();
        let text = table.render();
        let words: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words, [vec!["ask", "4.00", "us", "8.00", "2.00", "actix"], vec!["tells", "5.00", "1/s"]]);
    }

    #[test]
    fn a_row_that_lies_is_refused() {
        let mut table = Table::default();
        assert!(table.add("{}").is_err());
        assert!(table.add(r#"{"name":"a","value":0,"unit":"s","better":"lower"}"#).is_err());
        assert!(table.add(r#"{"name":"a","value":1,"unit":"s","better":"more"}"#).is_err());
    }
}
