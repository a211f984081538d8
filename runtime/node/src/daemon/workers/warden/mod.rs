//! The warden: a small process between a node and its workers, which is the parent of all of them.
//!
//! It is the node's own executable, started with [`ROLE`] among its variables, one thread, no allocation to speak of, and
//! knows nothing but processes. It does three things that the node cannot do for itself: what is below it stays below it
//! when parents in between end (it is their subreaper), it lives as long as its one thread (a worker's parent-death
//! signal comes when the *thread* that started it ends), and it outlives a node that was killed, long enough to kill
//! everything.
//!
//! ```text
//! Spawn ──▶ living ──its pidfd is readable──▶ Ended is told ──▶ buried: its group and orphans are killed
//! node's end of the socket closes ──▶ everything below is killed ──▶ the warden ends
//! ```

pub(crate) mod adopt;
mod groups;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use mobula_types::ProcessId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, kill_process_group, pidfd_open, set_child_subreaper,
    setsid, wait,
};

use self::groups::{Group, MemoryGroups};
use super::descent::{self, Kin};
use super::guard;
use super::letter::{BIRTH_FDS, Birth, Ended, FromWarden, LETTER_BYTES_MAX, ToWarden};

/// The variable that makes a program of ours a warden.
pub const ROLE: &str = "MOBULA_WARDEN";

/// Becomes the warden and returns what to end with, if a node started this process as one. To be the first line of
/// `main` of every program that runs a node: before threads, arguments and logs.
pub fn run_if_warden() -> Option<ExitCode> {
    std::env::var_os(ROLE)?;
    Some(match Warden::begin() {
        Ok(warden) => warden.run(),
        Err(error) => {
            eprintln!("mobula: a warden is started by a node only, unset {ROLE}: {error}");
            ExitCode::from(2)
        }
    })
}

/// How often the dead are looked after until nothing is left of them: a killed process is gone within a millisecond or
/// two, unless it is large.
const BURY_EVERY: Duration = Duration::from_millis(5);

/// After this long, what is left of a dead worker cannot be killed: it hangs in the kernel, mostly on a disk. It is told
/// on standard error and left to the next burial, or to the warden's end.
const BURY_FOR: Duration = Duration::from_secs(10);

/// How often orphans of living workers are waited for, and the counter of memory's ends is read, while there are workers.
const TICK: Duration = Duration::from_secs(1);

/// A program that was written a moment ago can be busy still: a fork elsewhere may hold its descriptor until its exec.
const BUSY_TRIES: u32 = 40;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

struct Warden {
    socket: OwnedFd,
    groups: MemoryGroups,
    living: BTreeMap<ProcessId, Living>,
    dead: BTreeMap<ProcessId, Dead>,
    ticked: Instant,
}

struct Living {
    pid: Pid,
    pidfd: OwnedFd,
    group: Option<Group>,
}

struct Dead {
    group: Option<Group>,
    until: Instant,
}

/// The node has closed its end.
struct NodeGone;

impl Warden {
    fn begin() -> io::Result<Self> {
        let socket = fcntl_dupfd_cloexec(io::stdin(), 3)?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        rustix::net::sockopt::socket_type(&socket)?;
        // A terminal's signals go to its foreground group: the node answers them, the warden ends with the node.
        setsid().ok();
        set_child_subreaper(Some(getpid()))?;
        rustix::thread::set_name(c"mobula-warden")?;
        let groups = MemoryGroups::find();
        Ok(Self { socket, groups, living: BTreeMap::new(), dead: BTreeMap::new(), ticked: Instant::now() })
    }

    fn run(mut self) -> ExitCode {
        let memory_groups = self.groups.describe();
        let mut served = self.tell(&FromWarden::Ready { memory_groups });
        while served.is_ok() {
            served = self.serve_once();
        }
        self.end_all()
    }

    fn serve_once(&mut self) -> Result<(), NodeGone> {
        if self.wait_for_something() {
            self.handle_letter()?;
        }
        self.reap()?;
        self.bury();
        if self.ticked.elapsed() >= TICK {
            self.ticked = Instant::now();
            self.groups.tick();
        }
        Ok(())
    }

    /// Returns whether the node has something to say. While nobody lives, nothing is due.
    fn wait_for_something(&self) -> bool {
        let patience = match (self.dead.is_empty(), self.living.is_empty()) {
            (false, _) => Some(BURY_EVERY),
            (true, false) => Some(TICK),
            (true, true) => None,
        };
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        let pidfds = self.living.values().map(|living| living.pidfd.as_fd());
        let mut fds: Vec<_> = [self.socket.as_fd()]
            .into_iter()
            .chain(pidfds)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) => !fds[0].revents().is_empty(),
            Err(_) => false,
        }
    }

    fn handle_letter(&mut self) -> Result<(), NodeGone> {
        let (letter, fds) = receive(&self.socket)?;
        match letter {
            ToWarden::Spawn(birth) => {
                let process = birth.process;
                match self.spawn(&birth, fds) {
                    Ok(pid) => self.tell(&FromWarden::Started { process, pid: pid.as_raw_nonzero().get() }),
                    Err(message) => self.tell(&FromWarden::NotStarted { process, message }),
                }
            }
            ToWarden::Kill { process } => {
                if let Some(living) = self.living.get(&process) {
                    kill_process_group(living.pid, Signal::KILL).ok();
                    descent::kill(living.pid.as_raw_nonzero().get());
                }
                Ok(())
            }
        }
    }

    fn spawn(&mut self, birth: &Birth, fds: Vec<OwnedFd>) -> Result<Pid, String> {
        let Ok([stdin, stdout, stderr]) = <[OwnedFd; BIRTH_FDS]>::try_from(fds) else {
            return Err("its three descriptors did not arrive: the node has too many open files".to_owned());
        };
        let program = Path::new(OsStr::from_bytes(&birth.program));
        let mut command = Command::new(program);
        command.args(birth.args.iter().map(|arg| OsStr::from_bytes(arg)));
        command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr));
        command.process_group(0);
        let ours =
            |name: &OsStr| name.as_bytes().starts_with(b"MOBULA_") && !INHERITED.iter().any(|kept| name == *kept);
        std::env::vars_os().filter(|(name, _)| ours(name)).for_each(|(name, _)| _ = command.env_remove(name));
        for (name, value) in &birth.env {
            command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
        }
        command.env(guard::WARDEN, getpid().as_raw_nonzero().get().to_string());
        let mut dirs = birth.working_dirs.iter().map(|dir| Path::new(OsStr::from_bytes(dir)));
        if let Some(dir) = dirs.find(|dir| dir.is_dir()) {
            command.current_dir(dir);
        }
        // A child begins in the memory group of its parent: there is no moment in which it is in none of its own.
        let group = self.groups.enter(birth.process, birth.memory_max);
        let spawned = spawn_when_free(&mut command);
        self.groups.leave();
        let failed = |error: io::Error| format!("cannot execute {}: {error}", program.display());
        let child = match spawned {
            Ok(child) => child,
            Err(error) => {
                group.as_ref().map(Group::remove);
                return Err(failed(error));
            }
        };
        let pid = Pid::from_child(&child);
        // The kernel ends workers first when the host is short of memory, then the rest; never the node (G15).
        fs::write(format!("/proc/{pid}/oom_score_adj"), "500").ok();
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                kill_process_group(pid, Signal::KILL).ok();
                self.dead.insert(birth.process, Dead { group, until: Instant::now() + BURY_FOR });
                return Err(failed(error.into()));
            }
        };
        self.living.insert(birth.process, Living { pid, pidfd, group });
        Ok(pid)
    }

    /// Waits for all that have ended: workers, and orphans whose parents have.
    fn reap(&mut self) -> Result<(), NodeGone> {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let process = self.living.iter().find(|(_, living)| living.pid == pid).map(|(process, _)| *process);
            let Some(process) = process else { continue };
            let Some(living) = self.living.remove(&process) else { continue };
            // Its number names its group for as long as that has members.
            kill_process_group(pid, Signal::KILL).ok();
            let out_of_memory = self.groups.was_out_of_memory(living.group.as_ref());
            self.dead.insert(process, Dead { group: living.group, until: Instant::now() + BURY_FOR });
            self.tell(&FromWarden::Ended { process, how: ended(status), out_of_memory })?;
        }
        Ok(())
    }

    /// Kills what dead workers have left behind, as far as it has come up to this process by now.
    fn bury(&mut self) {
        if self.dead.is_empty() {
            return;
        }
        let all = descent::all();
        let orphans: Vec<Kin> = self.orphans_of_the_dead(&all).copied().collect();
        for orphan in &orphans {
            descent::below(&all, orphan.pid).into_iter().for_each(descent::kill);
        }
        let now = Instant::now();
        let is_quiet = orphans.is_empty();
        self.dead.retain(|process, dead| {
            let is_gone = is_quiet && dead.group.as_ref().is_none_or(Group::remove);
            if !is_gone && now >= dead.until {
                eprintln!("mobula: a process that worker {process} left behind cannot be killed");
            }
            !is_gone && now < dead.until
        });
    }

    /// Children of this process that are no workers and belong to no living one.
    fn orphans_of_the_dead<'a>(&'a self, all: &'a [Kin]) -> impl Iterator<Item = &'a Kin> {
        let is_worker = |pid: i32| self.living.values().any(|living| living.pid.as_raw_nonzero().get() == pid);
        let orphans = descent::children(all, getpid().as_raw_nonzero().get());
        orphans.filter(move |kin| !kin.is_zombie && !is_worker(kin.pid)).filter(move |kin| {
            let is_of_living_group = is_worker(kin.group) || is_worker(kin.session);
            !is_of_living_group && !self.owner(kin.pid).is_some_and(|owner| self.living.contains_key(&owner))
        })
    }

    /// The worker that a process descends from, as its memory group says or the variables that it inherited. One that has
    /// neither any more is nobody's, and ends with the next worker that does.
    fn owner(&self, pid: i32) -> Option<ProcessId> {
        let in_group = |(_, living): &(&ProcessId, &Living)| living.group.is_some();
        let mut grouped = self.living.iter().filter(in_group).map(|(process, _)| *process);
        if let Some(process) = grouped.find(|process| descent::is_in_group(pid, &groups::name_of(*process))) {
            return Some(process);
        }
        let value = descent::variable(pid, guard::PROCESS)?;
        Some(ProcessId::from_u64(std::str::from_utf8(&value).ok()?.parse().ok()?))
    }

    fn tell(&self, letter: &FromWarden) -> Result<(), NodeGone> {
        let bytes = mobula_wire::encode(letter).map_err(|_| NodeGone)?;
        loop {
            match send(&self.socket, &bytes, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(_) => return Err(NodeGone),
            }
        }
    }

    /// Kills all that is below this process, level by level as it comes up, until it has no child.
    fn end_all(mut self) -> ExitCode {
        let me = getpid().as_raw_nonzero().get();
        let until = Instant::now() + BURY_FOR;
        for living in self.living.values() {
            kill_process_group(living.pid, Signal::KILL).ok();
        }
        loop {
            let mut waited = wait(WaitOptions::NOHANG);
            while let Ok(Some(_)) = waited {
                waited = wait(WaitOptions::NOHANG);
            }
            if waited.is_err() || Instant::now() >= until {
                break;
            }
            descent::below(&descent::all(), me).into_iter().skip(1).for_each(descent::kill);
            std::thread::sleep(Duration::from_millis(1));
        }
        let groups = std::mem::take(&mut self.living).into_values().map(|living| living.group);
        groups.chain(self.dead.into_values().map(|dead| dead.group)).flatten().for_each(|group| _ = group.remove());
        ExitCode::SUCCESS
    }
}

/// What of our own variables workers inherit from their node. The rest holds secrets, or is the node's own.
const INHERITED: [&str; 2] = ["MOBULA_LOG", "MOBULA_CACHE"];

fn spawn_when_free(command: &mut Command) -> io::Result<std::process::Child> {
    for _ in 1..BUSY_TRIES {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::sleep(BUSY_PAUSE),
            spawned => return spawned,
        }
    }
    command.spawn()
}

fn ended(status: WaitStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Code(code),
        (None, Some(signal)) => Ended::Signal(signal),
        // Only stops and continuations are neither, and those were not asked for.
        (None, None) => Ended::Code(-1),
    }
}

/// The next message, and the descriptors that came with it. A message that cannot be read means a node of another build:
/// there is no living with it.
fn receive(socket: &OwnedFd) -> Result<(ToWarden, Vec<OwnedFd>), NodeGone> {
    let mut bytes = vec![0; LETTER_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BIRTH_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            Err(_) => return Err(NodeGone),
        }
    };
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 || received.flags.contains(ReturnFlags::TRUNC) {
        return Err(NodeGone);
    }
    let letter = mobula_wire::decode(&bytes[..received.bytes]);
    letter.map(|letter| (letter, fds)).map_err(|error| {
        eprintln!("mobula: the warden does not understand its node: {error}");
        NodeGone
    })
}
