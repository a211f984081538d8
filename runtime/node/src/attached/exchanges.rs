//! What was asked of other processes and is not answered yet.
//!
//! An entry leaves the table with its answer, or when the process that was asked has ended: nobody waits for the dead.

use std::collections::HashMap;
use std::sync::Arc;

use mobula_actor::deliver::{EncodedItem, EncodedReply, Fetched};
use mobula_actor::object::GetError;
use mobula_logic::dispatch::Key;
use mobula_types::{Attempt, Digest, NodeId, NotStarted, ObjectId, ProcessId};
use mobula_wire::ExchangeId;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

/// Who waits for an answer.
pub(crate) enum Waiting {
    /// A call: for its reply, and for its place in the mailbox.
    Call { reply: Option<EncodedReply>, entered: Option<oneshot::Sender<Result<(), NotStarted>>> },
    /// A run of a task.
    Task { key: Key, attempt: Attempt },
    /// An object's value.
    Fetch { object: ObjectId, sender: oneshot::Sender<Result<Fetched, GetError>> },
    /// Who has an object's bytes.
    Keeper { sender: oneshot::Sender<(ProcessId, Digest)> },
    /// The items of a stream.
    Stream { items: mpsc::UnboundedSender<EncodedItem> },
}

/// An exchange that is under way.
pub(crate) struct Exchange {
    /// Who was asked.
    pub(crate) to: ProcessId,
    pub(crate) waiting: Waiting,
}

#[derive(Default)]
pub(crate) struct Exchanges {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    last: ExchangeId,
    open: HashMap<ExchangeId, Exchange>,
}

/// An exchange whose answer somebody waits for.
pub(crate) struct Awaited<'a> {
    exchanges: &'a Exchanges,
    exchange: ExchangeId,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.exchanges.give_up(self.exchange);
    }
}

impl Exchanges {
    /// Opens an exchange with `to`.
    pub(crate) fn open(&self, to: ProcessId, waiting: Waiting) -> ExchangeId {
        let mut table = self.table.lock();
        table.last += 1;
        let exchange = table.last;
        table.open.insert(exchange, Exchange { to, waiting });
        exchange
    }

    /// Whether no more than one is under way.
    pub(crate) fn is_lone(&self) -> bool {
        self.table.lock().open.len() <= 1
    }

    /// A number for what nobody waits for.
    pub(crate) fn number(&self) -> ExchangeId {
        let mut table = self.table.lock();
        table.last += 1;
        table.last
    }

    /// Takes an exchange out; only the process that was asked may answer it.
    pub(crate) fn close(&self, exchange: ExchangeId, from: ProcessId) -> Option<Waiting> {
        let mut table = self.table.lock();
        if table.open.get(&exchange).is_none_or(|open| open.to != from) {
            return None;
        }
        table.open.remove(&exchange).map(|open| open.waiting)
    }

    /// Whether somebody waits for an answer of `from`.
    pub(crate) fn is_open(&self, exchange: ExchangeId, from: ProcessId) -> bool {
        self.table.lock().open.get(&exchange).is_some_and(|open| open.to == from)
    }

    /// Gives an exchange up when the guard is dropped, should it still be open: nobody waits for its answer then.
    pub(crate) fn awaited(&self, exchange: ExchangeId) -> Awaited<'_> {
        Awaited { exchanges: self, exchange }
    }

    /// Gives it up: nobody wants the answer any more.
    pub(crate) fn give_up(&self, exchange: ExchangeId) -> Option<Exchange> {
        self.table.lock().open.remove(&exchange)
    }

    /// Turns the wait for an answer into that for the items of a stream.
    pub(crate) fn stream(&self, exchange: ExchangeId, to: ProcessId, items: mpsc::UnboundedSender<EncodedItem>) {
        self.table.lock().open.insert(exchange, Exchange { to, waiting: Waiting::Stream { items } });
    }

    /// Whoever waits for the items of this stream.
    pub(crate) fn items(&self, exchange: ExchangeId, from: ProcessId) -> Option<mpsc::UnboundedSender<EncodedItem>> {
        match self.table.lock().open.get(&exchange) {
            Some(Exchange { to, waiting: Waiting::Stream { items } }) if *to == from => Some(items.clone()),
            _ => None,
        }
    }

    /// Whoever waits for the place of a call in its mailbox.
    pub(crate) fn entered(
        &self,
        exchange: ExchangeId,
        from: ProcessId,
    ) -> Option<oneshot::Sender<Result<(), NotStarted>>> {
        let mut table = self.table.lock();
        let open = table.open.get_mut(&exchange).filter(|open| open.to == from)?;
        let Waiting::Call { reply, entered } = &mut open.waiting else { return None };
        let (is_last, entered) = (reply.is_none(), entered.take());
        if is_last {
            table.open.remove(&exchange);
        }
        entered
    }

    /// The nodes of all that were asked.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.table.lock().open.values().map(|open| open.to.node()).collect()
    }

    /// Takes out all exchanges with processes that are gone.
    pub(crate) fn gone(&self, is_gone: impl Fn(ProcessId) -> bool) -> Vec<Waiting> {
        let mut table = self.table.lock();
        let gone: Vec<ExchangeId> = table.open.iter().filter(|(_, open)| is_gone(open.to)).map(|(id, _)| *id).collect();
        gone.iter().filter_map(|id| table.open.remove(id)).map(|open| open.waiting).collect()
    }
}

/// Shared by those that open and close.
pub(crate) type SharedExchanges = Arc<Exchanges>;
