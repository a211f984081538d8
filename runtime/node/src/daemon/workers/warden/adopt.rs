//! The node's side of a warden's end by force: what was below it comes up to the node, which kills it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process_group, set_child_subreaper, waitpid};

use super::groups;
use crate::daemon::workers::{descent, guard};

/// Orphans come up level by level, each within a millisecond or two of its parent's end.
const STEP: Duration = Duration::from_millis(5);

/// After this long the rest cannot be killed, or belongs to somebody who goes on making more.
const END_FOR: Duration = Duration::from_secs(2);

/// From here on this process is the parent of what its wardens leave behind.
pub(crate) fn begin() -> std::io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Kills what a warden left behind. Workers have died of their parent-death signal by then, those that had not yet asked
/// for it are killed by their group; what they started is found below this process, when it adopts.
///
/// Known for the warden's: its session, the workers' groups and sessions, the warden's memory groups, and the variables
/// that workers pass on. Where no memory groups can be made, a process that left the rest and its parent is not found.
pub(crate) async fn end_all(warden: i32, workers: &[i32], adopts: bool) {
    for pid in workers.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        kill_process_group(pid, Signal::KILL).ok();
    }
    if !adopts {
        return;
    }
    let me = getpid().as_raw_nonzero().get();
    let until = Instant::now() + END_FOR;
    let mut known: BTreeSet<i32> = workers.iter().copied().collect();
    loop {
        let all = descent::all();
        let ours: Vec<_> = descent::children(&all, me)
            .filter(|kin| {
                kin.session == warden
                    || [kin.pid, kin.group, kin.session].iter().any(|id| known.contains(id))
                    || descent::is_in_group(kin.pid, &groups::prefix_of(warden))
                    || descent::variable(kin.pid, guard::PROCESS).is_some()
            })
            .collect();
        if ours.is_empty() || Instant::now() >= until {
            return;
        }
        for kin in ours {
            known.insert(kin.pid);
            if kin.is_zombie {
                waitpid(Pid::from_raw(kin.pid), WaitOptions::NOHANG).ok();
            } else {
                descent::below(&all, kin.pid).into_iter().for_each(descent::kill);
            }
        }
        tokio::time::sleep(STEP).await;
    }
}
