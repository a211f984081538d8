//! A child process that cannot outlive us.
//!
//! Whatever way the owner is left – success, error, panic, Ctrl-C or SIGTERM – dropping a [`Child`] ends the process by
//! its own id and waits for it. Every wait has a deadline and notices a signal within [`POLL`]. The last lines that the
//! process wrote are kept, so that its death can be told with its cause. Grandchildren are the child's own business.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How soon a wait notices a signal or an exit.
pub(crate) const POLL: Duration = Duration::from_millis(50);
/// What a process gets between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);
/// How many of a process's last lines its obituary shows.
const TAIL_LINES: usize = 24;
/// Lines in flight between a process and its reader; a full channel lets the process wait on its pipe.
const LINES_IN_FLIGHT: usize = 1024;

static STOPPED: AtomicBool = AtomicBool::new(false);

/// Lets Ctrl-C, SIGTERM and SIGHUP end every wait with an error, so that destructors run.
pub(crate) fn stop_on_signals() {
    ctrlc::set_handler(|| STOPPED.store(true, Ordering::Relaxed))
        .expect("the handler is set once, first thing in main");
}

/// Whether a signal asked us to stop.
pub(crate) fn stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

/// The error of a wait that a signal ended.
pub(crate) fn fail_if_stopped() -> Result<()> {
    if stopped() { bail!("stopped by a signal") } else { Ok(()) }
}

/// Runs `command` with our own terminal, until it ends or `limit` is over.
///
/// # Errors
/// When it cannot start, does not end in time, or does not succeed.
pub(crate) fn run(name: &str, command: &mut Command, limit: Duration) -> Result<()> {
    let mut child = Child::start(name, command)?;
    let status = child.wait(Instant::now() + limit)?;
    if status.success() { Ok(()) } else { bail!("{name} ended with {status}") }
}

/// A running process and what it says.
pub(crate) struct Child {
    name: String,
    process: std::process::Child,
    /// Lines of standard output, in order; only of a watched child.
    lines: Option<Receiver<String>>,
    /// The last [`TAIL_LINES`] lines of both streams.
    tail: Arc<Mutex<VecDeque<String>>>,
}

impl Child {
    /// Starts a process that shares our terminal.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Child> {
        let process = command.spawn().with_context(|| format!("start {name} ({})", command.get_program().display()))?;
        Ok(Child { name: name.to_owned(), process, lines: None, tail: Arc::default() })
    }

    /// Starts a process whose standard output is read by [`Child::next_line`]; its standard error is shown as it comes.
    pub(crate) fn watch(name: &str, command: &mut Command) -> Result<Child> {
        let mut child = Child::start(name, command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let (sender, lines) = sync_channel(LINES_IN_FLIGHT);
        let stdout = child.process.stdout.take().expect("stdout is piped, three lines above");
        let stderr = child.process.stderr.take().expect("stderr is piped, four lines above");
        pump(stdout, Arc::clone(&child.tail), Sink::Channel(sender));
        pump(stderr, Arc::clone(&child.tail), Sink::Terminal);
        child.lines = Some(lines);
        Ok(child)
    }

    /// The next line of a watched child's standard output, or `None` when it has closed it.
    pub(crate) fn next_line(&mut self, deadline: Instant) -> Result<Option<String>> {
        let lines = self.lines.as_ref().expect("only a watched child is read");
        loop {
            fail_if_stopped()?;
            match lines.recv_timeout(POLL) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{} said nothing in time; its last lines:\n{}", self.name, self.tail())
                }
            }
        }
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self, deadline: Instant) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.status()? {
                return Ok(status);
            }
            fail_if_stopped()?;
            if Instant::now() >= deadline {
                bail!("{} did not end in time and was killed", self.name);
            }
            std::thread::sleep(POLL);
        }
    }

    /// How the process ended, or `None` while it runs.
    pub(crate) fn status(&mut self) -> Result<Option<ExitStatus>> {
        self.process.try_wait().with_context(|| format!("wait for {}", self.name))
    }

    /// Asks the process to end (SIGTERM) and says how it did; one that does not listen is killed.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.status()? {
            return Ok(status);
        }
        // An id that is not yet waited for cannot have been given to another process.
        let pid = Pid::from_raw(i32::try_from(self.process.id()).expect("Linux ids fit 22 bits"));
        kill(pid, Signal::SIGTERM).with_context(|| format!("ask {} to end", self.name))?;
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if let Some(status) = self.status()? {
                return Ok(status);
            }
            std::thread::sleep(POLL);
        }
        self.process.kill().with_context(|| format!("kill {}", self.name))?;
        self.process.wait().with_context(|| format!("wait for {}", self.name))
    }

    /// The last lines of a watched child, indented.
    pub(crate) fn tail(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.stop().is_err() {
            // Nothing more can be done, and a destructor has nobody to tell.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

enum Sink {
    Channel(SyncSender<String>),
    Terminal,
}

/// Reads `stream` line by line on a thread of its own, which ends with the stream.
fn pump(stream: impl Read + Send + 'static, tail: Arc<Mutex<VecDeque<String>>>, sink: Sink) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            bytes.clear();
            {
                let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
                if tail.len() == TAIL_LINES {
                    tail.pop_front();
                }
                tail.push_back(line.clone());
            }
            match &sink {
                Sink::Terminal => eprintln!("{line}"),
                // Nobody reads any more: go on draining, a full pipe would hold the process up.
                Sink::Channel(lines) => drop(lines.send(line)),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn a_watched_child_is_read_to_its_end_and_its_last_words_are_kept() {
        let mut child = Child::watch("talker", &mut shell("echo one; echo two; echo sorry >&2; exit 3")).unwrap();
        let mut lines = Vec::new();
        while let Some(line) = child.next_line(soon()).unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, ["one", "two"]);
        assert_eq!(child.wait(soon()).unwrap().code(), Some(3));
        assert!(child.tail().contains("one"));
    }

    #[test]
    fn a_dropped_child_is_gone() {
        let child = Child::start("sleeper", &mut shell("exec sleep 600")).unwrap();
        let pid = Pid::from_raw(child.process.id().cast_signed());
        drop(child);
        assert_eq!(kill(pid, None), Err(nix::errno::Errno::ESRCH));
    }

    #[test]
    fn a_wait_has_an_end() {
        let mut child = Child::watch("silent", &mut shell("echo ready; exec sleep 600")).unwrap();
        assert_eq!(child.next_line(soon()).unwrap().as_deref(), Some("ready"));
        let error = child.next_line(Instant::now()).unwrap_err().to_string();
        assert!(error.contains("silent said nothing in time") && error.contains("ready"), "{error}");
        assert!(child.wait(Instant::now()).unwrap_err().to_string().contains("did not end in time"));
    }

    #[test]
    fn a_command_that_is_not_there_is_named() {
        let error = run("ghost", &mut Command::new("mobula-no-such-program"), POLL).unwrap_err();
        assert!(format!("{error:#}").contains("start ghost (mobula-no-such-program)"));
    }
}
