//! A program on a host without a node: it joins over the network with a token, and its connection may break.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mobula_cluster::cluster::{Cluster, Driver, PORT, Plan, built};
use mobula_cluster::oracle::Holdings;
use mobula_cluster::process::{Process, until};
use mobula_cluster::report::READY;
use mobula_cluster::traces::{self, Socket};

use crate::cluster;
use crate::promises::{ASKED, FREED_AFTER, KILLED};
use crate::turns::Turn;

/// The host that has no node.
const BARE: usize = 2;

/// For how long a driver may be away, where a test waits for the end of that: 30 s unless it is said otherwise.
const RESUME_S: u32 = 5;

/// Its program, not optimised, goes to a node and from there to the other.
const BEGUN: Duration = Duration::from_secs(60);

/// A connection on which nothing comes is given up after this time, and waited for then.
const GIVEN_UP: Duration = Duration::from_secs(2);

fn two_nodes_and_a_bare_host() -> Result<Option<(Cluster, Turn)>> {
    let plan = Plan { bare: 1, driver_resume_s: RESUME_S, ..Plan::of(2) };
    let Some((cluster, turn)) = cluster(plan)? else { return Ok(None) };
    // Processes are killed here.
    cluster.host(0).answer_always()?;
    cluster.host(BARE).answer_always()?;
    Ok(Some((cluster, turn)))
}

/// A program on the bare host, with a token of its own; it goes to the node that is not the head.
fn far(cluster: &Cluster, name: &str, program: &str, words: &[&str]) -> Result<Process> {
    let mut command = far_command(cluster, name, program)?;
    command.args(words).env("MOBULA_TOKEN", cluster.token("driver")?);
    Process::start(name, cluster.folder(), &mut command)
}

fn far_command(cluster: &Cluster, name: &str, program: &str) -> Result<Command> {
    let mut command = cluster.program(BARE, &built(program));
    command.env("MOBULA_ADDRESS", format!("{}:{PORT}", cluster.host(1).ip()));
    // Each has a folder of its own for its certificate.
    command.env("MOBULA_DIR", cluster.folder().join(format!("far-{name}")));
    Ok(command)
}

/// The state of the newest job, and why it is so.
fn last_job(cluster: &Cluster) -> Result<(String, String)> {
    let job = cluster.list(0, "jobs")?.into_iter().next_back().context("there is a job")?;
    Ok((job.state, job.cause.unwrap_or_default()))
}

fn workers(cluster: &Cluster) -> usize {
    (0..2).map(|node| cluster.workers(node).len()).sum()
}

/// Waits until all is free, so soon after the death is `known` as is promised (G9).
fn until_nothing_is_left(cluster: &Cluster, known: Duration) -> Result<()> {
    let begun = Instant::now();
    let mut left = String::new();
    let gone = until("nothing left of the job", known + FREED_AFTER + ASKED, || {
        let state = last_job(cluster)?.0;
        left = format!("the job is {state}, workers on nodes: {}", workers(cluster));
        Ok((state == "ended" && workers(cluster) == 0).then_some(()))
    });
    println!("nothing was left after {:?}", begun.elapsed());
    gone.context(left)
}

#[test]
fn a_program_on_a_host_without_a_node_runs_in_the_cluster() -> Result<()> {
    let Some((cluster, _turn)) = two_nodes_and_a_bare_host()? else { return Ok(()) };
    let before = Holdings::of(&cluster);
    let mut process = far(&cluster, "words", "word_count", &[])?;
    let said = process.succeed(BEGUN)?;
    ensure!(said.contains("4 is"), "it counts: {said}");
    // Its certificate is enough the next time, and its program is there.
    let begun = Instant::now();
    let mut again = far_command(&cluster, "words", "word_count")?;
    Process::start("again", cluster.folder(), &mut again)?.succeed(BEGUN)?;
    println!("the second time: {:?}", begun.elapsed());
    for node in 0..2 {
        let programs = cluster.node_folder(node).join(PORT.to_string()).join("programs");
        let names: Vec<_> = std::fs::read_dir(&programs)?.flatten().map(|entry| entry.file_name()).collect();
        ensure!(names.len() <= 1, "node {node} has one program at most: {names:?}");
    }
    // The command line asks from there, too, with a token of its own.
    let mut command = cluster.mobula(BARE, &["list", "nodes", "--json"]);
    command.args(["--address", &cluster.address()]).env("MOBULA_TOKEN", cluster.token("viewer")?);
    let mut list = Process::start("list", cluster.folder(), &mut command)?;
    ensure!(list.succeed(BEGUN)?.lines().count() == 2);
    let mut command = cluster.mobula(BARE, &["stop-job", "job-1", "--address", &cluster.address()]);
    let mut stop = Process::start("stop", cluster.folder(), &mut command)?;
    ensure!(!stop.wait(BEGUN)?.success() && stop.errors().contains("--role admin"), "{}", stop.errors());
    // And it has programs run there, with a token for that: the driver is then in the cluster.
    let program = built("word_count").display().to_string();
    let words = ["submit", "--address", &cluster.address(), "--", &program];
    let mut submit = Process::start("refused", cluster.folder(), &mut cluster.mobula(BARE, &words))?;
    ensure!(!submit.wait(BEGUN)?.success() && submit.errors().contains("--role driver"), "{}", submit.errors());
    let mut command = cluster.mobula(BARE, &words);
    command.env("MOBULA_TOKEN", cluster.token("driver")?);
    let mut submit = Process::start("submit", cluster.folder(), &mut command)?;
    let said = submit.succeed(BEGUN)?;
    ensure!(said.contains("4 is"), "what it writes comes back: {said} {}", submit.errors());
    ensure!(cluster.host(BARE).pids().is_empty() && cluster.host(BARE).listening()?.is_empty(), "nothing stays there");
    before.restored(&cluster)
}

#[test]
fn a_program_without_a_good_token_is_told_what_to_do() -> Result<()> {
    let Some((cluster, _turn)) = two_nodes_and_a_bare_host()? else { return Ok(()) };
    for (name, token, says) in [
        ("none", None, "mobula token create --role driver"),
        ("node", Some("node"), "mobula token create --role driver"),
        ("viewer", Some("viewer"), "mobula token create --role driver"),
    ] {
        let mut command = far_command(&cluster, name, "word_count")?;
        if let Some(role) = token {
            command.env("MOBULA_TOKEN", cluster.token(role)?);
        }
        let mut process = Process::start(name, cluster.folder(), &mut command)?;
        ensure!(!process.wait(BEGUN)?.success(), "{name}: it was let in");
        ensure!(process.errors().contains(says), "{name}: `{}` does not say `{says}`", process.errors());
    }
    Ok(())
}

#[test]
fn a_cut_of_three_seconds_loses_nothing() -> Result<()> {
    let Some((cluster, _turn)) = two_nodes_and_a_bare_host()? else { return Ok(()) };
    let before = Holdings::of(&cluster);
    let record = cluster.folder().join("r").display().to_string();
    let words = ["load", "--record", &record, "--tasks", "32", "--task-ms", "5", "--actors", "6"];
    let mut process = far(&cluster, "driver", "mobula-workload", &words)?;
    process.line(READY, BEGUN)?;
    // One port for other hosts, on nodes as ever.
    for node in 0..2 {
        let mut udp = cluster.host(node).listening()?;
        udp.retain(|socket| matches!(socket, Socket::Udp { .. }));
        ensure!(udp == [Socket::Udp { is_loopback: false, port: PORT }], "node {node} listens at {udp:?}");
    }
    let own = cluster.host(BARE).listening()?;
    ensure!(matches!(own[..], [Socket::Udp { is_loopback: false, .. }]), "the driver has one port: {own:?}");
    let cut = Duration::from_secs(3);
    std::thread::sleep(Duration::from_secs(1));
    cluster.network().cut(&[BARE])?;
    std::thread::sleep(cut);
    cluster.network().heal()?;
    std::thread::sleep(Duration::from_secs(1));
    let report = Driver { process }.finish()?;
    for account in [&report.tasks, &report.calls] {
        ensure!(account.submitted > 0 && account.of("ok") == account.submitted, "{report:#?}");
    }
    ensure!(report.call_ms_max >= 2_000, "no call was under way in the cut: {report:#?}");
    ensure!(report.runs_max == 1, "{report:#?}");
    before.restored(&cluster)
}

#[test]
fn a_cut_for_good_ends_the_job() -> Result<()> {
    let Some((cluster, _turn)) = two_nodes_and_a_bare_host()? else { return Ok(()) };
    let record = cluster.folder().join("r").display().to_string();
    let words =
        ["load", "--record", &record, "--tasks", "8", "--task-ms", "20", "--tasks-max", "5000", "--actors", "2"];
    let mut process = far(&cluster, "driver", "mobula-workload", &words)?;
    process.line(READY, BEGUN)?;
    until("workers", BEGUN, || Ok((workers(&cluster) > 0).then_some(())))?;
    cluster.network().cut(&[BARE])?;
    let begun = Instant::now();
    let resume = Duration::from_secs(RESUME_S.into());
    let ended = until("the end of the job", GIVEN_UP + resume + ASKED, || {
        let (state, cause) = last_job(&cluster)?;
        Ok((state == "ended").then_some(cause))
    })?;
    println!("the job ended after {:?}", begun.elapsed());
    ensure!(begun.elapsed() >= resume, "the job ended after {:?}", begun.elapsed());
    ensure!(ended.contains("did not come back within"), "`{ended}` does not say why");
    until_nothing_is_left(&cluster, Duration::ZERO)?;
    // The driver knows by itself, though nobody can tell it: all that it waits for has its outcome.
    let report = Driver { process }.finish()?;
    ensure!(report.calls.of("ok") < report.calls.submitted, "{report:#?}");
    cluster.network().heal()?;
    ensure!(cluster.host(BARE).pids().is_empty(), "nothing is left there");
    Ok(())
}

#[test]
fn a_killed_far_driver_leaves_nothing() -> Result<()> {
    let Some((cluster, _turn)) = two_nodes_and_a_bare_host()? else { return Ok(()) };
    let before = Holdings::of(&cluster);
    let mut process = far(&cluster, "driver", "mobula-workload", &["tree", "--actors", "4"])?;
    until("workers", BEGUN, || Ok((workers(&cluster) > 0 && process.output().contains("child")).then_some(())))?;
    let children: Vec<u32> = process.output().lines().filter_map(child).collect();
    process.kill()?;
    until_nothing_is_left(&cluster, KILLED)?;
    // One that has ended and was not waited for yet has no command line.
    let are_gone = || Ok(children.iter().all(|pid| traces::command_line(*pid).is_empty()).then_some(()));
    until("the end of what its actors had started", ASKED, are_gone)?;
    before.restored(&cluster)
}

/// The number of a process that an actor started, in a line such as `worker 12 child 13`.
fn child(line: &str) -> Option<u32> {
    line.split_whitespace().skip_while(|word| *word != "child").nth(1)?.parse().ok()
}
