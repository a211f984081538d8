//! The verbs of a cluster as a user runs them, against a node in a folder of its own: what they print, what they say of
//! wrong input, and what is left when they have ended.

#![forbid(unsafe_code)]

mod http;
mod node;
mod submitting;

use std::io::{Seek, SeekFrom, Write};

use mobula_types::state::{ClusterStatus, Listed, TokenStatus};
use node::{Node, free_port, mobula, run};

#[test]
fn without_a_node_every_verb_says_how_to_start_one() {
    let base = tempfile::tempdir().unwrap();
    let verbs: [&[&str]; 10] = [
        &["status"],
        &["list", "jobs"],
        &["why", "task-1:2.3"],
        &["logs", "1:2"],
        &["token", "create"],
        &["drain", "node-2"],
        &["stop-job", "job-1"],
        &["stop-actor", "shop/orders"],
        &["submit", "--", "true"],
        &["stop"],
    ];
    for words in verbs {
        let said = run(mobula(base.path(), words));
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{words:?}: {said:?}");
        assert_eq!(said.err.lines().count(), 1, "{words:?}: {said:?}");
        assert!(said.err.contains("no node runs on this host: start one with `mobula start --head`"), "{said:?}");
    }
}

#[test]
fn a_command_line_that_cannot_be_says_what_can() {
    let base = tempfile::tempdir().unwrap();
    let wrong: [(&[&str], &str); 12] = [
        (&["list", "job"], "jobs"),
        (&["token", "create", "--role", "boss"], "node, driver, admin, viewer"),
        (&["token", "create", "--ttl", "5d"], "as 15m"),
        (&["drain", "two"], "as node-3"),
        (&["stop-job", "two"], "as job-3"),
        (&["stop-actor", "orders"], "as shop/orders"),
        (&["submit"], "PROGRAM"),
        (&["submit", "--", "./none"], "there is no"),
        (&["submit", "--working-dir", "/none", "--", "true"], "no such folder"),
        (&["submit", "--env", "A", "--", "true"], "NAME=VALUE"),
        (&["logs", "job-1", "-f"], "mobula list workers"),
        (&["status", "--address", "somewhere"], "host:port"),
    ];
    for (words, says) in wrong {
        let said = run(mobula(base.path(), words));
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{words:?}: {said:?}");
        assert!(said.err.contains(says), "{words:?}: {said:?}");
    }
}

#[test]
fn a_head_says_what_it_is_and_what_it_does_not_know() {
    let head = Node::head();
    let status: ClusterStatus = serde_json::from_str(&head.told(&["status", "--json"])).unwrap();
    assert_eq!((status.nodes.len(), status.nodes[0].state.as_str()), (1, "alive"), "{status:?}");
    assert_eq!(status.head, status.nodes[0].node_id);
    assert!(!status.cluster_id.is_empty() && status.epoch > 0 && status.protocol > 0, "{status:?}");
    assert!(status.nodes[0].resources_total["num_cpus"] > 0.0, "{status:?}");
    assert!(head.told(&["status"]).contains("1 of 1 nodes alive"));

    let nodes = head.told(&["list", "nodes", "--json"]);
    let keys = "id, kind, name, job_id, node_id, state, since_s, attempt, incarnation, cause, why";
    let line: serde_json::Map<String, serde_json::Value> = serde_json::from_str(nodes.trim()).unwrap();
    for key in keys.split(", ") {
        assert!(line.contains_key(key), "no {key} in {nodes}");
    }
    for kind in ["jobs", "workers", "actors", "tasks"] {
        assert_eq!(head.told(&["list", kind, "--json"]), "", "{kind}");
        assert!(head.told(&["list", kind]).starts_with("id "), "{kind}");
    }

    let unknown: [(&[&str], &str); 5] = [
        (&["why", "task-1:2.3"], "task-1:2.3"),
        (&["logs", "1:99"], "1:99"),
        (&["logs", "job-99"], "job-99"),
        (&["stop-job", "job-99"], "job-99"),
        (&["drain", "node-99"], "node-99"),
    ];
    for (words, says) in unknown {
        let said = head.ask(words);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{words:?}: {said:?}");
        assert!(said.err.contains(says) && said.err.lines().count() == 1, "{words:?}: {said:?}");
    }
}

#[test]
fn who_was_refused_is_shown_by_cause() {
    let head = Node::head();
    let refusals = || {
        let status: ClusterStatus = serde_json::from_str(&head.told(&["status", "--json"])).unwrap();
        status.counters.refusals
    };
    assert!(refusals().is_empty() && !head.told(&["status"]).contains("refused"), "nobody was refused yet");
    let token = head.told(&["token", "create", "--role", "viewer"]).trim().to_owned();
    let port = free_port().to_string();
    let address = format!("--address=127.0.0.1:{}", head.port);
    let said = head.ask(&["start", "--block", &address, "--port", &port, "--token", &token]);
    assert!(said.code != 0 && said.err.contains("role"), "{said:?}");
    assert_eq!(refusals(), [("wrong_role".to_owned(), 1)].into());
    assert!(head.told(&["status"]).ends_with("refused: 1 wrong_role\n"));
    let get = format!("GET /api/v0/status HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\r\n", head.http);
    let answer = head.http(&get);
    assert!(answer.contains(r#""refusals":{"wrong_role":1}"#), "{answer}");
}

#[test]
fn tokens_are_made_listed_and_taken_back() {
    let head = Node::head();
    let made = head.ask(&["token", "create", "--ttl", "2m"]);
    let token = made.out.trim();
    assert_eq!((made.code, token.matches('.').count(), token.lines().count()), (0, 2, 1), "{made:?}");
    assert!(made.err.contains("mobula start --address=") && made.err.contains(&format!("--token={token}")), "{made:?}");
    let id = token.split('.').next().unwrap();
    let listed = || -> Vec<TokenStatus> {
        let text = head.told(&["token", "list", "--json"]);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let found = listed().into_iter().find(|token| token.id == id).unwrap();
    assert_eq!((found.role.as_str(), found.is_used), ("node", false));
    let driver = head.ask(&["token", "create", "--role", "driver"]);
    assert!(!driver.err.contains("mobula start"), "only nodes are started: {driver:?}");
    head.told(&["token", "revoke", id]);
    assert!(listed().iter().all(|token| token.id != id));
}

#[test]
fn the_head_is_asked_where_several_nodes_run_and_a_drained_node_leaves() {
    let head = Node::head();
    let port = free_port();
    let mut member = head.member(port);
    let status: ClusterStatus = serde_json::from_str(&head.told(&["status", "--json"])).unwrap();
    assert_eq!(status.nodes.len(), 2, "{status:?}");
    let of_member: ClusterStatus =
        serde_json::from_str(&head.told(&["status", "--json", "--port", &port.to_string()])).unwrap();
    assert_eq!(of_member.cluster_id, status.cluster_id);
    let node = status.nodes.iter().find(|node| node.node_id != status.head).unwrap();
    let said = head.told(&["drain", &node.node_id]);
    assert!(said.contains(&node.node_id) && said.contains("has left"), "{said}");
    assert!(member.wait().success());
    let nodes = head.told(&["list", "nodes", "--json"]);
    let nodes = nodes.lines().map(|line| serde_json::from_str::<Listed>(line).unwrap());
    assert!(nodes.filter(|listed| listed.id == node.node_id).all(|listed| listed.state == "dead"));
}

#[test]
fn a_node_in_the_background_does_not_show_its_token() {
    let head = Node::head();
    let token = head.told(&["token", "create"]).trim().to_owned();
    let secret = token.split('.').nth(1).unwrap();
    let port = free_port().to_string();
    let start = format!("start --address=127.0.0.1:{} --port {port} --token -", head.port);
    let mut command = mobula(head.base(), &start.split(' ').collect::<Vec<_>>());
    let mut input = tempfile::tempfile().unwrap();
    writeln!(input, "{token}").unwrap();
    input.seek(SeekFrom::Start(0)).unwrap();
    command.stdin(input);
    let said = run(command);
    assert_eq!(said.code, 0, "{said:?}");
    let status: ClusterStatus = serde_json::from_str(&head.told(&["status", "--json"])).unwrap();
    let member = status.nodes.iter().find(|node| node.node_id != status.head).expect("it has joined");
    let words = std::fs::read(format!("/proc/{}/cmdline", member.pid));
    let stopped = head.ask(&["stop", "--port", &port]);
    let words = String::from_utf8(words.unwrap()).unwrap();
    assert!(words.contains("--token=-") && !words.contains(secret), "{words}");
    assert_eq!(stopped.code, 0, "{stopped:?}");
}

#[test]
fn a_stopped_node_is_gone() {
    let mut head = Node::head();
    head.told(&["stop"]);
    assert!(head.wait().success());
    assert!(!head.base().join(head.port.to_string()).join("node.sock").exists());
    let said = head.ask(&["status"]);
    assert!(said.err.contains("no node runs on this host"), "{said:?}");
}

#[test]
fn what_a_killed_node_leaves_is_taken_for_no_node() {
    let head = Node::head();
    let left = head.base().join("1");
    std::fs::create_dir(&left).unwrap();
    drop(std::os::unix::net::UnixListener::bind(left.join("node.sock")).unwrap());
    assert!(head.told(&["status"]).contains("1 of 1 nodes alive"));
}
