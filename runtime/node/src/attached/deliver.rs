//! [`Deliver`] of an attached process: each of its ways leads into one of the neighbours' files.

use std::panic::Location;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use mobula_actor::deliver::{EncodedReply, Fetched, NameClaim, NoRoom, Outgoing, Room, Spawned};
use mobula_actor::object::GetError;
use mobula_actor::{Control, Deliver, SpawnError, SpawnFrame, SpawnOptions};
use mobula_types::{
    ActorId, ActorName, CallError, ExitReason, Incarnation, NameOwner, NotStarted, ObjectId, PlacementSpec, Unknown,
};
use mobula_wire::Talk;
use mobula_wire::local::ToNode;

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
        let asks = options.place != PlacementSpec::default() || options.detached;
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

    fn post_until_acknowledged(&self, call: Outgoing, message: &'static str) -> Result<(), NotStarted> {
        self.process.send_until_acknowledged(call, message)
    }

    fn control(&self, to: ActorId, control: Control) {
        if !self.process.home_control(to, &control) {
            self.process.control_away(to, control);
        }
    }

    fn spawn(&self, frame: SpawnFrame) -> Result<Spawned, SpawnError> {
        self.process.spawn_away(frame)
    }

    fn named(&self, name: &ActorName) -> BoxFuture<'static, Option<NameOwner>> {
        let (process, name) = (self.process.clone(), name.clone());
        Box::pin(async move { process.look_up(name).await })
    }

    fn claim_name(&self, claim: NameClaim) -> Option<BoxFuture<'static, Result<NameOwner, String>>> {
        let process = self.process.clone();
        Some(Box::pin(async move { process.claim(claim).await }))
    }

    fn release_name(&self, name: &ActorName, actor: ActorId) {
        let ActorName { namespace, name } = name.clone();
        self.process.link.tell(&ToNode::ReleaseName { namespace, name, actor });
    }

    fn leave_name(&self, name: &ActorName, actor: ActorId) {
        let ActorName { namespace, name } = name.clone();
        self.process.link.tell(&ToNode::NameStopped { namespace, name, actor });
    }

    fn is_alive(&self, actor: ActorId) -> bool {
        self.process.may_live(actor)
    }

    fn fetch(&self, object: ObjectId) -> BoxFuture<'static, Result<Fetched, GetError>> {
        let value = self.process.fetch_object(object);
        Box::pin(async move { value.await.unwrap_or(Err(CallError::MayHaveRun(Unknown::NoReply))) })
    }

    fn room(&self, bytes: usize) -> Result<Box<dyn Room>, NoRoom> {
        self.process.room(bytes)
    }

    fn export(&self, object: ObjectId, site: &'static Location<'static>) -> bool {
        self.process.export_object(object, site);
        true
    }

    fn is_shared(&self, bytes: &[u8]) -> bool {
        self.process.store.as_ref().is_some_and(|store| store.place_of(bytes).is_some())
    }

    fn seal(&self, object: ObjectId, value: Result<Fetched, GetError>) {
        self.process.seal_object(object, value);
    }

    fn hold(&self, object: ObjectId) {
        self.process.hold_object(object);
    }

    fn release(&self, object: ObjectId) {
        self.process.release_object(object);
    }
}
