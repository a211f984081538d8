//! `mobula microbenchmark` as a user runs it: each line is a figure, and a part that does not exist is named.

#![forbid(unsafe_code)]

use std::process::{Command, Output};

use serde_json::Value;

fn microbenchmark(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mobula"));
    command.arg("microbenchmark").args(words).env_remove("MOBULA_ADDRESS").output().expect("the command starts")
}

/// The names of the rows of one part, each of which says what it must.
fn rows(part: &str) -> Vec<String> {
    let output = microbenchmark(&["--quick", "--json", "--only", part]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("rows are text");
    let name = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        for key in ["value", "p50", "p99"] {
            assert!(row[key].as_f64().is_some_and(|value| value > 0.0), "{key} of {line}");
        }
        assert!(row["runs"].as_u64().is_some_and(|runs| runs > 0), "{line}");
        assert!(row["unit"].is_string() && ["higher", "lower"].map(Value::from).contains(&row["better"]), "{line}");
        row["name"].as_str().expect("a row has a name").to_owned()
    };
    text.lines().map(name).collect()
}

#[test]
fn rows_of_one_process_are_figures() {
    let names = rows("objects");
    assert!(names.iter().any(|name| name == "put, a u64"), "{names:?}");
}

#[test]
fn rows_of_a_cluster_are_figures() {
    let names = rows("crowds");
    for name in ["actor's process killed, to its next answer", "node killed, to known"] {
        assert!(names.iter().any(|row| row == name), "{names:?}");
    }
}

#[test]
fn placement_groups_are_measured_with_and_without_a_cluster() {
    let names = rows("placement groups");
    for name in ["placement group create/removal per second", "placement group create/removal, cluster"] {
        assert!(names.iter().any(|row| row == name), "{names:?}");
    }
}

#[test]
fn a_part_that_does_not_exist_is_answered_with_those_that_do() {
    let output = microbenchmark(&["--only", "nothing"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("nothing") && said.contains("crowds"), "{said}");
}
