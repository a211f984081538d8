//! The thread that writes: one batch at a time, tried again while the disk takes nothing (G16).

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread;
use std::time::Duration;

use mobula_logic::record::Change;

use crate::store::{Store, WriteError};

/// Between two tries of a batch that could not be written: G16 has 5 s for going on.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// A batch to be written. The head has at most one on its way, so nothing queues here.
struct Batch {
    batch: u64,
    changes: Vec<Change>,
}

/// What came of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    Synced {
        batch: u64,
    },
    Failed {
        batch: u64,
        cause: String,
    },
    /// Nothing will be written any more.
    Ended {
        cause: String,
    },
}

/// The head's end of the thread. When it is dropped the thread ends by itself, after the write it is in.
pub(crate) struct Writer {
    batches: Sender<Batch>,
    reports: Receiver<Report>,
    ended: Receiver<()>,
}

/// The thread has ended although nobody wanted it.
const LOST: &str = "the thread that writes the control store has ended";

impl Writer {
    /// Starts the thread; `wake` is called after every report.
    pub(crate) fn start(store: Store, wake: Arc<dyn Fn() + Send + Sync>) -> io::Result<Self> {
        let (batches, incoming) = mpsc::channel();
        let (outgoing, reports) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        thread::Builder::new().name("mobula-store".to_owned()).spawn(move || {
            run(store, &incoming, outgoing, &*wake);
            // Whoever waits for the disk looks once more, and finds that nothing comes.
            wake();
            drop(end);
        })?;
        Ok(Self { batches, reports, ended })
    }

    pub(crate) fn write(&self, batch: u64, changes: Vec<Change>) {
        // That the thread has ended is the next report.
        drop(self.batches.send(Batch { batch, changes }));
    }

    pub(crate) fn report(&self) -> Option<Report> {
        match self.reports.try_recv() {
            Ok(report) => Some(report),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Report::Ended { cause: LOST.to_owned() }),
        }
    }

    /// Ends the thread and closes the file; whether it did within `within`.
    pub(crate) fn close(self, within: Duration) -> bool {
        drop(self.batches);
        matches!(self.ended.recv_timeout(within), Err(RecvTimeoutError::Disconnected))
    }
}

fn run(mut store: Store, incoming: &Receiver<Batch>, outgoing: Sender<Report>, wake: &(dyn Fn() + Send + Sync)) {
    while let Ok(Batch { batch, changes }) = incoming.recv() {
        let mut has_failed = false;
        while let Err(error) = store.commit(&changes) {
            if !std::mem::replace(&mut has_failed, true) {
                tracing::error!(%error, "the control store is read-only");
            }
            if matches!(error, WriteError::Replaced { .. }) {
                drop(outgoing.send(Report::Ended { cause: error.to_string() }));
                return;
            }
            if outgoing.send(Report::Failed { batch, cause: error.to_string() }).is_err() {
                return;
            }
            wake();
            // Nothing else comes while this batch is on its way: this is a sleep that ends with the head.
            if !matches!(incoming.recv_timeout(TRY_AGAIN), Err(RecvTimeoutError::Timeout)) {
                return;
            }
        }
        if has_failed {
            tracing::info!("the control store takes records again");
        }
        if outgoing.send(Report::Synced { batch }).is_err() {
            return;
        }
        wake();
    }
}
