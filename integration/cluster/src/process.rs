//! One process on a host: what it says, signals to it, its end.
//!
//! Its output goes to files in the test's folder, so that a process that is stopped or killed never blocks on a pipe,
//! and a test that fails can show the last of it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

/// How long to wait before looking again, where the kernel tells nobody.
pub const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Lines of a process's output that an error shows.
const LAST_LINES: usize = 25;

/// Looks until `look` finds something.
///
/// # Errors
///
/// Nothing was found `within` the time, or `look` failed.
pub fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().with_context(|| format!("while waiting for {what}"))? {
            return Ok(found);
        }
        if begun.elapsed() > within {
            bail!("{what}: not within {within:?}");
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// A running process. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
    /// Where in them its own words begin: an earlier process of this name wrote there, too.
    begin: [usize; 2],
    /// Set once it has been waited for: its number may be another's then.
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts it; its output goes to `<folder>/<name>.out` and `.err`, behind what is there already.
    ///
    /// # Errors
    ///
    /// It could not be started.
    pub fn start(name: &str, folder: &Path, command: &mut Command) -> Result<Self> {
        let (out, err) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
        let append = |path: &Path| File::options().create(true).append(true).open(path);
        let length = |path: &Path| fs::metadata(path).ok().and_then(|about| usize::try_from(about.len()).ok());
        let begin = [length(&out).unwrap_or(0), length(&err).unwrap_or(0)];
        command.stdin(Stdio::piped()).stdout(append(&out)?).stderr(append(&err)?);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { name: name.to_owned(), child, out, err, begin, ended: None })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it was started as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.status()? {
            bail!("{} has ended with {status}{}", self.name, self.last_words());
        }
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("a process has a number")?;
        rustix::process::kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Kills it, and waits for its end.
    ///
    /// # Errors
    ///
    /// It had ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.ended = Some(self.child.wait()?);
        Ok(())
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// It still runs after that time; its last lines are in the error.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        until(&what, within, || self.status()).map_err(|error| error.context(self.last_words()))
    }

    /// Waits for its end, and wants it to be a good one.
    ///
    /// # Errors
    ///
    /// It still runs after that time, or ended otherwise.
    pub fn succeed(&mut self, within: Duration) -> Result<String> {
        let status = self.wait(within)?;
        if !status.success() {
            bail!("{} ended with {status}{}", self.name, self.last_words());
        }
        Ok(self.output())
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    ///
    /// It reads no more.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().with_context(|| format!("{} has no input any more", self.name))?;
        writeln!(input, "{line}").with_context(|| format!("tell {}", self.name))
    }

    /// All it wrote to standard output.
    pub fn output(&self) -> String {
        words(&self.out, self.begin[0])
    }

    /// All it wrote to standard error.
    pub fn errors(&self) -> String {
        words(&self.err, self.begin[1])
    }

    /// Waits for a line of its standard output that begins so, and gives the rest of that line.
    ///
    /// # Errors
    ///
    /// There was none in that time, or it ended without one.
    pub fn line(&mut self, beginning: &str, within: Duration) -> Result<String> {
        let what = format!("{} to say `{beginning}`", self.name);
        let found = until(&what, within, || {
            // Asked before the output is read: what it wrote last is read then.
            let ended = self.status()?;
            let output = self.output();
            let complete = output.rsplit_once('\n').map_or("", |(complete, _)| complete);
            let line = complete.lines().find_map(|line| line.strip_prefix(beginning));
            match (line, ended) {
                (Some(rest), _) => Ok(Some(rest.to_owned())),
                (None, Some(status)) => bail!("it ended with {status}"),
                (None, None) => Ok(None),
            }
        });
        found.map_err(|error| error.context(self.last_words()))
    }

    /// The end of its output, for an error.
    pub fn last_words(&self) -> String {
        let mut words = String::new();
        for (kind, text) in [("output", self.output()), ("errors", self.errors())] {
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            if !last.is_empty() {
                words += &format!("\n-- last {kind} of {}:\n{}", self.name, last.join("\n"));
            }
        }
        words
    }
}

fn words(path: &Path, begin: usize) -> String {
    let all = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(all.get(begin..).unwrap_or_default()).into_owned()
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, Process) {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start("sh", folder.path(), Command::new("sh").args(["-c", script])).unwrap();
        (folder, process)
    }

    #[test]
    fn a_process_is_heard_and_told() {
        let (_folder, mut process) = shell("echo ready: 7; read line; echo got $line; exit 3");
        let soon = Duration::from_secs(10);
        assert_eq!(process.line("ready: ", soon).unwrap(), "7");
        process.tell("that").unwrap();
        assert_eq!(process.line("got ", soon).unwrap(), "that");
        assert_eq!(process.wait(soon).unwrap().code(), Some(3));
        let error = process.line("more", soon).unwrap_err();
        assert!(format!("{error:#}").contains("got that"), "{error:#}");
    }

    #[test]
    fn a_killed_process_has_ended() {
        let (_folder, mut process) = shell("echo ready; exec cat");
        process.line("ready", Duration::from_secs(10)).unwrap();
        process.kill().unwrap();
        assert!(process.signal(Signal::KILL).is_err());
        assert!(process.wait(Duration::ZERO).unwrap().code().is_none());
    }
}
