//! How much memory this host has and uses: as the kernel says of all of it, and of the memory groups that bound this node.
//!
//! The bound that is nearest counts: a container with a limit of its own is short of memory long before its host is.

use std::fs;
use std::path::{Path, PathBuf};

use super::logic::pressure::Memory;

/// A part of nobody knows what.
const PART_UNKNOWN: u64 = 256 << 20;

/// Where the kernel says it.
#[derive(Clone, Debug)]
pub struct MemoryFiles {
    /// `meminfo`, in `/proc`.
    meminfo: PathBuf,
    /// Memory groups of this process, from its own to the outermost, as far as they can be read.
    groups: Vec<Group>,
}

/// A memory group: where it says how much it may use, and how much it uses.
#[derive(Clone, Debug)]
struct Group {
    folder: PathBuf,
    files: &'static GroupFiles,
}

/// What version 2 and version 1 call the same.
#[derive(Debug)]
struct GroupFiles {
    max: &'static str,
    used: &'static str,
    /// The line of `memory.stat` with what is read from files and can be dropped at once.
    cache: &'static str,
}

const V2: GroupFiles = GroupFiles { max: "memory.max", used: "memory.current", cache: "inactive_file" };
const V1: GroupFiles =
    GroupFiles { max: "memory.limit_in_bytes", used: "memory.usage_in_bytes", cache: "total_inactive_file" };

impl MemoryFiles {
    /// Those of this host.
    pub fn of_this_host() -> Self {
        let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let groups = groups(&cgroup, Path::new("/sys/fs/cgroup"));
        Self { meminfo: "/proc/meminfo".into(), groups }
    }

    /// One file alone, which is written as `/proc/meminfo` is.
    pub fn only(meminfo: PathBuf) -> Self {
        Self { meminfo, groups: Vec::new() }
    }

    /// A part of what there is where there is least; [`PART_UNKNOWN`] where the kernel says nothing.
    pub(crate) fn part(&self, part: f64) -> u64 {
        let host = fs::read_to_string(&self.meminfo).ok().and_then(|text| of_host(&text));
        let all = self.groups.iter().filter_map(Group::read).chain(host).map(|memory| memory.total_bytes);
        all.min().map_or(PART_UNKNOWN, |total| (total as f64 * part) as u64)
    }

    /// What is used where least is left; none where the kernel says nothing.
    pub(crate) fn read(&self) -> Option<Memory> {
        let host = fs::read_to_string(&self.meminfo).ok().and_then(|text| of_host(&text));
        let groups = self.groups.iter().filter_map(Group::read);
        groups.chain(host).max_by(|one, other| one.used().total_cmp(&other.used()))
    }
}

impl Group {
    fn read(&self) -> Option<Memory> {
        let number = |file: &str| fs::read_to_string(self.folder.join(file)).ok()?.trim().parse::<u64>().ok();
        // `max` is no number: such a group bounds nothing.
        let total_bytes = number(self.files.max)?;
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let cache = field(&stat, self.files.cache).unwrap_or(0);
        Some(Memory { used_bytes: number(self.files.used)?.saturating_sub(cache), total_bytes })
    }
}

/// The groups that `/proc/self/cgroup` names, and those around them. Inside a container its own group may be mounted as
/// the outermost: paths that do not exist are left out.
fn groups(cgroup: &str, mounted: &Path) -> Vec<Group> {
    let mut found = Vec::new();
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (root, files) = match (number, controllers.split(',').any(|controller| controller == "memory")) {
            (_, true) => (mounted.join("memory"), &V1),
            ("0", false) => (mounted.to_owned(), &V2),
            _ => continue,
        };
        let own = root.join(path.trim_start_matches('/'));
        let around = own.ancestors().take_while(|folder| folder.starts_with(&root));
        let readable = around.filter(|folder| folder.join(files.max).exists());
        found.extend(readable.map(|folder| Group { folder: folder.to_owned(), files }));
    }
    found
}

fn of_host(meminfo: &str) -> Option<Memory> {
    let bytes = |name: &str| field(meminfo, name)?.checked_mul(1024);
    let (total_bytes, available) = (bytes("MemTotal:")?, bytes("MemAvailable:")?);
    Some(Memory { used_bytes: total_bytes.saturating_sub(available), total_bytes })
}

/// The number behind a name, on a line of its own.
fn field(text: &str, name: &str) -> Option<u64> {
    let values = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.next())?
    });
    values.filter_map(|value| value.parse().ok()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       24000 kB\nMemFree:         1000 kB\nMemAvailable:    6000 kB\n";

    #[test]
    fn the_host_counts_what_cannot_be_dropped() {
        assert_eq!(of_host(MEMINFO), Some(Memory { used_bytes: 18_000 << 10, total_bytes: 24_000 << 10 }));
        assert_eq!(of_host("MemTotal: many kB\nMemAvailable: 1 kB\n"), None);
        assert_eq!(of_host(""), None);
        let this = MemoryFiles::of_this_host().read().expect("this host says it");
        assert!(this.used_bytes > 0 && this.used_bytes <= this.total_bytes, "{this:?}");
    }

    #[test]
    fn the_nearest_bound_counts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let file = folder.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let read = |cgroup: &str| {
            MemoryFiles { meminfo: folder.path().join("meminfo"), groups: groups(cgroup, folder.path()) }.read()
        };
        write("meminfo", MEMINFO);
        assert_eq!(read(""), of_host(MEMINFO));
        write("memory.max", "max\n");
        write("pod/memory.max", "1000\n");
        write("pod/memory.current", "900\n");
        write("pod/memory.stat", "anon 700\ninactive_file 50\n");
        write("pod/own/memory.max", "max\n");
        assert_eq!(read("0::/pod/own\n"), Some(Memory { used_bytes: 850, total_bytes: 1000 }));
        write("memory/job/memory.limit_in_bytes", "100\n");
        write("memory/job/memory.usage_in_bytes", "99\n");
        let both = "5:cpu,memory:/job\n0::/pod/own\n";
        assert_eq!(read(both), Some(Memory { used_bytes: 99, total_bytes: 100 }));
        assert_eq!(read("nonsense\n0::/elsewhere\n"), of_host(MEMINFO), "a group that is not to be seen");
    }
}
