//! Starting: how soon a node is there, what it costs, where it listens; and programs that run on what was started.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mobula_cluster::cluster::{Cluster, DASHBOARD_PORT, PORT, Plan};
use mobula_cluster::oracle::Holdings;
use mobula_cluster::traces::{self, Socket};

use crate::cluster;

/// What an idle node may hold, and a second of it may take; the builds of tests are not optimised.
const IDLE_BYTES: u64 = 50 << 20;
const IDLE_CPU_S: f64 = 0.05;

#[test]
fn a_head_alone_is_light_and_listens_only_where_documented() -> Result<()> {
    let Some((mut cluster, _turn)) = cluster(Plan::of(1))? else { return Ok(()) };
    light(&mut cluster, 1)
}

#[test]
fn nodes_are_light_and_listen_only_where_documented() -> Result<()> {
    let Some((mut cluster, _turn)) = cluster(Plan::of(2))? else { return Ok(()) };
    light(&mut cluster, 2)
}

fn light(cluster: &mut Cluster, nodes: usize) -> Result<()> {
    let status = cluster.status(nodes - 1)?;
    assert_eq!(status.nodes.len(), nodes);
    assert!(!status.cluster_id.is_empty() && status.protocol > 0 && status.epoch > 0, "{status:?}");
    for (path, text) in [("/health", r#"{"status":"ok"}"#), ("/api/v0/status", status.cluster_id.as_str())] {
        let answer = cluster.host(0).run(|| {
            let mut stream = TcpStream::connect(("127.0.0.1", DASHBOARD_PORT))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost:{DASHBOARD_PORT}\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains(text), "{path}: {answer}");
    }

    let begun: Vec<f64> = cluster.node_pids().filter_map(traces::cpu_s).collect();
    let window = Duration::from_secs(2);
    thread::sleep(window);
    for (node, before) in begun.iter().enumerate() {
        let pid = cluster.node(node)?.pid();
        let used = traces::cpu_s(pid).context("the node runs")? - before;
        let rss_bytes = traces::rss_bytes(pid).context("the node runs")?;
        println!("idle, node {node} takes {used:.4} s in {window:?} and holds {} KiB", rss_bytes >> 10);
        assert!(used < IDLE_CPU_S * window.as_secs_f64(), "idle, node {node} took {used} s of {window:?}");
        assert!(rss_bytes < IDLE_BYTES, "idle, node {node} holds {rss_bytes} bytes");
    }
    for node in 0..nodes {
        let mut expected = vec![Socket::Udp { is_loopback: false, port: PORT }];
        if node == 0 {
            expected.push(Socket::Tcp { is_loopback: true, port: DASHBOARD_PORT });
        }
        let folder = cluster.node_folder(node).join(PORT.to_string());
        for name in ["node.sock", "store.sock"] {
            expected.push(Socket::Unix { name: folder.join(name).display().to_string() });
        }
        assert_eq!(cluster.host(node).listening()?, expected, "node {node}");
    }
    Ok(())
}

/// The work of one node: where it goes when nothing of a cluster is far away.
#[test]
fn an_example_runs_on_a_head_alone() -> Result<()> {
    let Some((cluster, _turn)) = cluster(Plan::of(1))? else { return Ok(()) };
    let before = Holdings::of(&cluster);
    for example in ["word_count", "actor", "monte_carlo"] {
        cluster.start_program(0, example, example, &[])?.succeed(Duration::from_secs(60))?;
    }
    before.restored(&cluster)
}

#[test]
fn every_example_runs_unchanged_on_two_nodes() -> Result<()> {
    // CPUs for all that examples ask for at once, on the node where the driver is not.
    let Some((cluster, _turn)) = cluster(Plan { cpus: 4, ..Plan::of(2) })? else { return Ok(()) };
    let before = Holdings::of(&cluster);
    let examples = [
        "word_count",
        "actor",
        "actor_by_hand",
        "supervision",
        "count_files",
        "monte_carlo",
        "parameter_server",
        "placement_group",
        "crawler",
        "stages",
    ];
    for (turn, example) in examples.into_iter().enumerate() {
        let begun = Instant::now();
        cluster.start_program(turn % 2, example, example, &[])?.succeed(Duration::from_secs(60))?;
        println!("{example} on node {}: {:?}", turn % 2, begun.elapsed());
    }
    before.restored(&cluster)
}

#[test]
fn a_load_on_four_nodes_is_accounted_for() -> Result<()> {
    let Some((cluster, _turn)) = cluster(Plan::of(4))? else { return Ok(()) };
    let before = Holdings::of(&cluster);
    let record = cluster.folder().join("r");
    let words = ["load", "--record", &record.display().to_string(), "--tasks", "64", "--actors", "8", "--names", "20"];
    let driver = cluster.drive(1, "driver", &words)?;
    thread::sleep(Duration::from_secs(3));
    let report = driver.finish()?;
    // Nothing was done to it: all is well.
    for account in [&report.tasks, &report.calls, &report.names] {
        assert!(account.submitted > 0 && account.of("ok") == account.submitted, "{report:#?}");
    }
    assert_eq!(report.runs_max, 1);
    before.restored(&cluster)?;
    // G21: what the driver submitted is in the cluster's books after its end, with what its functions submitted in turn.
    let counters = cluster.status(0)?.counters;
    assert!(counters.submitted >= report.session.submitted, "{counters:?} {report:#?}");
    assert_eq!(counters.outcomes.values().sum::<u64>(), counters.submitted, "{counters:?}");
    Ok(())
}
