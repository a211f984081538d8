//! Preparing and starting an actor.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mobula_types::resources::Amount;
use mobula_types::{
    ActorId, ActorName, ExitReason, GroupId, Incarnation, Interface, LabelRule, LabelSelector, NodeId, NotStarted,
    PlacementSpec, PlacementStrategy, ProcessId, RestartPolicy, Within,
};
use tokio::sync::oneshot;

use crate::arbiters::{self, Placement};
use crate::cell::{Cell, Supervised};
use crate::control::Control;
use crate::deliver::{NameClaim, Spawned};
use crate::lanes::MailboxBounds;
use crate::lookup::{self, LookupError};
use crate::mailbox::Mailbox;
use crate::object::pinning;
use crate::places::Lodging;
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
    /// Where the name is unique; none for the job's own namespace.
    pub namespace: Option<String>,
    /// Whether it outlives its job.
    pub detached: bool,
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
    /// What the actor can be asked, of a detached one.
    pub interface: Interface,
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
    /// The name was not granted.
    NameRefused {
        /// The name.
        name: String,
        /// Why not.
        why: String,
    },
    /// The actor that has the name is of another type, or of a program that knows its type otherwise.
    OtherType(LookupError),
    /// As many names as may be are in use.
    TooManyNames,
    /// The constructor returned an error or panicked.
    StartFailed(ExitReason),
    /// The arguments of a detached actor are kept with its name, and these are too large for that.
    ArgumentsTooLarge {
        /// The name of the actor.
        name: String,
        /// What they take.
        bytes: usize,
        /// What they may take.
        max: usize,
    },
    /// The arguments of a detached actor hold references to objects of the job, which ends before it.
    ArgumentsRefer {
        /// The name of the actor.
        name: String,
        /// To how many objects.
        objects: usize,
    },
    /// Nothing was tried.
    NotStarted(NotStarted),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameTaken { name, by } => write!(
                f,
                "the name `{name}` is taken by {by}: choose another, or get that actor with `.get_if_exists()`"
            ),
            Self::NameRefused { name, why } => write!(f, "the name `{name}` was not granted: {why}"),
            Self::OtherType(error) => write!(f, "{error}"),
            Self::TooManyNames => f.write_str("65,536 names are in use: stop some named actors"),
            Self::StartFailed(reason) => write!(f, "the actor did not start: {reason}"),
            Self::ArgumentsTooLarge { name, bytes, max } => write!(
                f,
                "the arguments of the detached actor `{name}` take {bytes} bytes, and {max} at most are kept with its \
                 name: let it read what is large when it starts, or send it in a message"
            ),
            Self::ArgumentsRefer { name, objects } => write!(
                f,
                "the arguments of the detached actor `{name}` hold references to {objects} objects, which end with this \
                 job: pass their values"
            ),
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
        let options = SpawnOptions { place: A::place(), ..SpawnOptions::default() };
        Self { system, args, options, wrong: None }
    }

    /// Gives the actor a name by which others find it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// The name is in this namespace, where other jobs find it too, and not in the job's own.
    ///
    /// ```
    /// # use mobula_actor::{Actor, Address, Context, Lookup, Spawn, System, SystemConfig};
    /// # use mobula_types::{Error, NodeId, ProcessId};
    /// # struct Counter;
    /// # impl Actor for Counter {
    /// #     type Args = ();
    /// #     type Proxy = Address<Self>;
    /// #     async fn start(_: (), _: &Context<Self>) -> Result<Self, Error> { Ok(Counter) }
    /// # }
    /// # let system = System::start(&SystemConfig { process: ProcessId::from(NodeId(1)), arbiters: 1, value_bytes_max: 1 << 20 });
    /// # system.make_process_default();
    /// # mobula_actor::arbiters::runtime().block_on(async {
    /// let counter = Spawn::<Counter>::here(()).name("words").namespace("shop").await?;
    /// let found = Lookup::<Counter>::of("words").namespace("shop").await?;
    /// assert_eq!(found.id(), counter.id());
    /// assert!(Lookup::<Counter>::of("words").await.is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.options.namespace = Some(namespace.into());
        self
    }

    /// The actor outlives its job: on a cluster it lives until it stops or is stopped, and is started again where there
    /// is room when its node dies. It needs a name in a namespace that other jobs can say, its arguments hold no
    /// references to objects, and it has no parent. In an embedded session it lives as long as others.
    pub fn detached(mut self) -> Self {
        self.options.detached = true;
        self
    }

    /// Gives the actor that has the name already, and else starts one: whoever asks at the same time gets the same.
    pub fn get_if_exists(self) -> GetOrSpawn<A> {
        GetOrSpawn(self)
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

    /// CPUs it takes as long as it lives, in steps of 0.0001; what its type says unless set.
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
        self.options.place.labels.push(LabelRule::equal(key, value));
        self
    }

    /// Lives on a node whose labels are as this rule says; with others, all must hold.
    pub fn label_rule(mut self, rule: LabelRule) -> Self {
        self.options.place.labels.push(rule);
        self
    }

    /// When the labels of no living node are as was said so far, they must be as these rules say instead. Of several, the
    /// first counts that any node is as it says.
    pub fn label_fallback(mut self, rules: impl Into<LabelSelector>) -> Self {
        self.options.place.fallbacks.push(rules.into());
        self
    }

    /// Lives on this node, or is not started.
    pub fn on_node(mut self, node: NodeId) -> Self {
        self.options.place.strategy = PlacementStrategy::Node { node };
        self
    }

    /// Lives on this node, waiting for it while others use it; elsewhere when it is dead or drained, or can never do.
    pub fn on_node_soft(mut self, node: NodeId) -> Self {
        self.options.place.strategy = PlacementStrategy::NodeSoft { node };
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

    /// Takes what it needs of a placement group, of any bundle that has room, and of nothing else; it ends with the group.
    pub fn in_group(mut self, group: impl Into<GroupId>) -> Self {
        self.options.place.within = Some(Within { group: group.into(), bundle: None });
        self
    }

    /// Takes what it needs of this bundle of a placement group, and of nothing else; it ends with the group.
    pub fn in_bundle(mut self, group: impl Into<GroupId>, bundle: u32) -> Self {
        self.options.place.within = Some(Within { group: group.into(), bundle: Some(bundle) });
        self
    }

    /// Lives in a process of its own: its end is nobody else's.
    pub fn isolated(mut self) -> Self {
        self.options.place.isolated = true;
        self
    }

    /// An amount that is none is found out when the actor is started.
    fn ask_for(&mut self, name: &str, value: f64) {
        match Amount::new(value) {
            Some(amount) => self.options.place.request.set(name, amount),
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
        if let Some(missing) = wrong.or_else(|| options.place.check_labels().err()) {
            return Err(SpawnError::NotStarted(NotStarted::Unschedulable { missing }));
        }
        let system = system.ok_or(SpawnError::NotStarted(NotStarted::NoSession))?;
        if system.is_ending() {
            return Err(SpawnError::NotStarted(NotStarted::NoSession));
        }
        if let Some(missing) = options.detached.then(|| not_detachable(&options, &system)).flatten() {
            return Err(SpawnError::NotStarted(NotStarted::Unschedulable { missing: missing.to_owned() }));
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
            // Only its home at the head names it to others.
            let interface = if options.detached { registry::interface::<A>() } else { Interface::default() };
            let frame = SpawnFrame { actor, schema, interface, args: args.into(), pins, options, guest: None };
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

/// What keeps an actor from outliving its job.
fn not_detachable(options: &SpawnOptions, system: &System) -> Option<&'static str> {
    if options.parent.is_some() {
        return Some("a detached actor has no parent, and this one is a child: spawn it by its type");
    }
    if options.name.is_none() {
        return Some("a detached actor has a name, by which later jobs find it: give it one with `.name(..)`");
    }
    (options.namespace.is_none() && system.namespace().is_none()).then_some(
        "a detached actor outlives its job, and no other job can say this one's namespace: choose one with \
         `.namespace(..)`, or for the job with `Config::namespace` or MOBULA_NAMESPACE",
    )
}

/// Who waits for a constructor that runs here.
pub(crate) type Spawner = oneshot::Sender<Result<(), SpawnError>>;

/// The end of a constructor that runs elsewhere.
type StartedAway = BoxFuture<'static, Result<(), SpawnError>>;

async fn has_started(started: oneshot::Receiver<Result<(), SpawnError>>) -> Result<(), SpawnError> {
    match started.await {
        Ok(result) => result,
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
    let SpawnOptions {
        name, namespace, parent, supervised_by_parent, policy, mailbox: bounds, placement, place, ..
    } = options;
    let name = name.map(|name| ActorName { namespace, name });
    let is_guest = guest.is_some();
    let make = |id| Arc::new(Mailbox::<A>::new(id, parent, name.clone(), bounds, system.clone(), is_guest));
    let (mailbox, incarnation) = match guest {
        None => (system.admit(make), Incarnation(1)),
        Some((id, incarnation)) => {
            let mailbox = make(id);
            mailbox.begin_as(incarnation);
            // Said twice: the first one lives.
            let twice = NotStarted::Unknown { name: format!("{id}, which lives here already") };
            (system.admit_guest(mailbox).ok_or(SpawnError::NotStarted(twice))?, incarnation)
        }
    };
    if let Some(name) = name.as_ref().filter(|_| !is_guest)
        && let Err(refused) = system.claim_name(name, mailbox.id)
    {
        system.forget(mailbox.id, None);
        return Err(match refused {
            NameRefused::Taken(by) => SpawnError::NameTaken { name: name.to_string(), by },
            NameRefused::TooMany => SpawnError::TooManyNames,
        });
    }
    // The name of a detached actor was claimed for the place where it begins.
    let name = name.filter(|_| mailbox.id.process != ProcessId::HEAD);
    let claim = name.zip(system.deliver()).and_then(|(name, deliver)| {
        let interface = registry::interface::<A>();
        let claimed =
            deliver.claim_name(NameClaim { name: name.clone(), actor: mailbox.id, incarnation, interface })?;
        Some((name, claimed))
    });
    // A guest's parent was told by its home, once for all its lives.
    if let Some(parent) = parent.filter(|_| !is_guest) {
        system.control(parent, Control::Adopt { child: mailbox.id });
    }
    let supervised =
        if supervised_by_parent { Supervised::ByParent } else { Supervised::ByItself(policy.map(Box::new)) };
    let lodging = place
        .within
        .zip(system.places())
        .map(|(within, places)| Box::new(Lodging::Wanted(places.place(mailbox.id, within, place.request))));
    let hosted = mailbox.clone();
    let begin = move |wrong: Option<SpawnError>| {
        let (id, system) = (hosted.id, hosted.system.clone());
        let cell = Cell::new(hosted, args, supervised, lodging, spawner);
        if let Some(wrong) = wrong {
            return cell.stillborn(wrong);
        }
        let cell = Box::new(cell);
        shell::host(id, system, async move {
            cell.run().await;
            if placement == Placement::Dedicated {
                arbiters::release_dedicated();
            }
        });
    };
    match claim {
        None => {
            if !system.run_on_arbiter(placement, move || begin(None)) {
                system.forget(mailbox.id, mailbox.name.as_ref());
                return Err(SpawnError::NotStarted(NotStarted::NoSession));
            }
        }
        // Nobody acts under a name before it is granted.
        Some((name, claimed)) => {
            let (system, id) = (system.clone(), mailbox.id);
            arbiters::runtime().spawn(async move {
                let wrong = match claimed.await {
                    Ok(owner) if owner.actor == id => None,
                    Ok(owner) => Some(SpawnError::NameTaken { name: name.to_string(), by: owner.actor }),
                    Err(why) => Some(SpawnError::NameRefused { name: name.to_string(), why }),
                };
                let placement = if wrong.is_some() { Placement::Spread } else { placement };
                if !system.run_on_arbiter(placement, move || begin(wrong)) {
                    system.forget(id, Some(&name));
                }
            });
        }
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

/// A [`Spawn`] that gives the actor that has the name, when there is one.
#[must_use = "nothing is looked for or started until it is awaited"]
pub struct GetOrSpawn<A: Actor>(Spawn<A>);

/// Between a look-up and a spawn another may take the name, and give it up again before the next look-up: more than so
/// often that is no accident.
const GET_TRIES: usize = 8;

impl<A: Actor> IntoFuture for GetOrSpawn<A> {
    type Output = Result<ActorRef<A>, SpawnError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self(Spawn { system, args, options, wrong }) = self;
        Box::pin(async move {
            let Some(name) = options.name.clone() else {
                let missing = "`get_if_exists()` finds an actor by its name: give one with `.name(..)`".to_owned();
                return Err(SpawnError::NotStarted(NotStarted::Unschedulable { missing }));
            };
            let name = ActorName { namespace: options.namespace.clone(), name };
            let live = system.clone().ok_or(SpawnError::NotStarted(NotStarted::NoSession))?;
            let mut refused = None;
            for _ in 0..GET_TRIES {
                match lookup::find::<A>(&live, &name).await {
                    Ok(Some(actor)) => return Ok(actor),
                    Ok(None) => {}
                    Err(error) => return Err(SpawnError::OtherType(error)),
                }
                let (system, args, options) = (system.clone(), args.clone(), options.clone());
                match (Spawn { system, args, options, wrong: wrong.clone() }).await {
                    Err(taken @ SpawnError::NameTaken { .. }) => refused = Some(taken),
                    done => return done,
                }
            }
            Err(refused.unwrap_or(SpawnError::NotStarted(NotStarted::NoSession)))
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
