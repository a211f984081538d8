//! Who is whose child, as `/proc` tells it: for killing what must not be left behind.
//!
//! Between reading and killing a process may end and its number go to another. Only children of the caller are named
//! here, and descendants of those: a child's number stays taken until its parent has waited for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// A process, as its `stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kin {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// It has ended and waits for its parent.
    pub(crate) is_zombie: bool,
}

/// All processes that can be seen now.
pub(crate) fn all() -> Vec<Kin> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(kin).collect()
}

/// The children of `parent`, out of `all`.
pub(crate) fn children(all: &[Kin], parent: i32) -> impl Iterator<Item = &Kin> {
    all.iter().filter(move |kin| kin.parent == parent)
}

/// `root` and all below it, out of `all`; parents first.
pub(crate) fn below(all: &[Kin], root: i32) -> Vec<i32> {
    let mut by_parent: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for kin in all {
        by_parent.entry(kin.parent).or_default().push(kin.pid);
    }
    let (mut found, mut seen, mut next) = (vec![root], BTreeSet::from([root]), 0);
    while let Some(parent) = found.get(next) {
        next += 1;
        let children = by_parent.get(parent).into_iter().flatten().copied();
        let new: Vec<i32> = children.filter(|pid| seen.insert(*pid)).collect();
        found.extend(new);
    }
    found
}

/// Kills a process; it may be gone already.
pub(crate) fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid).filter(|pid| pid.as_raw_nonzero().get() > 1) {
        kill_process(pid, Signal::KILL).ok();
    }
}

/// The value of a variable that the process was started with.
pub(crate) fn variable(pid: i32, name: &str) -> Option<Vec<u8>> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut entries = environ.split(|byte| *byte == 0);
    entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")).map(<[u8]>::to_vec)
}

/// Whether a process is in a control group whose name begins so. What a process starts is in its group.
pub(crate) fn is_in_group(pid: i32, prefix: &str) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    groups.lines().filter_map(|line| line.rsplit('/').next()).any(|name| name.starts_with(prefix))
}

/// Reads the `stat` of one process; `None` when it has ended.
pub(crate) fn kin(pid: i32) -> Option<Kin> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name stands in parentheses and may hold anything, so what follows is counted from the last of them.
fn parse(stat: &str) -> Option<Kin> {
    let (pid, rest) = stat.split_once(" (")?;
    let (_, fields) = rest.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    let mut number = || fields.next()?.parse::<i32>().ok();
    let (parent, group, session) = (number()?, number()?, number()?);
    Some(Kin { pid: pid.parse().ok()?, parent, group, session, is_zombie: matches!(state, "Z" | "X") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "42 (a) b (c) Z 7 8 9 0 -1 4194304";
        let expect = Kin { pid: 42, parent: 7, group: 8, session: 9, is_zombie: true };
        assert_eq!(parse(stat), Some(expect));
        assert_eq!(parse("42 (a) R 7"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn descendants_are_found_in_any_order() {
        let kin = |pid, parent| Kin { pid, parent, group: 0, session: 0, is_zombie: false };
        let all = [kin(5, 4), kin(4, 3), kin(3, 1), kin(9, 1), kin(6, 3)];
        assert_eq!(below(&all, 3), [3, 4, 6, 5]);
        assert_eq!(below(&all, 9), [9]);
        assert_eq!(below(&[kin(2, 2)], 2), [2], "a circle ends");
    }

    #[test]
    fn this_process_is_seen() {
        let me = std::process::id() as i32;
        let mine = kin(me).unwrap();
        assert_eq!((mine.pid, mine.is_zombie), (me, false));
        assert!(all().contains(&mine));
        assert!(variable(me, "PATH").is_some() && variable(me, "NO_SUCH_VARIABLE").is_none());
    }
}
