//! Why a process or a node ended, as its node saw it: told to every caller whose work was there (design.md §2).
//!
//! There is never a list of potential root causes: one cause, and what was seen.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ActorId, GroupId, MessageId, ProcessId, TaskId};

/// The end of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// Which process; number 0 is a node, with all that ran there.
    pub process: ProcessId,
    /// The one cause.
    pub cause: DeathCause,
    /// What it was running: only these count against restarts and retries. Empty when nobody could tell.
    pub culprits: Vec<Culprit>,
    /// The last lines it wrote to standard error, oldest first; at most [`Death::STDERR_LINES_MAX`].
    pub stderr: Vec<String>,
    /// When it was seen, in milliseconds since the Unix epoch: for people, never for decisions.
    pub seen_unix_ms: u64,
}

impl Death {
    /// Lines of standard error that are kept of a process that ended.
    pub const STDERR_LINES_MAX: usize = 64;

    /// A death of which only the cause is known.
    pub fn of(process: ProcessId, cause: DeathCause) -> Self {
        Self { process, cause, culprits: Vec::new(), stderr: Vec::new(), seen_unix_ms: 0 }
    }
}

/// What a process was running when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Culprit {
    /// A message of this actor was being handled.
    Actor(ActorId),
    /// It was this one, of those that are sent again (G8); stands beside its actor.
    Message(ActorId, MessageId),
    /// This task ran.
    Task(TaskId),
}

/// The one cause of a [`Death`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum DeathCause {
    /// It ended by itself with this code.
    Exited {
        /// The exit code.
        code: i32,
    },
    /// A signal ended it.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// It aborted: `std::process::abort`, or a panic while panicking.
    Aborted,
    /// Its stack was too small for what ran.
    StackOverflow,
    /// The kernel ended it because its memory group was full.
    OutOfMemory,
    /// Its node was killed: its port refuses.
    NodeKilled,
    /// Its node has been silent too long: stopped, cut off or without power.
    NodeSilent {
        /// For how long, in milliseconds.
        silent_ms: u64,
    },
    /// Its node left, as it had said.
    Drained,
    /// Its job was stopped, or its driver has ended.
    JobStopped,
    /// Its connection broke, and it did not come back.
    Disconnected,
    /// It could not be started.
    NotStarted {
        /// What went wrong.
        message: String,
    },
    /// A named actor in it did not stop when its name could become another's (G7).
    NameLost {
        /// The name.
        name: String,
    },
    /// It could not be heard for too long, and its process may live: a driver on another host whose connection was cut.
    Silent {
        /// For how long, in milliseconds.
        silent_ms: u64,
    },
    /// Its node ended it, because its host had too little memory left (G15).
    MemoryPressure {
        /// What was used on the host, or in the memory group that bounds the node.
        used_bytes: u64,
        /// Of how much.
        total_bytes: u64,
    },
    /// The placement group in which it had its place is no more.
    GroupEnded {
        /// Which.
        group: GroupId,
    },
    /// The bundle in which it had its place is kept on another node.
    BundleMoved {
        /// Of which placement group.
        group: GroupId,
    },
}

impl fmt::Display for DeathCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exited with code {code}"),
            Self::Signal { signal } => match signal_name(*signal) {
                Some(name) => write!(f, "was ended by signal {signal} ({name})"),
                None => write!(f, "was ended by signal {signal}"),
            },
            Self::Aborted => f.write_str("aborted"),
            Self::StackOverflow => f.write_str("overflowed its stack"),
            Self::OutOfMemory => f.write_str("was ended by the kernel because its memory was used up"),
            Self::NodeKilled => f.write_str("ended with its node, which was killed"),
            Self::NodeSilent { silent_ms } => {
                write!(f, "is given up with its node, which has been silent for {silent_ms} ms")
            }
            Self::Drained => f.write_str("ended with its node, which was drained"),
            Self::JobStopped => f.write_str("ended with its job"),
            Self::Disconnected => f.write_str("lost its connection and did not come back"),
            Self::NameLost { name } => {
                write!(f, "was ended because its actor named `{name}` did not stop when that name's lease was over")
            }
            Self::Silent { silent_ms } => {
                write!(f, "lost its connection, and did not come back within {silent_ms} ms")
            }
            Self::GroupEnded { group } => write!(f, "ended with its placement group {group}"),
            Self::BundleMoved { group } => write!(f, "ended because its bundle of {group} is kept on another node"),
            Self::NotStarted { message } => write!(f, "could not be started: {message}"),
            Self::MemoryPressure { used_bytes, total_bytes } => write!(
                f,
                "was ended by its node because {used_bytes} of {total_bytes} bytes of memory were used on its host: ask \
                 for fewer at once (`num_cpus`), or start the node with a higher `--memory-threshold`"
            ),
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} {}", self.process, self.cause)?;
        if let Some(last) = self.stderr.last() {
            write!(f, "; its last line was `{last}`")?;
        }
        Ok(())
    }
}

/// The names people know; numbers are those of Linux on x86-64 and arm64.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        2 => "SIGINT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        _ => return None,
    })
}
