//! What is always true of a directory.
//!
//! | number | invariant |
//! |---|---|
//! | DIR-1 | a name is granted when whoever had it before acts no more |
//! | DIR-2 | after a lease that ran out, that is 1 s after its end |
//! | DIR-3 | a name is held under a lease that runs, on the node it was granted to |
//! | DIR-4 | every grant has a greater fencing than all before it |
//! | DIR-5 | no lease ends before one that was renewed at the head's start would |
//! | DIR-6 | a driver has at most one job that runs; what belongs to a job that has ended is ending or gone |
//! | DIR-7 | a token is good for one key, and for none after five wrong secrets |
//! | DIR-8 | what is kept is bounded, and what is counted is there |
//! | DIR-9 | each life of a detached actor is granted to one place |

use std::collections::BTreeSet;

use super::Directory;
use super::names::Hold;
use crate::invariant::{Violation, ensure};
use crate::lease::{GRANT_AFTER, LEASE};

/// Whether everything in the table above holds of `directory`.
///
/// # Errors
/// The first one that does not.
pub fn check(directory: &Directory) -> Result<(), Violation> {
    check_names(directory)?;
    let Directory { jobs, values, tokens, bounds, .. } = directory;
    for (driver, job) in jobs.running() {
        let is_right = jobs.get(*job).is_some_and(|record| record.ended.is_none() && record.spec.driver == *driver);
        ensure(is_right, "DIR-6", || format!("{job} does not run for {driver}"))?;
    }
    let running = jobs.all().filter(|record| record.ended.is_none()).count();
    ensure(running == jobs.running().len(), "DIR-6", || format!("{running} jobs run, {:?}", jobs.running()))?;
    let ended = jobs.all().count() - running;
    let is_bounded = running <= bounds.jobs_max && ended <= bounds.jobs_ended_max;
    ensure(is_bounded, "DIR-8", || format!("{running} jobs run, {ended} ended"))?;
    for (job, bytes, counted) in values.jobs() {
        ensure(directory.runs(job), "DIR-6", || format!("{job} has values and has ended"))?;
        let is_bounded = bytes == counted && bytes <= bounds.values_of_job_bytes_max;
        ensure(is_bounded, "DIR-8", || format!("{job} has {counted} bytes of values, {bytes} are counted"))?;
    }
    for (id, token) in tokens.entries() {
        ensure(token.users <= 1, "DIR-7", || format!("{id:?} was good for {} keys", token.users))?;
    }
    let tokens = tokens.entries().len();
    ensure(tokens <= bounds.tokens_max, "DIR-8", || format!("{tokens} tokens"))
}

fn check_names(directory: &Directory) -> Result<(), Violation> {
    let Directory { names, looked, bounds, .. } = directory;
    let mut fencings = BTreeSet::new();
    for (key, entry) in &names.entries {
        let Some(before) = entry.before else { continue };
        ensure(before.over <= before.granted, "DIR-1", || format!("{key} was granted before {:?}", before.over))?;
        ensure(before.fencing < entry.fencing, "DIR-4", || {
            format!("{key}: {} after {}", entry.fencing, before.fencing)
        })?;
    }
    for (key, entry) in &names.entries {
        let last = names.last_fencing();
        let is_last = entry.fencing <= last && fencings.insert(entry.fencing);
        ensure(is_last, "DIR-4", || format!("{key} has {} where {last} is the newest", entry.fencing))?;
        let is_counted = names.on.get(&entry.node).is_some_and(|keys| keys.contains(key));
        match entry.hold {
            Hold::Held { term } | Hold::Stopping { term, .. } => {
                let lease = names.leases.get(&entry.node);
                let runs = lease.is_some_and(|lease| lease.term == term && *looked < lease.until);
                ensure(runs && is_counted, "DIR-3", || format!("{key} is held on {} under {lease:?}", entry.node))?;
            }
            Hold::Over { at, lease_end } => {
                ensure(!is_counted, "DIR-3", || format!("{key} counts as held on {}", entry.node))?;
                let Some(end) = lease_end else { continue };
                let first = names.started + LEASE;
                ensure(end >= first, "DIR-5", || format!("{key} was held until {end:?}, at least until {first:?}"))?;
                ensure(at >= end + GRANT_AFTER, "DIR-2", || format!("{key} is free at {at:?}, held until {end:?}"))?;
            }
        }
        let may_be = entry.is_ending || entry.job.is_none_or(|job| directory.runs(job));
        ensure(may_be, "DIR-6", || format!("{key} is held for a job that has ended"))?;
    }
    let (counted, waiting) = names.waiting();
    let is_bounded = names.entries.len() <= bounds.names_max && counted <= bounds.claims_waiting_max;
    ensure(is_bounded && counted == waiting, "DIR-8", || {
        format!("{} names, {waiting} claims wait, {counted} are counted", names.entries.len())
    })?;
    let bytes = names.detached_bytes();
    ensure(bytes <= bounds.detached_bytes_max, "DIR-8", || format!("{bytes} bytes to start detached actors with"))?;
    ensure(names.locating <= bounds.locates_waiting_max, "DIR-8", || format!("{} ask where one is", names.locating))
}
