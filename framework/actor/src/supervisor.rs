//! A supervisor of several children under one strategy, in OTP's words.
//!
//! It is an actor like any other. What to do when a child dies is decided by the pure machine
//! [`Supervision`](mobula_logic::supervision::Supervision); this file only carries its outputs out: starts, stops and
//! forgets children, and fails itself when the machine escalates.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mobula_logic::supervision::{Input, Output, Supervision};
use mobula_types::{ActorId, Backoff, Error, ExitReason, Intensity, Restart, RestartPolicy, StateMachine, Strategy};
use tokio::sync::oneshot;

use crate::control::{ChildEvent, ChildState, Control};
use crate::spawn::{Spawn, SpawnError};
use crate::{ASK_TIMEOUT, Actor, ActorRef, Address, Context, Handler, Message, Mode, Proxy, clock};

/// How long a child may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Children of one supervisor; more want a supervisor per shard of them.
const CHILDREN_MAX: usize = 65_536;

/// Keeps its children alive under one strategy. Made with [`Supervisor::new`].
pub struct Supervisor {
    machine: Supervision,
    children: HashMap<u32, Child>,
    next_key: u32,
    /// The last child that failed unasked: when the machine escalates, the child itself has been forgotten already.
    failed: Option<(u32, ActorId)>,
}

/// What a supervisor is made of.
///
/// ```no_run
/// # use mobula_actor::{Actor, ChildSpec, Supervisor};
/// # use mobula_types::Strategy;
/// # async fn example<Shard: Actor<Args = usize>>() -> Result<(), mobula_types::Error> {
/// let group = Supervisor::new(Strategy::OneForAll)
///     .child(ChildSpec::new::<Shard>("shard-0", 0).permanent())
///     .child(ChildSpec::new::<Shard>("shard-1", 1).permanent())
///     .spawn()
///     .await?;
/// let first = group.child::<Shard>("shard-0").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SupervisorSpec {
    strategy: Strategy,
    intensity: Intensity,
    backoff: Backoff,
    children: Vec<ChildSpec>,
}

/// One child: what starts it, and when it is started again.
#[derive(Clone)]
pub struct ChildSpec {
    id: String,
    restart: Restart,
    start: Arc<StartChild>,
}

type AnyRef = Box<dyn Any + Send + Sync>;
type StartChild = dyn Fn(&Context<Supervisor>) -> Result<(ActorId, AnyRef), SpawnError> + Send + Sync;

struct Child {
    spec: ChildSpec,
    /// The running actor, once it was spawned.
    actor: Option<(ActorId, AnyRef)>,
    /// Between a start and the answer to it.
    starting: bool,
    /// Counts the stops asked for, so that a late kill does not hit the next incarnation.
    stops: u32,
    stopping: bool,
    /// Who waits for it to be spawned.
    asked: Vec<Question>,
}

impl Supervisor {
    /// A supervisor without children yet.
    #[expect(
        clippy::new_ret_no_self,
        reason = "a supervisor is started like every actor: what is made here is its spec"
    )]
    pub fn new(strategy: Strategy) -> SupervisorSpec {
        SupervisorSpec { strategy, intensity: Intensity::default(), backoff: Backoff::default(), children: Vec::new() }
    }
}

impl SupervisorSpec {
    /// Adds a child behind the others.
    #[must_use]
    pub fn child(mut self, child: ChildSpec) -> Self {
        self.children.push(child);
        self
    }

    /// Bears `restarts_max` restarts in `period`; one more, and the supervisor itself fails.
    #[must_use]
    pub fn intensity(mut self, restarts_max: u32, period: Duration) -> Self {
        self.intensity = Intensity { restarts_max, period };
        self
    }

    /// Waits so long before restarts; the first is at once.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Prepares the supervisor as a root of the session of the code that runs now.
    pub fn spawn(self) -> Spawn<Supervisor> {
        Spawn::here(self)
    }
}

impl ChildSpec {
    /// A transient child of the actor type `A`, known to its supervisor as `id`.
    pub fn new<A: Actor>(id: impl Into<String>, args: A::Args) -> Self {
        let id = id.into();
        let start = move |ctx: &Context<Supervisor>| {
            let child = ctx.spawn::<A>(args.clone()).supervised_by_parent().now()?;
            Ok((child.address().id(), Box::new(child) as AnyRef))
        };
        Self { id, restart: Restart::default(), start: Arc::new(start) }
    }

    /// A child made by `prepare`, which may give it a name, a mailbox or a thread of its own.
    pub fn with<A: Actor>(
        id: impl Into<String>,
        args: A::Args,
        prepare: impl Fn(Spawn<A>) -> Spawn<A> + Send + Sync + 'static,
    ) -> Self {
        let id = id.into();
        let start = move |ctx: &Context<Supervisor>| {
            let child = prepare(ctx.spawn::<A>(args.clone())).supervised_by_parent().now()?;
            Ok((child.address().id(), Box::new(child) as AnyRef))
        };
        Self { id, restart: Restart::default(), start: Arc::new(start) }
    }

    /// Restarted whatever it ended of.
    #[must_use]
    pub fn permanent(self) -> Self {
        self.restart(Restart::Permanent)
    }

    /// Restarted after an abnormal end only; the default.
    #[must_use]
    pub fn transient(self) -> Self {
        self.restart(Restart::Transient)
    }

    /// Never restarted.
    #[must_use]
    pub fn temporary(self) -> Self {
        self.restart(Restart::Temporary)
    }

    fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }
}

impl Actor for Supervisor {
    type Args = SupervisorSpec;
    type Proxy = SupervisorProxy;

    async fn start(spec: SupervisorSpec, ctx: &Context<Self>) -> Result<Self, Error> {
        ctx.observe_children();
        let machine = Supervision::new(spec.strategy, spec.intensity, spec.backoff);
        let mut this = Self { machine, children: HashMap::new(), next_key: 0, failed: None };
        for child in spec.children {
            this.add(child, ctx)?;
        }
        Ok(this)
    }

    /// A root supervisor that gives up ends; a nested one is its supervisor's to restart.
    fn restart_policy() -> RestartPolicy {
        RestartPolicy::temporary()
    }
}

impl Supervisor {
    fn add(&mut self, spec: ChildSpec, ctx: &Context<Self>) -> Result<(), AddError> {
        if self.children.len() >= CHILDREN_MAX {
            return Err(AddError::TooMany);
        }
        if self.children.values().any(|child| child.spec.id == spec.id) {
            return Err(AddError::Taken(spec.id));
        }
        let key = self.next_key;
        self.next_key += 1;
        let restart = spec.restart;
        self.children
            .insert(key, Child { spec, actor: None, starting: false, stops: 0, stopping: false, asked: Vec::new() });
        self.step(Input::Add { child: key, restart }, ctx);
        Ok(())
    }

    /// Gives the machine an input and carries out what it says.
    fn step(&mut self, input: Input, ctx: &Context<Self>) {
        self.machine.handle(clock::now(), input);
        while let Some(output) = self.machine.poll_output() {
            self.perform(output, ctx);
        }
        if let Some(at) = self.machine.next_timeout() {
            ctx.send_after(at.since(clock::now()), Tick);
        }
    }

    fn perform(&mut self, output: Output, ctx: &Context<Self>) {
        match output {
            Output::Start { child: key } => {
                let Some(child) = self.children.get_mut(&key) else { return };
                child.starting = true;
                if let Some((actor, _)) = &child.actor {
                    ctx.system().control(*actor, Control::Start);
                    return;
                }
                match (child.spec.start)(ctx) {
                    Ok(actor) => {
                        child.asked.drain(..).for_each(|question| question.settle(&actor.1));
                        child.actor = Some(actor);
                    }
                    Err(error) => {
                        child.starting = false;
                        let reason = ExitReason::Failed(mobula_types::ErrorChain::of(&error));
                        ctx.me().try_send(Failed { key, reason }).ok();
                    }
                }
            }
            Output::Stop { child: key } => {
                let Some(child) = self.children.get_mut(&key) else { return };
                child.stops += 1;
                child.stopping = true;
                let stop = child.stops;
                if let Some((actor, _)) = &child.actor {
                    ctx.system().control(*actor, Control::Stop { reason: ExitReason::Shutdown, park: true });
                    ctx.send_after(STOP_TIMEOUT, KillStuck { key, stop });
                }
            }
            Output::Ended { child: key, reason } => {
                if let Some(child) = self.children.remove(&key)
                    && let Some((actor, _)) = child.actor
                {
                    tracing::debug!(child = %child.spec.id, %reason, "a child ended for good");
                    ctx.system().control(actor, Control::Stop { reason, park: false });
                }
            }
            Output::Escalate { child: key, cause } => {
                let child = self.failed.filter(|(failed, _)| *failed == key).map_or(ctx.id(), |(_, actor)| actor);
                ctx.end_of(ExitReason::Escalated { child, cause: Box::new(cause) });
            }
            Output::Stopped => {}
        }
    }

    fn key_of(&self, actor: ActorId) -> Option<u32> {
        let is_it = |child: &Child| child.actor.as_ref().is_some_and(|(id, _)| *id == actor);
        self.children.iter().find(|(_, child)| is_it(child)).map(|(key, _)| *key)
    }
}

impl Handler<ChildEvent> for Supervisor {
    const MODE: Mode = Mode::Sync;

    async fn handle(&mut self, event: ChildEvent, ctx: &Context<Self>) {
        self.handle_sync(event, ctx);
    }

    fn handle_sync(&mut self, event: ChildEvent, ctx: &Context<Self>) {
        let Some(key) = self.key_of(event.child) else { return };
        let Some(child) = self.children.get_mut(&key) else { return };
        let starting = std::mem::take(&mut child.starting);
        let input = match event.what {
            ChildState::Started => Input::Started { child: key },
            ChildState::Parked(reason) | ChildState::Ended(reason) | ChildState::GaveUp(reason) => {
                if !std::mem::take(&mut child.stopping) {
                    self.failed = Some((key, event.child));
                }
                if starting { Input::StartFailed { child: key, reason } } else { Input::Exited { child: key, reason } }
            }
        };
        self.step(input, ctx);
    }
}

/// A messages of the supervisor to itself, or of its proxy: none leaves the process.
macro_rules! sync_message {
    ($message:ident -> $reply:ty, |$this:ident, $taken:ident, $ctx:ident| $body:expr) => {
        impl Message for $message {
            type Reply = $reply;
        }

        impl Handler<$message> for Supervisor {
            const MODE: Mode = Mode::Sync;

            async fn handle(&mut self, message: $message, ctx: &Context<Self>) -> $reply {
                self.handle_sync(message, ctx)
            }

            fn handle_sync(&mut self, $taken: $message, $ctx: &Context<Self>) -> $reply {
                let $this = self;
                $body
            }
        }
    };
}

/// The machine asked to be called again.
struct Tick;
sync_message!(Tick -> (), |this, _tick, ctx| this.step(Input::Tick, ctx));

/// A child could not even be spawned.
struct Failed {
    key: u32,
    reason: ExitReason,
}
sync_message!(Failed -> (), |this, failed, ctx| {
    this.step(Input::StartFailed { child: failed.key, reason: failed.reason }, ctx);
});

/// A child was asked to stop some time ago.
struct KillStuck {
    key: u32,
    stop: u32,
}
sync_message!(KillStuck -> (), |this, late, ctx| {
    if let Some(child) = this.children.get(&late.key)
        && child.stopping
        && child.stops == late.stop
        && let Some((actor, _)) = &child.actor
    {
        tracing::warn!(child = %child.spec.id, "did not stop within {STOP_TIMEOUT:?} and is killed");
        ctx.system().control(*actor, Control::Kill);
    }
});

/// Which actor is the child `id`? Answered as soon as it has been spawned: under one_for_all and rest_for_one a child
/// is spawned only after those before it have started.
struct Find {
    id: String,
    question: Question,
}

/// How an answer comes back, and as which type.
struct Question {
    downcast: fn(&AnyRef) -> Option<AnyRef>,
    answer: oneshot::Sender<Option<AnyRef>>,
}

impl Question {
    fn settle(self, child: &AnyRef) {
        self.answer.send((self.downcast)(child)).ok();
    }
}

sync_message!(Find -> (), |this, find, _ctx| {
    // An unknown id drops the question, which is an answer too.
    if let Some(child) = this.children.values_mut().find(|child| child.spec.id == find.id) {
        match &child.actor {
            Some((_, child)) => find.question.settle(child),
            None => {
                child.asked.retain(|question| !question.answer.is_closed());
                child.asked.push(find.question);
            }
        }
    }
});

/// One more child.
struct Add(ChildSpec);
sync_message!(Add -> Result<(), AddError>, |this, add, ctx| this.add(add.0, ctx));

/// One child less.
struct Remove(String);
sync_message!(Remove -> bool, |this, remove, ctx| {
    let key = this.children.iter().find(|(_, child)| child.spec.id == remove.0).map(|(key, _)| *key);
    if let Some(child) = key {
        this.step(Input::Remove { child }, ctx);
    }
    key.is_some()
});

/// Who is there?
struct List;
sync_message!(List -> Vec<(String, ActorId)>, |this, _list, _ctx| {
    let mut children: Vec<_> = this
        .children
        .iter()
        .filter_map(|(key, child)| Some((*key, child.spec.id.clone(), child.actor.as_ref()?.0)))
        .collect();
    children.sort_by_key(|(key, ..)| *key);
    children.into_iter().map(|(_, id, actor)| (id, actor)).collect()
});

/// Why a child was not added.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddError {
    /// There is a child of this id.
    Taken(String),
    /// As many children as may be.
    TooMany,
}

impl std::fmt::Display for AddError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Taken(id) => write!(f, "there is a child `{id}` already"),
            Self::TooMany => write!(f, "a supervisor has at most {CHILDREN_MAX} children: use one per shard of them"),
        }
    }
}

impl std::error::Error for AddError {}

/// What an `ActorRef<Supervisor>` derefs to.
#[derive(Clone)]
pub struct SupervisorProxy(Address<Supervisor>);

impl Proxy<Supervisor> for SupervisorProxy {
    fn new(address: Address<Supervisor>) -> Self {
        Self(address)
    }

    fn address(&self) -> &Address<Supervisor> {
        &self.0
    }
}

impl std::ops::Deref for SupervisorProxy {
    type Target = Address<Supervisor>;

    fn deref(&self) -> &Address<Supervisor> {
        &self.0
    }
}

impl SupervisorProxy {
    /// The child `id` as an actor of type `A`, as soon as it has been spawned. Its reference stays valid over restarts.
    ///
    /// # Errors
    ///
    /// There is no such child, or it is of another type, or the supervisor has ended.
    pub async fn child<A: Actor>(&self, id: &str) -> Result<ActorRef<A>, Error> {
        let downcast = |any: &AnyRef| {
            let actor = any.downcast_ref::<ActorRef<A>>()?;
            Some(Box::new(actor.clone()) as AnyRef)
        };
        let (answer, found) = oneshot::channel();
        self.0.ask(Find { id: id.to_owned(), question: Question { downcast, answer } }).await?;
        let found = tokio::time::timeout(ASK_TIMEOUT, found).await.map_err(|_| {
            Error::msg(format!(
                "the child `{id}` was not spawned within {ASK_TIMEOUT:?}: those before it did not start"
            ))
        })?;
        found
            .ok()
            .flatten()
            .and_then(|any| any.downcast::<ActorRef<A>>().ok())
            .map(|actor| *actor)
            .ok_or_else(|| Error::msg(format!("there is no child `{id}` of type {}", std::any::type_name::<A>())))
    }

    /// Adds a child behind the others and starts it.
    ///
    /// # Errors
    ///
    /// The id is taken, there are too many children, or the supervisor has ended.
    pub async fn start_child(&self, spec: ChildSpec) -> Result<(), Error> {
        Ok(self.0.ask(Add(spec)).await??)
    }

    /// Stops the child `id` and forgets it; false when there was none.
    ///
    /// # Errors
    ///
    /// The supervisor has ended.
    pub async fn stop_child(&self, id: &str) -> Result<bool, Error> {
        Ok(self.0.ask(Remove(id.to_owned())).await?)
    }

    /// The children's ids and actors, in start order.
    ///
    /// # Errors
    ///
    /// The supervisor has ended.
    pub async fn children(&self) -> Result<Vec<(String, ActorId)>, Error> {
        Ok(self.0.ask(List).await?)
    }
}
