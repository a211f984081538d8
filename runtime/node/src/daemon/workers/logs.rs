//! What workers wrote, in files that rotate; read by id and offset, never by path.
//!
//! ```text
//! logs/<job>/<node>-<number>.out      what is written now
//!                           .out.1    what was written before, replaced at the next turn
//! ```
//!
//! An offset counts the bytes that a worker has written to a stream since it began, whatever of them is still kept. A log
//! that is full or broken never holds up its worker.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mobula_types::{JobId, NodeId, ProcessId};
use parking_lot::Mutex;

/// A file is turned at this size, so that a stream takes at most twice as much.
pub const LOG_BYTES_MAX: u64 = 16 << 20;

/// A file is turned at this age, so that a quiet stream shows its last two days.
pub const LOG_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Logs of workers that have ended are removed at this age.
pub const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Above this, the logs of those that ended first are removed: a node of short jobs makes thousands of them.
pub const ENDED_BYTES_MAX: u64 = 1 << 30;

/// Above this number of ended streams, too: each takes a little memory here.
const ENDED_MAX: usize = 16_384;

/// Bytes of one answer.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// One of the two streams that a process writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Names a log: `7:2.out`, `7:2.err`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Who wrote it.
    pub process: ProcessId,
    /// Where.
    pub stream: Stream,
}

/// A part of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// Where the part begins: later than asked for, when what stood there is gone.
    pub offset: u64,
    /// The part; empty at the end.
    pub bytes: Vec<u8>,
    /// Whether nothing will follow, once all that is there was read.
    pub has_ended: bool,
}

impl LogChunk {
    /// Where the next part begins.
    pub fn next_offset(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// No such log is kept.
    #[error(
        "there is no log of {id}: name a worker (7:2, 7:2.err) or a job (job-3) of the last days; `mobula list workers` shows those that run"
    )]
    Unknown {
        /// What was asked for.
        id: String,
    },
    /// The system refused.
    #[error("cannot use the logs in {path}: {source}", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// The logs of a node. Clones are the same logs.
#[derive(Clone, Debug)]
pub struct Logs {
    folder: Arc<Path>,
    table: Arc<Mutex<BTreeMap<LogId, Arc<Mutex<Log>>>>>,
}

/// Writes one log; when it is dropped, the log has ended.
#[derive(Debug)]
pub(crate) struct Writer {
    log: Arc<Mutex<Log>>,
    logs: Logs,
}

#[derive(Debug)]
struct Log {
    job: JobId,
    path: PathBuf,
    file: Option<File>,
    /// The offset at which the turned file begins, at which the current one does, and at which the stream ends.
    old_start: u64,
    start: u64,
    end: u64,
    /// When the current file was begun.
    begun: SystemTime,
    ended: Option<SystemTime>,
    /// Told once; what is written meanwhile is not kept.
    is_broken: bool,
}

impl Logs {
    /// The logs in a folder, which is made; those of earlier nodes in it can be read too.
    ///
    /// # Errors
    ///
    /// The folder cannot be made or read.
    pub fn open(folder: &Path) -> Result<Self, LogError> {
        let failed = |source| LogError::Io { path: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let mut table = BTreeMap::new();
        for job_folder in fs::read_dir(folder).map_err(failed)?.flatten() {
            let name = job_folder.file_name();
            let Some(job) = name.to_str().and_then(parse_job) else { continue };
            for file in fs::read_dir(job_folder.path()).into_iter().flatten().flatten() {
                let path = file.path();
                if let Some(id) = file.file_name().to_str().and_then(parse_file_name) {
                    table.insert(id, Arc::new(Mutex::new(Log::found(job, path))));
                }
            }
        }
        let logs = Self { folder: folder.into(), table: Arc::new(Mutex::new(table)) };
        logs.prune(SystemTime::now());
        Ok(logs)
    }

    /// The logs that a person may mean: a worker's two, one of them, or all of a job; oldest worker first.
    ///
    /// # Errors
    ///
    /// [`LogError::Unknown`].
    pub fn resolve(&self, id: &str) -> Result<Vec<LogId>, LogError> {
        let table = self.table.lock();
        let mut found: Vec<LogId> = Vec::new();
        if let Some(job) = parse_job(id) {
            found.extend(table.iter().filter(|(_, log)| log.lock().job == job).map(|(id, _)| *id));
        } else if let Ok(one) = id.parse::<LogId>() {
            found.push(one);
        } else if let Some(process) = parse_process(id) {
            found.extend([Stream::Out, Stream::Err].map(|stream| LogId { process, stream }));
        }
        found.retain(|id| table.contains_key(id));
        if found.is_empty() { Err(LogError::Unknown { id: shortened(id) }) } else { Ok(found) }
    }

    /// Reads at most `max` bytes (and [`CHUNK_BYTES_MAX`]) of a log from `offset` on. An offset beyond its end gives an
    /// empty part at the end.
    ///
    /// # Errors
    ///
    /// [`LogError`].
    pub fn read(&self, id: LogId, offset: u64, max: usize) -> Result<LogChunk, LogError> {
        let log = self.table.lock().get(&id).cloned();
        let log = log.ok_or_else(|| LogError::Unknown { id: id.to_string() })?;
        let log = log.lock();
        log.read(offset, max.min(CHUNK_BYTES_MAX)).map_err(|source| LogError::Io { path: log.path.clone(), source })
    }

    /// The offset at which a log ends now.
    ///
    /// # Errors
    ///
    /// [`LogError::Unknown`].
    pub fn end(&self, id: LogId) -> Result<u64, LogError> {
        let table = self.table.lock();
        table.get(&id).map(|log| log.lock().end).ok_or_else(|| LogError::Unknown { id: id.to_string() })
    }

    /// A new log. Its file is made with its first byte.
    pub(crate) fn begin(&self, id: LogId, job: JobId) -> Writer {
        let log = Log {
            job,
            path: self.folder.join(job.to_string()).join(file_name(id)),
            file: None,
            old_start: 0,
            start: 0,
            end: 0,
            begun: SystemTime::now(),
            ended: None,
            is_broken: false,
        };
        let log = Arc::new(Mutex::new(log));
        self.table.lock().insert(id, log.clone());
        Writer { log, logs: self.clone() }
    }

    /// Removes logs of the dead that are too old or too many.
    fn prune(&self, now: SystemTime) {
        let mut table = self.table.lock();
        let mut ended: Vec<(SystemTime, u64, LogId)> = Vec::new();
        for (id, log) in &*table {
            let log = log.lock();
            ended.extend(log.ended.map(|at| (at, log.end - log.old_start, *id)));
        }
        ended.sort_unstable();
        let mut bytes: u64 = ended.iter().map(|(_, bytes, _)| bytes).sum();
        let mut count = ended.len();
        for (at, len, id) in ended {
            let is_old = now.duration_since(at).is_ok_and(|age| age > KEPT_FOR);
            if !is_old && bytes <= ENDED_BYTES_MAX && count <= ENDED_MAX {
                break;
            }
            (bytes, count) = (bytes - len, count - 1);
            if let Some(log) = table.remove(&id) {
                log.lock().remove();
            }
        }
    }
}

impl Writer {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.log.lock().write(bytes, SystemTime::now());
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let now = SystemTime::now();
        {
            let mut log = self.log.lock();
            log.ended = Some(now);
            log.file = None;
        }
        self.logs.prune(now);
    }
}

impl Log {
    /// A log of an earlier node. What was turned before stands at its front.
    fn found(job: JobId, path: PathBuf) -> Self {
        let size = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
        let modified = fs::metadata(&path).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let start = size(&turned(&path));
        let end = start + size(&path);
        let (file, ended) = (None, Some(modified));
        Self { job, path, file, old_start: 0, start, end, begun: modified, ended, is_broken: false }
    }

    fn write(&mut self, bytes: &[u8], now: SystemTime) {
        let done = self.turn_if_due(now).and_then(|()| self.file(now)?.write_all(bytes));
        match done {
            Ok(()) => self.end += bytes.len() as u64,
            Err(error) => {
                // The file may have got a part: it begins again, so that offsets and bytes agree.
                if !std::mem::replace(&mut self.is_broken, true) {
                    tracing::warn!(path = %self.path.display(), %error, "what a worker writes cannot be kept");
                }
                self.remove();
                (self.file, self.old_start, self.start) = (None, self.end, self.end);
            }
        }
    }

    fn turn_if_due(&mut self, now: SystemTime) -> io::Result<()> {
        let is_old = now.duration_since(self.begun).is_ok_and(|age| age >= LOG_AGE_MAX);
        let is_empty = self.end == self.start;
        if is_empty || (self.end - self.start < LOG_BYTES_MAX && !is_old) {
            return Ok(());
        }
        self.file = None;
        fs::rename(&self.path, turned(&self.path))?;
        (self.old_start, self.start) = (self.start, self.end);
        Ok(())
    }

    fn file(&mut self, now: SystemTime) -> io::Result<&mut File> {
        if self.file.is_none() {
            if let Some(folder) = self.path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&self.path)?;
            self.begun = now;
            self.file = Some(file);
        }
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read(&self, offset: u64, max: usize) -> io::Result<LogChunk> {
        let offset = offset.clamp(self.old_start, self.end);
        let (path, start, end) = if offset < self.start {
            (turned(&self.path), self.old_start, self.start)
        } else {
            (self.path.clone(), self.start, self.end)
        };
        let len = (end - offset).min(max as u64);
        let mut bytes = Vec::new();
        if len > 0 {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(offset - start))?;
            file.take(len).read_to_end(&mut bytes)?;
        }
        Ok(LogChunk { offset, bytes, has_ended: self.ended.is_some() })
    }

    /// Removes the files, and the job's folder with the last of them.
    fn remove(&mut self) {
        for path in [&self.path, &turned(&self.path)] {
            fs::remove_file(path).ok();
        }
        self.path.parent().map(fs::remove_dir);
    }
}

fn turned(path: &Path) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".1");
    path.into()
}

fn file_name(id: LogId) -> String {
    let (process, stream) = (id.process, id.stream);
    format!("{}-{}.{stream}", process.node().0, process.number())
}

/// The opposite of [`file_name`]. A log that has only its turned file is none: it was left at that moment.
fn parse_file_name(name: &str) -> Option<LogId> {
    let (process, stream) = name.split_once('.')?;
    let (node, number) = process.split_once('-')?;
    Some(LogId { process: process_of(node, number)?, stream: stream.parse().ok()? })
}

fn parse_process(id: &str) -> Option<ProcessId> {
    let (node, number) = id.split_once(':')?;
    process_of(node, number)
}

/// Numbers that are no process's are refused: `ProcessId::new` takes only right ones.
fn process_of(node: &str, number: &str) -> Option<ProcessId> {
    let (node, number) = (node.parse::<u64>().ok()?, number.parse::<u32>().ok()?);
    let fits = number < ProcessId::NUMBERS && node <= u64::MAX / u64::from(ProcessId::NUMBERS);
    fits.then(|| ProcessId::new(NodeId(node), number))
}

fn parse_job(id: &str) -> Option<JobId> {
    Some(JobId(id.strip_prefix("job-")?.parse().ok()?))
}

/// What somebody asked for, as far as an error repeats it.
fn shortened(id: &str) -> String {
    id.chars().take(64).collect()
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Out => "out",
            Self::Err => "err",
        })
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.process, self.stream)
    }
}

impl FromStr for Stream {
    type Err = LogError;

    fn from_str(stream: &str) -> Result<Self, LogError> {
        match stream {
            "out" => Ok(Self::Out),
            "err" => Ok(Self::Err),
            _ => Err(LogError::Unknown { id: shortened(stream) }),
        }
    }
}

impl FromStr for LogId {
    type Err = LogError;

    fn from_str(id: &str) -> Result<Self, LogError> {
        let unknown = || LogError::Unknown { id: shortened(id) };
        let (process, stream) = id.split_once('.').ok_or_else(unknown)?;
        Ok(Self { process: parse_process(process).ok_or_else(unknown)?, stream: stream.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: JobId = JobId(3);

    fn id(number: u32) -> LogId {
        LogId { process: ProcessId::new(NodeId(7), number), stream: Stream::Out }
    }

    fn read(logs: &Logs, id: LogId, offset: u64) -> (u64, String) {
        let chunk = logs.read(id, offset, CHUNK_BYTES_MAX).unwrap();
        (chunk.offset, String::from_utf8(chunk.bytes).unwrap())
    }

    #[test]
    fn what_was_written_is_read_by_offset() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::open(folder.path()).unwrap();
        let mut writer = logs.begin(id(2), JOB);
        writer.write(b"one\n");
        writer.write(b"two\n");
        assert_eq!(read(&logs, id(2), 0), (0, "one\ntwo\n".to_owned()));
        assert_eq!(read(&logs, id(2), 4), (4, "two\n".to_owned()));
        assert_eq!(read(&logs, id(2), 99), (8, String::new()));
        assert_eq!(logs.read(id(2), 0, 3).unwrap().next_offset(), 3);
        assert!(!logs.read(id(2), 8, 3).unwrap().has_ended);
        drop(writer);
        assert!(logs.read(id(2), 8, 3).unwrap().has_ended);
        // A node that starts later in this folder still shows it.
        let logs = Logs::open(folder.path()).unwrap();
        assert_eq!(read(&logs, id(2), 4), (4, "two\n".to_owned()));
        assert_eq!(logs.end(id(2)).unwrap(), 8);
    }

    #[test]
    fn files_turn_by_size_and_age_and_offsets_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::open(folder.path()).unwrap();
        let writer = logs.begin(id(1), JOB);
        let now = SystemTime::now();
        let write = |bytes: &[u8], now| writer.log.lock().write(bytes, now);
        write(b"first\n", now);
        write(b"second\n", now + LOG_AGE_MAX + Duration::from_secs(1));
        assert_eq!(read(&logs, id(1), 0), (0, "first\n".to_owned()));
        assert_eq!(read(&logs, id(1), 6), (6, "second\n".to_owned()));
        let later = now + LOG_AGE_MAX + Duration::from_secs(2);
        write(&vec![b'x'; LOG_BYTES_MAX as usize], later);
        write(b"third\n", later);
        assert_eq!(read(&logs, id(1), 0).0, 6, "the first file was replaced");
        assert_eq!(read(&logs, id(1), 13 + LOG_BYTES_MAX), (13 + LOG_BYTES_MAX, "third\n".to_owned()));
        let kept: u64 =
            fs::read_dir(folder.path().join("job-3")).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
        assert_eq!(kept, 7 + LOG_BYTES_MAX + 6);
    }

    #[test]
    fn ids_are_no_paths() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::open(folder.path()).unwrap();
        let (_first, _second) = (logs.begin(id(1), JOB), logs.begin(id(2), JobId(4)));
        assert_eq!(logs.resolve("7:1").unwrap(), [id(1)]);
        assert_eq!(logs.resolve("7:1.out").unwrap(), [id(1)]);
        assert_eq!(logs.resolve("job-4").unwrap(), [id(2)]);
        let huge = format!("{}:1", u64::MAX);
        for wrong in ["", "7", "7:3", "7:1.err", "job-5", "../7:1", "7:1/../x", "7:-1", "7:16777216", &huge] {
            assert!(matches!(logs.resolve(wrong), Err(LogError::Unknown { .. })), "{wrong}");
        }
    }

    #[test]
    fn the_dead_are_forgotten_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::open(folder.path()).unwrap();
        let mut running = logs.begin(id(1), JOB);
        running.write(b"a");
        let mut ended = logs.begin(id(2), JobId(4));
        ended.write(b"b");
        drop(ended);
        logs.prune(SystemTime::now());
        assert!(logs.end(id(2)).is_ok());
        logs.prune(SystemTime::now() + KEPT_FOR + Duration::from_secs(60));
        assert!(logs.end(id(2)).is_err() && logs.end(id(1)).is_ok());
        assert!(!folder.path().join("job-4").exists() && folder.path().join("job-3").exists());
    }

    #[test]
    fn a_log_that_cannot_be_kept_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::open(folder.path()).unwrap();
        fs::write(folder.path().join("job-3"), "a file where the folder would be").unwrap();
        let mut writer = logs.begin(id(1), JOB);
        writer.write(b"lost\n");
        fs::remove_file(folder.path().join("job-3")).unwrap();
        writer.write(b"kept\n");
        assert_eq!(read(&logs, id(1), 0), (0, "kept\n".to_owned()));
    }
}
