//! Programs that the cluster runs: their output and exit code come back, and they end with their job.

use std::time::{Duration, Instant};

use mobula_types::state::{Listed, SubmissionStatus};

use crate::node::{Node, PATIENCE, Said, mobula, run};

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

/// The command line of another host: in a folder of its own, with a token.
fn elsewhere(head: &Node, base: &std::path::Path, token: Option<&str>, words: &[&str]) -> Said {
    let address = format!("127.0.0.1:{}", head.port);
    let mut command = mobula(base, &[&["submit", "--address", &address], words].concat());
    if let Some(token) = token {
        command.env("MOBULA_TOKEN", token);
    }
    run(command)
}

#[test]
fn a_program_of_another_host_is_brought_with_its_folder() {
    use std::os::unix::fs::PermissionsExt;
    let head = Node::head();
    let base = tempfile::tempdir().unwrap();
    let job = base.path().join("job");
    std::fs::create_dir_all(job.join("data")).unwrap();
    std::fs::write(job.join("data/words.txt"), "ray and manta\n").unwrap();
    let script = "#!/bin/sh\ncat data/words.txt; echo $SEED $1 >&2; pwd; echo left > left; exit 4\n";
    std::fs::write(job.join("run"), script).unwrap();
    std::fs::set_permissions(job.join("run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let folder = job.to_str().unwrap();
    let words = ["--working-dir", folder, "--env", "SEED=7", "--", "./run", "twice"];

    // Nobody runs anything without being allowed to.
    let viewer = head.told(&["token", "create", "--role", "viewer"]).trim().to_owned();
    let refused = elsewhere(&head, base.path(), Some(&viewer), &words);
    assert!(refused.code != 0 && refused.err.contains("mobula token create --role driver"), "{refused:?}");

    let token = head.told(&["token", "create", "--role", "driver"]).trim().to_owned();
    // The token is good once: the second time there is a certificate, and nothing is brought again.
    for _ in 0..2 {
        let said = elsewhere(&head, base.path(), Some(&token), &words);
        let lines: Vec<&str> = said.out.lines().collect();
        assert_eq!((said.code, lines[0]), (4, "ray and manta"), "{said:?}");
        assert!(said.err.contains("7 twice\n") && said.err.contains("exited with code 4"), "{said:?}");
        let node = head.base().join(head.port.to_string());
        assert!(lines[1].starts_with(node.join("staged").to_str().unwrap()), "it has a copy of its own: {said:?}");
        assert!(!job.join("left").exists(), "what it writes stays there");
        let begun = Instant::now();
        while std::path::Path::new(lines[1]).exists() {
            assert!(begun.elapsed() < PATIENCE, "its folder is left");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let programs = || std::fs::read_dir(head.base().join(head.port.to_string()).join("programs")).unwrap().count();
    assert_eq!(programs(), 2, "the program and the folder, each once");
}

#[test]
fn what_runs_from_another_host_is_followed_and_stopped() {
    let head = Node::head();
    let base = tempfile::tempdir().unwrap();
    let token = head.told(&["token", "create", "--role", "admin"]).trim().to_owned();
    // Without a folder it starts in an empty one.
    let said = elsewhere(&head, base.path(), Some(&token), &["--", "sh", "-c", "ls -A | wc -l; seq 1 20000"]);
    let expected: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    assert!(said.code == 0 && said.out == format!("0\n{expected}"), "{} bytes, {}", said.out.len(), said.err);

    let token = head.told(&["token", "create", "--role", "driver"]).trim().to_owned();
    let words = ["--detach", "--json", "--", "sh", "-c", "echo begun; exec sleep 1000"];
    let said = elsewhere(&head, &base.path().join("other"), Some(&token), &words);
    let submitted: SubmissionStatus = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{said:?}"));
    let begun = Instant::now();
    while !head.ask(&["logs", &submitted.process_id]).out.contains("begun") {
        assert!(begun.elapsed() < PATIENCE, "it does not begin");
        std::thread::sleep(Duration::from_millis(50));
    }
    // It outlives the command, and its job ends as any other.
    let job = jobs(&head).into_iter().find(|job| job.id == submitted.job_id).unwrap();
    assert_eq!((job.state.as_str(), job.name.as_str()), ("running", "sh -c echo begun; exec sleep 1000"));
    head.told(&["stop-job", &submitted.job_id]);
    assert_eq!(head.told(&["logs", "-f", &submitted.process_id]), "begun\n");
}
