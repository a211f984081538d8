//! What a process says to its node, and what becomes of it.

use mobula_logic::scheduler::{self, RequestKey, Wanted, granting_node};
use mobula_types::{JobId, LeaseId, ProcessId, StateMachine};
use mobula_wire::cluster::{ClusterTalk, ToHead};
use mobula_wire::local::{FromNode, ToNode};

use super::state::{Purpose, State};

impl State {
    pub(crate) fn said(&mut self, process: ProcessId, said: ToNode) {
        if let ToNode::Tool { request, question } = said {
            // Only from another host: on this one, the command line has a way of its own.
            return self.far_asked(process, request, question);
        }
        // What a process said before its end may be read after it.
        let Some(job) = self.roster.get(process).map(|resident| resident.job) else { return };
        let now = self.clock.now();
        match said {
            ToNode::Lease { request, spec, avoid, lives_on } => {
                let request = RequestKey { holder: process, number: request };
                let wanted = Wanted { request, job, spec, avoid, lives_on, waits: false };
                self.scheduler.handle(now, scheduler::Input::Asked(wanted));
            }
            ToNode::TakeBack { request } => {
                let request = RequestKey { holder: process, number: request };
                self.scheduler.handle(now, scheduler::Input::TakenBack { request });
            }
            ToNode::Return { lease } => self.returned(lease),
            ToNode::Quiet => {
                self.quiet.insert(process);
            }
            ToNode::Waiting { cpus } => self.scheduler.handle(now, scheduler::Input::Waiting { process, cpus }),
            ToNode::ClaimName { request, namespace, name, actor, incarnation, interface } => {
                let key = self.name_key(job, namespace, name);
                self.ask(Purpose::Name(process, request), |ask| ToHead::Claim {
                    ask,
                    key,
                    actor,
                    incarnation,
                    job: Some(job),
                    process,
                    interface,
                    detached: None,
                });
            }
            ToNode::SpawnDetached { request, spawn } => self.spawn_detached(process, job, request, *spawn),
            ToNode::NameStopped { namespace, name, actor } => {
                let key = self.name_key(job, namespace, name);
                self.name_stopped(process, &key, actor);
            }
            ToNode::ReleaseName { namespace, name, actor } => {
                let key = self.name_key(job, namespace, name);
                let said = ToHead::Release { key: key.clone(), actor };
                match self.cluster.held.get(&key).filter(|(held, _)| held.actor == actor).map(|(held, _)| held.fencing)
                {
                    Some(fencing) => {
                        self.cluster.held.remove(&key);
                        self.part(fencing, said);
                    }
                    // It acted elsewhere, or was told to stop.
                    None => self.tell_head(said),
                }
            }
            ToNode::LookUpName { request, namespace, name } => {
                let key = self.name_key(job, namespace, name);
                self.ask(Purpose::LookUp(process, request), |ask| ToHead::LookUp { ask, key });
            }
            ToNode::KvPut { request, key, value } => {
                self.ask(Purpose::Value(process, request), |ask| ToHead::Put { ask, job, key, value });
            }
            ToNode::KvGet { request, key } => {
                self.ask(Purpose::Value(process, request), |ask| ToHead::Get { ask, job, key });
            }
            ToNode::CreateGroup { group, spec } if group.process == process => self.create_group(group, job, spec),
            ToNode::RemoveGroup { group } => self.remove_group(process, group),
            ToNode::Objects(words) => self.said_of_objects(process, words),
            ToNode::Counters(counters) => {
                if let Some(resident) = self.roster.get_mut(process) {
                    resident.counters = counters;
                }
            }
            ToNode::Listing { request, items, requests } => self.listed(process, request, items, &requests),
            // Only the command line asks such; and what later versions say is not understood here.
            _ => tracing::debug!(%process, "it said what this node does not act on"),
        }
    }

    pub(crate) fn returned(&mut self, lease: LeaseId) {
        let node = granting_node(lease);
        if node == self.node {
            self.scheduler.handle(self.clock.now(), scheduler::Input::Returned { lease });
        } else {
            self.tell_node(node, &ClusterTalk::Return { lease });
        }
    }

    /// Lines of a worker, for its job's driver.
    pub(crate) fn output(&mut self, process: ProcessId, job: JobId, is_stderr: bool, lines: Vec<String>) {
        let Some(driver) = self.roster.job(job).map(|job| job.setup.driver) else { return };
        if driver == process || driver == ProcessId::HEAD {
            // The node runs it, or nobody does any more: its terminal is the log. Told to itself, it would print it again, and so on.
        } else if driver.node() == self.node {
            self.routes.tell(driver, &FromNode::Output { process, is_stderr, lines });
        } else {
            self.tell_node(driver.node(), &ClusterTalk::Output { job, process, is_stderr, lines });
        }
    }
}
