//! Spawning actors that outlive the job: the head keeps what is needed, and is their home from the first moment.

use std::sync::Arc;

use mobula_actor::deliver::Spawned;
use mobula_actor::{SpawnError, SpawnFrame};
use mobula_types::{ActorId, ActorName, ErrorChain, ExitReason, Incarnation, NotStarted, ProcessId};
use mobula_wire::INLINE_BYTES_MAX;
use mobula_wire::local::DetachedSpawn;

use super::homes::{said_name, spawn_wire};
use super::process::Process;

impl Process {
    /// Has the head start an actor; its id is good at once.
    pub(crate) fn spawn_detached(
        self: &Arc<Self>,
        frame: SpawnFrame,
        own_namespace: Option<&str>,
    ) -> Result<Spawned, SpawnError> {
        let SpawnFrame { actor: type_name, schema, interface, args, pins, mut options, .. } = frame;
        let wrong = |message: String| SpawnError::NotStarted(NotStarted::Codec { message });
        // Another job must be able to say it.
        options.namespace = options.namespace.or_else(|| own_namespace.map(str::to_owned));
        let Some(name) = said_name(&options) else { return Err(wrong("a detached actor has a name".to_owned())) };
        check_args(&name, args.len(), pins.ids().len())?;
        let actor = new_id().map_err(|error| wrong(format!("the system gives no random numbers: {error}")))?;
        let (place, args) = (options.place.clone(), args.clone());
        let options = spawn_wire(&options);
        let spawn = DetachedSpawn { actor, name: name.clone(), interface, type_name, schema, options, place, args };
        // Mail for it waits until the head knows it.
        self.expect_actor(actor);
        let process = self.clone();
        let (sender, started) = tokio::sync::oneshot::channel();
        // The head is told whether or not the caller waits.
        mobula_actor::arbiters::runtime().spawn(async move {
            sender.send(process.begin_detached(actor, name, spawn).await).ok();
        });
        let ended = || Err(SpawnError::StartFailed(ExitReason::Shutdown));
        Ok(Spawned { id: actor, started: Box::pin(async move { started.await.unwrap_or_else(|_| ended()) }) })
    }

    async fn begin_detached(
        self: &Arc<Self>,
        actor: ActorId,
        name: ActorName,
        spawn: DetachedSpawn,
    ) -> Result<(), SpawnError> {
        let error = match self.keep_detached(spawn).await {
            Ok(owner) if owner.actor == actor => {
                let is_there = self.wait_for_place(actor);
                return match is_there.await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(reason)) => Err(SpawnError::StartFailed(reason)),
                    Err(_) => Err(SpawnError::NotStarted(NotStarted::NoSession)),
                };
            }
            Ok(owner) => SpawnError::NameTaken { name: name.to_string(), by: owner.actor },
            Err(why) => SpawnError::NameRefused { name: name.to_string(), why },
        };
        let reason = ExitReason::Failed(ErrorChain::message(&error));
        self.actor_ended(actor, Incarnation::default(), &reason, true);
        Err(error)
    }
}

/// Whether the head may keep such arguments. A node sends them to the worker inside a message, and when the actor starts
/// again the job whose objects they refer to is over.
fn check_args(name: &ActorName, bytes: usize, objects: usize) -> Result<(), SpawnError> {
    if objects > 0 {
        return Err(SpawnError::ArgumentsRefer { name: name.to_string(), objects });
    }
    if bytes > INLINE_BYTES_MAX {
        return Err(SpawnError::ArgumentsTooLarge { name: name.to_string(), bytes, max: INLINE_BYTES_MAX });
    }
    Ok(())
}

/// An id that no other detached actor has had: of a million made a year, two are equal once in eighteen million years.
fn new_id() -> Result<ActorId, getrandom::Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)?;
    let [a, b, c, d, e, f, g, h] = bytes;
    let (slot, generation) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    Ok(ActorId { process: ProcessId::HEAD, slot, generation })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_keeps_no_references_and_nothing_large() {
        let name = ActorName { namespace: Some("shop".into()), name: "till".into() };
        assert_eq!(check_args(&name, INLINE_BYTES_MAX, 0), Ok(()));
        let over = check_args(&name, INLINE_BYTES_MAX + 1, 0).unwrap_err();
        assert!(matches!(over, SpawnError::ArgumentsTooLarge { bytes: 65_537, max: 65_536, .. }), "{over:?}");
        let refers = check_args(&name, 1, 2).unwrap_err();
        assert!(matches!(refers, SpawnError::ArgumentsRefer { objects: 2, .. }), "{refers:?}");
        for error in [over, refers] {
            assert!(error.to_string().contains("`shop/till`"), "{error}");
        }
    }
}
