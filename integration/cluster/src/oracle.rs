//! What must hold after every run, whatever was done to the cluster meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::cluster::Cluster;
use crate::process::until;
use crate::report::{Account, Report};
use crate::traces;

/// From the last fault until nothing may be pending any more.
pub const SETTLED: Duration = Duration::from_secs(10);

/// What a node may hold more than before, when all work is done: buffers that grew once and stay, pages of its allocator.
/// Programs pass through nodes, and those of tests have 40 MiB.
const MEMORY_SLACK_BYTES: u64 = 64 << 20;

/// Descriptors that a node may hold more than before: connections that the work was the first to need.
const DESCRIPTORS_SLACK: usize = 4;

/// What is wrong with a report; nothing of it depends on what was done to the cluster.
pub fn findings(report: &Report) -> Vec<String> {
    let mut findings = Vec::new();
    let accounts =
        [("tasks", &report.tasks), ("calls", &report.calls), ("names", &report.names), ("session", &report.session)];
    for (what, account) in accounts {
        let Account { submitted, pending, .. } = account;
        let ended = account.ended();
        if *pending != 0 {
            findings.push(format!("{what}: {pending} of {submitted} are pending"));
        }
        if *submitted != ended + pending {
            findings.push(format!("{what}: {submitted} submitted, {ended} outcomes, {pending} pending"));
        }
    }
    findings.extend(report.superseded.iter().map(|what| format!("a superseded result: {what}")));
    findings.extend(report.disorder.iter().map(|what| format!("order: {what}")));
    findings.extend(report.names_lost.iter().map(|what| format!("a lost name: {what}")));
    if u128::from(report.settled_ms) > SETTLED.as_millis() {
        findings.push(format!("the last outcome came {} ms after the order to finish", report.settled_ms));
    }
    findings
}

/// What the nodes of a cluster hold, to be compared with later.
pub struct Holdings {
    held: BTreeMap<u32, Held>,
    slack_bytes: u64,
}

struct Held {
    /// Memory that is no file's: pages of its program come as its code is used, and stay.
    bytes: u64,
    descriptors: usize,
}

impl Holdings {
    /// What the nodes hold now.
    pub fn of(cluster: &Cluster) -> Self {
        let held = |pid| Held {
            bytes: traces::anonymous_bytes(pid).unwrap_or(0),
            descriptors: traces::descriptors(pid).len(),
        };
        Self { held: cluster.node_pids().map(|pid| (pid, held(pid))).collect(), slack_bytes: MEMORY_SLACK_BYTES }
    }

    /// The same where gigabytes pass through nodes: glibc keeps for itself what the windows of their connections took.
    #[must_use]
    pub fn under_gigabytes(self) -> Self {
        Self { slack_bytes: 3 * MEMORY_SLACK_BYTES, ..self }
    }

    /// Waits until there is nobody on the hosts but the nodes and their wardens, and nodes hold what they held. Nodes that were started
    /// since are compared with the one that held most.
    ///
    /// # Errors
    ///
    /// What is still there after [`SETTLED`].
    pub fn restored(&self, cluster: &Cluster) -> Result<()> {
        let mut rest = Vec::new();
        let done = until("hosts as they were", SETTLED, || {
            rest = self.findings(cluster);
            Ok(rest.is_empty().then_some(()))
        });
        if done.is_err() {
            bail!("{SETTLED:?} after the work: {}", rest.join("; "));
        }
        Ok(())
    }

    fn findings(&self, cluster: &Cluster) -> Vec<String> {
        let mut findings = Vec::new();
        let nodes: Vec<u32> = cluster.node_pids().collect();
        for host in cluster.network().hosts() {
            for pid in host.pids().into_iter().filter(|pid| !cluster.is_of_node(*pid)) {
                findings.push(format!("on host {}: {pid} `{}`", host.number(), traces::command_line(pid)));
            }
        }
        let bytes_most = self.held.values().map(|held| held.bytes).max().unwrap_or(0);
        let descriptors_most = self.held.values().map(|held| held.descriptors).max().unwrap_or(0);
        for pid in nodes {
            let (bytes_before, descriptors_before) =
                self.held.get(&pid).map_or((bytes_most, descriptors_most), |held| (held.bytes, held.descriptors));
            let descriptors = traces::descriptors(pid);
            if descriptors.len() > descriptors_before + DESCRIPTORS_SLACK {
                findings
                    .push(format!("node {pid} holds {} descriptors, before {descriptors_before}", descriptors.len()));
            }
            let bytes = traces::anonymous_bytes(pid).unwrap_or(0);
            if bytes > bytes_before + self.slack_bytes {
                findings.push(format!("node {pid} holds {bytes} bytes, before {bytes_before}"));
            }
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        let mut tasks = Account { submitted: 2, ..Account::default() };
        tasks.count("ok", None);
        tasks.count("may_have_run", Some("lost".to_owned()));
        Report { tasks, ..Report::default() }
    }

    #[test]
    fn a_report_in_which_all_has_ended_is_good() {
        assert_eq!(findings(&good()), Vec::<String>::new());
    }

    #[test]
    fn each_breach_is_found() {
        let check = |spoil: fn(&mut Report), expect: &str| {
            let mut report = good();
            spoil(&mut report);
            let findings = findings(&report);
            assert!(findings.len() == 1 && findings[0].contains(expect), "{findings:?} without `{expect}`");
        };
        check(|report| report.tasks.submitted += 1, "3 submitted, 2 outcomes");
        check(|report| report.tasks.count("ok", None), "2 submitted, 3 outcomes");
        check(|report| (report.calls.submitted, report.calls.pending) = (1, 1), "1 of 1 are pending");
        check(|report| report.superseded.push("task 7".to_owned()), "superseded");
        check(|report| report.disorder.push("3 after 4".to_owned()), "order");
        check(|report| report.names_lost.push("n-3".to_owned()), "lost name");
        check(|report| report.settled_ms = 10_001, "10001 ms");
    }
}
