//! The attributes of Mobula: `#[remote]`, `#[actor]`, `#[handler]`, `#[derive(Message)]`, `#[mobula::main]` and
//! `#[mobula::test]`.
//!
//! Syntax only. What they write is what a user could write by hand against the traits of `mobula`, plus an entry in the
//! table by which names are found; no decision of the runtime is made here. Whatever cannot be a message is refused at
//! the user's token, with what to write instead.
//!
//! | to read about | open |
//! |---|---|
//! | what may stand in a signature, and what is said of the rest | `signature` |
//! | the keys of an attribute | `keys` |
//! | how a returned error arrives | `result` |
//! | one macro | the file of its name: first what it accepts, then what it writes |
#![forbid(unsafe_code)]

mod actor;
mod entry;
mod errors;
mod handler;
mod keys;
mod message;
mod remote;
mod result;
mod signature;

use proc_macro::TokenStream;

/// Makes a function one that can run elsewhere: `count_words(x)` still runs here, `count_words::remote(x)` in the
/// cluster.
///
/// | key | meaning | default |
/// |---|---|---|
/// | `num_cpus = 0.5` | CPUs it takes while it runs | 1, an `async fn` 0 |
/// | `num_gpus = 1` | GPUs it takes while it runs | 0 |
/// | `max_retries = 0` | runs after failures of the system | 3 |
/// | `retry_errors = 2` | runs after it returned an error or panicked | 0 |
/// | `max_calls = 100` | it runs in a process of its own, which ends after so many runs: what a foreign library leaks goes with it | no process of its own |
/// | `timeout_ms = 500` | when it is of no use any more | never |
/// | `at_most_once` | it never runs again once it may have begun, whatever `max_retries` says | it may |
///
/// Arguments are values that `serde` can write and read; where one is wanted, a reference to one
/// (`ObjectRef<T>`) goes too. A function that returns a `Result<T, E>` gives a reference to a `T`; one that returns
/// `impl Stream<Item = T>` gives a `ReplyStream<T>`.
///
/// `options()` takes the same words, and those which no attribute can say: `retry_on(|error: &E| .., count)` runs the
/// function again, `count` times, after those of its errors of which the test holds. Both kinds of retries wait alike:
/// the first is at once, the next come after 100 ms to 5 s. What it did the first time stays done: its
/// [`task_run`](../mobula/fn.task_run.html) tells one run from another.
///
/// ```
/// use mobula::prelude::*;
///
/// #[remote(max_retries = 0)]
/// fn count_words(text: String) -> usize {
///     text.split_whitespace().count()
/// }
///
/// #[mobula::main]
/// async fn main() -> Result<()> {
///     let _session = mobula::init().await?;
///     assert_eq!(count_words("here".to_owned()), 1);
///     assert_eq!(*count_words::remote("in the cluster").await?, 3);
///     assert_eq!(*count_words::options().num_cpus(0.5).remote("at half a CPU").await?, 4);
///     Ok(())
/// }
/// ```
#[proc_macro_attribute]
pub fn remote(keys: TokenStream, item: TokenStream) -> TokenStream {
    expand(remote::expand(keys.into(), item.into()))
}

/// Makes a type an actor: `fn new` is its constructor, every method with `&mut self` or `&self` a message.
///
/// | key | meaning | default |
/// |---|---|---|
/// | `max_restarts = 5` | restarts in the period; one more, and it ends for good | 3 |
/// | `restart_period_ms = 1000` | that period | 10,000 |
/// | `restart = "permanent"` | `permanent`: after every end; `transient`: after an abnormal one; `temporary`: never | `transient` |
/// | `concurrency = 8` | so many `&self` methods run at once | 1 |
/// | `num_cpus = 0.5` | CPUs it takes as long as it lives | 0 |
/// | `num_gpus = 1` | GPUs it takes as long as it lives | 0 |
/// | `resources(licence = 1)` | what it takes of resources with names of their own | nothing |
///
/// `new` may be async, and may return `Result<Self, E>`. `async fn stopping(&mut self, reason: &ExitReason)` is called
/// before the state is dropped. Each of them and every method may take `ctx: &Context<Self>` as its first or last
/// argument. On a method, `#[handler(cancel = drop)]` drops it at its next await when its caller goes away, and
/// `#[handler(skip)]` leaves it out: it stays a plain method.
///
/// ```
/// use mobula::prelude::*;
///
/// struct Counter {
///     total: usize,
/// }
///
/// #[actor(max_restarts = 3)]
/// impl Counter {
///     fn new(start: usize) -> Self {
///         Counter { total: start }
///     }
///
///     fn add(&mut self, n: usize) -> usize {
///         self.total += n;
///         self.total
///     }
/// }
///
/// struct Painter;
///
/// /// A spawn may say otherwise: `Painter::spawn().num_cpus(1.0)`.
/// #[actor(num_cpus = 0.5, resources(licence = 1))]
/// impl Painter {
///     fn new() -> Self {
///         Painter
///     }
/// }
///
/// #[mobula::main]
/// async fn main() -> Result<()> {
///     let _session = mobula::init().await?;
///     let counter = Counter::spawn(40).await?;
///     assert_eq!(counter.add(2).await?, 42);
///     Ok(())
/// }
/// ```
#[proc_macro_attribute]
pub fn actor(keys: TokenStream, item: TokenStream) -> TokenStream {
    expand(actor::expand(keys.into(), item.into()))
}

/// Registers a hand-written `impl Handler<M> for A` by name and schema hash, so that `M` reaches actors `A` of other
/// processes too.
///
/// | key | meaning |
/// |---|---|
/// | `stream` | the reply is a `ReplyStream<T>` |
///
/// ```
/// use mobula::prelude::*;
/// use serde::{Deserialize, Serialize};
///
/// struct Counter(usize);
///
/// #[derive(Message, Serialize, Deserialize)]
/// #[message(reply = usize)]
/// struct Add(usize);
///
/// impl Actor for Counter {
///     type Args = usize;
///     type Proxy = Address<Self>;
///
///     async fn start(start: usize, _: &Context<Self>) -> Result<Self> {
///         Ok(Counter(start))
///     }
/// }
///
/// #[handler]
/// impl Handler<Add> for Counter {
///     async fn handle(&mut self, Add(n): Add, _: &Context<Self>) -> usize {
///         self.0 += n;
///         self.0
///     }
/// }
///
/// #[mobula::main]
/// async fn main() -> Result<()> {
///     let _session = mobula::init().await?;
///     let counter = mobula::spawn::<Counter>(40).await?;
///     assert_eq!(counter.ask(Add(2)).await?, 42);
///     Ok(())
/// }
/// ```
#[proc_macro_attribute]
pub fn handler(keys: TokenStream, item: TokenStream) -> TokenStream {
    expand(handler::expand(keys.into(), item.into()))
}

/// Makes a type a message. `#[message(reply = T)]` says what answers it, else nothing does; `#[message(local)]` says
/// that it never leaves its process, so that `#[handler]` refuses it.
///
/// ```
/// use mobula::prelude::*;
///
/// #[derive(Message)]
/// #[message(reply = Option<String>, local)]
/// struct Lookup(&'static str);
/// ```
#[proc_macro_derive(Message, attributes(message))]
pub fn message(item: TokenStream) -> TokenStream {
    expand(message::expand(item.into()))
}

/// Runs an `async fn main` on Mobula's threads.
///
/// ```
/// use mobula::prelude::*;
///
/// #[mobula::main]
/// async fn main() -> Result<()> {
///     let _session = mobula::init().await?;
///     assert_eq!(*mobula::put(7)?.await?, 7);
///     Ok(())
/// }
/// ```
#[proc_macro_attribute]
pub fn main(keys: TokenStream, item: TokenStream) -> TokenStream {
    expand(entry::expand_main(keys.into(), item.into()))
}

/// Runs an `async fn` as a test with a session of its own; when it returns, every submitted call must have had its
/// outcome.
///
/// `#[mobula::test(plain, encoded)]` makes two tests of it, `name::plain` and `name::encoded`: the second passes every
/// call, reply and spawn through the codec, as if caller and callee were two processes. `cluster` enters the test in a
/// list, too, for a test program without a harness that runs all of the list on a cluster which it has started;
/// `cluster(ignore = "why")` enters it as one that makes no sense there.
///
/// ```
/// #[mobula::test(plain, encoded)]
/// async fn a_value_comes_back() -> mobula::Result<()> {
///     assert_eq!(*mobula::put(7)?.await?, 7);
///     Ok(())
/// }
/// # fn main() {}
/// ```
#[proc_macro_attribute]
pub fn test(keys: TokenStream, item: TokenStream) -> TokenStream {
    expand(entry::expand_test(keys.into(), item.into()))
}

fn expand(result: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    result.unwrap_or_else(|error| error.into_compile_error()).into()
}
