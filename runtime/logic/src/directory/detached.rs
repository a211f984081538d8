//! Detached actors, whose home is the head: it has them started, in their first life and after every other, and tells
//! where they are.

use std::collections::VecDeque;
use std::time::Duration;

use mobula_types::{ActorId, Death, ExitReason, Fencing, Incarnation, JobId, NameKey, NodeId, Restart, Time};

use super::names::{Hold, Names};
use super::{Grant, Output};
use crate::record::{Change, Detached, RecordKey};
use crate::restarts::{Restarts, Verdict};

/// The driver is told again to start a detached actor that nobody has claimed the name for.
pub const RESTART_AGAIN: Duration = Duration::from_secs(5);

/// Those who wait to hear where a detached actor is: beyond it nobody is noted, and who is not asks again.
pub const LOCATES_WAITING_MAX: usize = 65_536;

/// A detached actor as its home knows it.
#[derive(Debug)]
pub(super) struct Restarting {
    pub(super) detached: Detached,
    restarts: Restarts,
    /// When it is to be started.
    pub(super) at: Option<Time>,
    /// It takes mail where it is.
    pub(super) is_started: bool,
    /// Who asks where it is while it is nowhere.
    locating: Vec<u64>,
    /// Why it has ended for good, or the last death that it was to blame for.
    reason: Option<ExitReason>,
}

impl Restarting {
    pub(super) fn new(detached: Detached, at: Option<Time>) -> Self {
        let restarts = Restarts::new(detached.policy);
        Self { detached, restarts, at, is_started: false, locating: Vec::new(), reason: None }
    }

    /// Decides what follows the end of a life; false when nothing does.
    pub(super) fn decide(&mut self, at: Time, life: Incarnation, culprit: Option<Box<Death>>) -> bool {
        self.is_started = false;
        let policy = self.detached.policy;
        let verdict = match culprit {
            // Only what the actor itself did counts against its restarts.
            Some(death) => {
                let reason = ExitReason::ProcessDied(death);
                let verdict = self.restarts.decide(at, &reason);
                self.reason = Some(reason);
                verdict
            }
            // One that was never started is not started again but at last.
            None if life == Incarnation(0) => Verdict::Restart { at },
            None if policy.restart == Restart::Temporary || policy.intensity.restarts_max == 0 => Verdict::End,
            None => Verdict::Restart { at },
        };
        match verdict {
            Verdict::Restart { at } => self.at = Some(at),
            Verdict::End | Verdict::GiveUp => self.at = None,
        }
        self.at.is_some()
    }
}

type Outputs = VecDeque<Output>;

impl Names {
    /// A detached actor has its name, and is to be started. Nobody acts under it yet.
    pub(super) fn begin_detached(&mut self, now: Time, key: &NameKey, outputs: &mut Outputs) -> Grant {
        let fencing = self.next_fencing();
        let entry = self.entries.get_mut(key).expect("the caller has made it");
        entry.fencing = fencing;
        let grant = entry.grant();
        self.keep(key, outputs);
        self.restart(now, key, outputs);
        self.plan(key);
        grant
    }

    pub(super) fn restart(&mut self, now: Time, key: &NameKey, outputs: &mut Outputs) {
        let entry = self.entries.get_mut(key).expect("the caller has found it");
        let (actor, incarnation, avoid) = (entry.actor, entry.incarnation.next(), entry.node);
        let Some(restarting) = entry.detached.as_mut().filter(|restarting| restarting.at.is_some_and(|at| at <= now))
        else {
            return;
        };
        restarting.at = Some(now + RESTART_AGAIN);
        let isolated = matches!(restarting.reason, Some(ExitReason::ProcessDied(_)));
        let Detached { job, frame, .. } = restarting.detached.clone();
        outputs.push_back(Output::Restart { key: key.clone(), actor, incarnation, job, frame, avoid, isolated });
    }

    pub(super) fn handle_started(&mut self, node: NodeId, key: &NameKey, fencing: Fencing, outputs: &mut Outputs) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let is_held = matches!(entry.hold, Hold::Held { .. }) && (entry.node, entry.fencing) == (node, fencing);
        let at = Ok((entry.process, entry.incarnation));
        if let Some(restarting) = entry.detached.as_mut().filter(|_| is_held) {
            restarting.is_started = true;
            let asking = std::mem::take(&mut restarting.locating);
            self.locating -= asking.len();
            outputs.extend(asking.into_iter().map(|ask| Output::Located {
                ask,
                key: Some(key.clone()),
                at: at.clone(),
            }));
        }
    }

    /// It has ended for good where it acted: it is not started again.
    pub(super) fn handle_ended(
        &mut self,
        now: Time,
        node: NodeId,
        key: &NameKey,
        actor: ActorId,
        reason: ExitReason,
        outputs: &mut Outputs,
    ) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| (entry.actor, entry.node) == (actor, node)) else {
            return;
        };
        if let Some(restarting) = &mut entry.detached {
            restarting.reason = Some(reason);
            self.remove(now, key, outputs);
        }
    }

    /// Whoever has the name ends for good, as soon as it has stopped.
    pub(super) fn end_one(&mut self, now: Time, key: &NameKey, outputs: &mut Outputs) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| !entry.is_ending) else { return };
        if let Some(restarting) = &mut entry.detached {
            restarting.reason = Some(ExitReason::Shutdown);
        }
        self.end(now, key, outputs);
        self.settle(now, outputs);
    }

    /// Every detached actor that a job's workers host ends for good.
    pub(super) fn end_detached_of(&mut self, now: Time, job: JobId, outputs: &mut Outputs) {
        let of_job = |key: &&NameKey| {
            self.entries[*key].detached.as_ref().is_some_and(|restarting| restarting.detached.job == job)
        };
        let keys: Vec<NameKey> = self.detached.values().filter(of_job).cloned().collect();
        keys.iter().for_each(|key| self.end_one(now, key, outputs));
    }

    pub(super) fn locate(&mut self, ask: u64, actor: ActorId, outputs: &mut Outputs) {
        let key = self.detached.get(&actor).cloned();
        let entry = key.as_ref().and_then(|key| self.entries.get_mut(key)).filter(|entry| !entry.is_ending);
        let Some(entry) = entry else {
            return outputs.push_back(Output::Located { ask, key, at: Err(ExitReason::Gone) });
        };
        let is_held = matches!(entry.hold, Hold::Held { .. });
        let at = (entry.process, entry.incarnation);
        match &mut entry.detached {
            Some(restarting) if restarting.is_started && is_held => {
                outputs.push_back(Output::Located { ask, key, at: Ok(at) });
            }
            Some(restarting) if self.locating < self.bounds.locates_waiting_max => {
                restarting.locating.push(ask);
                self.locating += 1;
            }
            _ => {}
        }
    }

    /// The name of a detached actor is gone, and whoever asks where it is hears why.
    pub(super) fn forget_detached(
        &mut self,
        key: &NameKey,
        actor: ActorId,
        restarting: Restarting,
        outputs: &mut Outputs,
    ) {
        let Restarting { detached, locating, reason, .. } = restarting;
        self.detached.remove(&actor);
        outputs.push_back(Output::Keep(Change::gone(RecordKey::Detached(key.clone()))));
        self.locating -= locating.len();
        let reason = reason.unwrap_or(ExitReason::Gone);
        let told = locating.into_iter();
        outputs.extend(told.map(|ask| Output::Located { ask, key: Some(key.clone()), at: Err(reason.clone()) }));
        if let Some(hosted) = self.hosts.get_mut(&detached.job) {
            *hosted -= 1;
            if *hosted == 0 {
                self.hosts.remove(&detached.job);
                self.empty_jobs.push(detached.job);
            }
        }
    }

    pub(super) fn hosts_detached(&self, job: JobId) -> bool {
        self.hosts.contains_key(&job)
    }

    /// A job that hosts no detached actor any more; one may have come to it since.
    pub(super) fn take_empty_job(&mut self) -> Option<JobId> {
        while let Some(job) = self.empty_jobs.pop() {
            if !self.hosts.contains_key(&job) {
                return Some(job);
            }
        }
        None
    }
}
