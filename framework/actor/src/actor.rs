//! The traits a user may implement by hand; the macros write the same.

use std::future::Future;

use mobula_types::{Error, ExitReason, PlacementSpec, RestartPolicy};

use crate::{Address, Context};

/// State that handles one message after another, started and kept alive by a supervisor.
///
/// State, constructor and handlers' futures may be `!Send`: an actor lives on one thread. `Args` travel and are kept for
/// restarts, so they are `Send` and `Clone`.
///
/// ```
/// use mobula_actor::{Actor, Address, Context, Handler, Message};
/// use mobula_types::Error;
///
/// struct Counter(usize);
/// struct Add(usize);
///
/// impl Actor for Counter {
///     type Args = usize;
///     type Proxy = Address<Self>;
///     async fn start(start: usize, _: &Context<Self>) -> Result<Self, Error> {
///         Ok(Counter(start))
///     }
/// }
///
/// impl Message for Add {
///     type Reply = usize;
/// }
///
/// impl Handler<Add> for Counter {
///     async fn handle(&mut self, Add(n): Add, _: &Context<Self>) -> usize {
///         self.0 += n;
///         self.0
///     }
/// }
/// ```
pub trait Actor: Sized + 'static {
    /// What the constructor takes; kept for restarts.
    type Args: Clone + Send + Sync + 'static;

    /// What an `ActorRef<Self>` derefs to: `Address<Self>` unless a macro writes one with a method per message.
    type Proxy: Proxy<Self>;

    /// How many `&self` handlers run at once; handlers that take `&mut self` always run alone.
    const CONCURRENCY: usize = 1;

    /// What its place must have, unless a spawn says otherwise: nothing, and so any.
    fn place() -> PlacementSpec {
        PlacementSpec::default()
    }

    /// Makes the state: at spawn, and again at every restart.
    ///
    /// An error or a panic here at spawn ends the actor and is the spawner's error; at a restart it counts as one more
    /// failure.
    fn start(args: Self::Args, ctx: &Context<Self>) -> impl Future<Output = Result<Self, Error>>;

    /// Says goodbye: called before the state is dropped, unless a panic or a kill ended it.
    fn stopping(&mut self, _reason: &ExitReason, _ctx: &Context<Self>) -> impl Future<Output = ()> {
        async {}
    }

    /// When this actor is restarted, unless its spawn says otherwise.
    fn restart_policy() -> RestartPolicy {
        RestartPolicy::default()
    }
}

/// Mail for an actor, and the type of its answer.
///
/// Messages and replies cross threads, so they are `Send`; only what is registered leaves the process.
pub trait Message: Send + 'static {
    /// What the handler answers.
    type Reply: Send + 'static;

    /// Whether it never leaves its process: then it cannot be registered.
    const LOCAL: bool = false;

    /// Bytes the message owns beside its own size, as far as they are known cheaply; they count against the mailbox.
    fn heap_bytes(&self) -> usize {
        0
    }
}

/// How a handler runs; the macros choose, hand-written handlers are [`Mode::Async`] unless they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `handle_sync` is called: no future is made.
    Sync,
    /// `handle` is awaited; the next message waits.
    Async,
    /// `handle_shared` is awaited beside others of its kind, at most [`Actor::CONCURRENCY`].
    Shared,
}

/// What an actor does with one type of message.
pub trait Handler<M: Message>: Actor {
    /// Which of the three functions below is called.
    const MODE: Mode = Mode::Async;

    /// Whether the handler is dropped at its next await when the caller goes away; else it runs on and may ask
    /// [`Context::is_cancelled`].
    const CANCEL_DROPS: bool = false;

    /// Handles `message` alone.
    fn handle(&mut self, message: M, ctx: &Context<Self>) -> impl Future<Output = M::Reply>;

    /// Handles `message` without waiting for anything. Called for [`Mode::Sync`] only.
    fn handle_sync(&mut self, _message: M, _ctx: &Context<Self>) -> M::Reply {
        unreachable!("Handler::MODE is Sync, so handle_sync is implemented")
    }

    /// Handles `message` beside others. Called for [`Mode::Shared`] only.
    fn handle_shared(&self, _message: M, _ctx: &Context<Self>) -> impl Future<Output = M::Reply> {
        async { unreachable!("Handler::MODE is Shared, so handle_shared is implemented") }
    }
}

/// What an `ActorRef` derefs to. Macros write one with a method per message; [`Address`] itself is the plain one.
pub trait Proxy<A: Actor>: Clone + Send + Sync + 'static {
    /// Wraps an address.
    fn new(address: Address<A>) -> Self;

    /// The address inside.
    fn address(&self) -> &Address<A>;
}
