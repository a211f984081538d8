//! Starting actors, finding them by name, and the caller's cancellation.

use mobula_actor::{Actor, Lookup, Spawn, current};
use mobula_types::{Attempt, TaskId};

/// Prepares an actor of the session that runs now. Await it for the reference once its constructor has succeeded.
///
/// `#[actor]` writes a `spawn` for its type that takes the constructor's arguments one by one; this takes them as the
/// trait does.
///
/// ```
/// # use mobula::prelude::*;
/// struct Greeter(String);
///
/// impl Actor for Greeter {
///     type Args = String;
///     type Proxy = mobula::Address<Self>;
///     async fn start(name: String, _: &Context<Self>) -> Result<Self> { Ok(Greeter(name)) }
/// }
///
/// # #[mobula::main]
/// # async fn main() -> mobula::Result<()> {
/// # let _session = mobula::init().await?;
/// let greeter = mobula::spawn::<Greeter>("Ray".into()).await?;
/// assert!(greeter.is_alive());
/// # Ok(())
/// # }
/// ```
pub fn spawn<A: Actor>(args: A::Args) -> Spawn<A> {
    Spawn::here(args)
}

/// Finds a living actor by its name, in the job's own namespace or another. Await it for the reference.
///
/// ```
/// # use mobula::prelude::*;
/// struct Clock;
///
/// #[actor]
/// impl Clock {
///     fn new() -> Self { Clock }
///     fn hour(&mut self) -> u32 { 12 }
/// }
///
/// # #[mobula::main]
/// # async fn main() -> mobula::Result<()> {
/// # let _session = mobula::init().await?;
/// Clock::spawn().name("clock").await?;
/// assert_eq!(mobula::actor::<Clock>("clock").await?.hour().await?, 12);
/// assert!(mobula::actor::<Clock>("sundial").await.is_err());
///
/// // Each job has a namespace of its own. What is in another is found by all who can say it.
/// Clock::spawn().name("clock").namespace("town").await?;
/// assert_eq!(mobula::actor::<Clock>("clock").namespace("town").await?.hour().await?, 12);
/// # Ok(())
/// # }
/// ```
///
/// An actor that outlives its job is found by later ones:
///
/// ```
/// # use mobula::prelude::*;
/// struct Orders { count: u64 }
///
/// #[actor]
/// impl Orders {
///     fn new() -> Self { Orders { count: 0 } }
///     fn add(&mut self) -> u64 { self.count += 1; self.count }
/// }
///
/// # #[mobula::main]
/// # async fn main() -> mobula::Result<()> {
/// # let _session = mobula::init().await?;
/// // Every job of the shop does the same: the first one starts it, and all get the same actor.
/// let orders = Orders::spawn().name("orders").namespace("shop").detached().get_if_exists().await?;
/// assert_eq!(orders.add().await?, 1);
/// // It lives until it is stopped: from here, or by `mobula stop-actor shop/orders`.
/// orders.stop();
/// # Ok(())
/// # }
/// ```
///
/// Awaiting it is an error when there is no session, nobody has the name, or its owner is of another type: of another
/// program too, when that knows a message of the type with other arguments or another reply.
pub fn actor<A: Actor>(name: impl Into<String>) -> Lookup<A> {
    Lookup::of(name)
}

/// Whether the caller of the function or handler that runs now has gone away, given up, or let its deadline pass.
///
/// Code that computes long looks from time to time and returns early: nothing stops it from outside.
///
/// ```
/// # use mobula::prelude::*;
/// #[remote]
/// fn search(from: u64) -> Option<u64> {
///     (from..).take_while(|_| !mobula::cancelled()).find(|n| n % 1_000_003 == 0)
/// }
///
/// # #[mobula::main]
/// # async fn main() -> mobula::Result<()> {
/// # let _session = mobula::init().await?;
/// assert_eq!(*mobula::get(search::remote(1u64)).await?, Some(1_000_003));
/// # Ok(())
/// # }
/// ```
pub fn cancelled() -> bool {
    current::cancelled()
}

/// Of which task the code that runs now is a run, and which one: the key by which what it does outside can be done once
/// (G2). `None` outside of tasks, and where a task runs once or never: without a cluster, one that is not
/// retried after its own errors.
pub fn task_run() -> Option<(TaskId, Attempt)> {
    current::with(|frame| frame.run)
}
