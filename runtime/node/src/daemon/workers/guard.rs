//! The worker's side of its life: how it knows that it is one, and how it dies with its parent.
//!
//! A worker is started with its slots as standard input and its secret among its variables. What a worker itself starts
//! inherits the variables but not the slots: so it is never taken for a worker.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use mobula_store::Slots;
use mobula_types::ProcessId;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// The variable that holds the worker's [`ProcessId`], as a number. By it the warden knows whose child an orphan is.
pub const PROCESS: &str = "MOBULA_WORKER";
/// The variable that holds the worker's secret.
pub const TOKEN: &str = "MOBULA_WORKER_TOKEN";
/// The variable that holds the path of the node's socket.
pub const SOCKET: &str = "MOBULA_WORKER_SOCKET";
/// The variable that is `1` for a worker of one actor or task.
pub const ISOLATED: &str = "MOBULA_WORKER_ISOLATED";
/// The variable that holds the warden's process number.
pub(crate) const WARDEN: &str = "MOBULA_WORKER_PARENT";

/// What a process is told that a node started as a worker.
#[derive(Debug)]
pub struct Role {
    /// Who it is.
    pub process: ProcessId,
    /// What proves that to its node.
    pub token: String,
    /// Where its node listens.
    pub socket: PathBuf,
    /// Whether it runs for one actor or task only.
    pub isolated: bool,
    /// Where its threads say what they run.
    pub slots: Slots,
}

/// Why a process that was started as a worker cannot be one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The process that started it has ended: it would be left behind.
    #[error("the node that started this worker has ended")]
    Orphaned,
    /// A variable is missing or no such value.
    #[error("{name} is not what a node gives its workers: start the program without it")]
    Variable {
        /// Its name.
        name: &'static str,
    },
    /// The system refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Says whether this process is a worker; if so, from here on it dies with the process that started it, and its standard
/// input is empty. To be called once, early, by the program's first thread.
///
/// # Errors
///
/// [`GuardError`]: the process should end.
pub fn enter() -> Result<Option<Role>, GuardError> {
    let Some(process) = std::env::var_os(PROCESS) else { return Ok(None) };
    let Ok(slots) = Slots::open(io::stdin()) else { return Ok(None) };
    let io_error = |what| move |source: rustix::io::Errno| GuardError::Io { what, source: source.into() };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(io_error("ask for the signal at its parent's end"))?;
    // A parent that ended before the line above sends no signal; its child has another parent then.
    let parent: i32 = number(WARDEN)?;
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        return Err(GuardError::Orphaned);
    }
    let nothing = File::open("/dev/null").map_err(|source| GuardError::Io { what: "open /dev/null", source })?;
    rustix::stdio::dup2_stdin(nothing).map_err(io_error("empty its standard input"))?;
    let process = process.to_str().and_then(|id| id.parse().ok()).ok_or(GuardError::Variable { name: PROCESS })?;
    Ok(Some(Role {
        process: ProcessId::from_u64(process),
        token: std::env::var(TOKEN).map_err(|_| GuardError::Variable { name: TOKEN })?,
        socket: std::env::var_os(SOCKET).ok_or(GuardError::Variable { name: SOCKET })?.into(),
        isolated: std::env::var(ISOLATED).is_ok_and(|value| value == "1"),
        slots,
    }))
}

fn number(name: &'static str) -> Result<i32, GuardError> {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).ok_or(GuardError::Variable { name })
}
