//! What a remote function is to the host: its types, its body, and an entry in the table that is filled at link time.
//!
//! The macro `#[remote]` writes these; nothing here runs anything, see [`submit`](crate::submit).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use futures_util::future::LocalBoxFuture;
use futures_util::stream::LocalBoxStream;
use mobula_actor::{Arguments, System};
use mobula_types::ErrorChain;
use mobula_wire::{name_hash, schema_hash};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::encoded::{self, TaskFrame, TaskReply};
use crate::options::TaskOptions;

/// A function that can run elsewhere and answers with one value.
pub trait RemoteFn: Sized + 'static {
    /// Its arguments, as a tuple.
    type Args: Arguments + Serialize + DeserializeOwned + Send + 'static;
    /// What its reference refers to.
    type Reply: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// Its own error, [`NoError`](mobula_types::NoError) when it returns none.
    type Error: fmt::Display + 'static;
    /// The name by which it is found: module path and function.
    const NAME: &'static str;
    /// What its attribute chose.
    const OPTIONS: TaskOptions;
    /// What runs.
    const BODY: Body<Self>;

    /// Its error as text with its causes, which is how it travels.
    fn chain(error: Self::Error) -> ErrorChain {
        ErrorChain::message(error)
    }

    /// Its error as it is, in at most `max` bytes, for a submitter that decides by it whether the task runs again; see
    /// [`encode_error`](crate::encode_error). None where errors travel as text only.
    fn encode_error(error: &Self::Error, max: usize) -> Option<Vec<u8>> {
        let (_, _) = (error, max);
        None
    }
}

/// What runs of a [`RemoteFn`], and where.
pub enum Body<F: RemoteFn> {
    /// On the compute pool, from start to end on one thread.
    Sync(fn(F::Args) -> Returned<F>),
    /// On an arbiter; dropped at its next await when the task is given up.
    Async(fn(F::Args) -> LocalBoxFuture<'static, Returned<F>>),
}

/// What the body of `F` returns.
pub type Returned<F> = Result<<F as RemoteFn>::Reply, <F as RemoteFn>::Error>;

/// A function that can run elsewhere and answers with a stream.
pub trait RemoteStream: Sized + 'static {
    /// Its arguments, as a tuple.
    type Args: Arguments + Serialize + DeserializeOwned + Send + 'static;
    /// What its reader reads.
    type Item: Serialize + DeserializeOwned + Send + 'static;
    /// The name by which it is found: module path and function.
    const NAME: &'static str;
    /// What its attribute chose.
    const OPTIONS: TaskOptions;

    /// Makes the stream; it is polled on an arbiter.
    fn open(args: Self::Args) -> LocalBoxStream<'static, Self::Item>;
}

/// A remote function as the other side of a connection finds it: by name and schema hash.
pub struct FunctionEntry {
    name: &'static str,
    schema: fn() -> u64,
    options: fn() -> TaskOptions,
    receive: fn(&Arc<System>, TaskFrame, TaskReply),
}

inventory::collect!(FunctionEntry);

impl FunctionEntry {
    /// The entry of a function that answers with one value.
    pub const fn value<F: RemoteFn>() -> Self {
        let schema = schema_hash::<(F::Args, F::Reply)>;
        Self { name: F::NAME, schema, options: || F::OPTIONS, receive: encoded::receive_value::<F> }
    }

    /// The entry of a function that answers with a stream.
    pub const fn stream<F: RemoteStream>() -> Self {
        let schema = schema_hash::<(F::Args, Vec<F::Item>)>;
        Self { name: F::NAME, schema, options: || F::OPTIONS, receive: encoded::receive_stream::<F> }
    }

    /// The registered name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The hash of the types it takes and gives.
    pub fn schema(&self) -> u64 {
        match table().get(&name_hash(self.name)) {
            Some(known) => known.schema(),
            None => (self.schema)(),
        }
    }

    /// Every function of this program, in no order.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        table().values().map(|known| known.entry)
    }

    pub(crate) fn by_key(key: u64) -> Option<&'static Self> {
        Known::by_key(key).map(|known| known.entry)
    }

    pub(crate) fn receive(&self, system: &Arc<System>, frame: TaskFrame, reply: TaskReply) {
        (self.receive)(system, frame, reply);
    }
}

/// A function of this program, and what is made of it once.
pub(crate) struct Known {
    entry: &'static FunctionEntry,
    /// Tracing the types takes microseconds.
    schema: OnceLock<u64>,
    options: OnceLock<Arc<TaskOptions>>,
}

impl Known {
    pub(crate) fn by_key(key: u64) -> Option<&'static Self> {
        table().get(&key)
    }

    pub(crate) fn schema(&self) -> u64 {
        *self.schema.get_or_init(self.entry.schema)
    }

    /// The options of one task. A million that wait and have those of their function share them.
    pub(crate) fn shared(&self, options: TaskOptions) -> Arc<TaskOptions> {
        let own = self.options.get_or_init(|| Arc::new((self.entry.options)()));
        if **own == options { own.clone() } else { Arc::new(options) }
    }
}

/// By travelling name.
fn table() -> &'static HashMap<u64, Known> {
    static TABLE: OnceLock<HashMap<u64, Known>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let known = |entry| Known { entry, schema: OnceLock::new(), options: OnceLock::new() };
        inventory::iter::<FunctionEntry>().map(|entry| (name_hash(entry.name), known(entry))).collect()
    })
}
