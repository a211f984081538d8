//! Two systems in one process, joined so that every call, reply and spawn passes through the codec.
//!
//! The driver's side starts actors on the worker's; calls go to whichever side has the actor. There is no credit and no
//! loss here: this is about values and references, not about networks.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mobula_actor::deliver::{Deliver, EncodedReply, Fetched, NameClaim, Outgoing, Spawned, refuse};
use mobula_actor::object::GetError;
use mobula_actor::{Control, SpawnError, SpawnFrame, SpawnOptions, System, arbiters};
use mobula_types::{
    ActorId, ActorName, CallError, ExitReason, Incarnation, NameOwner, NotStarted, ObjectId, ProcessId,
};
use parking_lot::Mutex;

/// Joins `driver` and `worker`: what `driver` spawns lives in `worker`.
pub(crate) fn join(driver: &Arc<System>, worker: &Arc<System>) {
    for system in [driver, worker] {
        let (driver, worker) = (Arc::downgrade(driver), Arc::downgrade(worker));
        let both = Loopback { driver, worker, held: Mutex::default() };
        let joined = system.set_deliver(Arc::new(both)).is_ok();
        assert!(joined, "a system is joined once, when it is new");
    }
}

/// An object of the other side, and how many references this one has to it.
type Held = (Arc<dyn Any + Send + Sync>, usize);

struct Loopback {
    driver: Weak<System>,
    worker: Weak<System>,
    /// Objects to which the side that did not make them has references.
    held: Mutex<HashMap<ObjectId, Held>>,
}

impl Loopback {
    fn side(&self, process: ProcessId) -> Option<Arc<System>> {
        [&self.driver, &self.worker].into_iter().filter_map(Weak::upgrade).find(|system| system.process() == process)
    }
}

impl Deliver for Loopback {
    fn carries_local(&self) -> bool {
        true
    }

    fn spawns_away(&self, _: &SpawnOptions) -> bool {
        true
    }

    fn guest_ended(&self, _: ActorId, _: Incarnation, _: &ExitReason) {
        // Both systems spawn in the worker's own name.
    }

    fn try_call(&self, call: Outgoing, reply: Option<EncodedReply>) -> Result<(), NotStarted> {
        let Outgoing { frame, pins } = call;
        let actor = frame.header.target;
        let Some(side) = self.side(actor.process) else { return Err(refuse(reply, NotStarted::NoSuchActor { actor })) };
        let result = side.receive(&frame, reply)?.try_enter();
        drop(pins);
        result
    }

    fn call(&self, call: Outgoing, reply: Option<EncodedReply>) -> BoxFuture<'static, Result<(), NotStarted>> {
        let Outgoing { frame, pins } = call;
        let actor = frame.header.target;
        let entering = match self.side(actor.process) {
            Some(side) => side.receive(&frame, reply).map(|incoming| incoming.enter(None)),
            None => Err(refuse(reply, NotStarted::NoSuchActor { actor })),
        };
        Box::pin(async move {
            let result = entering?.await;
            drop(pins);
            result
        })
    }

    fn post(&self, call: Outgoing, reply: Option<EncodedReply>) -> Result<(), NotStarted> {
        let mut entering = self.call(call, reply);
        // What is refused at once is said at once.
        if let Some(result) = (&mut entering).now_or_never() {
            return result;
        }
        arbiters::runtime().spawn(entering);
        Ok(())
    }

    fn control(&self, to: ActorId, control: Control) {
        if let Some(side) = self.side(to.process) {
            side.control_local(to, control);
        }
    }

    fn spawn(&self, frame: SpawnFrame) -> Result<Spawned, SpawnError> {
        let worker = self.worker.upgrade().ok_or(SpawnError::NotStarted(NotStarted::NoSession))?;
        worker.receive_spawn(frame)
    }

    fn named(&self, name: &ActorName) -> BoxFuture<'static, Option<NameOwner>> {
        let sides = [&self.driver, &self.worker].into_iter().filter_map(Weak::upgrade);
        let owner = sides.into_iter().find_map(|system| {
            let actor = system.named(name)?;
            Some(NameOwner { actor, interface: system.interface(actor)? })
        });
        Box::pin(async move { owner })
    }

    fn claim_name(&self, _: NameClaim) -> Option<BoxFuture<'static, Result<NameOwner, String>>> {
        // All actors with names live on the worker's side, which keeps them.
        None
    }

    fn release_name(&self, _: &ActorName, _: ActorId) {}

    fn is_alive(&self, actor: ActorId) -> bool {
        self.side(actor.process).is_some_and(|side| side.is_alive(actor))
    }

    fn fetch(&self, object: ObjectId) -> BoxFuture<'static, Result<Fetched, GetError>> {
        match self.side(object.owner).and_then(|side| side.encoded_object(object)) {
            Some(encoded) => encoded,
            None => Box::pin(async { Err(CallError::NotStarted(NotStarted::NoSession)) }),
        }
    }

    fn hold(&self, object: ObjectId) {
        let mut held = self.held.lock();
        match held.get_mut(&object) {
            Some((_, count)) => *count += 1,
            None => {
                let there = self.side(object.owner).and_then(|side| side.object_here(object));
                held.extend(there.map(|there| (object, (there, 1))));
            }
        }
    }

    fn release(&self, object: ObjectId) {
        let over = {
            let mut held = self.held.lock();
            let Some((_, count)) = held.get_mut(&object) else { return };
            *count -= 1;
            if *count == 0 { held.remove(&object) } else { None }
        };
        // Its end may release others.
        drop(over);
    }
}
