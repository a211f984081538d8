//! The head of a cluster: its decisions, and the file that they survive in.
//!
//! The driver's loop, on one task:
//!
//! ```text
//! loop {
//!     wait for what a node says | for the wake-up | until head.next_timeout()
//!     head.handle(now, …)  or  head.turn(now)
//!     while let Some(output) = head.poll_output() { perform it }
//! }
//! ```
//!
//! What [`poll_output`](Head::poll_output) gives has its records on the disk already. Neither it nor `handle` waits for
//! the disk: `wake` is called, from another thread, when a batch has been written.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mobula_logic::head::{Input, Output};
use mobula_logic::{Calendar, head as logic};
use mobula_types::{ClusterId, Epoch, HeadId, StateMachine, Time};

use crate::layout::Cluster;
use crate::store::{Kept, OpenError, Store};
use crate::writer::{Report, Writer};

/// What a head must know to begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The cluster; a store of another one is not opened.
    pub cluster: ClusterId,
    /// The hash by which its members know its certificate authority.
    pub ca: Vec<u8>,
    /// What the driver's clock says.
    pub now: Time,
    /// What o'clock that is, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

/// An open head.
pub struct Head {
    pub(crate) machine: logic::Head,
    pub(crate) cluster: Cluster,
    pub(crate) calendar: Calendar,
    pub(crate) started: Time,
    writer: Writer,
    ended: Option<String>,
}

impl Head {
    /// Opens the store in `folder`, takes the next epoch, durably, and goes on where the last head of it stopped. `wake`
    /// is to make the driver call [`turn`](Self::turn) soon. Blocks while the file is read, checked and written.
    ///
    /// # Errors
    ///
    /// [`OpenError`] names the file and what is wrong with it. Nothing has been answered then, and nothing is lost.
    pub fn open(folder: &Path, config: Config, wake: impl Fn() + Send + Sync + 'static) -> Result<Self, OpenError> {
        Self::open_on(Store::open(folder)?, folder, config, wake)
    }

    pub(crate) fn open_on(
        (mut store, kept): (Store, Kept),
        folder: &Path,
        config: Config,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let Config { cluster, ca, now, unix_ms } = config;
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(OpenError::Random)?;
        let last = kept.cluster.unwrap_or(Cluster { id: cluster, ca: ca.clone(), ..Cluster::default() });
        if last.id != cluster {
            let path = folder.join(crate::store::FILE);
            return Err(OpenError::OtherCluster { path, found: last.id, wanted: cluster });
        }
        // Nobody hears of this head before its epoch is durable: two heads never have one number (G13).
        let cluster = Cluster { id: cluster, ca, epoch: Epoch(last.epoch.0 + 1), nonce: u64::from_le_bytes(nonce) };
        store.set_cluster(&cluster)?;
        let calendar = Calendar::new(now, unix_ms);
        let id = HeadId { epoch: cluster.epoch, nonce: cluster.nonce };
        let machine = logic::Head::restore(id, calendar, now, kept.records, None);
        let writer = Writer::start(store, Arc::new(wake)).map_err(OpenError::Thread)?;
        Ok(Self { machine, cluster, calendar, started: now, writer, ended: None })
    }

    /// Which head it is; every frame of it says so.
    pub fn id(&self) -> HeadId {
        self.machine.id()
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The decisions, for what is asked of them: members, jobs, names, tokens.
    pub fn machine(&self) -> &logic::Head {
        &self.machine
    }

    /// Why this head must not act any more, when that is so: another one has its store, or nothing can ever be written.
    /// It says and hears nothing then; the driver ends it, and may open another.
    pub fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }

    /// Takes what a node or tool says: a `mobula_logic::membership::Input` or `mobula_logic::directory::Input`.
    pub fn handle(&mut self, now: Time, input: impl Into<Input>) {
        self.hear_writer(now);
        if self.ended.is_none() {
            self.machine.handle(now, input.into());
        }
    }

    /// Looks at the time and at what has been written.
    pub fn turn(&mut self, now: Time) {
        self.handle(now, Input::Tick);
    }

    /// The next thing to do, in order: never [`Output::Commit`], which is done here.
    pub fn poll_output(&mut self) -> Option<Output> {
        while self.ended.is_none() {
            match self.machine.poll_output()? {
                Output::Commit { batch, changes } => self.writer.write(batch, changes),
                output => return Some(output),
            }
        }
        None
    }

    /// When [`turn`](Self::turn) is to be called although nothing happened.
    pub fn next_timeout(&self) -> Option<Time> {
        self.machine.next_timeout()
    }

    /// Closes the file, so that another head may open it; whether that was done within `within`. What was not synced is
    /// lost, and nobody has been told of it.
    pub fn close(self, within: Duration) -> bool {
        self.writer.close(within)
    }

    fn hear_writer(&mut self, now: Time) {
        while self.ended.is_none()
            && let Some(report) = self.writer.report()
        {
            let input = match report {
                Report::Synced { batch } => Input::Synced { batch },
                Report::Failed { batch, cause } => Input::Failed { batch, cause },
                Report::Ended { cause } => {
                    tracing::error!(cause, "the head ends");
                    self.ended = Some(cause);
                    return;
                }
            };
            self.machine.handle(now, input);
        }
    }
}
