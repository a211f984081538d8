//! Mobula: remote functions and classes as supervised actors, in one process or many.
//!
//! ```
//! use mobula::prelude::*;
//!
//! #[remote]
//! fn count_words(text: String) -> usize { text.split_whitespace().count() }
//!
//! struct Counter { total: usize }
//!
//! #[actor(max_restarts = 3)]
//! impl Counter {
//!     fn new(start: usize) -> Self { Counter { total: start } }
//!     fn add(&mut self, n: usize) -> usize { self.total += n; self.total }
//! }
//!
//! #[mobula::main]
//! async fn main() -> Result<()> {
//!     let _session = mobula::init().await?;
//!     let counts: Vec<ObjectRef<usize>> = ["a b", "c d e"].map(count_words::remote).into();
//!     let counter = Counter::spawn(0).name("words").await?;
//!     for c in counts { counter.add(c).await?; }              // a reference goes wherever its value goes
//!     let total = counter.add(0).await?;                      // a typed reply or a typed error, never a hang
//!     counter.add(1).tell()?;                                 // fire and forget
//!     let later: ObjectRef<usize> = counter.add(1).submit();  // a reference to the future reply
//!     assert_eq!((total, *mobula::get(later).await?), (5, 7));
//!     Ok(())
//! }
//! ```
//!
//! The [`guide`] explains each part on a page.
//!
//! | to | use |
//! |---|---|
//! | begin | [`init`], [`init_with`], [`Session`]; `#[mobula::main]`, `#[mobula::test]` |
//! | run functions elsewhere | `#[remote]`, [`mod@remote`] |
//! | keep state behind messages | `#[actor]`, or [`Actor`], [`Message`], [`Handler`] by hand; [`spawn`], [`actor()`] |
//! | speak to many, share work among many | [`ActorGroup`], [`ActorPool`] |
//! | reserve resources together | [`placement_group()`], [`PlacementGroup`] |
//! | keep actors alive | [`Supervisor`], [`ChildSpec`], [`RestartPolicy`] |
//! | pass values by reference | [`put`], [`get`], [`wait`], [`ObjectRef`] |
//! | know how it ended | [`CallError`], [`ExitReason`], [`Session::counters`] |
#![forbid(unsafe_code)]

pub mod guide;

mod expansion;
mod group;
pub mod kv;
mod lookup;
mod nodes;
mod objects;
mod placement_group;
mod pool;
pub mod remote;
mod run;
mod session;

pub use group::ActorGroup;
pub use lookup::{actor, cancelled, spawn, task_run};
pub use mobula_actor::{
    Actor, ActorRef, ActorState, ActorStatus, AddError, Address, AtLeastOnce, Call, ChildEvent, ChildSpec, ChildState,
    Context, Count, Counters, DeadLetter, Down, GetError, GetOrSpawn, Handler, Hang, IntoArg, Lookup, LookupError,
    MailboxBounds, Message, Mode, ObjectRef, Placement, Plain, Proxy, Recipient, ReplyStream, Scoped, SendError, Spawn,
    SpawnError, Supervisor, SupervisorSpec, Timer, Value, View, Writer,
};
pub use mobula_macros::{Message, actor, handler, main, remote, test};
pub use mobula_node::{GroupError, WhenFull, task_room};
pub use mobula_types::{
    ActorId, Attempt, Backoff, BundleStrategy, CallError, Culprit, Death, DeathCause, Digest, Error, ErrorChain,
    ExitReason, GroupEnd, GroupId, Incarnation, Intensity, LabelRule, LabelSelector, Loss, NoError, NodeId,
    NotCancellable, NotStarted, ObjectId, Outcome, Panic, PlacementSpec, PlacementStrategy, ProcessId, Restart,
    RestartPolicy, Strategy, TaskId, Unknown,
};
pub use nodes::{NodeInfo, nodes, this_node};
pub use objects::{Gettable, Wait, WaitError, get, get_view, millis, put, secs, wait, writer};
pub use placement_group::{BundleSpec, CreateGroup, PlacementGroup, PlacementGroupBuilder, placement_group};
pub use pool::{ActorPool, Mapped, MappedUnordered};
pub use session::{Config, InitError, Session, init, init_with};

/// What functions return that only pass errors on.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// All that most programs name.
pub mod prelude {
    // Not `main` and `test`: they would hide the language's own.
    pub use mobula_macros::{actor, handler, remote};

    pub use crate::{
        Actor, ActorRef, Address, CallError, ChildSpec, Config, Context, Down, Error, ExitReason, Handler, IntoArg,
        Message, NotStarted, ObjectRef, Recipient, ReplyStream, Restart, RestartPolicy, Result, Session, Strategy,
        Supervisor, SupervisorSpec, Value, View, millis, secs,
    };
}

/// What generated code names. Nothing here is for people; it changes with the macros.
#[doc(hidden)]
pub mod __private {
    pub use futures_util::future::{BoxFuture, LocalBoxFuture};
    pub use futures_util::stream::LocalBoxStream;
    pub use futures_util::{FutureExt, Stream, StreamExt};
    pub use inventory;
    pub use mobula_actor::registry::{ActorEntry, HandlerEntry};
    pub use mobula_actor::{
        Actor, ActorRef, Address, Arg, Call, Context, GetError, Handler, IntoArg, Join, Message, Mode, ObjectRef,
        Proxy, ReplyStream, Spawn,
    };
    pub use mobula_node::{Body, FunctionEntry, RemoteFn, RemoteStream, TaskOptions, WhenFull, submit, submit_stream};
    pub use mobula_types::{
        CallError, Error, ErrorChain, ExitReason, GroupId, Intensity, LabelRule, LabelSelector, NoError, NodeId,
        NotStarted, PlacementSpec, PlacementStrategy, Restart, RestartPolicy,
    };
    pub use serde;

    pub use crate::expansion::{
        Carrier, Carry, Explain, Fallback, Light, Probe, Returned, Show, Weighed, call, flatten, how,
    };
    pub use crate::run::{ClusterTest, run_main, run_on_cluster, run_test};
}
