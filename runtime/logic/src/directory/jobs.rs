//! The jobs of a cluster: a driver has one, and it ends with it.

use std::collections::{BTreeMap, VecDeque};

use mobula_types::{DeathCause, JobId, ProcessId};

use super::{Bounds, Output};
use crate::record::{Change, JobRecord, JobSpec, RecordKey};

/// Jobs that run at once; beyond it [`JobRefusal::Full`]. A thousand is a busy cluster's.
pub const JOBS_MAX: usize = 10_000;

/// Jobs that have ended and are listed still; beyond it the oldest is forgotten.
pub const JOBS_ENDED_MAX: usize = 1_000;

/// What nodes must know of a job: arguments and variables, the size of what an `exec` takes in a stock Linux page or two.
pub const SETUP_BYTES_MAX: usize = 256 << 10;

/// Why a job is not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobRefusal {
    /// There are as many as a head takes.
    #[error("{max} jobs run already: wait for one to end, or stop one with `mobula stop-job`")]
    Full {
        /// How many.
        max: usize,
    },
    /// It says too much.
    #[error("a job's name, arguments and variables take {bytes} bytes, at most {max} are kept")]
    TooLarge {
        /// How much.
        bytes: usize,
        /// How much may be.
        max: usize,
    },
}

#[derive(Debug, Default)]
pub(super) struct Jobs {
    all: BTreeMap<JobId, JobRecord>,
    /// Which of them runs for which driver.
    running: BTreeMap<ProcessId, JobId>,
    /// The greatest id ever given, and the greatest that an earlier head gave.
    last: JobId,
    earlier: JobId,
    pub(super) bounds: Bounds,
}

impl Jobs {
    pub(super) fn restore_last(&mut self, last: JobId) {
        self.last = self.last.max(last);
        self.earlier = self.last;
    }

    pub(super) fn restore(&mut self, record: JobRecord) {
        self.restore_last(record.job);
        if record.ended.is_none() {
            self.running.insert(record.spec.driver, record.job);
        }
        self.all.insert(record.job, record);
    }

    /// The same driver gets the same job: it asks again when an answer is lost.
    pub(super) fn start(
        &mut self,
        spec: JobSpec,
        started_unix_ms: u64,
        outputs: &mut VecDeque<Output>,
    ) -> Result<JobId, JobRefusal> {
        if let Some(job) = self.running.get(&spec.driver) {
            return Ok(*job);
        }
        let Bounds { jobs_max, setup_bytes_max, .. } = self.bounds;
        if self.running.len() >= jobs_max {
            return Err(JobRefusal::Full { max: jobs_max });
        }
        let bytes = spec.name.len() + spec.setup.len();
        if bytes > setup_bytes_max {
            return Err(JobRefusal::TooLarge { bytes, max: setup_bytes_max });
        }
        self.last.0 += 1;
        let job = self.last;
        self.running.insert(spec.driver, job);
        let record = JobRecord { job, spec, started_unix_ms, ended: None };
        outputs.push_back(Output::Keep(Change::job(record.clone())));
        self.all.insert(job, record);
        Ok(job)
    }

    /// Whether it ran.
    pub(super) fn end(
        &mut self,
        job: JobId,
        ended_unix_ms: u64,
        cause: DeathCause,
        outputs: &mut VecDeque<Output>,
    ) -> bool {
        let Some(record) = self.all.get_mut(&job).filter(|record| record.ended.is_none()) else { return false };
        record.ended = Some((ended_unix_ms, cause));
        self.running.remove(&record.spec.driver);
        outputs.push_back(Output::Keep(Change::job(record.clone())));
        if self.all.len() - self.running.len() > self.bounds.jobs_ended_max {
            let oldest = self.all.values().find(|record| record.ended.is_some()).map(|record| record.job);
            if let Some(oldest) = oldest {
                self.all.remove(&oldest);
                outputs.push_back(Output::Keep(Change::gone(RecordKey::Job(oldest))));
            }
        }
        true
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &JobRecord> {
        self.all.values()
    }

    pub(super) fn get(&self, job: JobId) -> Option<&JobRecord> {
        self.all.get(&job)
    }

    pub(super) fn last(&self) -> JobId {
        self.last
    }

    pub(super) fn is_running(&self, job: JobId) -> bool {
        self.all.get(&job).is_some_and(|record| record.ended.is_none())
    }

    pub(super) fn driven_by(&self, is_driver: impl Fn(ProcessId) -> bool) -> Vec<JobId> {
        self.running.iter().filter(|(driver, _)| is_driver(**driver)).map(|(_, job)| *job).collect()
    }

    /// The drivers of jobs that an earlier head started.
    pub(super) fn drivers_of_earlier(&self) -> impl Iterator<Item = ProcessId> + '_ {
        self.running.iter().filter(|(_, job)| **job <= self.earlier).map(|(driver, _)| *driver)
    }

    pub(super) fn running(&self) -> &BTreeMap<ProcessId, JobId> {
        &self.running
    }
}
