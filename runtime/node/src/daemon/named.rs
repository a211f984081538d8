//! Names under which actors of this node act (G7): granted by the head under this node's lease, and given up only when it
//! is certain that the actor has stopped.
//!
//! ```text
//!  claimed ──granted──► held ──given back──► free
//!                        │ revoked, or the lease is over          the process says that it has stopped, or has died
//!                        └─────► stopping ───────────────────────────────────────────────────────► told to the head
//!                                   │ it does not: its worker is killed ──────────────────────────────┘
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use mobula_types::{
    ActorId, Culprit, Death, DeathCause, Fencing, Held, JobId, NameKey, NameOwner, Namespace, ProcessId, Time,
};
use mobula_wire::cluster::ToHead;
use mobula_wire::local::{FromNode, RequestId};

use super::roster::Kind;
use super::state::State;

/// An actor that is to stop has so long before its process is killed: the lease ends a second before anybody else may act
/// under the name, and killing takes some of it.
const STOP_MAX: Duration = Duration::from_millis(500);

/// A name whose actor is to stop.
#[derive(Debug)]
pub(crate) struct Stopping {
    held: Held,
    process: ProcessId,
    /// When its process is killed.
    pub(crate) until: Time,
}

/// Names that were given back and whose last words are kept: as many as fit between two lives of a head.
const PARTED_MAX: usize = 4_096;

/// What was said of names that were given back. Such words are lost with a head that is killed, and the next one asks
/// after the name.
#[derive(Default)]
pub(crate) struct Parted {
    words: BTreeMap<Fencing, ToHead>,
}

impl Parted {
    pub(crate) fn keep(&mut self, fencing: Fencing, said: ToHead) {
        self.words.insert(fencing, said);
        if self.words.len() > PARTED_MAX {
            // Grants count up.
            self.words.pop_first();
        }
    }
}

impl State {
    /// Says that a name is given back, and again when the head asks.
    pub(crate) fn part(&mut self, fencing: Fencing, said: ToHead) {
        self.parted.keep(fencing, said.clone());
        self.tell_head(said);
    }

    /// A name as the cluster knows it.
    pub(crate) fn name_key(&self, job: JobId, namespace: Option<String>, name: String) -> NameKey {
        let of_job = || self.roster.job(job).and_then(|job| job.setup.namespace.clone());
        match namespace.or_else(of_job) {
            None => NameKey::of_job(job, name),
            Some(space) => NameKey::shared(space, name),
        }
    }

    /// The head has granted a name, or says whose it is.
    pub(crate) fn name_claimed(
        &mut self,
        process: ProcessId,
        request: RequestId,
        said: ToHead,
        result: Result<(NameOwner, Fencing, u64), String>,
    ) {
        let ToHead::Claim { key, actor, .. } = said else { return };
        let owner = match result {
            Ok((owner, fencing, term)) if owner.actor == actor => {
                let held = Held { key, actor, fencing };
                match self.hold_name(held, process, term) {
                    true => Ok(owner),
                    false => Err("this node's lease was over when the name came: ask again".to_owned()),
                }
            }
            other => other.map(|(owner, ..)| owner),
        };
        self.routes.tell(process, &FromNode::NameClaimed { request, owner });
    }

    /// An actor acts under a name from now on, unless its process or this node's lease has ended meanwhile.
    pub(crate) fn hold_name(&mut self, held: Held, process: ProcessId, term: u64) -> bool {
        let is_good = self.roster.get(process).is_some() && self.cluster.lease.accepts(self.clock.now(), term);
        if is_good {
            self.cluster.held.insert(held.key.clone(), (held, process));
        } else {
            self.tell_head(ToHead::Stopped { key: held.key, fencing: held.fencing, culprit: None });
        }
        is_good
    }

    /// The head takes a name away.
    pub(crate) fn revoked(&mut self, key: NameKey, fencing: Fencing) {
        if self.cluster.held.get(&key).is_some_and(|(held, _)| held.fencing == fencing) {
            self.cluster.held.remove(&key).into_iter().for_each(|(held, process)| self.stop_holder(held, process));
        } else if let Some(said) = self.parted.words.get(&fencing) {
            self.tell_head(said.clone());
        } else if self.stopping.get(&key).is_none_or(|stopping| stopping.held.fencing != fencing) {
            self.tell_head(ToHead::Stopped { key, fencing, culprit: None });
        }
    }

    /// Stops what acts under names: the lease has run out.
    pub(crate) fn stop_named(&mut self) {
        self.end_hosts_of_detached(&DeathCause::Disconnected, Duration::ZERO);
        for (_, (held, process)) in std::mem::take(&mut self.cluster.held) {
            self.stop_holder(held, process);
        }
    }

    /// Ends the processes in which detached actors act: those live on elsewhere, and who speaks with them must hear that
    /// they are not here any more.
    pub(crate) fn end_hosts_of_detached(&mut self, cause: &DeathCause, grace: Duration) {
        let is_detached = |held: &Held| held.actor.process == ProcessId::HEAD;
        let held: Vec<(Held, ProcessId)> =
            self.cluster.held.extract_if(.., |_, (held, _)| is_detached(held)).map(|(_, held)| held).collect();
        for (held, process) in held {
            self.forget_detached(held.actor);
            if !grace.is_zero() {
                self.routes.tell(process, &FromNode::Stop { cause: cause.clone() });
            }
            self.workers.expect_end(process, cause.clone(), grace);
            // Its end is the proof, and comes.
            self.stopping.insert(held.key.clone(), Stopping { held, process, until: Time::MAX });
        }
    }

    pub(crate) fn stop_holder(&mut self, held: Held, process: ProcessId) {
        let Held { key, actor, .. } = held.clone();
        tracing::warn!(%key, %actor, "a name is to be free: its actor stops");
        self.forget_detached(actor);
        let (namespace, name) = said_name(&key);
        self.routes.tell(process, &FromNode::NameLost { namespace, name, actor });
        let until = self.clock.now() + STOP_MAX;
        self.stopping.insert(key, Stopping { held, process, until });
    }

    /// A process says that an actor has stopped: it was told to, or goes on elsewhere.
    pub(crate) fn name_stopped(&mut self, process: ProcessId, key: &NameKey, actor: ActorId) {
        let is_it = |stopping: &Stopping| stopping.process == process && stopping.held.actor == actor;
        if self.stopping.get(key).is_some_and(is_it)
            && let Some(Stopping { held, .. }) = self.stopping.remove(key)
        {
            self.tell_head(ToHead::Stopped { key: held.key, fencing: held.fencing, culprit: None });
        } else if self.cluster.held.get(key).is_some_and(|(held, at)| *at == process && held.actor == actor)
            && let Some((held, _)) = self.cluster.held.remove(key)
        {
            self.tell_head(ToHead::Stopped { key: held.key, fencing: held.fencing, culprit: None });
        }
    }

    /// Who does not stop is ended with its process.
    pub(crate) fn tick_names(&mut self, now: Time) {
        let late: Vec<NameKey> =
            self.stopping.iter().filter(|(_, stopping)| stopping.until <= now).map(|(key, _)| key.clone()).collect();
        for key in late {
            let Some(stopping) = self.stopping.get_mut(&key) else { continue };
            stopping.until = Time::MAX;
            let process = stopping.process;
            tracing::warn!(%key, %process, "its actor does not stop");
            // A user's program is not ours to kill: its name is not free before it has said so, or has ended.
            if self.roster.get(process).is_some_and(|resident| matches!(resident.kind, Kind::Worker { .. })) {
                let name = key.name.clone();
                self.workers.kill(process, DeathCause::NameLost { name });
            }
        }
    }

    /// A process has ended, and with it what acted there.
    pub(crate) fn names_died(&mut self, death: &Death) {
        let process = death.process;
        let is_there = |at: &ProcessId| *at == process;
        let held = self.cluster.held.extract_if(.., |_, (_, at)| is_there(at)).map(|(_, (held, _))| held);
        let mut stopped: Vec<(Held, bool)> = held.map(|held| (held, true)).collect();
        let stopping = self.stopping.extract_if(.., |_, stopping| is_there(&stopping.process));
        stopped.extend(stopping.map(|(_, stopping)| (stopping.held, false)));
        for (Held { key, actor, fencing }, acted) in stopped {
            let is_to_blame = acted && death.culprits.contains(&Culprit::Actor(actor));
            let culprit = is_to_blame.then(|| Box::new(death.clone()));
            self.tell_head(ToHead::Stopped { key, fencing, culprit });
        }
        self.detached_died(process);
    }
}

/// A name as a process says it.
fn said_name(key: &NameKey) -> (Option<String>, String) {
    match &key.space {
        Namespace::Job(_) => (None, key.name.clone()),
        Namespace::Shared(space) => (Some(space.clone()), key.name.clone()),
    }
}
