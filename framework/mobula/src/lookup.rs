//! Starting actors, finding them by name, and the caller's cancellation.

use mobula_actor::{Actor, ActorRef, Address, Spawn, current};
use mobula_types::NotStarted;

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

/// Finds a living actor by its name.
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
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// There is no session, nobody has the name, or its owner is of another type.
pub async fn actor<A: Actor>(name: &str) -> Result<ActorRef<A>, LookupError> {
    let system = current::system().ok_or(LookupError::NoSession)?;
    let id = match (system.named(name), system.deliver()) {
        (None, Some(deliver)) => deliver.named(name).await,
        (here, _) => here,
    };
    let id = id.ok_or_else(|| LookupError::NoSuchName { name: name.to_owned() })?;
    match Address::resolve(id, &system) {
        Ok(address) => Ok(ActorRef::new(address)),
        Err(_) => Err(LookupError::OtherType { name: name.to_owned(), expected: std::any::type_name::<A>() }),
    }
}

/// Why a name leads to no actor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// There is no session.
    #[error("{}", NotStarted::NoSession)]
    NoSession,
    /// Nobody has the name, or not any more.
    #[error("no actor is named `{name}`")]
    NoSuchName {
        /// The name.
        name: String,
    },
    /// An actor of another type has the name.
    #[error("the actor named `{name}` is no {expected}")]
    OtherType {
        /// The name.
        name: String,
        /// The type that was asked for.
        expected: &'static str,
    },
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
