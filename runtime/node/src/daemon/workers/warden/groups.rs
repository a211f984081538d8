//! Memory groups (cgroups): one for each worker where they can be made, so that its memory can be bounded and its end for
//! lack of memory is known for certain.
//!
//! Version 2 and version 1 of the kernel's interface; where neither can be written, the counter of the node's own group,
//! or of the host, tells that *somebody* was ended within the last two seconds, and a killed worker is taken for that
//! one. Nothing here outlives the warden, but for one empty group of version 2 that the node itself then lives in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mobula_types::ProcessId;
use rustix::process::{getpid, getppid};

/// Where groups can be made, if anywhere.
#[derive(Debug)]
pub(super) struct MemoryGroups {
    place: Result<Place, String>,
    /// A counter of ends for lack of memory that is not a worker's own, and its last two readings.
    fallback: Option<PathBuf>,
    seen: [u64; 2],
}

/// The folder that groups are made in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    version: Version,
    base: PathBuf,
    /// Where this process belongs.
    home: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The group of one worker.
#[derive(Debug)]
pub(super) struct Group {
    version: Version,
    path: PathBuf,
}

impl MemoryGroups {
    pub(super) fn find() -> Self {
        let found = Found::read();
        let place = found.place();
        let fallback = found.bases().into_iter().map(|(version, base)| base.join(counter_file(version)));
        let mut fallback = fallback.chain([PathBuf::from("/proc/vmstat")]).filter(|path| oom_kills(path).is_some());
        let mut groups = Self { place, fallback: fallback.next(), seen: [0; 2] };
        groups.seen = [groups.fallback_kills(); 2];
        groups
    }

    /// What kind of group is made, or why none.
    pub(super) fn describe(&self) -> Result<String, String> {
        match &self.place {
            Ok(Place { version: Version::V2, base, .. }) => Ok(format!("cgroup v2 below {}", base.display())),
            Ok(Place { version: Version::V1, base, .. }) => Ok(format!("cgroup v1 below {}", base.display())),
            Err(why) => Err(why.clone()),
        }
    }

    /// Makes a group and moves this process into it, so that the child it starts next begins there.
    pub(super) fn enter(&self, process: ProcessId, memory_max: Option<u64>) -> Option<Group> {
        let place = self.place.as_ref().ok()?;
        let group = Group { version: place.version, path: place.base.join(name_of(process)) };
        match group.make(memory_max).and_then(|()| join(&group.path)) {
            Ok(()) => Some(group),
            Err(error) => {
                eprintln!("mobula: worker {process} starts without a memory group: {}: {error}", group.path.display());
                group.remove();
                None
            }
        }
    }

    /// Moves this process back to where it belongs.
    pub(super) fn leave(&self) {
        if let Ok(place) = &self.place
            && let Err(error) = join(&place.home)
        {
            eprintln!("mobula: the warden cannot leave a worker's memory group for {}: {error}", place.home.display());
        }
    }

    /// Whether the kernel ended a process of this worker for lack of memory.
    pub(super) fn was_out_of_memory(&self, group: Option<&Group>) -> bool {
        match group {
            Some(group) => oom_kills(&group.path.join(counter_file(group.version))).is_some_and(|kills| kills > 0),
            None => self.fallback_kills() > self.seen[0],
        }
    }

    pub(super) fn tick(&mut self) {
        if self.fallback.is_some() {
            self.seen = [self.seen[1], self.fallback_kills()];
        }
    }

    fn fallback_kills(&self) -> u64 {
        self.fallback.as_deref().and_then(oom_kills).unwrap_or(0)
    }
}

impl Group {
    fn make(&self, memory_max: Option<u64>) -> io::Result<()> {
        fs::create_dir(&self.path)?;
        let Some(max) = memory_max.map(|max| max.to_string()) else { return Ok(()) };
        let write = |file: &str, value: &str| fs::write(self.path.join(file), value);
        match self.version {
            Version::V2 => {
                write("memory.max", &max)?;
                // Neither exists everywhere: without them a worker swaps first, or loses a child first.
                write("memory.swap.max", "0").ok();
                write("memory.oom.group", "1").ok();
            }
            Version::V1 => {
                write("memory.limit_in_bytes", &max)?;
                write("memory.memsw.limit_in_bytes", &max).ok();
            }
        }
        Ok(())
    }

    /// Removes the group; says whether it is gone. What still lives in it is killed.
    pub(super) fn remove(&self) -> bool {
        match fs::remove_dir(&self.path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(_) => {
                let members = fs::read_to_string(self.path.join(MEMBERS)).unwrap_or_default();
                let me = getpid().as_raw_nonzero().get();
                let members = members.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != me);
                members.for_each(crate::daemon::workers::descent::kill);
                false
            }
        }
    }
}

/// What the names of our groups begin with.
const PREFIX: &str = "mobula-";

/// What the names of a warden's groups begin with.
pub(super) fn prefix_of(warden: i32) -> String {
    format!("{PREFIX}{warden}-")
}

/// The name of a worker's group. It ends as it does so that none begins with another's.
pub(super) fn name_of(process: ProcessId) -> String {
    format!("{}{}.", prefix_of(getpid().as_raw_nonzero().get()), process.number())
}

/// The file that lists a group's processes, and takes new ones: `0` is the writer.
const MEMBERS: &str = "cgroup.procs";

fn join(group: &Path) -> io::Result<()> {
    fs::write(group.join(MEMBERS), "0")
}

fn counter_file(version: Version) -> &'static str {
    match version {
        Version::V1 => "memory.oom_control",
        Version::V2 => "memory.events",
    }
}

/// The line `oom_kill <n>` of a file; the same word in all three kinds of file.
fn oom_kills(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// What the kernel says of this process's groups and where they can be seen.
struct Found {
    cgroup: String,
    mounts: String,
}

impl Found {
    fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self { cgroup: read("/proc/self/cgroup"), mounts: read("/proc/self/mountinfo") }
    }

    /// The folders of this process's own groups that bound memory.
    fn bases(&self) -> Vec<(Version, PathBuf)> {
        let mut bases = Vec::new();
        for line in self.cgroup.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let version = match controllers {
                "" => Version::V2,
                _ if controllers.split(',').any(|controller| controller == "memory") => Version::V1,
                _ => continue,
            };
            let mounted = self.mounts.lines().find_map(|mount| mount_of(mount, version));
            if let Some((root, point)) = mounted {
                // Inside a container the path may be the host's, of which only the part below the root is seen.
                let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or("").trim_start_matches('/');
                bases.push((version, Path::new(point).join(below)));
            }
        }
        bases
    }

    fn place(&self) -> Result<Place, String> {
        let mut reasons = Vec::new();
        for (version, base) in self.bases() {
            let tried = match version {
                Version::V1 => try_v1(&base),
                Version::V2 => try_v2(&base),
            };
            match tried {
                Ok(place) => {
                    remove_left_over(&place.base);
                    return Ok(place);
                }
                Err(why) => reasons.push(format!("{}: {why}", base.display())),
            }
        }
        match reasons.as_slice() {
            [] => Err("this host shows no cgroup file system".to_owned()),
            _ => Err(format!("no memory group can be made: {}", reasons.join("; "))),
        }
    }
}

/// The root and the place of a mount, if it shows memory groups of this version.
fn mount_of(line: &str, version: Version) -> Option<(&str, &str)> {
    let (front, back) = line.split_once(" - ")?;
    let mut back = back.split(' ');
    let (kind, options) = (back.next()?, back.nth(1)?);
    let fits = match version {
        Version::V1 => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
        Version::V2 => kind == "cgroup2",
    };
    let mut front = front.split(' ').skip(3);
    fits.then_some((front.next()?, front.next()?))
}

fn try_v1(base: &Path) -> Result<Place, String> {
    let tried = probe(base).and_then(|()| join(base));
    tried.map_err(|error| error.to_string())?;
    Ok(Place { version: Version::V1, base: base.to_owned(), home: base.to_owned() })
}

/// In version 2 a group either holds processes or gives controllers to groups below it. So the node and this process, if
/// they are alone, move down a level first.
fn try_v2(base: &Path) -> Result<Place, String> {
    let has_memory = |file: &str| {
        let text = fs::read_to_string(base.join(file)).unwrap_or_default();
        text.split_whitespace().any(|controller| controller == "memory")
    };
    if !has_memory("cgroup.controllers") {
        return Err("its groups do not bound memory".to_owned());
    }
    if has_memory("cgroup.subtree_control") {
        probe(base).and_then(|()| join(base)).map_err(|error| error.to_string())?;
        return Ok(Place { version: Version::V2, base: base.to_owned(), home: base.to_owned() });
    }
    let ours = [Some(getpid()), getppid()].map(|pid| pid.map_or(0, |pid| pid.as_raw_nonzero().get()));
    let members = fs::read_to_string(base.join(MEMBERS)).map_err(|error| error.to_string())?;
    let others = members.lines().filter(|pid| !ours.iter().any(|our| our.to_string() == **pid)).count();
    if others > 0 {
        return Err(format!("{others} other processes are in the node's group: start the node in a group of its own"));
    }
    let home = base.join(format!("{PREFIX}node"));
    let moved = move_down(base, &home, &ours).and_then(|()| probe(base));
    if let Err(error) = moved {
        ours.iter().for_each(|pid| _ = fs::write(base.join(MEMBERS), pid.to_string()));
        fs::remove_dir(&home).ok();
        return Err(error.to_string());
    }
    Ok(Place { version: Version::V2, base: base.to_owned(), home })
}

fn move_down(base: &Path, home: &Path, ours: &[i32]) -> io::Result<()> {
    match fs::create_dir(home) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for pid in ours {
        fs::write(home.join(MEMBERS), pid.to_string())?;
    }
    fs::write(base.join("cgroup.subtree_control"), "+memory")
}

/// Makes a group and removes it.
fn probe(base: &Path) -> io::Result<()> {
    let probe = base.join(format!("{PREFIX}{}-probe", getpid().as_raw_nonzero()));
    fs::create_dir(&probe)?;
    fs::remove_dir(&probe)
}

/// Groups of wardens that were killed. Those that have members cannot be removed.
fn remove_left_over(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            fs::remove_dir(entry.path()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 24 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
31 24 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 24 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    fn bases(cgroup: &str, mounts: &str) -> Vec<(Version, PathBuf)> {
        Found { cgroup: cgroup.to_owned(), mounts: mounts.to_owned() }.bases()
    }

    #[test]
    fn groups_are_found_in_every_layout() {
        let v1 = |path: &str| (Version::V1, PathBuf::from(path));
        let v2 = |path: &str| (Version::V2, PathBuf::from(path));
        let hybrid = "5:cpu:/\n4:memory:/a/b\n0::/c\n";
        let expect = [v1("/sys/fs/cgroup/memory/a/b"), v2("/sys/fs/cgroup/unified/c")];
        assert_eq!(bases(hybrid, HYBRID), expect);
        let unified = "25 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(bases("0::/user.slice/x.scope\n", unified), [v2("/sys/fs/cgroup/user.slice/x.scope")]);
        let container = "25 1 0:22 /docker/77 /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(bases("0::/docker/77\n", container), [v2("/sys/fs/cgroup/")]);
        assert_eq!(bases("0::/elsewhere\n", container), [v2("/sys/fs/cgroup/")]);
        assert_eq!(bases("", ""), []);
        assert_eq!(bases("no lines of the kernel", "nor these"), []);
    }

    #[test]
    fn the_counter_is_read_from_each_kind_of_file() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            let path = folder.path().join("counter");
            fs::write(&path, text).unwrap();
            oom_kills(&path)
        };
        assert_eq!(read("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(read("low 0\noom 2\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(read("pgfault 7\noom_kill 0\n"), Some(0));
        assert_eq!(read("oom_kill_disable 0\n"), None);
    }

    #[test]
    fn a_shared_counter_accuses_only_for_a_short_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmstat");
        let count = |kills: u64| fs::write(&path, format!("pgfault 7\noom_kill {kills}\n")).unwrap();
        count(5);
        let mut groups = MemoryGroups { place: Err(String::new()), fallback: Some(path.clone()), seen: [5; 2] };
        assert!(!groups.was_out_of_memory(None));
        count(6);
        assert!(groups.was_out_of_memory(None));
        groups.tick();
        assert!(groups.was_out_of_memory(None), "a worker may be seen to end only after the tick");
        groups.tick();
        assert!(!groups.was_out_of_memory(None));
        fs::remove_file(&path).unwrap();
        assert!(!groups.was_out_of_memory(None));
    }

    #[test]
    fn where_nothing_can_be_made_the_reason_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mounts = format!("1 1 0:1 / {} rw - cgroup2 none rw\n", folder.path().display());
        let place = || Found { cgroup: "0::/\n".to_owned(), mounts: mounts.clone() }.place().unwrap_err();
        assert!(place().ends_with("its groups do not bound memory"), "{}", place());
        fs::write(folder.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        fs::write(folder.path().join(MEMBERS), "1\n2\n").unwrap();
        assert!(place().contains("start the node in a group of its own"), "{}", place());
        let nothing = Found { cgroup: String::new(), mounts: String::new() }.place().unwrap_err();
        assert_eq!(nothing, "this host shows no cgroup file system");
    }
}
