//! What a process says to its node, and what becomes of it.

use mobula_logic::scheduler::{self, RequestKey, Wanted, granting_node};
use mobula_types::{ActorId, Fencing, Held, Incarnation, JobId, LeaseId, NameKey, ProcessId, StateMachine};
use mobula_wire::cluster::{ClusterTalk, ToHead};
use mobula_wire::local::{FromNode, RequestId, ToNode};

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
            ToNode::Lease { request, spec, avoid } => {
                let request = RequestKey { holder: process, number: request };
                self.scheduler.handle(now, scheduler::Input::Asked(Wanted { request, job, spec, avoid }));
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
            ToNode::ClaimName { request, namespace, name, actor } => {
                let key = name_key(job, namespace, name);
                self.ask(Purpose::Name(process, request), |ask| ToHead::Claim {
                    ask,
                    key,
                    actor,
                    incarnation: Incarnation(1),
                    job: Some(job),
                });
            }
            ToNode::ReleaseName { namespace, name, actor } => {
                let key = name_key(job, namespace, name);
                if self.cluster.held.get(&key).is_some_and(|held| held.actor == actor) {
                    self.cluster.held.remove(&key);
                }
                self.tell_head(ToHead::Release { key, actor });
            }
            ToNode::LookUpName { request, namespace, name } => {
                let key = name_key(job, namespace, name);
                self.ask(Purpose::LookUp(process, request), |ask| ToHead::LookUp { ask, key });
            }
            ToNode::KvPut { request, key, value } => {
                self.ask(Purpose::Value(process, request), |ask| ToHead::Put { ask, job, key, value });
            }
            ToNode::KvGet { request, key } => {
                self.ask(Purpose::Value(process, request), |ask| ToHead::Get { ask, job, key });
            }
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

    /// The head has granted a name, or says whose it is.
    pub(crate) fn name_claimed(
        &mut self,
        process: ProcessId,
        request: RequestId,
        said: ToHead,
        result: Result<(ActorId, Fencing, u64), String>,
    ) {
        let ToHead::Claim { key, actor, .. } = said else { return };
        let owner = match result {
            Ok((owner, fencing, term)) if owner == actor => {
                if self.cluster.lease.accepts(self.clock.now(), term) {
                    self.cluster.held.insert(key.clone(), Held { key, actor, fencing });
                    Ok(owner)
                } else {
                    self.tell_head(ToHead::Stopped { key, fencing });
                    Err("this node's lease was over when the name came: ask again".to_owned())
                }
            }
            other => other.map(|(owner, ..)| owner),
        };
        self.routes.tell(process, &FromNode::NameClaimed { request, owner });
    }

    fn returned(&mut self, lease: LeaseId) {
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
        if driver == process {
            // The node runs it: its terminal is the log. Told to itself, it would print it again, and so on.
        } else if driver.node() == self.node {
            self.routes.tell(driver, &FromNode::Output { process, is_stderr, lines });
        } else {
            self.tell_node(driver.node(), &ClusterTalk::Output { job, process, is_stderr, lines });
        }
    }
}

fn name_key(job: JobId, namespace: Option<String>, name: String) -> NameKey {
    match namespace {
        None => NameKey::of_job(job, name),
        Some(space) => NameKey::shared(space, name),
    }
}
