//! Nobody is left behind: whatever is killed, what depended on it is gone within 2 s (G9), children of user code too.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mobula_cluster::cluster::{Cluster, Driver, PORT, Plan};
use mobula_cluster::process::until;
use mobula_cluster::traces::{self, Socket};
use rustix::process::{Pid, Signal};

use crate::cluster;

/// Wherever it is (G9).
const GONE: Duration = Duration::from_secs(2);

/// The driver is on node 1, which is not the head.
const HEAD: usize = 0;
const NODE: usize = 1;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Driver,
    Worker,
    Node,
    Head,
}

const VICTIMS: [Victim; 4] = [Victim::Driver, Victim::Worker, Victim::Node, Victim::Head];

#[test]
fn whatever_is_killed_leaves_nothing_behind() -> Result<()> {
    let Some((mut cluster, _turn)) = cluster(Plan::of(2))? else { return Ok(()) };
    // Nodes are killed again and again here.
    for host in cluster.network().hosts() {
        host.answer_always()?;
    }
    let shared_memory = shared_memory();
    for subset in 1_u32..1 << VICTIMS.len() {
        let victims: Vec<Victim> =
            (0..VICTIMS.len()).filter(|bit| subset >> bit & 1 == 1).map(|bit| VICTIMS[bit]).collect();
        kill(&mut cluster, &victims).with_context(|| format!("after {victims:?} were killed"))?;
        let left: Vec<_> = self::shared_memory().difference(&shared_memory).cloned().collect();
        ensure!(left.is_empty(), "after {victims:?} were killed, /dev/shm holds {left:?}");
        for node in [HEAD, NODE] {
            if cluster.node(node).is_err() {
                cluster.start_node(node)?;
            }
        }
        cluster.until_alive(2)?;
    }
    Ok(())
}

fn kill(cluster: &mut Cluster, victims: &[Victim]) -> Result<()> {
    let mut driver = cluster.drive(NODE, "driver", &["tree", "--actors", "6"])?;
    let workers: Vec<u32> = driver.process.output().lines().filter_map(|line| word(line, "worker")).collect();
    let children: Vec<u32> = driver.process.output().lines().filter_map(|line| word(line, "child")).collect();
    let here = cluster.host(NODE).pids();
    let worker = *workers.iter().find(|pid| here.contains(pid)).context("no worker runs on the driver's node")?;
    ensure!(workers.iter().any(|pid| !here.contains(pid)), "no worker runs on the other node");
    ensure!(children.len() == 6, "each actor has a child");

    // All at once, as far as signals go.
    for victim in victims {
        match victim {
            Victim::Driver => driver.process.signal(Signal::KILL)?,
            Victim::Node => cluster.node(NODE)?.signal(Signal::KILL)?,
            Victim::Head => cluster.node(HEAD)?.signal(Signal::KILL)?,
            Victim::Worker => {
                let pid = i32::try_from(worker).ok().and_then(Pid::from_raw).context("a worker has a number")?;
                rustix::process::kill_process(pid, Signal::KILL)?;
            }
        }
    }
    for (victim, node) in [(Victim::Node, NODE), (Victim::Head, HEAD)] {
        if victims.contains(&victim) {
            cluster.node(node)?.wait(GONE)?;
            cluster.forget_node(node);
        }
    }
    let mut left = Vec::new();
    let gone = until("nothing left behind", GONE, || {
        left = left_behind(cluster, &mut driver, victims)?;
        // A worker that was killed may be replaced; it must not stay itself, nor what it had started.
        if victims.contains(&Victim::Worker) && cluster.host(NODE).pids().contains(&worker) {
            left.push(format!("the killed worker {worker}"));
        }
        Ok(left.is_empty().then_some(()))
    });
    gone.with_context(|| left.join("\n"))?;
    if !victims.contains(&Victim::Driver) {
        driver.process.kill()?;
        until("nothing left behind of the driver", GONE, || {
            left = left_behind(cluster, &mut driver, victims)?;
            Ok(left.is_empty().then_some(()))
        })
        .with_context(|| left.join("\n"))?;
    }
    Ok(())
}

/// The number behind a word of a line such as `worker 12 child 13`.
fn word(line: &str, name: &str) -> Option<u32> {
    line.split_whitespace().skip_while(|word| *word != name).nth(1)?.parse().ok()
}

/// Processes that nobody answers for, and sockets whose process has ended.
fn left_behind(cluster: &mut Cluster, driver: &mut Driver, victims: &[Victim]) -> Result<Vec<String>> {
    let driver_lives = driver.process.status()?.is_none();
    // A driver whose node has died has no job any more.
    let job_lives = driver_lives && !victims.contains(&Victim::Node);
    let nodes: Vec<u32> = cluster.node_pids().collect();
    let mut left = Vec::new();
    for node in [HEAD, NODE] {
        let host = cluster.host(node);
        for pid in host.pids() {
            let is_itself = cluster.is_of_node(pid) || (driver_lives && pid == driver.process.pid());
            // What a driver starts itself is the driver's own affair.
            let answered_for = job_lives && ancestors(pid).any(|ancestor| nodes.contains(&ancestor));
            if !is_itself && !answered_for {
                left.push(format!("host {node}: process {pid} `{}`", traces::command_line(pid)));
            }
        }
        let alive = cluster.node(node).is_ok();
        let listening = cluster.host(node).listening()?;
        for socket in &listening {
            if !alive && !driver_lives {
                left.push(format!("host {node}: {socket}"));
            }
        }
        if alive {
            left.extend(stale(cluster, node, &listening)?);
        }
    }
    Ok(left)
}

fn ancestors(pid: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(traces::parent(pid), |pid| traces::parent(*pid))
}

/// Files of sockets in a living node's folder at which nobody listens.
fn stale(cluster: &Cluster, node: usize, listening: &[Socket]) -> Result<Vec<String>> {
    let folder = cluster.node_folder(node).join(PORT.to_string());
    let mut stale = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
        let Ok(entry) = entry else { continue };
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        let name = entry.path().display().to_string();
        if is_socket && !listening.contains(&Socket::Unix { name: name.clone() }) {
            stale.push(format!("host {node}: the file of a socket {name}"));
        }
    }
    Ok(stale)
}

fn shared_memory() -> BTreeSet<String> {
    let entries = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
