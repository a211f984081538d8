//! A session: what a program begins with and ends by dropping.

mod address;

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mobula_actor::{ActorStatus, Counters, DeadLetter, Hang, System};
use mobula_node::attached::{AttachError, Driver, DriverConfig, run_if_worker};
use mobula_node::{Embedded, EmbeddedConfig};

use address::Where;

/// Begins a session with the defaults: on the cluster that `MOBULA_ADDRESS` names, else on the node that runs on this
/// host, else all in this process.
///
/// The first statement of a program; what it returns must be kept, because dropping it ends the session. In a process
/// that a node has started as a worker of the program it does not come back: the process serves the job and ends with it.
/// So what stands before it runs in every worker.
///
/// ```
/// #[mobula::main]
/// async fn main() -> mobula::Result<()> {
///     let _session = mobula::init().await?;
///     Ok(())
/// }
/// ```
///
/// # Errors
///
/// See [`InitError`].
pub async fn init() -> Result<Session, InitError> {
    init_with(Config::default()).await
}

/// Begins a session as `config` says.
///
/// ```
/// use mobula::Config;
///
/// #[mobula::main]
/// async fn main() -> mobula::Result<()> {
///     let session = mobula::init_with(Config::default().encode_all(true).compute_threads(2)).await?;
///     assert!(session.actors().is_empty());
///     session.stop().await;
///     Ok(())
/// }
/// ```
///
/// # Errors
///
/// See [`InitError`].
pub async fn init_with(config: Config) -> Result<Session, InitError> {
    become_worker();
    Session::begin(config).await
}

/// Serves the job and ends the process, when a node has started it for that.
pub(crate) fn become_worker() {
    // The worker has a runtime's threads to itself: the one that calls may belong to another runtime.
    if env::var_os(mobula_node::daemon::workers::guard::PROCESS).is_some() {
        std::thread::scope(|scope| {
            scope.spawn(run_if_worker);
        });
    }
}

/// How to begin a session. Everything has a default; `MOBULA_ENCODE=always` sets `encode_all`.
#[derive(Clone, Default)]
pub struct Config {
    embedded: EmbeddedConfig,
    address: Option<String>,
    token: Option<String>,
    worker_env: BTreeMap<String, String>,
}

impl Config {
    /// Which cluster to join: `local` for the node of this host, `host:port` of any of its nodes or the folder of one on
    /// this host, or `embedded` for none. `MOBULA_ADDRESS` says the same for programs that say nothing.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Where the job's names are unique, and those of its actors that say no other; `MOBULA_NAMESPACE` says the same for
    /// programs that say nothing. Without one they are in a namespace that no other job can say.
    ///
    /// ```
    /// # use mobula::prelude::*;
    /// # struct Counter;
    /// # #[actor]
    /// # impl Counter {
    /// #     fn new() -> Self { Counter }
    /// # }
    /// #[mobula::main]
    /// async fn main() -> mobula::Result<()> {
    ///     let _session = mobula::init_with(Config::default().namespace("shop")).await?;
    ///     let counter = Counter::spawn().name("orders").await?;
    ///     // As another job finds it, whatever its own namespace is.
    ///     assert_eq!(mobula::actor::<Counter>("orders").namespace("shop").await?, counter);
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.embedded.namespace = Some(namespace.into());
        self
    }

    /// What lets the program into a cluster that has no node on this host: what `mobula token create --role driver` printed,
    /// or the path of a file that holds it. `MOBULA_TOKEN` says the same. It is needed once: the certificate that it is
    /// exchanged for is kept in `MOBULA_DIR`, or in `~/.mobula`. A connection that is lost may be resumed within 30 s, then
    /// the job ends.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// A variable for the environment of the job's workers.
    #[must_use]
    pub fn worker_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.worker_env.insert(name.into(), value.into());
        self
    }

    /// Passes every call, reply, spawn and task through the codec, even inside this process.
    #[must_use]
    pub fn encode_all(mut self, encode_all: bool) -> Self {
        self.embedded.encode_all = encode_all;
        self
    }

    /// Threads that actors share; one per CPU unless set.
    #[must_use]
    pub fn arbiters(mut self, arbiters: usize) -> Self {
        self.embedded.arbiters = arbiters;
        self
    }

    /// CPUs that functions which are not async share; those of this machine unless set.
    #[must_use]
    pub fn compute_threads(mut self, compute_threads: usize) -> Self {
        self.embedded.compute_threads = compute_threads;
        self
    }

    /// The bytes of one value that leaves its process, as an argument, a result, an item or an object: 256 MiB unless set,
    /// and never more. A larger one ends as `TooLarge`, before anything of it is sent.
    #[must_use]
    pub fn value_bytes_max(mut self, bytes: usize) -> Self {
        self.embedded.value_bytes_max = bytes;
        self
    }

    /// Tasks in the queue of a process: 1,000,000 unless set. On a cluster those are counted that the process has submitted and
    /// that have no outcome, for each process of the job by itself; elsewhere those that have not begun. What happens to the
    /// next one says [`WhenFull`](crate::WhenFull).
    #[must_use]
    pub fn queue_tasks_max(mut self, tasks: u64) -> Self {
        self.embedded.queue.tasks_max = tasks;
        self
    }

    /// The bytes that those hold, as far as they are known: arguments that are encoded, and what the tasks themselves take;
    /// 1 GiB unless set.
    #[must_use]
    pub fn queue_bytes_max(mut self, bytes: u64) -> Self {
        self.embedded.queue.bytes_max = bytes;
        self
    }

    /// How much there is of a resource with a name of its own.
    #[must_use]
    pub fn resource(mut self, name: impl Into<String>, amount: f64) -> Self {
        self.embedded.resources.insert(name.into(), amount);
        self
    }

    /// How long actors and functions may take to end with the session; 5 s unless set.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.embedded.patience = patience;
        self
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the token, which is a secret.
        let Self { embedded, address, worker_env, .. } = self;
        let mut text = f.debug_struct("Config");
        text.field("embedded", embedded).field("address", address).field("worker_env", worker_env);
        text.finish_non_exhaustive()
    }
}

/// Why a session did not begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// The address leads to no node.
    #[error("{address}: {message}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// The node does not take the program in.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// `MOBULA_ENCODE` says something unknown.
    #[error("MOBULA_ENCODE = {value}: expected `always`, or nothing")]
    Encode {
        /// What the variable says.
        value: String,
    },
    /// The job's namespace is empty.
    #[error("a namespace has a name: give one, or none for a namespace that no other job can say")]
    Namespace,
    /// The program is built so that a panic ends the process.
    #[error(
        "the program is built with panic = \"abort\": supervision needs panic = \"unwind\" in Cargo.toml's profiles"
    )]
    PanicAborts,
    /// Two actors, or two of their messages, have one name.
    #[error("two actors are registered as `{name}`: types of one name must stand in different modules")]
    SaidTwice {
        /// The name.
        name: &'static str,
    },
    /// A resource's amount is no amount.
    #[error("{name} = {amount} is no amount of a resource: use a number from 0 on")]
    Resource {
        /// The resource.
        name: String,
        /// What was given, as text.
        amount: String,
    },
    /// Another session of this process is still there.
    #[error("this process has a session already: keep the first, or drop it before the next")]
    Second,
}

/// A session. Dropping it stops its actors, children first, and waits for them a bounded time.
#[must_use = "the session ends when this is dropped: keep it, for example as `_session`"]
pub struct Session {
    host: Host,
}

enum Host {
    Embedded(Embedded),
    Attached(Driver),
}

impl Session {
    async fn begin(config: Config) -> Result<Self, InitError> {
        let session = Self::private(config).await?;
        if !session.driver().make_process_default() {
            return Err(InitError::Second);
        }
        Ok(session)
    }

    /// A session that is not the process's: for tests, which run beside one another.
    pub(crate) async fn private(config: Config) -> Result<Self, InitError> {
        let worker_env = config.worker_env.clone();
        let address = config.address.clone().or_else(|| variable("MOBULA_ADDRESS"));
        let token = config.token.clone().or_else(|| variable("MOBULA_TOKEN"));
        let embedded = checked(config, variable)?;
        let host = match address::find(address.as_deref(), token).await? {
            Where::Here => Host::Embedded(Embedded::start(&embedded)),
            Where::Node(node) => {
                let EmbeddedConfig { arbiters, patience, namespace, value_bytes_max, queue, .. } = embedded;
                let name = program();
                let config =
                    DriverConfig { node, name, env: worker_env, namespace, arbiters, patience, value_bytes_max, queue };
                Host::Attached(Driver::attach(&config).await?)
            }
        };
        Ok(Self { host })
    }

    /// The system of the program's own code.
    pub(crate) fn driver(&self) -> &Arc<System> {
        match &self.host {
            Host::Embedded(embedded) => embedded.driver(),
            Host::Attached(driver) => driver.system(),
        }
    }

    /// The system in which actors and functions run, where that is another one of this process.
    pub(crate) fn worker(&self) -> Option<&Arc<System>> {
        match &self.host {
            Host::Embedded(embedded) if embedded.encodes_all() => Some(embedded.worker()),
            _ => None,
        }
    }

    fn systems(&self) -> impl Iterator<Item = &Arc<System>> {
        self.worker().into_iter().chain([self.driver()])
    }

    /// Whether the session is one of a cluster, not of this process alone.
    pub fn is_attached(&self) -> bool {
        matches!(self.host, Host::Attached(_))
    }

    /// Every actor that lives in this process now, in no order.
    pub fn actors(&self) -> Vec<ActorStatus> {
        self.systems().flat_map(|system| system.actors()).collect()
    }

    /// What was submitted, how it ended and what was dropped, counted since the session began. With `encode_all` and on a
    /// cluster it is what the program's own code did, without what actors and functions did in turn.
    pub fn counters(&self) -> &Counters {
        self.driver().counters()
    }

    /// Calls `hook` for every tell that reaches nobody; it must not block.
    pub fn on_dead_letter(&self, hook: impl Fn(&DeadLetter) + Send + Sync + 'static) {
        let hook = Arc::new(hook);
        for system in self.systems() {
            let hook = hook.clone();
            system.on_dead_letter(move |letter| hook(letter));
        }
    }

    /// Calls `hook` for every handler that keeps its thread longer than `limit`, and with it every actor that lives there;
    /// the hook must not block. Such handlers are logged and counted in any case, from 1 s on; one that holds
    /// [`ctx.protect()`](crate::Context::protect) or has a thread of its own is not.
    ///
    /// ```
    /// # #[mobula::main]
    /// # async fn main() -> mobula::Result<()> {
    /// let session = mobula::init().await?;
    /// session.on_hang(mobula::millis(100), |hang| eprintln!("{hang}"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_hang(&self, limit: Duration, hook: impl Fn(&Hang) + Send + Sync + 'static) {
        let hook = Arc::new(hook);
        for system in self.systems() {
            let hook = hook.clone();
            system.on_hang(limit, move |hang| hook(hang));
        }
    }

    /// Ends the session and waits until it has ended, without blocking the thread as dropping it does.
    pub async fn stop(self) {
        match self.host {
            Host::Embedded(embedded) => embedded.stop().await,
            Host::Attached(driver) => driver.stop().await,
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("process", &self.driver().process()).finish_non_exhaustive()
    }
}

/// What `config` and the variables of the environment say together.
fn checked(config: Config, variable: impl Fn(&str) -> Option<String>) -> Result<EmbeddedConfig, InitError> {
    let Config { mut embedded, .. } = config;
    if cfg!(panic = "abort") {
        return Err(InitError::PanicAborts);
    }
    if let Some(name) = mobula_actor::registry::name_said_twice() {
        return Err(InitError::SaidTwice { name });
    }
    match variable("MOBULA_ENCODE").as_deref() {
        None => {}
        Some("always") => embedded.encode_all = true,
        Some(value) => return Err(InitError::Encode { value: value.to_owned() }),
    }
    embedded.namespace = embedded.namespace.or_else(|| variable("MOBULA_NAMESPACE"));
    if embedded.namespace.as_deref() == Some("") {
        return Err(InitError::Namespace);
    }
    check_resources(&embedded.resources)?;
    Ok(embedded)
}

fn check_resources(resources: &BTreeMap<String, f64>) -> Result<(), InitError> {
    match resources.iter().find(|(_, amount)| !amount.is_finite() || **amount < 0.0) {
        Some((name, amount)) => Err(InitError::Resource { name: name.clone(), amount: amount.to_string() }),
        None => Ok(()),
    }
}

/// How this program is called in lists.
fn program() -> String {
    let path = env::args_os().next().map(PathBuf::from);
    let name = path.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "program".into())
}

/// A variable of the environment, unless it is empty.
fn variable(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)], config: Config) -> Result<bool, InitError> {
        let lookup = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        checked(config, lookup).map(|embedded| embedded.encode_all)
    }

    #[test]
    fn the_environment_is_heard() {
        assert_eq!(with(&[], Config::default()), Ok(false));
        assert_eq!(with(&[], Config::default().encode_all(true)), Ok(true));
        assert_eq!(with(&[("MOBULA_ENCODE", "always")], Config::default()), Ok(true));
        let error = with(&[("MOBULA_ENCODE", "yes")], Config::default()).unwrap_err();
        assert_eq!(error.to_string(), "MOBULA_ENCODE = yes: expected `always`, or nothing");
    }

    #[test]
    fn resources_are_amounts() {
        assert_eq!(with(&[], Config::default().resource("licence", 2.0)), Ok(false));
        for amount in [-1.0, f64::NAN, f64::INFINITY] {
            let error = with(&[], Config::default().resource("licence", amount)).unwrap_err();
            assert!(error.to_string().starts_with(&format!("licence = {amount} is no amount")), "{error}");
        }
    }
}
