//! Nobody is left behind: whoever is killed, all below is gone within 2 s, children that users' code started included.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mobula_types::DeathCause;

use crate::Test;
use crate::stage::{FAMILY, FREED, HANG, died, kill_hard, mark, process, run, start, started, until_marked, worker};

pub(crate) const TESTS: &[Test] = &[
    ("a_killed_worker_leaves_nothing_and_others_in_peace", a_killed_worker_leaves_nothing_and_others_in_peace),
    ("a_killed_node_leaves_nothing", a_killed_node_leaves_nothing),
    ("a_killed_warden_leaves_nothing_and_is_replaced", a_killed_warden_leaves_nothing_and_is_replaced),
    (
        "a_program_that_is_no_worker_does_not_outlive_the_warden",
        a_program_that_is_no_worker_does_not_outlive_the_warden,
    ),
];

fn a_killed_worker_leaves_nothing_and_others_in_peace() {
    let (folder, mark) = (tempfile::tempdir().unwrap(), [mark(), mark()]);
    run(async {
        let (workers, mut events) = start(folder.path());
        workers.spawn(worker(1, &["family", &mark[0]])).unwrap();
        let (_, pid) = started(&mut events).await;
        until_marked(&mark[0], FAMILY, HANG);
        workers.spawn(worker(2, &["sleep", &mark[1]])).unwrap();
        started(&mut events).await;
        kill_hard(pid);
        until_marked(&mark[0], 0, FREED);
        assert_eq!(died(&mut events).await.cause, DeathCause::Signal { signal: 9 });
        // A family that ends in peace leaves nothing either, and the other worker has seen nothing of all this.
        workers.spawn(worker(3, &["family", &mark[0]])).unwrap();
        started(&mut events).await;
        until_marked(&mark[0], FAMILY, HANG);
        workers.kill(process(3), DeathCause::JobStopped);
        until_marked(&mark[0], 0, FREED);
        assert_eq!(died(&mut events).await.process, process(3));
        until_marked(&mark[1], 1, Duration::from_millis(1));
        workers.stop(DeathCause::Drained).await;
    });
}

fn a_killed_node_leaves_nothing() {
    let (folder, mark) = (tempfile::tempdir().unwrap(), mark());
    let mut node = Command::new(std::env::current_exe().unwrap());
    node.args(["node".as_ref(), folder.path().as_os_str(), mark.as_ref()]).stdin(Stdio::null());
    let mut node = node.spawn().unwrap();
    // The node has the mark too.
    until_marked(&mark, 2 * FAMILY + 1, HANG);
    let warden = warden_of(node.id());
    let killed = Instant::now();
    node.kill().unwrap();
    node.wait().unwrap();
    until_marked(&mark, 0, FREED);
    // This process adopts: of a warden that has ended, its number is left until somebody waits for it.
    let lives = || fs::read_to_string(format!("/proc/{warden}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while lives() {
        assert!(killed.elapsed() < FREED, "the warden is left");
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("  all were gone {:?} after the node was killed", killed.elapsed());
}

fn a_killed_warden_leaves_nothing_and_is_replaced() {
    let (folder, mark) = (tempfile::tempdir().unwrap(), mark());
    run(async {
        let (workers, mut events) = start(folder.path());
        for number in [1, 2] {
            workers.spawn(worker(number, &["family", &mark])).unwrap();
            started(&mut events).await;
        }
        until_marked(&mark, 2 * FAMILY, HANG);
        // The daemons of both have forgotten all by which they could be known, but for their memory group.
        let kept = if workers.memory_groups().unwrap().is_ok() { 0 } else { 2 };
        let killed = Instant::now();
        kill_hard(warden_of(std::process::id()));
        let mut ended = [died(&mut events).await, died(&mut events).await];
        println!("  both deaths were told {:?} after the warden was killed", killed.elapsed());
        ended.sort_by_key(|death| death.process);
        let ended = ended.map(|death| (death.process, death.cause));
        let signal = DeathCause::Signal { signal: 9 };
        assert_eq!(ended, [(process(1), signal.clone()), (process(2), signal)]);
        let left = until_marked(&mark, kept, FREED.saturating_sub(killed.elapsed()));
        left.into_iter().for_each(kill_hard);
        // The next spawn starts a warden again.
        workers.spawn(worker(3, &["exit", "4"])).unwrap();
        started(&mut events).await;
        assert_eq!(died(&mut events).await.cause, DeathCause::Exited { code: 4 });
        workers.stop(DeathCause::Drained).await;
    });
}

fn a_program_that_is_no_worker_does_not_outlive_the_warden() {
    let (folder, mark) = (tempfile::tempdir().unwrap(), mark());
    run(async {
        let (workers, mut events) = start(folder.path());
        // A shell never asks for the signal at its parent's end.
        let mut spec = worker(1, &["-c", "sleep 600 & wait", &mark]);
        spec.program = "/bin/sh".into();
        workers.spawn(spec).unwrap();
        started(&mut events).await;
        until_marked(&mark, 1, HANG);
        kill_hard(warden_of(std::process::id()));
        until_marked(&mark, 0, FREED);
        assert_eq!(died(&mut events).await.cause, DeathCause::Signal { signal: 9 });
        workers.stop(DeathCause::Drained).await;
    });
}

/// The one child of a node.
fn warden_of(node: u32) -> i32 {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_warden = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // This process has adopted wardens of nodes that were killed: they have ended.
        stat.contains(&format!("(mobula-warden) S {node} ")) || stat.contains(&format!("(mobula-warden) R {node} "))
    };
    let found: Vec<i32> = pids.filter(is_warden).collect();
    assert_eq!(found.len(), 1, "a node has one warden: {found:?}");
    found[0]
}
