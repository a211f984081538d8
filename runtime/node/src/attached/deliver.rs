//! [`Deliver`] of an attached process: each of its ways leads into one of the neighbours' files.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use mobula_actor::deliver::{EncodedReply, Fetched, Outgoing, Spawned};
use mobula_actor::object::GetError;
use mobula_actor::{Control, Deliver, SpawnError, SpawnFrame, SpawnOptions};
use mobula_types::{ActorId, CallError, ExitReason, Incarnation, NotStarted, ObjectId, PlacementSpec, Unknown};
use mobula_wire::Talk;
use mobula_wire::local::ToNode;
use tokio::sync::oneshot;

use super::exchanges::Waiting;
use super::process::Process;

/// How an attached process reaches the rest of the cluster.
pub(crate) struct Attached {
    pub(crate) process: Arc<Process>,
    /// Whether root actors start elsewhere even when they ask for nothing: a driver's do.
    pub(crate) spawns_roots_away: bool,
}

impl Deliver for Attached {
    fn carries_local(&self) -> bool {
        false
    }

    fn spawns_away(&self, options: &SpawnOptions) -> bool {
        let asks = options.place != PlacementSpec::default();
        asks || (self.spawns_roots_away && options.parent.is_none())
    }

    fn guest_ended(&self, actor: ActorId, incarnation: Incarnation, reason: &ExitReason) {
        let talk = Talk::ActorEnded { actor, incarnation, reason: reason.clone() };
        self.process.say(actor.process, talk);
    }

    fn try_call(&self, call: Outgoing, reply: Option<EncodedReply>) -> Result<(), NotStarted> {
        self.process.try_call(call, reply)
    }

    fn call(&self, call: Outgoing, reply: Option<EncodedReply>) -> BoxFuture<'static, Result<(), NotStarted>> {
        let entered = self.process.call_and_wait(call, reply);
        Box::pin(async move { entered?.await.unwrap_or(Err(NotStarted::NoSession)) })
    }

    fn post(&self, call: Outgoing, reply: Option<EncodedReply>) -> Result<(), NotStarted> {
        self.process.post_call(call, reply)
    }

    fn control(&self, to: ActorId, control: Control) {
        if !self.process.home_control(to, &control) {
            self.process.control_away(to, control);
        }
    }

    fn spawn(&self, frame: SpawnFrame) -> Result<Spawned, SpawnError> {
        self.process.spawn_away(frame)
    }

    fn named(&self, name: &str) -> BoxFuture<'static, Option<ActorId>> {
        let (process, name) = (self.process.clone(), name.to_owned());
        Box::pin(async move { process.look_up(name).await })
    }

    fn claim_name(&self, name: &str, actor: ActorId) {
        let (process, name) = (self.process.clone(), name.to_owned());
        mobula_actor::arbiters::runtime().spawn(async move {
            let owner = process.claim(&name, actor).await;
            if let Ok(owner) = owner
                && owner != actor
                && let Some(system) = process.system()
            {
                let reason = ExitReason::Failed(mobula_types::ErrorChain::message(format!(
                    "the name `{name}` is taken by {owner}"
                )));
                system.control_local(actor, Control::Stop { reason, park: false });
            }
        });
    }

    fn release_name(&self, name: &str, actor: ActorId) {
        // The name of one whose home is elsewhere is its home's to give back.
        if actor.process == self.process.me {
            self.process.link.tell(&ToNode::ReleaseName { namespace: None, name: name.to_owned(), actor });
        }
    }

    fn is_alive(&self, actor: ActorId) -> bool {
        self.process.may_live(actor)
    }

    fn fetch(&self, object: ObjectId) -> BoxFuture<'static, Result<Fetched, GetError>> {
        let (sender, value) = oneshot::channel();
        let process = self.process.clone();
        let exchange = process.exchanges.open(object.owner, Waiting::Fetch { object, sender });
        if process.link.is_cut() {
            process.exchanges.give_up(exchange);
        } else {
            process.say(object.owner, Talk::Fetch { exchange, object });
        }
        Box::pin(async move { value.await.unwrap_or(Err(CallError::MayHaveRun(Unknown::NoReply))) })
    }

    fn hold(&self, object: ObjectId) {
        self.process.say(object.owner, Talk::Hold { objects: vec![object] });
    }

    fn release(&self, object: ObjectId) {
        self.process.say(object.owner, Talk::Release { objects: vec![object] });
    }
}
