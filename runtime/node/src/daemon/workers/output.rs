//! Reads one stream of one worker: all of it goes to the log, the last lines are kept for its death, some reach a terminal.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use mobula_types::{Death, JobId, ProcessId, Time};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::WorkerEvent;
use super::logic::lines::Lines;
use super::logic::talk::Talk;
use super::logs::Writer;

/// Bytes read at once. Each worker has two such buffers for as long as it lives.
const READ_BYTES: usize = 16 << 10;

/// Lines in one event.
const EVENT_LINES_MAX: usize = 100;

/// The last lines of a worker's standard error.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn keep(&self, line: &str) {
        let mut lines = self.0.lock();
        if lines.len() == Death::STDERR_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().iter().cloned().collect()
    }
}

/// One stream of a worker.
pub(crate) struct Reader {
    pub(crate) process: ProcessId,
    pub(crate) job: JobId,
    pub(crate) is_stderr: bool,
    pub(crate) log: Writer,
    pub(crate) tail: Option<Tail>,
    pub(crate) events: mpsc::Sender<WorkerEvent>,
}

impl Reader {
    /// Reads until all writers have closed their end.
    pub(crate) async fn run(mut self, pipe: OwnedFd) -> io::Result<()> {
        let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
        let (mut bytes, mut lines, mut talk, began) =
            (vec![0; READ_BYTES], Lines::default(), Talk::default(), Instant::now());
        let now = || Time::ZERO + began.elapsed();
        loop {
            let wait = talk.due().map_or(Duration::MAX, |due| due.since(now()));
            let mut tell = Vec::new();
            let read = tokio::select! {
                read = pipe.read(&mut bytes) => Some(read?),
                () = sleep(wait) => None,
            };
            match read {
                Some(0) => break,
                Some(len) => {
                    self.log.write(&bytes[..len]);
                    lines.push(&bytes[..len], |line| self.hear(&mut talk, now(), line, &mut tell));
                }
                None => talk.turn(now(), &mut tell),
            }
            self.tell(&mut talk, tell);
        }
        let mut tell = Vec::new();
        if let Some(line) = lines.finish() {
            self.hear(&mut talk, now(), line, &mut tell);
        }
        talk.finish(&mut tell);
        self.tell(&mut talk, tell);
        Ok(())
    }

    fn hear(&self, talk: &mut Talk, now: Time, line: String, tell: &mut Vec<String>) {
        if let Some(tail) = &self.tail {
            tail.keep(&line);
        }
        talk.hear(now, line, tell);
    }

    fn tell(&self, talk: &mut Talk, mut lines: Vec<String>) {
        let (process, job, is_stderr) = (self.process, self.job, self.is_stderr);
        while !lines.is_empty() {
            let rest = lines.split_off(lines.len().min(EVENT_LINES_MAX));
            let count = lines.len();
            // A reader must not wait: the worker would stand at its next line.
            if self.events.try_send(WorkerEvent::Output { process, job, is_stderr, lines }).is_err() {
                talk.was_not_heard(count);
            }
            lines = rest;
        }
    }
}

async fn sleep(span: Duration) {
    if span == Duration::MAX { std::future::pending().await } else { tokio::time::sleep(span).await }
}
