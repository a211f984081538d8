//! Who is attached to a node, and the jobs they belong to. Keeps books only: it starts and tells nothing.

use std::collections::{BTreeMap, BTreeSet};

use mobula_logic::scheduler::StartId;
use mobula_types::state::OutcomeCounters;
use mobula_types::{JobId, NodeId, ProcessId, Time};
use mobula_wire::cluster::JobSetup;

use super::workers::programs::ProgramInUse;

/// Ended jobs that are remembered, so that nothing of them is started again.
const ENDED_JOBS_MAX: usize = 4_096;

/// The books.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    residents: BTreeMap<u32, Resident>,
    last: u32,
    jobs: BTreeMap<JobId, Job>,
    ended: BTreeSet<JobId>,
}

/// A process of this node.
#[derive(Debug)]
pub(crate) struct Resident {
    pub(crate) kind: Kind,
    pub(crate) job: JobId,
    /// Its number on the host.
    pub(crate) pid: Option<u32>,
    /// Whether it has said hello.
    pub(crate) is_attached: bool,
    pub(crate) since: Time,
    /// What it has submitted, as it said last.
    pub(crate) counters: OutcomeCounters,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Driver,
    Worker { start: StartId, token: String },
}

/// A job of which something is known here.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) setup: JobSetup,
    /// Its program, when it is here.
    pub(crate) program: Option<ProgramInUse>,
    /// Workers that wait for it.
    pub(crate) starts: Vec<Start>,
    /// The node that told of it; this one, when the driver is here.
    pub(crate) told_by: NodeId,
}

/// A worker that is to be started.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) start: StartId,
    pub(crate) isolated: bool,
    pub(crate) gpus: Vec<u32>,
}

impl Roster {
    /// A number for a process, never used before on this node; none when all are used up.
    pub(crate) fn number(&mut self) -> Option<u32> {
        let next = self.last + 1;
        (next < ProcessId::NUMBERS).then(|| {
            self.last = next;
            next
        })
    }

    pub(crate) fn settle(&mut self, number: u32, resident: Resident) {
        self.residents.insert(number, resident);
    }

    pub(crate) fn get(&self, process: ProcessId) -> Option<&Resident> {
        self.residents.get(&process.number())
    }

    pub(crate) fn get_mut(&mut self, process: ProcessId) -> Option<&mut Resident> {
        self.residents.get_mut(&process.number())
    }

    pub(crate) fn leave(&mut self, process: ProcessId) -> Option<Resident> {
        self.residents.remove(&process.number())
    }

    /// The worker that was given this secret and has not come yet.
    pub(crate) fn by_token(&self, token: &str) -> Option<u32> {
        let hash = blake3::hash(token.as_bytes());
        let is_it = |resident: &Resident| match &resident.kind {
            // Compared by hash, in constant time: what differs where says nothing of the secret.
            Kind::Worker { token, .. } => !resident.is_attached && blake3::hash(token.as_bytes()) == hash,
            Kind::Driver => false,
        };
        self.residents.iter().find(|(_, resident)| is_it(resident)).map(|(number, _)| *number)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, &Resident)> {
        self.residents.iter().map(|(number, resident)| (*number, resident))
    }

    /// Every process, as the others name it.
    pub(crate) fn ids(&self, node: NodeId) -> Vec<ProcessId> {
        self.residents.keys().map(|number| ProcessId::new(node, *number)).collect()
    }

    /// A job is known from now on; one that has ended is not.
    pub(crate) fn open_job(&mut self, id: JobId, setup: JobSetup, told_by: NodeId) {
        if !self.ended.contains(&id) {
            self.jobs.entry(id).or_insert_with(|| Job { setup, program: None, starts: Vec::new(), told_by });
        }
    }

    pub(crate) fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    pub(crate) fn job_mut(&mut self, id: JobId) -> Option<&mut Job> {
        self.jobs.get_mut(&id)
    }

    pub(crate) fn jobs(&self) -> impl Iterator<Item = (JobId, &Job)> {
        self.jobs.iter().map(|(id, job)| (*id, job))
    }

    /// A job has ended; false when that was known.
    pub(crate) fn close_job(&mut self, id: JobId) -> Option<Job> {
        // A job of detached actors may come again.
        if !id.hosts_detached() && !self.ended.insert(id) {
            return None;
        }
        if self.ended.len() > ENDED_JOBS_MAX {
            self.ended.pop_first();
        }
        self.jobs.remove(&id)
    }

    pub(crate) fn has_ended(&self, id: JobId) -> bool {
        self.ended.contains(&id)
    }

    /// Nothing that was here belongs to this node's next life; numbers go on.
    pub(crate) fn clear(&mut self) {
        self.residents.clear();
        self.jobs.clear();
        self.ended.clear();
    }
}
