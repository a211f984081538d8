//! The cause of a death, as the caller is told it: one cause, with the last words, and never a list of possible ones.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mobula_cluster::cluster::{Cluster, Driver, Plan};
use mobula_cluster::hosts::skipped;
use mobula_cluster::report::REPORT;
use serde_json::Value;

use crate::cluster;
use crate::promises::{ASKED, FREED_AFTER, KILLED, SILENT, TOLD_AFTER};

/// A node tells of its own workers, and of a job that is stopped, at once.
const AT_ONCE: Duration = Duration::ZERO;

/// The kernel has reclaimed all that it can before it ends what uses the most.
const USED_UP: Duration = Duration::from_secs(2);

/// The driver is on the head, on which nothing runs.
fn death(cluster: &Cluster, how: &str) -> Result<Driver> {
    cluster.drive(0, how, &["death", how])
}

/// What the caller is told, so soon after the death is `known` as is promised (G1).
fn check(mut driver: Driver, known: Duration, outcome: &str, texts: &[&str]) -> Result<()> {
    let begun = Instant::now();
    let said = driver.process.line(REPORT, known + TOLD_AFTER + ASKED)?;
    println!("{texts:?}: told after {:?}", begun.elapsed());
    let said: Value = serde_json::from_str(&said)?;
    let text = said["text"].as_str().context("an error has a text")?;
    ensure!(said["outcome"] == outcome, "expected {outcome}, found {said}");
    for expected in texts {
        ensure!(text.contains(expected), "`{text}` does not say `{expected}`");
    }
    driver.process.succeed(FREED_AFTER)?;
    Ok(())
}

const LAST_WORDS: &str = "the last words of a mortal";

#[test]
fn the_caller_is_told_how_a_worker_died() -> Result<()> {
    let Some((cluster, _turn)) = cluster(Plan::of(2).head_apart())? else { return Ok(()) };
    check(death(&cluster, "panic")?, AT_ONCE, "failed", &["panicked: a mortal panics at"])?;
    check(death(&cluster, "abort")?, AT_ONCE, "may_have_run", &["aborted", LAST_WORDS])?;
    check(death(&cluster, "exit")?, AT_ONCE, "may_have_run", &["exited with code 7", LAST_WORDS])?;
    check(death(&cluster, "signal")?, AT_ONCE, "may_have_run", &["signal 9 (SIGKILL)", LAST_WORDS])?;
    check(death(&cluster, "stack")?, AT_ONCE, "may_have_run", &["overflowed its stack"])?;
    Ok(())
}

#[test]
fn the_caller_is_told_that_memory_was_used_up() -> Result<()> {
    // Before the cluster: dropped behind it, when nobody is in it any more.
    let Some(group) = MemoryGroup::make("mobula-cluster-test", 192 << 20)? else { return Ok(()) };
    let Some((cluster, _turn)) = cluster(Plan::of(2).head_apart())? else { return Ok(()) };
    // The node and what it has started already; what they start from now on is in it, too.
    for pid in cluster.host(1).pids() {
        group.add(pid)?;
    }
    check(death(&cluster, "memory")?, USED_UP, "may_have_run", &["memory was used up"])
}

#[test]
fn the_caller_is_told_what_became_of_the_node() -> Result<()> {
    let Some((mut cluster, _turn)) = cluster(Plan::of(2).head_apart())? else { return Ok(()) };
    let driver = death(&cluster, "wait")?;
    let job = cluster.list(0, "jobs")?.pop().context("the driver has a job")?;
    cluster.ask(0, &["stop-job", &job.id])?;
    check(driver, AT_ONCE, "may_have_run", &["ended with its job"])?;

    let driver = death(&cluster, "wait")?;
    cluster.kill_node(1)?;
    check(driver, KILLED, "may_have_run", &["its node, which was killed"])?;
    cluster.start_node(1)?;
    cluster.until_alive(2)?;

    let driver = death(&cluster, "wait")?;
    cluster.network().cut(&[1])?;
    check(driver, SILENT, "may_have_run", &["its node, which has been silent for"])?;
    cluster.network().heal()?;
    Ok(())
}

/// A memory group of the kernel's, of version 2 or 1; removed when it is dropped.
struct MemoryGroup {
    folder: PathBuf,
}

impl MemoryGroup {
    /// `None` where neither can be written, which is said; an error where CI is set.
    fn make(name: &str, bytes: u64) -> Result<Option<Self>> {
        let version_1 = PathBuf::from("/sys/fs/cgroup/memory");
        let (root, limit) = if version_1.is_dir() {
            (version_1, "memory.limit_in_bytes")
        } else {
            (PathBuf::from("/sys/fs/cgroup"), "memory.max")
        };
        let folder = root.join(format!("{name}-{}", std::process::id()));
        let made = std::fs::create_dir(&folder).and_then(|()| std::fs::write(folder.join(limit), bytes.to_string()));
        match made {
            Ok(()) => Ok(Some(Self { folder })),
            Err(error) if std::env::var_os("CI").is_none() => {
                skipped(&format!("no memory group can be made in {}: {error}", root.display()));
                std::fs::remove_dir(&folder).ok();
                Ok(None)
            }
            Err(error) => Err(error).context("this test may not be skipped where CI is set"),
        }
    }

    /// Takes in a process.
    fn add(&self, pid: u32) -> Result<()> {
        std::fs::write(self.folder.join("cgroup.procs"), pid.to_string()).context("add to the memory group")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Its last process may still be on its way out.
        let removed = mobula_cluster::process::until("an empty memory group", USED_UP, || {
            // The node makes groups of its own for workers below its own.
            for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
                std::fs::remove_dir(entry.path()).ok();
            }
            Ok(std::fs::remove_dir(&self.folder).ok())
        });
        if let Err(error) = removed {
            eprintln!("{} stays: {error:#}", self.folder.display());
        }
    }
}
