//! Programs that the cluster runs: their output and exit code come back, and they end with their job.

use std::time::{Duration, Instant};

use mobula_types::state::{Listed, SubmissionStatus};

use crate::node::{Node, PATIENCE};

fn jobs(head: &Node) -> Vec<Listed> {
    head.told(&["list", "jobs", "--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn output_and_exit_code_come_back() {
    let head = Node::head();
    let script = "echo to out; echo to err >&2; exit 3";
    let said = head.ask(&["submit", "--", "sh", "-c", script]);
    assert_eq!((said.code, said.out.as_str()), (3, "to out\n"), "{said:?}");
    assert!(said.err.contains("to err\n") && said.err.contains("exited with code 3"), "{said:?}");
    assert_eq!(head.told(&["submit", "--", "true"]), "");
    let killed = head.ask(&["submit", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.code, 137, "{killed:?}");
    let jobs = jobs(&head);
    assert_eq!(jobs.len(), 3, "{jobs:?}");
    assert!(jobs.iter().all(|job| job.state == "ended"), "{jobs:?}");
    assert!(jobs.iter().any(|job| job.name.ends_with("/sh -c echo to out; echo to err >&2; exit 3")), "{jobs:?}");
}

#[test]
fn a_program_starts_where_and_with_what_it_was_told() {
    let head = Node::head();
    let folder = std::fs::canonicalize(head.base()).unwrap();
    let folder = folder.to_str().unwrap();
    let words = ["submit", "--working-dir", folder, "--env", "SEED=7", "--", "sh", "-c"];
    let script = "pwd; echo $SEED $MOBULA_ADDRESS; cat";
    let said = head.told(&[&words[..], &[script]].concat());
    let node = head.base().join(head.port.to_string());
    assert_eq!(said, format!("{folder}\n7 {}\n", node.display()), "and its standard input is empty");
}

#[test]
fn long_output_comes_whole() {
    let head = Node::head();
    let said = head.told(&["submit", "--", "seq", "1", "60000"]);
    let expected: String = (1..=60_000).map(|number| format!("{number}\n")).collect();
    assert!(said == expected, "{} bytes of {}", said.len(), expected.len());
}

#[test]
fn a_detached_program_goes_on_until_its_job_is_stopped() {
    let head = Node::head();
    let script = "echo begun; sleep 1000 & wait";
    let said = head.told(&["submit", "--detach", "--json", "--", "sh", "-c", script]);
    let submitted: SubmissionStatus = serde_json::from_str(&said).unwrap();
    let begun = Instant::now();
    while !head.ask(&["logs", &submitted.process_id]).out.contains("begun") {
        assert!(begun.elapsed() < PATIENCE, "it does not begin");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(jobs(&head)[0].state, "running");
    head.told(&["stop-job", &submitted.job_id]);
    let followed = head.told(&["logs", "-f", &submitted.process_id]);
    assert_eq!(followed, "begun\n", "and the log has ended");
    assert_eq!(jobs(&head)[0].state, "ended");
    assert!(head.told(&["logs", &submitted.job_id]).contains("begun"));
}
