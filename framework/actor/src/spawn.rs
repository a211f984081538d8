//! Preparing and starting an actor.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mobula_types::resources::Amount;
use mobula_types::{
    ActorId, ExitReason, Incarnation, NodeId, NotStarted, PlacementSpec, PlacementStrategy, RestartPolicy,
};
use tokio::sync::oneshot;

use crate::arbiters::{self, Placement};
use crate::cell::{Cell, Supervised};
use crate::control::Control;
use crate::deliver::Spawned;
use crate::lanes::MailboxBounds;
use crate::mailbox::Mailbox;
use crate::object::pinning;
use crate::registry;
use crate::shell;
use crate::system::{NameRefused, System};
use crate::{Actor, ActorRef, Address};

/// An actor about to be started. Await it for the reference once its constructor has succeeded.
#[must_use = "a spawn does nothing until it is awaited, or started with `now`"]
pub struct Spawn<A: Actor> {
    system: Option<Arc<System>>,
    args: A::Args,
    options: SpawnOptions,
    /// Why it cannot be started, found out while it was prepared.
    wrong: Option<String>,
}

/// What can be chosen at spawn; plain data, so that it travels.
#[derive(Clone, Debug, Default)]
pub struct SpawnOptions {
    /// A name by which others find the actor as long as it lives.
    pub name: Option<String>,
    /// Who ends with it: a child ends before its parent.
    pub parent: Option<ActorId>,
    /// Whether the parent decides over restarts.
    pub supervised_by_parent: bool,
    /// The actor's own restart policy.
    pub policy: Option<RestartPolicy>,
    /// How much mail may wait.
    pub mailbox: MailboxBounds,
    /// Which thread it lives on.
    pub placement: Placement,
    /// What its place must have: resources, labels, a node, a process of its own.
    pub place: PlacementSpec,
}

/// A spawn on its way to another process.
pub struct SpawnFrame {
    /// The actor type's registered name, as it travels.
    pub actor: u64,
    /// The hash of its argument types.
    pub schema: u64,
    /// The encoded arguments.
    pub args: Bytes,
    /// References in the arguments, held until it has arrived.
    pub pins: crate::object::Pins,
    /// What was chosen.
    pub options: SpawnOptions,
    /// The id and life that its home has given it; `None` when it begins its life where it is received.
    pub guest: Option<(ActorId, Incarnation)>,
}

/// Why an actor was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpawnError {
    /// Another actor has the name.
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        by: ActorId,
    },
    /// As many names as may be are in use.
    TooManyNames,
    /// The constructor returned an error or panicked.
    StartFailed(ExitReason),
    /// Nothing was tried.
    NotStarted(NotStarted),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameTaken { name, by } => write!(f, "the name `{name}` is taken by {by}"),
            Self::TooManyNames => f.write_str("65,536 names are in use: stop some named actors"),
            Self::StartFailed(reason) => write!(f, "the actor did not start: {reason}"),
            Self::NotStarted(cause) => write!(f, "the actor was not started: {cause}"),
        }
    }
}

impl std::error::Error for SpawnError {}

impl<A: Actor> Spawn<A> {
    /// Prepares an actor of `system`.
    pub fn new(system: Arc<System>, args: A::Args) -> Self {
        Self::in_session(Some(system), args)
    }

    /// Prepares an actor of the session of the code that runs now; without one, starting it says so.
    pub fn here(args: A::Args) -> Self {
        Self::in_session(crate::current::system(), args)
    }

    fn in_session(system: Option<Arc<System>>, args: A::Args) -> Self {
        Self { system, args, options: SpawnOptions::default(), wrong: None }
    }

    /// Gives the actor a name by which others find it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// Replaces the restart policy of the actor's type.
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.options.policy = Some(policy);
        self
    }

    /// Bounds the mail that may wait.
    pub fn mailbox(mut self, bounds: MailboxBounds) -> Self {
        self.options.mailbox = bounds;
        self
    }

    /// Gives the actor a thread of its own: for actors that block or compute long.
    pub fn dedicated(mut self) -> Self {
        self.options.placement = Placement::Dedicated;
        self
    }

    /// Places the actor on the next thread in turn instead of beside its parent.
    pub fn spread(mut self) -> Self {
        self.options.placement = Placement::Spread;
        self
    }

    /// CPUs it takes as long as it lives, in steps of 0.0001; none unless set.
    pub fn num_cpus(mut self, num_cpus: f64) -> Self {
        self.ask_for(mobula_types::resources::CPUS, num_cpus);
        self
    }

    /// GPUs it takes as long as it lives, in steps of 0.0001.
    pub fn num_gpus(mut self, num_gpus: f64) -> Self {
        self.ask_for(mobula_types::resources::GPUS, num_gpus);
        self
    }

    /// How much it takes, as long as it lives, of a resource with a name of its own.
    pub fn resource(mut self, name: impl AsRef<str>, amount: f64) -> Self {
        self.ask_for(name.as_ref(), amount);
        self
    }

    /// Lives on a node that carries this label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.place.labels.insert(key.into(), value.into());
        self
    }

    /// Lives on this node, or is not started.
    pub fn on_node(mut self, node: NodeId) -> Self {
        self.options.place.strategy = PlacementStrategy::Node { node };
        self
    }

    /// Which of the nodes that fit is taken.
    pub fn strategy(mut self, strategy: PlacementStrategy) -> Self {
        self.options.place.strategy = strategy;
        self
    }

    /// Lives on the node that is used least.
    pub fn spread_nodes(self) -> Self {
        self.strategy(PlacementStrategy::Spread)
    }

    /// Lives in a process of its own: its end is nobody else's.
    pub fn isolated(mut self) -> Self {
        self.options.place.isolated = true;
        self
    }

    /// An amount that is none is found out when the actor is started.
    fn ask_for(&mut self, name: &str, value: f64) {
        match Amount::new(value) {
            Some(amount) => self.options.place.request.add(name, amount),
            None => self.wrong = Some(format!("{name} = {value} is no amount: use a number from 0 on")),
        }
    }

    /// Gives a handle that stops the actor when it is dropped.
    pub fn scoped(self) -> ScopedSpawn<A> {
        ScopedSpawn(self)
    }

    pub(crate) fn child_of(mut self, parent: ActorId) -> Self {
        self.options.parent = Some(parent);
        self
    }

    pub(crate) fn supervised_by_parent(mut self) -> Self {
        self.options.supervised_by_parent = true;
        self
    }

    /// Starts the actor and gives its reference at once; mail waits until its constructor has ended. A constructor that
    /// fails shows in the first call.
    ///
    /// # Errors
    ///
    /// Nothing was started: no session, a taken name, arguments that cannot travel.
    pub fn now(self) -> Result<ActorRef<A>, SpawnError> {
        self.start(None).map(|(actor, _)| actor)
    }

    /// Starts the actor; `spawner` is told how its constructor ended when that runs here, else the future tells.
    fn start(self, spawner: Option<Spawner>) -> Result<(ActorRef<A>, Option<StartedAway>), SpawnError> {
        let Self { system, args, options, wrong } = self;
        if let Some(missing) = wrong {
            return Err(SpawnError::NotStarted(NotStarted::Unschedulable { missing }));
        }
        let system = system.ok_or(SpawnError::NotStarted(NotStarted::NoSession))?;
        if system.is_ending() {
            return Err(SpawnError::NotStarted(NotStarted::NoSession));
        }
        if let (Some(deliver), Some(entry)) = (system.deliver(), registry::actor::<A>())
            && deliver.spawns_away(&options)
        {
            let (args, pins) = pinning(|| entry.encode_args(&args, system.value_bytes_max()));
            let args = args.map_err(SpawnError::NotStarted)?;
            let mut options = options;
            // Its home decides after the death of its process and does not know the type.
            options.policy.get_or_insert_with(A::restart_policy);
            let (actor, schema) = (entry.key(), entry.schema());
            let frame = SpawnFrame { actor, schema, args: args.into(), pins, options, guest: None };
            let Spawned { id, started } = deliver.spawn(frame)?;
            return Ok((ActorRef::new(Address::away(id, &system)), Some(started)));
        }
        let mailbox = start_here::<A>(&system, args, options, spawner, None)?;
        Ok((ActorRef::new(Address::of(&mailbox)), None))
    }

    pub(crate) fn from_outside(
        system: Arc<System>,
        args: A::Args,
        options: SpawnOptions,
        guest: Option<(ActorId, Incarnation)>,
    ) -> Result<Spawned, SpawnError> {
        let (spawner, started) = oneshot::channel();
        let mailbox = start_here::<A>(&system, args, options, Some(spawner), guest)?;
        Ok(Spawned { id: mailbox.id, started: Box::pin(has_started(started)) })
    }
}

/// Who waits for a constructor that runs here.
type Spawner = oneshot::Sender<Result<(), ExitReason>>;

/// The end of a constructor that runs elsewhere.
type StartedAway = BoxFuture<'static, Result<(), SpawnError>>;

async fn has_started(started: oneshot::Receiver<Result<(), ExitReason>>) -> Result<(), SpawnError> {
    match started.await {
        Ok(result) => result.map_err(SpawnError::StartFailed),
        Err(_) => Err(SpawnError::StartFailed(ExitReason::Shutdown)),
    }
}

fn start_here<A: Actor>(
    system: &Arc<System>,
    args: A::Args,
    options: SpawnOptions,
    spawner: Option<Spawner>,
    guest: Option<(ActorId, Incarnation)>,
) -> Result<Arc<Mailbox<A>>, SpawnError> {
    let SpawnOptions { name, parent, supervised_by_parent, policy, mailbox: bounds, placement, place: _ } = options;
    let make = |id| Arc::new(Mailbox::<A>::new(id, parent, name.clone(), bounds, system.clone()));
    let mailbox = match guest {
        None => system.admit(make),
        Some((id, incarnation)) => {
            let mailbox = make(id);
            mailbox.begin_as(incarnation);
            // Said twice: the first one lives.
            let twice = NotStarted::Unknown { name: format!("{id}, which lives here already") };
            system.admit_guest(mailbox).ok_or(SpawnError::NotStarted(twice))?
        }
    };
    // A guest's name was claimed by its home.
    let is_guest = mailbox.id.process != system.process();
    if let Some(name) = name.as_ref().filter(|_| !is_guest) {
        if let Err(refused) = system.claim_name(name, mailbox.id) {
            system.forget(mailbox.id, None);
            return Err(match refused {
                NameRefused::Taken(by) => SpawnError::NameTaken { name: name.clone(), by },
                NameRefused::TooMany => SpawnError::TooManyNames,
            });
        }
        if let Some(deliver) = system.deliver() {
            deliver.claim_name(name, mailbox.id);
        }
    }
    let supervised =
        if supervised_by_parent { Supervised::ByParent } else { Supervised::ByItself(policy.map(Box::new)) };
    let hosted = mailbox.clone();
    // A guest's parent was told by its home, once for all its lives.
    if let Some(parent) = parent.filter(|_| !is_guest) {
        system.control(parent, Control::Adopt { child: mailbox.id });
    }
    let placed = system.run_on_arbiter(placement, move || {
        let (id, system) = (hosted.id, hosted.system.clone());
        let cell = Box::new(Cell::new(hosted, args, supervised, spawner));
        shell::host(id, system, async move {
            cell.run().await;
            if placement == Placement::Dedicated {
                arbiters::release_dedicated();
            }
        });
    });
    if !placed {
        system.forget(mailbox.id, name.as_deref());
        return Err(SpawnError::NotStarted(NotStarted::NoSession));
    }
    Ok(mailbox)
}

impl<A: Actor> IntoFuture for Spawn<A> {
    type Output = Result<ActorRef<A>, SpawnError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let (spawner, started) = oneshot::channel();
        let begun = self.start(Some(spawner));
        Box::pin(async move {
            let (actor, away) = begun?;
            match away {
                Some(away) => away.await?,
                None => has_started(started).await?,
            }
            Ok(actor)
        })
    }
}

/// A [`Spawn`] whose handle stops the actor when it is dropped.
#[must_use = "a spawn does nothing until it is awaited"]
pub struct ScopedSpawn<A: Actor>(Spawn<A>);

impl<A: Actor> IntoFuture for ScopedSpawn<A> {
    type Output = Result<Scoped<A>, SpawnError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let spawn = self.0.into_future();
        Box::pin(async move { spawn.await.map(Scoped) })
    }
}

/// Stops its actor when it is dropped; derefs to the reference.
pub struct Scoped<A: Actor>(ActorRef<A>);

impl<A: Actor> std::ops::Deref for Scoped<A> {
    type Target = ActorRef<A>;

    fn deref(&self) -> &ActorRef<A> {
        &self.0
    }
}

impl<A: Actor> Drop for Scoped<A> {
    fn drop(&mut self) {
        self.0.address().stop();
    }
}
